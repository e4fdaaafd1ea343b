#define _GNU_SOURCE /* O_TMPFILE */
#include "tests/support.h"

#include <stdlib.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/scratch.h"

/* A new empty folder of this name. */
static const char *new_folder(const char *name)
{
    const char *path = scratch_path(name);
    assert_int_equal(mkdir(path, 0700), 0);
    return path;
}

static size_t count_entries(const char *folder)
{
    size_t count = 0;
    DIR *stream = opendir(folder);
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(stream);
    return count;
}

static void assert_holds(const char *path, const char *wanted)
{
    char *text;
    size_t bytes;
    assert_ok(file_read_all(path, 1 << 20, &text, &bytes));
    assert_int_equal(bytes, strlen(wanted));
    assert_string_equal(text, wanted);
    mem_free(text);
}

static void assert_says(Status got, Status status, const char *path, const char *why)
{
    assert_int_equal(got, status);
    assert_memory_equal(error_message(), path, strlen(path));
    if (strstr(error_message(), why) == NULL)
        fail_msg("\"%s\", wanted \"%s\"", error_message(), why);
}

static void a_whole_file_is_read_up_to_its_limit(void **unused)
{
    (void)unused;
    const char *path = scratch_path("whole");
    char *text = NULL;
    size_t bytes = 99;
    assert_ok(file_write_all(path, "a\0b", 3));
    assert_ok(file_read_all(path, 3, &text, &bytes));
    assert_int_equal(bytes, 3);
    assert_memory_equal(text, "a\0b\0", 4);
    mem_free(text);
    assert_says(file_read_all(path, 2, &text, &bytes), ERR_INPUT, path,
                ": 3 bytes, at most 2 are allowed");
    assert_ok(file_write_all(path, "", 0));
    assert_ok(file_read_all(path, 0, &text, &bytes));
    assert_int_equal(bytes, 0);
    assert_string_equal(text, "");
    mem_free(text);
    mem_fail_at(1);
    assert_says(file_read_all(path, 9, &text, &bytes), ERR_MEMORY, path, "out of memory");
    mem_fail_at(0);
}

