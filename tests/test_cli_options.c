/* Command lines, help, and output that cannot be written. */
#include "base/status.h"
#include "tests/support.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/table.h"
#include "policies/plan.h"
#include "tests/cli_run.h"
#include "tests/offline_maker.h"

static void the_option_table_reads_every_kind_in_both_spellings(void **unused)
{
    (void)unused;
    static const char *const COLOURS[] = {"red", "green", NULL};
    bool flag = false;
    const char *text = NULL;
    const char *file = NULL;
    uint32_t small = 7;
    uint64_t large = 0;
    double real = 0;
    int colour = -1;
    OptionList list = {0};
    const Option options[] = {
        {.name = "flag", .kind = OPTION_FLAG, .value = &flag},
        {.name = "text", .argument = "T", .kind = OPTION_TEXT, .value = &text},
        {.name = "small", .argument = "N", .kind = OPTION_U32, .value = &small, .most = 9},
        {.name = "large", .argument = "N", .kind = OPTION_U64, .value = &large, .most = UINT64_MAX},
        {.name = "real", .argument = "R", .kind = OPTION_F64, .value = &real, .low = -1, .high = 1},
        {.name = "colour",
         .argument = "C",
         .kind = OPTION_CHOICE,
         .value = &colour,
         .choices = COLOURS},
        {.name = "item", .argument = "I", .kind = OPTION_LIST, .value = &list},
        {.name = "FILE", .kind = OPTION_POSITIONAL, .value = &file},
    };
    const OptionTable table = {.command = "test", .options = options, .n_options = 8};
    char *argv[] = {"test",   "--flag",  "--text=a=b", "--large", "18446744073709551615",
                    "--real", "-0.5",    "--colour",   "green",   "--item",
                    "x=1",    "--item=", "--",         "--file",  NULL};
    argv[11] = "--item=--y";
    assert_ok(options_parse(&table, 14, argv));
    assert_true(flag);
    assert_string_equal(text, "a=b");
    assert_int_equal(small, 7);
    assert_true(large == UINT64_MAX);
    assert_true(real == -0.5);
    assert_int_equal(colour, 1);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.items[0], "x=1");
    assert_string_equal(list.items[1], "--y");
    assert_string_equal(file, "--file");
    option_list_free(&list);
}

