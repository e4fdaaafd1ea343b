#define _DEFAULT_SOURCE
#include "base/scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

static const char ENDING[] = "XXXXXX";
enum { ENDING_CHARACTERS = sizeof ENDING - 1, TRIES = 100 };

/* Removes the files of the folder that DESCRIPTOR is open on, and closes it. */
static void empty_folder(int descriptor)
{
    const struct dirent *entry;
    DIR *files = fdopendir(descriptor);
    if (files == NULL) {
        close(descriptor);
        return;
    }
    while ((entry = readdir(files)) != NULL)
        unlinkat(dirfd(files), entry->d_name, 0); /* not "." and "..", which are no files */
    closedir(files);
}

/* As mkdtemp() makes it, which no other folder is by chance. */
static bool is_ours(const struct stat *info)
{
    return info->st_uid == geteuid() && (info->st_mode & 07777 & ~S_ISGID) == S_IRWXU;
}

/* Removes NAME in PARENT if it is a folder of ours that nobody holds. */
static void remove_abandoned(int parent, const char *name)
{
    struct stat info;
    int descriptor = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0)
        return;
    if (fstat(descriptor, &info) != 0 || !is_ours(&info) ||
        flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
        close(descriptor);
        return;
    }
    int held = dup(descriptor); /* the lock stays until the folder is gone */
    empty_folder(descriptor);
    unlinkat(parent, name, AT_REMOVEDIR);
    if (held >= 0)
        close(held);
}

/* PATH ends with ENDING. */
static void remove_all_abandoned(char *path)
{
    const struct dirent *entry;
    char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    size_t prefix = strlen(name) - ENDING_CHARACTERS;
    if (slash != NULL)
        *slash = '\0';
    DIR *entries = opendir(slash == NULL ? "." : slash == path ? "/" : path);
    if (slash != NULL)
        *slash = '/';
    while (entries != NULL && (entry = readdir(entries)) != NULL)
        if (strlen(entry->d_name) == prefix + ENDING_CHARACTERS &&
            strncmp(entry->d_name, name, prefix) == 0)
            remove_abandoned(dirfd(entries), entry->d_name);
    if (entries != NULL)
        closedir(entries);
}

/* False when somebody took the new folder for an abandoned one before it was held. Where there are
 * no locks, nobody gets one to remove it. */
static bool hold(const char *path, int *lock)
{
    struct stat info;
    *lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*lock < 0)
        return false;
    bool taken = flock(*lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (!taken && fstat(*lock, &info) == 0 && info.st_nlink > 0)
        return true;
    close(*lock);
    return false;
}

static Status make_folder(char *path, int *lock)
{
    char *ending = path + strlen(path) - ENDING_CHARACTERS;
    int reason = 0;
    for (int i = 0; i < TRIES; i++) {
        memcpy(ending, ENDING, ENDING_CHARACTERS);
        if (mkdtemp(path) == NULL) {
            reason = errno;
            break;
        }
        if (hold(path, lock))
            return OK;
        reason = errno;
        rmdir(path); /* unless whoever took it has done so */
    }
    memcpy(ending, ENDING, ENDING_CHARACTERS);
    return fail(ERR_OUTPUT, "%s: cannot create: %s", path, strerror(reason));
}

static Status make_path(const char *prefix, char **path)
{
    const char *folder = getenv("TMPDIR");
    if (folder == NULL || folder[0] == '\0')
        folder = "/tmp";
    size_t room = (prefix != NULL ? strlen(prefix) : strlen(folder)) + 32;
    TRY(mem_new(path, room, 1, "path"));
    if (prefix != NULL)
        snprintf(*path, room, "%s%s", prefix, ENDING);
    else
        snprintf(*path, room, "%s/moebius-scratch-%s", folder, ENDING);
    return OK;
}

Status scratch_open(const char *prefix, ScratchFolder *folder)
{
    *folder = (ScratchFolder){0};
    TRY(make_path(prefix, &folder->path));
    remove_all_abandoned(folder->path);
    Status status = make_folder(folder->path, &folder->lock);
    if (status != OK) {
        mem_free(folder->path);
        *folder = (ScratchFolder){0};
    }
    return status;
}

Status scratch_name(const ScratchFolder *folder, const char *name, char *path, size_t room)
{
    int used = snprintf(path, room, "%s/%s", folder->path, name);
    return used < 0 || (size_t)used >= room
               ? fail(ERR_OUTPUT, "%s: the path is too long", folder->path)
               : OK;
}

void scratch_close(ScratchFolder *folder)
{
    if (folder->path == NULL)
        return;
    int files = dup(folder->lock);
    if (files >= 0)
        empty_folder(files);
    rmdir(folder->path);
    close(folder->lock);
    mem_free(folder->path);
    *folder = (ScratchFolder){0};
}
