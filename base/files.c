#include "base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

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

Status file_name_temporary(const char *name, char *path, size_t room)
{
    const char *folder = getenv("TMPDIR");
    int used =
        snprintf(path, room, "%s/moebius-%s-%ld.db",
                 folder != NULL && folder[0] != '\0' ? folder : "/tmp", name, (long)getpid());
    return used < 0 || (size_t)used >= room ? fail(ERR_OUTPUT, "TMPDIR: the path is too long") : OK;
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

Status output_open(const char *path, OutputFile *output)
{
    *output = (OutputFile){0};
    TRY(check_replaceable(path));
    size_t room = strlen(path) + 32;
    TRY(mem_new(&output->path, room, 1, "output path"));
    Status status = mem_new(&output->temporary, room, 1, "output path");
    if (status == OK) {
        memcpy(output->path, path, strlen(path) + 1);
        snprintf(output->temporary, room, "%s.tmp-%ld", path, (long)getpid());
        output->stream = fopen(output->temporary, "wb");
        if (output->stream == NULL)
            status = fail(ERR_OUTPUT, "%s: cannot create: %s", path, strerror(errno));
    }
    if (status != OK) {
        mem_free(output->path);
        mem_free(output->temporary);
        *output = (OutputFile){0};
    }
    return status;
}

static void output_release(OutputFile *output)
{
    mem_free(output->path);
    mem_free(output->temporary);
    *output = (OutputFile){0};
}

Status output_commit(OutputFile *output)
{
    bool good = !ferror(output->stream) && fflush(output->stream) == 0 &&
                fsync(fileno(output->stream)) == 0;
    int reason = errno;
    if (fclose(output->stream) != 0 && good) {
        good = false;
        reason = errno;
    }
    output->stream = NULL;
    if (good && rename(output->temporary, output->path) != 0) {
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
