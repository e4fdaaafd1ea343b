/* Whole-file reading, memory maps, and output files that appear under their name only when
 * complete. */
#ifndef BASE_FILES_H
#define BASE_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

/* "FOLDER/NAME" in a new block (mem_free). */
Status path_join(const char *folder, const char *name, char **path);

/* Reads PATH, at most LIMIT bytes, into a new zero-terminated block (mem_free). Fails with
 * ERR_INPUT. */
Status file_read_all(const char *path, size_t limit, char **text, size_t *bytes);

bool file_exists(const char *path);
/* True when both names are there and mean one file. */
bool file_is_same(const char *a, const char *b);
/* Fails with ERR_INPUT unless PATH is a regular file that can be read: for libraries that open by
 * name, and would wait for a FIFO. */
Status file_check_readable(const char *path);

/* A read-only map of a whole file. An empty file maps to data == NULL, bytes == 0. */
typedef struct {
    const unsigned char *data;
    size_t bytes;
} FileMap;

Status file_map_open(const char *path, FileMap *map);
void file_map_close(FileMap *map);

/* An output file, which output_commit() gives its name. Until then it has none, so that a killed
 * process leaves nothing; on file systems that cannot do that it is PATH.tmp-PID. */
typedef struct {
    FILE *stream;
    char *path;
    char *temporary; /* its name before PATH */
    bool named;      /* it has that from the start */
} OutputFile;

/* Fails with ERR_OUTPUT when the file cannot be created, or when PATH is there and is no regular
 * file. On failure nothing is held. */
Status output_open(const char *path, OutputFile *output);
/* Flushes, syncs and gives the name, also where there is a file of that name. On failure nothing is
 * left of it; either way OUTPUT holds nothing after. */
Status output_commit(OutputFile *output);
/* Removes the file. Harmless after output_commit() or on a zeroed OutputFile. */
void output_discard(OutputFile *output);

/* Writes BYTES of DATA as PATH, atomically. */
Status file_write_all(const char *path, const void *data, size_t bytes);

#endif
