/* How SQLite is given the path of a file, and how long that may be. */
#ifndef TRACES_SQLITE_PATH_H
#define TRACES_SQLITE_PATH_H

#include "base/status.h"

/* Fails with KIND where PATH, from the root and with its links followed, is longer than SQLite
 * takes with a journal's name behind it: its own error would say no more than that it cannot open
 * the file. A path whose folder is not there is not looked at. */
Status sqlite_path_check(const char *path, Status kind);

/* A name by which SQLite opens the file PATH whatever it is called, and not a database in memory
 * (":memory:") or what a URI says ("file:..."): a new block (mem_free) that ends in PATH. Fails as
 * sqlite_path_check() does. */
Status sqlite_path_name(const char *path, Status kind, char **name);

#endif
