#include "cli/bench_child.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { MOST_ARGUMENTS = 30 };

static uint64_t nanoseconds(struct timeval time)
{
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_usec * 1000;
}

/* Of all children that have ended. */
static uint64_t children_ns(void)
{
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    return nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime);
}

static int spawn(char *const *argv, const char *out, pid_t *child)
{
    posix_spawn_file_actions_t actions;
    int error = posix_spawn_file_actions_init(&actions);
    if (error != 0)
        return error;
    error = posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out,
                                             O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (error == 0)
        error = posix_spawn(child, "/proc/self/exe", &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

Status bench_child_run(const char *const *arguments, const char *out, uint64_t *ns)
{
    char *argv[MOST_ARGUMENTS + 2] = {(char[]){"moebius"}};
    pid_t child;
    int result;
    for (int i = 0; i < MOST_ARGUMENTS && arguments[i] != NULL; i++)
        memcpy(&argv[i + 1], &arguments[i], sizeof *argv);
    uint64_t before_ns = children_ns();
    int error = spawn(argv, out, &child);
    if (error != 0)
        return fail(ERR_IO, "bench: moebius %s: %s", arguments[0], strerror(error));
    while (waitpid(child, &result, 0) < 0)
        if (errno != EINTR)
            return fail(ERR_IO, "bench: moebius %s: %s", arguments[0], strerror(errno));
    *ns = children_ns() - before_ns;
    if (!WIFEXITED(result) || WEXITSTATUS(result) != 0)
        return fail(ERR_IO, "bench: moebius %s: it failed", arguments[0]);
    return OK;
}
