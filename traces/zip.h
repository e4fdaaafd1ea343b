/* Entries of a zip archive that are stored, not compressed: what torch.save() writes.
 *
 * Format: APPNOTE.TXT of PKWARE, 4.3: end of central directory, its zip64 form, central headers,
 * local headers. Every offset and size is checked against the file before use. */
#ifndef TRACES_ZIP_H
#define TRACES_ZIP_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name; /* not zero-terminated */
    size_t name_length;
    const unsigned char *data;
    size_t bytes;
} ZipEntry;

typedef struct {
    const char *file;
    ZipEntry *entries; /* [count] in the archive's order */
    size_t count;
} Zip;

/* Reads the directory of DATA[BYTES], which must outlive *ZIP. FILE stands for it in errors. Fails
 * with ERR_INPUT for what is no archive or does not hold, ERR_UNSUPPORTED for compressed or
 * encrypted entries. */
Status zip_view(const char *file, const unsigned char *data, size_t bytes, Zip *zip);
void zip_free(Zip *zip);
/* The entry whose name is NAME behind the first '/' of the entry's name, or NULL. */
const ZipEntry *zip_find_below(const Zip *zip, const char *name, size_t length);

#endif
