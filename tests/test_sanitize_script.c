/* tests/gpu/sanitize.sh judges what compute-sanitizer says. A script stands for that. */
#include "tests/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/files.h"

static void write_script(const char *path, const char *text)
{
    assert_ok(file_write_all(path, text, strlen(text)));
    assert_int_equal(chmod(path, 0700), 0);
}

/* What is printed of one program under a tool that says FINDINGS and ends with EXIT; *GOOD: the
 * script does. */
static const char *verdict(const char *findings, int exit_status, bool *good)
{
    static char line[512];
    char text[1024];
    snprintf(text, sizeof text,
             "#!/bin/sh\necho '[  PASSED  ] 3 test(s).'\n%s\n"
             "echo '========= ERROR SUMMARY: 0 errors'\nexit %d\n",
             findings, exit_status);
    write_script(scratch_path("bin/compute-sanitizer"), text);
    snprintf(text, sizeof text,
             "PATH=%s:$PATH TOOLS=memcheck TESTS=test_it tests/gpu/sanitize.sh %s 2>&1",
             scratch_path("bin"), scratch_path("build"));
    FILE *output = popen(text, "r");
    assert_non_null(output);
    assert_non_null(fgets(line, sizeof line, output));
    *good = pclose(output) == 0;
    return line;
}

static void only_what_is_found_in_no_kernel_of_ours_is_clean(void **unused)
{
    (void)unused;
    static const struct {
        const char *findings;
        int exit_status;
        const char *verdict;
        bool good;
    } CASES[] = {
        {":", 0, "3 tests (0 skipped)  0 findings (0 in cuBLAS)  clean\n", true},
        {"echo '========= Error: Race reported at nvjet_hsh'", 9,
         "0 findings (1 in cuBLAS)  clean\n", true},
        {"echo '========= Error: Race reported at attend'", 9,
         "1 findings (0 in cuBLAS)  findings\n", false},
        {"echo '========= Barrier error detected.'", 9, "1 findings (0 in cuBLAS)  findings\n",
         false},
        {"echo '========= Something new'", 9, "  exit status 9\n", false},
        {"echo '========= Error: Race reported at nvjet_hsh'\n"
         "echo '========= ERROR SUMMARY: 7 errors were not printed.'",
         9, "findings that are not printed\n", false},
        {"echo '[  FAILED  ] a test'", 1, "  tests fail\n", false},
        {"exit 0", 0, "  no summary\n", false},
        {":", 3, "  exit status 3\n", false},
    };
    assert_int_equal(mkdir(scratch_path("bin"), 0700), 0);
    assert_int_equal(mkdir(scratch_path("build"), 0700), 0);
    assert_int_equal(mkdir(scratch_path("build/tests"), 0700), 0);
    assert_int_equal(mkdir(scratch_path("build/tests/gpu"), 0700), 0);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        bool good;
        const char *line = verdict(CASES[i].findings, CASES[i].exit_status, &good);
        if (strstr(line, CASES[i].verdict) == NULL || good != CASES[i].good)
            fail_msg("case %zu: \"%s\"", i, line);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_is_found_in_no_kernel_of_ours_is_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
