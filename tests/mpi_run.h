/* Programs under mpirun, and what they said. */
#ifndef TESTS_MPI_RUN_H
#define TESTS_MPI_RUN_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "tests/support.h"

typedef struct {
    int code;
    char text[1 << 16]; /* stdout and stderr */
} MpiSaid;

/* False, which is told, where the program was built without MPI, or where there is no mpirun. */
static inline bool have_mpi(void)
{
#ifdef HAVE_MPI
    if (system("mpirun --version >/dev/null 2>&1") == 0)
        return true;
    puts("skipped: there is no mpirun");
#else
    puts("skipped: built without MPI");
#endif
    return false;
}

/* Open MPI wants to be told that it may run as root, and more processes than processors. It leaks,
 * out of plugins that it has unloaded before LeakSanitizer looks, so that no suppression can name
 * them. What ThreadSanitizer sees in its libraries is in tests/mpi.supp. */
static inline void mpi_set_environment(void)
{
    char options[300];
    const char *given = getenv("TSAN_OPTIONS");
    snprintf(options, sizeof options, "%s:suppressions=tests/mpi.supp", given != NULL ? given : "");
    setenv("TSAN_OPTIONS", options, 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
}

/* Starts ARGUMENTS, up to NULL, their output going into a scratch file. */
static inline pid_t mpi_start(const char *const *arguments)
{
    int output = open(scratch_path("said.txt"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(output >= 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(output, STDOUT_FILENO);
        dup2(output, STDERR_FILENO);
        execvp(arguments[0], (char *const *)arguments);
        _exit(127);
    }
    close(output);
    return child;
}

/* Waits for CHILD. */
static inline void mpi_finish(pid_t child, MpiSaid *said)
{
    int status;
    char *text;
    size_t bytes;
    assert_int_equal(waitpid(child, &status, 0), child);
    said->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    assert_ok(file_read_all(scratch_path("said.txt"), sizeof said->text - 1, &text, &bytes));
    memcpy(said->text, text, bytes + 1);
    mem_free(text);
}

/* Lines of TEXT with this beginning. */
static inline int mpi_count_lines(const char *text, const char *beginning)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, beginning)) != NULL; at++)
        count += at == text || at[-1] == '\n';
    return count;
}

/* Runs this very program as RANKS processes with the argument WHAT; they are ended after 60
 * seconds. */
static inline void mpi_run_self(const char *ranks, const char *what, MpiSaid *said)
{
    char self[512];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = '\0';
    const char *const arguments[] = {"timeout", "60", "mpirun", "-n", ranks, self, what, NULL};
    mpi_finish(mpi_start(arguments), said);
}

#endif
