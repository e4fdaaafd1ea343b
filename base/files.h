/* Whole-file reading, memory maps, and output files that appear under their name only when
 * complete. */
#ifndef BASE_FILES_H
#define BASE_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

/* Reads PATH, at most LIMIT bytes, into a new zero-terminated block (mem_free). Fails with
 * ERR_INPUT. */
Status file_read_all(const char *path, size_t limit, char **text, size_t *bytes);

bool file_exists(const char *path);
/* Fails with ERR_INPUT unless PATH is a regular file that can be read: for libraries that open by
 * name, and would wait for a FIFO. */
Status file_check_readable(const char *path);

/* Writes to PATH[room] the name of a temporary database of this process, for the purpose NAME, in
 * TMPDIR or else in /tmp. Nothing is made. Fails with ERR_OUTPUT when TMPDIR is too long. */
Status file_name_temporary(const char *name, char *path, size_t room);

/* A read-only map of a whole file. An empty file maps to data == NULL, bytes == 0. */
typedef struct {
    const unsigned char *data;
    size_t bytes;
} FileMap;

Status file_map_open(const char *path, FileMap *map);
void file_map_close(FileMap *map);

/* An output file, written as PATH.tmp-PID in the same directory and renamed by output_commit(). */
typedef struct {
    FILE *stream;
    char *path;
    char *temporary;
} OutputFile;

/* Fails with ERR_OUTPUT when the file cannot be created, or when PATH is there and is no regular
 * file. On failure nothing is held. */
Status output_open(const char *path, OutputFile *output);
/* Flushes, syncs and renames. On failure the temporary file is removed; either way OUTPUT holds
 * nothing after. */
Status output_commit(OutputFile *output);
/* Removes the temporary file. Harmless after output_commit() or on a zeroed OutputFile. */
void output_discard(OutputFile *output);

/* Writes BYTES of DATA as PATH, atomically. */
Status file_write_all(const char *path, const void *data, size_t bytes);

#endif
