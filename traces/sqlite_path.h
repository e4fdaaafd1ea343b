/* The longest path that SQLite opens. */
#ifndef TRACES_SQLITE_PATH_H
#define TRACES_SQLITE_PATH_H

#include "base/status.h"

/* Fails with KIND where PATH, from the root and with its links followed, is longer than SQLite
 * takes with a journal's name behind it: its own error would say no more than that it cannot open
 * the file. A path whose folder is not there is not looked at. */
Status sqlite_path_check(const char *path, Status kind);

#endif
