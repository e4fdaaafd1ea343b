/* Reading of SQLite's files that goes on where it was: what is read in order is read ahead, in
 * pieces of many pages, and SQLite looks at pages where they then lie, instead of copying each.
 * That it does for mapped files as well; but of a mapping, a file that becomes shorter or a disk
 * that fails ends the process. */
#ifndef TRACES_READ_AHEAD_H
#define TRACES_READ_AHEAD_H

/* The name of the SQLite VFS that does so with files that are opened to be read, which is otherwise
 * the default one; NULL: out of memory. "PRAGMA mmap_size" must be positive, which maps nothing.
 * Thread-safe. */
const char *read_ahead_vfs(void);

#endif
