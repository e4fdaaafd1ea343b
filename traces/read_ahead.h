/* Reading of SQLite's files that goes on where it was: what is read in order is read ahead, in
 * pieces of many pages, and SQLite looks at pages where they then lie, instead of copying each.
 * That it does for mapped files as well; but of a mapping, a file that becomes shorter or a disk
 * that fails ends the process. */
#ifndef TRACES_READ_AHEAD_H
#define TRACES_READ_AHEAD_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

/* The name of the SQLite VFS that does so with files that are opened to be read, which is otherwise
 * the default one; NULL: out of memory. To be read so, "PRAGMA mmap_size" must be positive, which
 * maps nothing. Thread-safe. */
const char *read_ahead_vfs(void);

typedef struct ReadAhead ReadAhead;

/* How the file of DB is read; NULL where it was opened through another VFS. Belongs to DB. */
ReadAhead *read_ahead_of(sqlite3 *db);
/* From now on a row is read, of which the first BYTES are wanted and the others may stay where they
 * are: as many pages are read at a time as hold those. NULL: nothing happens. */
void read_ahead_row(ReadAhead *file, uint64_t bytes);
/* From now on all is wanted, as at the beginning. */
void read_ahead_all(ReadAhead *file);

/* From now on pages that are written one after the other are written together, at a commit at the
 * latest, whose failure then tells: a sixteenth of the calls, and the system keeps the file in
 * larger pages, which are read faster. Not for files that somebody else reads meanwhile, or that
 * shall outlast a crash. False: out of memory. */
bool read_ahead_gather_writes(ReadAhead *file);

#endif
