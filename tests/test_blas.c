/* How OpenBLAS is loaded. */
#define _XOPEN_SOURCE 700
#include "tests/support.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/library.h"
#include "exec/cpu/blas.h"

enum { SIDE = 256 };

static const char *program;

static int count_threads(void)
{
    int n = 0;
    DIR *folder = opendir("/proc/self/task");
    assert_non_null(folder);
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(folder);
    return n;
}

/* Threads that were waited for may be there for a moment yet. */
static bool becomes(int threads)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    for (int i = 0; i < 2000 && count_threads() > threads; i++)
        nanosleep(&pause, NULL);
    return count_threads() == threads;
}

static void *wait_for_end(void *lock)
{
    pthread_mutex_lock(lock);
    pthread_mutex_unlock(lock);
    return NULL;
}

/* Pools of threads ask for products of tiles, each for its own. A checker begins a thread of its
 * own beside the first of a program, which is therefore one of the test here. */
static void products_begin_no_threads(void **unused)
{
    (void)unused;
    static float in[SIDE * SIDE];
    static float out[SIDE * SIDE];
    for (size_t i = 0; i < SIDE * SIDE; i++)
        in[i] = 0.5F;
    setenv("OPENBLAS_NUM_THREADS", "4", 1);
    pthread_mutex_t end = PTHREAD_MUTEX_INITIALIZER;
    pthread_t first;
    pthread_mutex_lock(&end);
    assert_int_equal(pthread_create(&first, NULL, wait_for_end, &end), 0);
    int before = count_threads();
    assert_ok(blas_load());
    assert_ok(blas_load());
    blas()->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, SIDE, SIDE, SIDE, 1, in, SIDE, in, SIDE,
                  0, out, SIDE);
    assert_true(out[0] == 0.25F * SIDE && out[SIDE * SIDE - 1] == 0.25F * SIDE);
    assert_true(becomes(before));
    pthread_mutex_unlock(&end);
    assert_int_equal(pthread_join(first, NULL), 0);
}

static void write_text(const char *folder, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *stream = fopen(path, "w");
    assert_non_null(stream);
    fputs("no library\n", stream);
    assert_int_equal(fclose(stream), 0);
}

/* What this program does where the first libopenblas.so.0 of the search path is a text. */
static int load_in_vain(void)
{
    Status first = blas_load();
    Status second = blas_load();
    const char *begins = "cpu: OpenBLAS: /";
    return first == ERR_UNSUPPORTED && second == ERR_UNSUPPORTED &&
                   strncmp(error_message(), begins, strlen(begins)) == 0 &&
                   strstr(error_message(), "/libopenblas.so.0: ") != NULL
               ? 0
               : 1;
}

static void a_broken_openblas_is_told_with_the_reason_of_the_loader(void **unused)
{
    (void)unused;
    char folder[256];
    int code;
    snprintf(folder, sizeof folder, "%s", scratch_path("libraries"));
    assert_int_equal(mkdir(folder, 0700), 0);
    write_text(folder, "libopenblas.so.0");
    write_text(folder, "libopenblas.so");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("LD_LIBRARY_PATH", folder, 1);
        execl(program, program, "in vain", (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(child, &code, 0), child);
    assert_true(WIFEXITED(code));
    assert_int_equal(WEXITSTATUS(code), 0);
}

/* The second path is broken, and nothing is at the first. */
static void a_library_that_is_nowhere_is_told_as_not_installed(void **unused)
{
    (void)unused;
    char broken[300];
    void *loaded;
    snprintf(broken, sizeof broken, "%s", scratch_path("broken"));
    assert_int_equal(mkdir(broken, 0700), 0);
    write_text(broken, "libbroken.so");
    strcat(broken, "/libbroken.so");
    const char *const paths[] = {"libnowhere.so.7", "/nowhere/libnowhere.so", broken};
    Library library = {.name = "test: Nowhere", .paths = paths, .n_paths = 2};
    assert_int_equal(library_load(&library, &loaded), ERR_UNSUPPORTED);
    assert_string_equal(error_message(), "test: Nowhere (libnowhere.so.7) is not installed");
    library.n_paths = 3;
    assert_int_equal(library_load(&library, &loaded), ERR_UNSUPPORTED);
    assert_null(loaded);
    assert_non_null(strstr(error_message(), "libbroken.so: "));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_begin_no_threads),
        cmocka_unit_test(a_broken_openblas_is_told_with_the_reason_of_the_loader),
        cmocka_unit_test(a_library_that_is_nowhere_is_told_as_not_installed),
    };
    program = argv[0];
    return argc > 1 ? load_in_vain() : cmocka_run_group_tests(tests, NULL, NULL);
}
