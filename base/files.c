#define _GNU_SOURCE /* O_TMPFILE */
#include "base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

Status path_join(const char *folder, const char *name, char **path)
{
    size_t room = strlen(folder) + strlen(name) + 2;
    TRY(mem_new(path, room, 1, "path"));
    snprintf(*path, room, "%s/%s", folder, name);
    return OK;
}

static Status open_regular(const char *path, int *descriptor, size_t *bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not make us wait */
    if (fd < 0)
        return fail(ERR_INPUT, "%s: cannot open: %s", path, strerror(errno));
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(fd);
        return fail(ERR_INPUT, "%s: not a regular file", path);
    }
    *descriptor = fd;
    *bytes = (size_t)info.st_size;
    return OK;
}

static Status read_exactly(int descriptor, const char *path, char *into, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t got = read(descriptor, into + done, bytes - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return fail(ERR_INPUT, "%s: cannot read: %s", path,
                        got < 0 ? strerror(errno) : "file is getting shorter");
        done += (size_t)got;
    }
    return OK;
}

Status file_read_all(const char *path, size_t limit, char **text, size_t *bytes)
{
    int fd;
    size_t size;
    char *block = NULL;
    TRY(open_regular(path, &fd, &size));
    Status status = OK;
    if (size > limit)
        status = fail(ERR_INPUT, "%s: %zu bytes, at most %zu are allowed", path, size, limit);
    if (status == OK)
        status = fail_in(mem_new(&block, size + 1, 1, "file"), "%s", path);
    if (status == OK)
        status = read_exactly(fd, path, block, size);
    close(fd);
    if (status != OK) {
        mem_free(block);
        return status;
    }
    *text = block;
    *bytes = size;
    return OK;
}

bool file_exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

bool file_is_same(const char *a, const char *b)
{
    struct stat first;
    struct stat second;
    return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

Status file_check_readable(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return fail(ERR_INPUT, "%s: cannot open: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return fail(ERR_INPUT, "%s: not a regular file", path);
    if (access(path, R_OK) != 0)
        return fail(ERR_INPUT, "%s: cannot open: %s", path, strerror(errno));
    return OK;
}

Status file_map_open(const char *path, FileMap *map)
{
    int fd;
    size_t bytes;
    *map = (FileMap){0};
    TRY(open_regular(path, &fd, &bytes));
    void *data = bytes == 0 ? NULL : mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (data == MAP_FAILED)
        return fail(ERR_INPUT, "%s: cannot map: %s", path, strerror(errno));
    *map = (FileMap){.data = data, .bytes = bytes};
    return OK;
}

void file_map_close(FileMap *map)
{
    if (map->data != NULL)
        munmap((void *)map->data, map->bytes);
    *map = (FileMap){0};
}

/* Only a regular file may be replaced: renaming over a device or a socket would remove it. */
static Status check_replaceable(const char *path)
{
    struct stat info;
    if (path[0] == '\0')
        return fail(ERR_OUTPUT, ": cannot create: the name is empty");
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return fail(ERR_OUTPUT, "%s: cannot create: %s", path,
                    S_ISDIR(info.st_mode) ? "it is a directory" : "it is no regular file");
    return OK;
}

/* A file without a name in the folder of PATH; below 0: there is no such thing here, or nothing can
 * be made at all. */
static int open_unnamed(const char *path, char *folder)
{
    const char *slash = strrchr(path, '/');
    size_t length = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    memcpy(folder, path, length);
    memcpy(folder + length, ".", slash == NULL ? 2 : 0);
    folder[length + (slash == NULL)] = '\0';
    if (access("/proc/self/fd", X_OK) != 0) /* by which it gets its name */
        return -1;
    return open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
}

/* Opens OUTPUT->stream, of a file that has no name or the temporary one. A name that cannot be is
 * found at once. */
static Status open_stream(OutputFile *output, size_t room)
{
    struct stat info;
    int descriptor = open_unnamed(output->path, output->temporary);
    snprintf(output->temporary, room, "%s.tmp-%ld", output->path, (long)getpid());
    output->named = descriptor < 0;
    if (output->named)
        output->stream = fopen(output->temporary, "wb");
    else if (lstat(output->temporary, &info) == 0 || errno == ENOENT)
        output->stream = fdopen(descriptor, "wb");
    if (output->stream != NULL)
        return OK;
    int reason = errno;
    if (!output->named)
        close(descriptor);
    return fail(ERR_OUTPUT, "%s: cannot create: %s", output->path, strerror(reason));
}

static void output_release(OutputFile *output)
{
    mem_free(output->path);
    mem_free(output->temporary);
    *output = (OutputFile){0};
}

Status output_open(const char *path, OutputFile *output)
{
    *output = (OutputFile){0};
    TRY(check_replaceable(path));
    size_t room = strlen(path) + 32;
    TRY(mem_new(&output->path, room, 1, "output path"));
    memcpy(output->path, path, strlen(path) + 1);
    Status status = mem_new(&output->temporary, room, 1, "output path");
    if (status == OK)
        status = open_stream(output, room);
    if (status != OK)
        output_release(output);
    return status;
}

/* Links the file that has no name to PATH, over what is there. A temporary name that is taken is a
 * killed process's, which had the number of this one. */
static bool give_name(const OutputFile *output)
{
    char own[64];
    snprintf(own, sizeof own, "/proc/self/fd/%d", fileno(output->stream));
    if (linkat(AT_FDCWD, own, AT_FDCWD, output->path, AT_SYMLINK_FOLLOW) == 0)
        return true;
    if (errno != EEXIST)
        return false;
    unlink(output->temporary);
    return linkat(AT_FDCWD, own, AT_FDCWD, output->temporary, AT_SYMLINK_FOLLOW) == 0 &&
           rename(output->temporary, output->path) == 0;
}

Status output_commit(OutputFile *output)
{
    bool good = !ferror(output->stream) && fflush(output->stream) == 0 &&
                fsync(fileno(output->stream)) == 0 && (output->named || give_name(output));
    int reason = errno;
    if (fclose(output->stream) != 0 && good) {
        good = false;
        reason = errno;
    }
    if (good && output->named && rename(output->temporary, output->path) != 0) {
        good = false;
        reason = errno;
    }
    Status status =
        good ? OK : fail(ERR_IO, "%s: cannot write: %s", output->path, strerror(reason));
    if (!good)
        unlink(output->temporary);
    output_release(output);
    return status;
}

void output_discard(OutputFile *output)
{
    if (output->stream == NULL)
        return;
    fclose(output->stream);
    if (output->named)
        unlink(output->temporary);
    output_release(output);
}

Status file_write_all(const char *path, const void *data, size_t bytes)
{
    OutputFile output;
    TRY(output_open(path, &output));
    fwrite(data, 1, bytes, output.stream); /* output_commit looks at ferror */
    return output_commit(&output);
}