static void what_is_no_regular_file_is_refused_at_once(void **unused)
{
    (void)unused;
    char *text;
    size_t bytes;
    FileMap map;
    const char *fifo = scratch_path("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    const char *const paths[] = {fifo, scratch_path(""), "/dev/null"};
    for (size_t i = 0; i < 3; i++) {
        assert_says(file_read_all(paths[i], 9, &text, &bytes), ERR_INPUT, paths[i],
                    "not a regular file");
        assert_says(file_map_open(paths[i], &map), ERR_INPUT, paths[i], "not a regular file");
        assert_says(file_check_readable(paths[i]), ERR_INPUT, paths[i], "not a regular file");
    }
    const char *absent = scratch_path("absent");
    assert_says(file_read_all(absent, 9, &text, &bytes), ERR_INPUT, absent, "cannot open: No such");
    assert_says(file_map_open(absent, &map), ERR_INPUT, absent, "cannot open: No such");
    assert_says(file_check_readable(absent), ERR_INPUT, absent, "cannot open: No such");
    assert_null(map.data);
    unlink(fifo);
}

static void a_map_shows_the_file_and_an_empty_one_maps_to_nothing(void **unused)
{
    (void)unused;
    const char *path = scratch_path("mapped");
    FileMap map;
    assert_ok(file_write_all(path, "abc", 3));
    assert_ok(file_map_open(path, &map));
    assert_int_equal(map.bytes, 3);
    assert_memory_equal(map.data, "abc", 3);
    file_map_close(&map);
    file_map_close(&map);
    assert_ok(file_write_all(path, "", 0));
    assert_ok(file_map_open(path, &map));
    assert_null(map.data);
    assert_int_equal(map.bytes, 0);
    file_map_close(&map);
}

static void an_output_appears_under_its_name_only_when_committed(void **unused)
{
    (void)unused;
    const char *folder = new_folder("outputs");
    const char *path = scratch_path("outputs/file");
    OutputFile output;
    assert_ok(output_open(path, &output));
    fputs("new", output.stream);
    fflush(output.stream);
    assert_false(file_exists(path));
    assert_ok(output_commit(&output));
    assert_holds(path, "new");
    output_discard(&output);

    assert_ok(output_open(path, &output));
    fputs("newer", output.stream);
    assert_holds(path, "new");
    output_discard(&output);
    output_discard(&output);
    assert_holds(path, "new");
    assert_ok(file_write_all(path, "newest", 6));
    assert_holds(path, "newest");
    assert_int_equal(count_entries(folder), 1);
}

static void an_output_that_cannot_be_is_refused_at_the_start(void **unused)
{
    (void)unused;
    OutputFile output;
    const char *folder = new_folder("refused");
    const char *fifo = scratch_path("refused/fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    char long_name[300];
    memset(long_name, 'a', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    const struct {
        const char *path;
        const char *why;
    } cases[] = {
        {"/nowhere/at/all", "cannot create: No such file or directory"},
        {folder, "cannot create: it is a directory"},
        {fifo, "cannot create: it is no regular file"},
        {"/dev/null", "cannot create: it is no regular file"},
        {"", ": cannot create: the name is empty"},
        {long_name, "cannot create: File name too long"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_says(output_open(cases[i].path, &output), ERR_OUTPUT, cases[i].path, cases[i].why);
        assert_null(output.stream);
        assert_null(output.path);
    }
    assert_int_equal(count_entries(folder), 1);
    struct stat info;
    assert_int_equal(stat("/dev/null", &info), 0);
    assert_true(S_ISCHR(info.st_mode));
}

/* A limited file size stands for a full disk. */
static void a_write_that_fails_leaves_what_was_there_before(void **unused)
{
    (void)unused;
    const char *folder = new_folder("limited");
    const char *path = scratch_path("limited/file");
    assert_ok(file_write_all(path, "old", 3));
    char *large = mem_alloc(1 << 20, 1);
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    const struct rlimit limit = {.rlim_cur = 100000, .rlim_max = before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    Status status = file_write_all(path, large, 1 << 20);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_says(status, ERR_IO, path, "cannot write: File too large");
    assert_holds(path, "old");
    assert_int_equal(count_entries(folder), 1);
    mem_free(large);
}

static void every_allocation_may_fail_in_writing(void **unused)
{
    (void)unused;
    const char *folder = new_folder("memory");
    const char *path = scratch_path("memory/file");
    int64_t before = mem_live_blocks();
    uint64_t k = 1;
    for (;; k++) {
        mem_fail_at(k);
        Status status = file_write_all(path, "x", 1);
        bool reached = mem_fail_reached();
        mem_fail_at(0);
        assert_int_equal(mem_live_blocks(), before);
        assert_int_equal(status, reached ? ERR_MEMORY : OK);
        assert_int_equal(count_entries(folder), reached ? 0 : 1);
        if (!reached)
            break;
    }
    assert_true(k > 1);
}

/* In a container the number may be the same each time. */
static void what_a_killed_process_of_this_number_left_does_not_hinder(void **unused)
{
    (void)unused;
    const char *folder = new_folder("number");
    const char *path = scratch_path("number/file");
    char left[512];
    snprintf(left, sizeof left, "%s.tmp-%ld", path, (long)getpid());
    for (int i = 0; i < 2; i++) { /* without a file of that name, and with one */
        assert_ok(file_write_all(left, "half", 4));
        assert_ok(file_write_all(path, "new", 3));
        assert_holds(path, "new");
    }
    assert_int_equal(count_entries(folder), 1);
}

/* Writes to an output, and to a file in a scratch folder, and is killed. */
static void be_killed_writing(const char *path)
{
    OutputFile output;
    ScratchFolder folder;
    char name[512];
    pid_t child = fork();
    if (child == 0) {
        if (output_open(path, &output) != OK || scratch_open(NULL, &folder) != OK ||
            scratch_name(&folder, "trace.db", name, sizeof name) != OK ||
            file_write_all(name, "half", 4) != OK)
            _exit(1);
        fputs("half", output.stream);
        fflush(output.stream);
        kill(getpid(), SIGKILL);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
}

/* Sets TMPDIR to FOLDER; gives back what it was, freed by restore_tmpdir(). */
static char *set_tmpdir(const char *folder)
{
    const char *before = getenv("TMPDIR");
    char *kept = before != NULL ? strdup(before) : NULL;
    assert_int_equal(setenv("TMPDIR", folder, 1), 0);
    return kept;
}

static void restore_tmpdir(char *kept)
{
    assert_int_equal(kept != NULL ? setenv("TMPDIR", kept, 1) : unsetenv("TMPDIR"), 0);
    free(kept);
}

static void a_killed_process_leaves_no_output_and_its_scratch_folder_until_the_next(void **unused)
{
    (void)unused;
    const char *folder = new_folder("killed");
    const char *path = scratch_path("killed/file");
    int unnamed = open(folder, O_TMPFILE | O_WRONLY, 0600);
    if (unnamed < 0) {
        print_message("skipped: files without a name: the file system has none\n");
        skip();
    }
    close(unnamed);
    char *kept = set_tmpdir(folder);
    ScratchFolder mine;
    ScratchFolder second;
    be_killed_writing(path);
    assert_int_equal(count_entries(folder), 1);
    assert_ok(scratch_open(NULL, &mine));
    assert_int_equal(count_entries(folder), 1);
    assert_true(file_exists(mine.path));
    be_killed_writing(path);
    assert_ok(scratch_open(NULL, &second)); /* what is held stays */
    assert_int_equal(count_entries(folder), 2);
    assert_true(file_exists(mine.path));
    scratch_close(&second);
    scratch_close(&mine);
    scratch_close(&mine);
    assert_int_equal(count_entries(folder), 0);
    restore_tmpdir(kept);
}

static void a_scratch_folder_is_in_tmpdir_or_where_its_prefix_says(void **unused)
{
    (void)unused;
    const char *folder = new_folder("scratch");
    ScratchFolder scratch;
    char path[512];
    char wanted[512];
    char *kept = set_tmpdir(folder);
    snprintf(wanted, sizeof wanted, "%s/moebius-scratch-", folder);
    assert_ok(scratch_open(NULL, &scratch));
    assert_int_equal(strncmp(scratch.path, wanted, strlen(wanted)), 0);
    assert_ok(scratch_name(&scratch, "x", path, sizeof path));
    assert_int_equal(strlen(path), strlen(wanted) + 6 + 2);
    assert_int_equal(scratch_name(&scratch, "x", path, 16), ERR_OUTPUT);
    scratch_close(&scratch);
    snprintf(wanted, sizeof wanted, "%s/out.tmp-", folder);
    assert_ok(scratch_open(wanted, &scratch));
    assert_int_equal(strncmp(scratch.path, wanted, strlen(wanted)), 0);
    scratch_close(&scratch);
    assert_int_equal(count_entries(folder), 0);
    assert_int_equal(setenv("TMPDIR", "/nowhere", 1), 0);
    assert_int_equal(scratch_open(NULL, &scratch), ERR_OUTPUT);
    assert_string_equal(error_message(), "/nowhere/moebius-scratch-XXXXXX: cannot create: No such "
                                         "file or directory");
    assert_null(scratch.path);
    restore_tmpdir(kept);
}

/* A limit of open files stands for any reason why a folder cannot be held. */
static void a_scratch_folder_that_cannot_be_held_is_not_left(void **unused)
{
    (void)unused;
    const char *folder = new_folder("unheld");
    char *kept = set_tmpdir(folder);
    ScratchFolder scratch;
    struct rlimit before;
    int next = dup(0);
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    const struct rlimit limit = {.rlim_cur = (rlim_t)next, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    Status status = scratch_open(NULL, &scratch);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_says(status, ERR_OUTPUT, folder, "cannot create: Too many open files");
    assert_int_equal(count_entries(folder), 0);
    restore_tmpdir(kept);
}

/* Only folders of exactly such a name, which nobody else may enter, and nothing that a link leads
 * to. */
static void what_is_no_scratch_folder_is_left_alone(void **unused)
{
    (void)unused;
    const char *folder = new_folder("others");
    const char *file = scratch_path("others/moebius-scratch-abcdef");
    const char *longer = scratch_path("others/moebius-scratch-abcdefg");
    const char *link = scratch_path("others/moebius-scratch-ABCDEF");
    const char *target = scratch_path("others/kept");
    const char *inside = scratch_path("others/kept/file");
    const char *shared = scratch_path("others/moebius-scratch-backup");
    const char *shared_file = scratch_path("others/moebius-scratch-backup/file");
    char *kept = set_tmpdir(folder);
    ScratchFolder scratch;
    assert_ok(file_write_all(file, "x", 1));
    assert_int_equal(mkdir(longer, 0700), 0);
    assert_int_equal(mkdir(target, 0700), 0);
    assert_ok(file_write_all(inside, "x", 1));
    assert_int_equal(mkdir(shared, 0700), 0);
    assert_int_equal(chmod(shared, 0755), 0);
    assert_ok(file_write_all(shared_file, "x", 1));
    assert_int_equal(symlink(target, link), 0);
    assert_ok(scratch_open(NULL, &scratch));
    assert_true(file_exists(file) && file_exists(longer) && file_exists(link));
    assert_holds(inside, "x");
    assert_holds(shared_file, "x");
    scratch_close(&scratch);
    restore_tmpdir(kept);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_file_is_read_up_to_its_limit),
        cmocka_unit_test(what_is_no_regular_file_is_refused_at_once),
        cmocka_unit_test(a_map_shows_the_file_and_an_empty_one_maps_to_nothing),
        cmocka_unit_test(an_output_appears_under_its_name_only_when_committed),
        cmocka_unit_test(an_output_that_cannot_be_is_refused_at_the_start),
        cmocka_unit_test(a_write_that_fails_leaves_what_was_there_before),
        cmocka_unit_test(every_allocation_may_fail_in_writing),
        cmocka_unit_test(what_a_killed_process_of_this_number_left_does_not_hinder),
        cmocka_unit_test(a_killed_process_leaves_no_output_and_its_scratch_folder_until_the_next),
        cmocka_unit_test(a_scratch_folder_is_in_tmpdir_or_where_its_prefix_says),
        cmocka_unit_test(a_scratch_folder_that_cannot_be_held_is_not_left),
        cmocka_unit_test(what_is_no_scratch_folder_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