static void bad_command_lines_are_usage_errors_with_a_hint(void **unused)
{
    (void)unused;
    static const struct {
        const char *arguments[MAX_ARGUMENTS];
        const char *wanted;
    } cases[] = {
        {{"simulate"}, "simulate: --trace is missing (see 'moebius simulate --help')"},
        {{"simulate", "--trace"}, "--trace: needs FILE"},
        {{"simulate", "--trace", "--json"}, "--trace: needs FILE, not --json"},
        {{"simulate", "--trace="}, "--trace: the value is empty"},
        {{"simulate", "--trace", "a", "--plan", "b", "--plan", "c"}, "--plan: given twice"},
        {{"simulate", "--trace", "a", "--json=yes"}, "--json: takes no value"},
        {{"simulate", "--trace", "a", "--bogus=1"}, "--bogus: unknown option"},
        {{"simulate", "--trace", "a", "-x"}, "-x: unknown option"},
        {{"simulate", "--trace", "a", "b"}, "'b': unexpected argument"},
        {{"simulate", "--trac", "a"}, "--trac: unknown option"},
        {{"sweep", "--sizes", "some"}, "--sizes: 'some', allowed are given, all"},
        {{"sweep", "--jobs", "0"}, "--jobs: 0, allowed is 1 to 1024"},
        {{"sweep", "--jobs", "-1"}, "--jobs: '-1' is no whole number"},
        {{"sweep", "--jobs", "3x"}, "--jobs: '3x' is no whole number"},
        {{"sweep", "--jobs", "99999999999999999999"}, "--jobs: 99999999999999999999, allowed"},
        {{"plan", "--best", "speed"}, "--best: 'speed', allowed are time, misses, memory"},
        {{"plan", "--misses-at-most", "1.5"}, "--misses-at-most: 1.5, allowed is 0 to 1"},
        {{"plan", "--misses-at-most", "nan"}, "--misses-at-most: 'nan' is no number"},
        {{"plan", "--from", "a", "--out", "b"}, "--best is missing"},
        {{"plan", "--from", "a", "--best", "time"}, "--out is missing"},
        {{"plan", "--from", "a", "--pareto", "--best", "time"}, "--pareto shows plans"},
        {{"plan", "--from", "a", "--pareto", "--memory-at-most", "80Gib"},
         "--memory-at-most: '80Gib' is no size"},
        {{"plan", "--from", "a", "--pareto", "--memory-at-most", "0.2"}, "'0.2' is no size"},
        {{"bench", "host-experts", "--rows", "1,0"}, "--rows: '1,0' is no list"},
        {{"info"}, "info: TRACE is missing"},
        {{"check", "a", "b"}, "'b': unexpected argument"},
        {{"check", ""}, "FILE: the value is empty"},
        {{"frobnicate"}, "moebius: frobnicate: unknown command (see 'moebius --help')"},
        {{"help", "frobnicate"}, "frobnicate: unknown command"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CliRun run = run_list(cases[i].arguments);
        assert_run_refused(&run, 2, cases[i].wanted);
        assert_non_null(strstr(run.err, "--help')"));
    }
    CliRun run = run_list((const char *const[]){NULL});
    assert_run_refused(&run, 2, "moebius: no command given");
}

static void assert_lines_fit(const char *text, const char *end)
{
    while (text < end) {
        size_t bytes = strcspn(text, "\n");
        assert_in_range(bytes, 0, 100);
        text += bytes + 1;
    }
}

static void a_file_that_is_read_is_not_written_over(void **unused)
{
    (void)unused;
    static const char *const CASES[][MAX_ARGUMENTS] = {
        {"export", "FILE", "--to", "csv", "--out", "FILE"},
        {"export", "FILE", "--to", "csv", "--out", "LINK"},
        {"export", "--to", "sglang", "--plan", "FILE", "--out", "FILE"},
        {"plan", "--from", "FILE", "--best", "misses", "--out", "FILE"},
        {"place", "--trace", "a", "--trace", "LINK", "--ranks", "2", "--method", "greedy", "--out",
         "FILE"},
        {"simulate", "--trace", "a", "--plan", "FILE", "--hardware", "b", "--timeline", "FILE"},
        {"simulate", "--trace", "a", "--hardware", "FILE", "--timeline", "FILE"},
        {"validate", "--trace", "a", "--routing", "trace:FILE", "--timeline", "FILE"},
        {"validate", "--trace", "a", "--out", "new", "--timeline", "new"},
        {"forward", "--model", "a", "--tokens", "FILE", "--out", "FILE"},
        {"record", "--model", "a", "--tokens", "FILE", "--out", "b", "--output", "FILE"},
        {"record", "--model", "a", "--tokens", "b", "--out", "new", "--output", "new"},
        {"record", "--model", "a", "--tokens", "b", "--routing", "trace:FILE", "--out", "c",
         "--output", "FILE"},
        {"record", "--model", "shape:FILE", "--tokens", "b", "--out", "c", "--output", "FILE"},
        {"record", "--model", "shape:FILE:2+1", "--tokens", "b", "--out", "c", "--output", "FILE"},
        {"tokenize", "--model", "a", "--text", "FILE", "--out", "FILE"},
        {"tokenize", "--model", "FILE", "--text", "a", "--out", "FILE"},
        {"report", "FILE", "-o", "LINK"},
    };
    char file[64];
    char link[64];
    char from[80];
    char shape[80];
    char layers[80];
    snprintf(file, sizeof file, "%s", scratch_path("read.db"));
    snprintf(link, sizeof link, "%s", scratch_path("link.db"));
    snprintf(from, sizeof from, "trace:%s", file);
    snprintf(shape, sizeof shape, "shape:%s", file);
    snprintf(layers, sizeof layers, "shape:%s:2+1", file);
    assert_ok(file_write_all(file, "kept", 4));
    assert_int_equal(symlink(file, link), 0);
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        const char *arguments[MAX_ARGUMENTS] = {NULL};
        char *text;
        size_t bytes;
        for (size_t k = 0; k < MAX_ARGUMENTS && CASES[i][k] != NULL; k++) {
            const char *word = CASES[i][k];
            arguments[k] = strcmp(word, "FILE") == 0             ? file
                           : strcmp(word, "LINK") == 0           ? link
                           : strcmp(word, "trace:FILE") == 0     ? from
                           : strcmp(word, "shape:FILE") == 0     ? shape
                           : strcmp(word, "shape:FILE:2+1") == 0 ? layers
                                                                 : word;
        }
        CliRun run = run_list(arguments);
        assert_run_refused(&run, 2, " is the file that ");
        assert_ok(file_read_all(file, 100, &text, &bytes));
        assert_string_equal(text, "kept");
        mem_free(text);
    }
    unlink(link);
    unlink(file);
}

