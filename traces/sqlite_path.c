#define _XOPEN_SOURCE 700 /* realpath */
#include "traces/sqlite_path.h"

#include <limits.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { JOURNAL_BYTES = sizeof "-journal" - 1, SHOWN_BYTES = 600 /* of 1 KiB of a record */ };

/* Bytes of PATH from the root; 0 where that cannot be told. */
static size_t bytes_from_root(const char *path)
{
    char full[PATH_MAX];
    char folder[PATH_MAX] = ".";
    const char *slash = strrchr(path, '/');
    size_t length = slash == NULL || slash == path ? 1 : (size_t)(slash - path);
    if (realpath(path, full) != NULL)
        return strlen(full);
    if (length >= sizeof folder)
        return 0;
    if (slash != NULL) {
        memcpy(folder, path, length);
        folder[length] = '\0';
    }
    if (realpath(folder, full) == NULL)
        return 0;
    return strlen(full) + 1 + strlen(slash != NULL ? slash + 1 : path);
}

Status sqlite_path_check(const char *path, Status kind)
{
    const sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    size_t bytes = bytes_from_root(path);
    if (vfs == NULL || bytes + JOURNAL_BYTES <= (size_t)vfs->mxPathname)
        return OK;
    return fail(kind,
                "%.*s%s: this path has %zu bytes from the root on, and SQLite takes %d at most",
                SHOWN_BYTES, path, strlen(path) > SHOWN_BYTES ? "..." : "", bytes,
                vfs->mxPathname - JOURNAL_BYTES);
}

Status sqlite_path_name(const char *path, Status kind, char **name)
{
    size_t length = strlen(path);
    size_t skip = path[0] == '/' ? 0 : 2;
    TRY(sqlite_path_check(path, kind));
    TRY(mem_new(name, length + 3, 1, "path"));
    memcpy(*name, "./", skip);
    memcpy(*name + skip, path, length + 1);
    return OK;
}
