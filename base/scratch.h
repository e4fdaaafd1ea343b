/* Folders for files that need a name while they are written, and nobody after that: databases,
 * which SQLite opens again by name and puts its log beside.
 *
 * A folder is held by a lock that ends with its process, whatever ends that. Whoever makes the next
 * one of the same name first removes those that nobody holds, so that a killed process leaves
 * nothing for longer than that. Files that need no name are written without one
 * (output_open() in base/files.h). */
#ifndef BASE_SCRATCH_H
#define BASE_SCRATCH_H

#include <stddef.h>

#include "base/status.h"

typedef struct {
    char *path; /* NULL: none */
    int lock;
} ScratchFolder;

/* Makes a folder whose path is PREFIX and six characters; NULL: "moebius-scratch-" in TMPDIR, or
 * else in /tmp. Fails with ERR_OUTPUT, ERR_MEMORY; FOLDER then holds nothing. */
Status scratch_open(const char *prefix, ScratchFolder *folder);
/* Writes the path of a file NAME in it to PATH[room]. Nothing is made. Fails with ERR_OUTPUT when
 * the path is too long. */
Status scratch_name(const ScratchFolder *folder, const char *name, char *path, size_t room);
/* Removes the folder and the files in it. Harmless on a zeroed FOLDER; keeps the error record. */
void scratch_close(ScratchFolder *folder);

#endif
