/* How OpenBLAS is loaded. */
#define _XOPEN_SOURCE 700
#include "tests/support.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* Pools of threads ask for products of tiles, each for its own. */
static void products_begin_no_threads(void **unused)
{
    (void)unused;
    static float in[SIDE * SIDE];
    static float out[SIDE * SIDE];
    for (size_t i = 0; i < SIDE * SIDE; i++)
        in[i] = 0.5F;
    setenv("OPENBLAS_NUM_THREADS", "4", 1);
    int before = count_threads(); /* a checker may have one of its own */
    assert_ok(blas_load());
    assert_ok(blas_load());
    blas()->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, SIDE, SIDE, SIDE, 1, in, SIDE, in, SIDE,
                  0, out, SIDE);
    assert_true(out[0] == 0.25F * SIDE && out[SIDE * SIDE - 1] == 0.25F * SIDE);
    assert_int_equal(count_threads(), before);
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

/* What this program does where it finds no OpenBLAS. */
static int load_in_vain(void)
{
    Status first = blas_load();
    Status second = blas_load();
    return first == ERR_UNSUPPORTED && second == ERR_UNSUPPORTED &&
                   strcmp(error_message(), "cpu: OpenBLAS (libopenblas.so.0) is not installed") == 0
               ? 0
               : 1;
}

static void who_has_no_openblas_is_told_so(void **unused)
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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_begin_no_threads),
        cmocka_unit_test(who_has_no_openblas_is_told_so),
    };
    program = argv[0];
    return argc > 1 ? load_in_vain() : cmocka_run_group_tests(tests, NULL, NULL);
}
