#include "traces/zip.h"

#include <stdbool.h>
#include <string.h>

#include "base/memory.h"

enum {
    END_BYTES = 22,
    LOCATOR_BYTES = 20,
    END64_BYTES = 56,
    CENTRAL_BYTES = 46,
    LOCAL_BYTES = 30,
    MAX_COMMENT = 65535,
    ENCRYPTED = 1,
};

static const uint32_t END_MAGIC = 0x06054B50;
static const uint32_t LOCATOR_MAGIC = 0x07064B50;
static const uint32_t END64_MAGIC = 0x06064B50;
static const uint32_t CENTRAL_MAGIC = 0x02014B50;
static const uint32_t LOCAL_MAGIC = 0x04034B50;

typedef struct {
    const char *file;
    const unsigned char *data;
    size_t bytes;
    uint64_t directory; /* offset */
    uint64_t directory_bytes;
    uint64_t count;
} Archive;

static uint64_t number_at(const unsigned char *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static Status bad(const Archive *archive, const char *why)
{
    return fail(ERR_INPUT, "%s: zip archive: %s", archive->file, why);
}

/* Whether BYTES from OFFSET on lie in the archive. */
static bool inside(const Archive *archive, uint64_t offset, uint64_t bytes)
{
    return offset <= archive->bytes && bytes <= archive->bytes - offset;
}

static Status read_end64(Archive *archive, size_t end)
{
    if (end < LOCATOR_BYTES || number_at(archive->data + end - LOCATOR_BYTES, 4) != LOCATOR_MAGIC)
        return OK;
    uint64_t at = number_at(archive->data + end - LOCATOR_BYTES + 8, 8);
    if (!inside(archive, at, END64_BYTES) || number_at(archive->data + at, 4) != END64_MAGIC)
        return bad(archive, "the zip64 end of the directory is not where it should be");
    archive->count = number_at(archive->data + at + 32, 8);
    archive->directory_bytes = number_at(archive->data + at + 40, 8);
    archive->directory = number_at(archive->data + at + 48, 8);
    return OK;
}

/* Looks for the end of the directory from the file's end on. */
static Status read_end(Archive *archive)
{
    if (archive->bytes < END_BYTES)
        return bad(archive, "too short");
    size_t last = archive->bytes - END_BYTES;
    size_t first = last > MAX_COMMENT ? last - MAX_COMMENT : 0;
    for (size_t at = last + 1; at-- > first;) {
        const unsigned char *end = archive->data + at;
        if (number_at(end, 4) != END_MAGIC)
            continue;
        archive->count = number_at(end + 10, 2);
        archive->directory_bytes = number_at(end + 12, 4);
        archive->directory = number_at(end + 16, 4);
        TRY(read_end64(archive, at));
        if (!inside(archive, archive->directory, archive->directory_bytes))
            return bad(archive, "the directory lies outside the file (is it truncated?)");
        if (archive->count > archive->directory_bytes / CENTRAL_BYTES)
            return bad(archive, "the directory is too short for its entries");
        return OK;
    }
    return bad(archive, "no end of the directory: not a file of torch.save(), or truncated");
}

/* The 64-bit values of fields that are all ones, from the extra field. */
static Status read_extra64(const Archive *archive, const unsigned char *extra, size_t length,
                           uint64_t *bytes, uint64_t *packed, uint64_t *offset)
{
    while (length >= 4) {
        size_t size = (size_t)number_at(extra + 2, 2);
        if (size > length - 4)
            return bad(archive, "an extra field is too long");
        const unsigned char *at = extra + 4;
        size_t left = number_at(extra, 2) == 1 ? size : 0;
        uint64_t *wanted[] = {bytes, packed, offset};
        for (int i = 0; i < 3; i++)
            if (*wanted[i] == UINT32_MAX && left >= 8) {
                *wanted[i] = number_at(at, 8);
                at += 8;
                left -= 8;
            }
        extra += 4 + size;
        length -= 4 + size;
    }
    return OK;
}

static Status find_data(const Archive *archive, uint64_t offset, ZipEntry *entry)
{
    if (!inside(archive, offset, LOCAL_BYTES) ||
        number_at(archive->data + offset, 4) != LOCAL_MAGIC)
        return bad(archive, "an entry is not where the directory says");
    uint64_t begin = offset + LOCAL_BYTES + number_at(archive->data + offset + 26, 2) +
                     number_at(archive->data + offset + 28, 2);
    if (!inside(archive, begin, entry->bytes))
        return bad(archive, "an entry is longer than the file (is it truncated?)");
    entry->data = archive->data + begin;
    return OK;
}

/* The central header at *AT, which moves behind it. */
static Status read_entry(const Archive *archive, uint64_t *at, ZipEntry *entry)
{
    uint64_t end = archive->directory + archive->directory_bytes;
    const unsigned char *header = archive->data + *at;
    if (end - *at < CENTRAL_BYTES || number_at(header, 4) != CENTRAL_MAGIC)
        return bad(archive, "the directory does not hold");
    size_t name = (size_t)number_at(header + 28, 2);
    size_t extra = (size_t)number_at(header + 30, 2);
    size_t comment = (size_t)number_at(header + 32, 2);
    if (end - *at - CENTRAL_BYTES < name + extra + comment)
        return bad(archive, "the directory does not hold");
    uint64_t packed = number_at(header + 20, 4);
    uint64_t bytes = number_at(header + 24, 4);
    uint64_t offset = number_at(header + 42, 4);
    entry->name = (const char *)header + CENTRAL_BYTES;
    entry->name_length = name;
    TRY(read_extra64(archive, header + CENTRAL_BYTES + name, extra, &bytes, &packed, &offset));
    if (number_at(header + 10, 2) != 0 || (number_at(header + 8, 2) & ENCRYPTED) != 0 ||
        packed != bytes)
        return fail(ERR_UNSUPPORTED, "%s: zip archive: %.*s is compressed or encrypted",
                    archive->file, (int)(name < 80 ? name : 80), entry->name);
    entry->bytes = bytes;
    *at += CENTRAL_BYTES + name + extra + comment;
    return find_data(archive, offset, entry);
}

Status zip_view(const char *file, const unsigned char *data, size_t bytes, Zip *zip)
{
    Archive archive = {.file = file, .data = data, .bytes = bytes};
    *zip = (Zip){.file = file};
    TRY(read_end(&archive));
    TRY(mem_new(&zip->entries, archive.count, sizeof *zip->entries, "zip archive"));
    uint64_t at = archive.directory;
    Status status = OK;
    for (; zip->count < archive.count && status == OK; zip->count++)
        status = read_entry(&archive, &at, &zip->entries[zip->count]);
    if (status != OK)
        zip_free(zip);
    return status;
}

void zip_free(Zip *zip)
{
    mem_free(zip->entries);
    *zip = (Zip){0};
}

const ZipEntry *zip_find_below(const Zip *zip, const char *name, size_t length)
{
    for (size_t i = 0; i < zip->count; i++) {
        const ZipEntry *entry = &zip->entries[i];
        const char *slash = memchr(entry->name, '/', entry->name_length);
        if (slash == NULL)
            continue;
        size_t behind = entry->name_length - (size_t)(slash + 1 - entry->name);
        if (behind == length && memcmp(slash + 1, name, length) == 0)
            return entry;
    }
    return NULL;
}