static void a_file_that_may_not_grow_is_an_error(void **unused)
{
    (void)unused;
    const char *out = scratch_path("limited.csv");
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit limit = {.rlim_cur = 1024, .rlim_max = before.rlim_max};
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    CliRun run = RUN_OF("export", trace_path, "--to", "csv", "--out", out);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_run_refused(&run, 1, "limited.csv: cannot write: File too large");
    assert_false(file_exists(out));
}

static void help_lists_every_command_and_each_has_an_example(void **unused)
{
    (void)unused;
    static const char *const COMMANDS[] = {"record", "forward",  "import",    "export",   "info",
                                           "check",  "analyze",  "simulate",  "sweep",    "plan",
                                           "place",  "validate", "calibrate", "tokenize", "models",
                                           "report", "bench"};
    CliRun all = RUN_OF("--help");
    assert_run_done(&all);
    for (size_t i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++) {
        char usage[64];
        assert_non_null(strstr(all.out, COMMANDS[i]));
        CliRun one = RUN_OF(COMMANDS[i], "--help");
        CliRun other = RUN_OF("help", COMMANDS[i]);
        assert_run_done(&one);
        assert_string_equal(one.out, other.out);
        snprintf(usage, sizeof usage, "usage: moebius %s ", COMMANDS[i]);
        assert_memory_equal(one.out, usage, strlen(usage));
        snprintf(usage, sizeof usage, "example:\n  moebius %s ", COMMANDS[i]);
        assert_non_null(strstr(one.out, usage));
        assert_lines_fit(one.out, strstr(one.out, usage));
        assert_null(strstr(one.out, "\nmoebius ")); /* further examples are indented as well */
    }
    CliRun version = RUN_OF("--version");
    assert_run_done(&version);
    assert_string_equal(version.out, "moebius " MOEBIUS_VERSION "\n");
}

static void a_result_that_cannot_be_written_is_a_failure(void **unused)
{
    (void)unused;
    static const char *const cases[][8] = {
        {"--help"},
        {"--version"},
        {"info", trace_path},
        {"check", trace_path},
        {"simulate", "--help"},
        {"simulate", "--trace", trace_path, "--json"},
    };
    char text[4096];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int full = open("/dev/full", O_WRONLY);
        int err = cli_open_output();
        assert_int_equal(cli_run_into(full, err, cases[i]), 1);
        cli_read_back(err, text, sizeof text);
        close(full);
        close(err);
        assert_non_null(strstr(text, "stdout: cannot write: No space left on device"));
    }
    CliRun after = RUN_OF("--version"); /* the failure is not kept */
    assert_run_done(&after);
}

static void tables_align_and_numbers_read_well(void **unused)
{
    (void)unused;
    static const char *const TITLES[] = {"a", "number"};
    char text[256] = "";
    char number[NUMBER_BYTES];
    Table *table;
    assert_ok(table_new(TITLES, "lr", &table));
    table_cell(table, "long name");
    table_cell(table, "%d", 7);
    table_cell(table, "\t");
    table_cell(table, "%s", number_text(1234567, number));
    FILE *stream = fmemopen(text, sizeof text, "w");
    assert_ok(table_print(table, stream));
    fclose(stream);
    table_free(table);
    assert_string_equal(text, "a             number\n"
                              "--------------------\n"
                              "long name          7\n"
                              "?          1,234,567\n");
    assert_string_equal(number_text(0, number), "0");
    assert_string_equal(number_text(UINT64_MAX, number), "18,446,744,073,709,551,615");
    assert_string_equal(bytes_text(1023, number), "1023 B");
    assert_string_equal(bytes_text(3 << 19, number), "1.50 MiB");
    assert_string_equal(ratio_text(1, 0, number), "-");
    assert_string_equal(duration_text(2500000, number), "2.5 ms");
    assert_string_equal(duration_text(1874000000, number), "1.87 s");
    assert_string_equal(duration_text(18740000000, number), "18.7 s");
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_option_table_reads_every_kind_in_both_spellings),
        cmocka_unit_test(bad_command_lines_are_usage_errors_with_a_hint),
        cmocka_unit_test(a_file_that_is_read_is_not_written_over),
        cmocka_unit_test(a_file_that_may_not_grow_is_an_error),
        cmocka_unit_test(help_lists_every_command_and_each_has_an_example),
        cmocka_unit_test(a_result_that_cannot_be_written_is_a_failure),
        cmocka_unit_test(tables_align_and_numbers_read_well),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
