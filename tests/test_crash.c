#define _DEFAULT_SOURCE
#include "base/status.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "tests/random_trace.h"
#include "traces/packed.h"

static void sleep_us(long us)
{
    nanosleep(&(struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000}, NULL);
}

static void remove_trace(const char *path)
{
    char name[512];
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        unlink(name);
    }
}

/* Records without end and writes the number of committed steps to PIPE whenever it has grown. */
static void record_until_killed(const char *path, const RandomTrace *trace, int pipe_end)
{
    RecorderOptions options = {.transaction_steps = 1 + (uint32_t)trace->seed % 9,
                               .ring_slots = 1 + (uint32_t)trace->seed % 4};
    TraceRun run = {.tool = "test"};
    Recorder *recorder;
    uint64_t told = 0;
    if (recorder_open(path, &run, trace->layers, trace->n_layers, &options, &recorder) != OK)
        _exit(1);
    for (uint32_t i = 0;; i++) {
        RandomStep made;
        random_step(trace, i, &made);
        if (record_random_step(recorder, &made) != OK)
            _exit(1);
        uint64_t committed = recorder_committed_steps(recorder);
        if (committed > told && write(pipe_end, &committed, sizeof committed) != sizeof committed)
            _exit(1);
        told = committed;
    }
}

/* Reads reports for about US microseconds after the first one. */
static uint64_t last_report(int pipe_end, pid_t child, long us)
{
    uint64_t reported = 0;
    struct pollfd wait = {.fd = pipe_end, .events = POLLIN};
    assert_int_equal(poll(&wait, 1, 20000), 1);
    sleep_us(us);
    assert_int_equal(kill(child, SIGKILL), 0);
    uint64_t report;
    while (read(pipe_end, &report, sizeof report) == sizeof report)
        reported = report;
    return reported;
}

static void assert_integrity(const char *path)
{
    sqlite3 *db;
    sqlite3_stmt *row;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(row, 0), "ok");
    sqlite3_finalize(row);
    sqlite3_close(db);
}

static void a_killed_recorder_leaves_every_committed_step(void **unused)
{
    (void)unused;
    enum { KILLS = 50 };
    const char *path = scratch_path("killed.db");
    uint64_t state = 4242;
    uint64_t steps_read = 0;
    for (uint64_t round = 0; round < KILLS; round++) {
        RandomTrace trace = random_trace(round);
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            close(ends[0]);
            record_until_killed(path, &trace, ends[1]);
        }
        close(ends[1]);
        uint64_t reported = last_report(ends[0], child, random_below(&state, 60000));
        close(ends[0]);
        int ended;
        assert_int_equal(waitpid(child, &ended, 0), child);
        assert_true(WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL);

        TraceCheck found;
        steps_read += assert_reads_back(path, &trace, (uint32_t)reported);
        assert_integrity(path);
        assert_ok(trace_check(path, &found, NULL, NULL));
        assert_int_equal(record_random(path, &trace, 1, NULL), ERR_OUTPUT);
        assert_non_null(strstr(error_message(), "exists already"));
        TraceReader *reader;
        assert_ok(trace_reader_open(path, &reader));
        assert_false(trace_reader_complete(reader));
        trace_reader_close(reader);
        remove_trace(path);
    }
    assert_true(steps_read > KILLS);
}

/* Kills the recorder from before it has created the file on. */
static void a_recorder_killed_while_opening_leaves_a_trace_or_none(void **unused)
{
    (void)unused;
    const char *path = scratch_path("opening.db");
    RandomTrace trace = random_trace(3);
    uint64_t state = 99;
    for (int round = 0; round < 25; round++) {
        int null = open("/dev/null", O_WRONLY);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            record_until_killed(path, &trace, null);
        sleep_us(random_below(&state, 8000));
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        close(null);
        TraceCheck found;
        Status status = trace_check(path, &found, NULL, NULL);
        if (status != OK && status != ERR_NOT_A_TRACE && status != ERR_INPUT)
            fail_msg("round %d: status %d: %s", round, status, error_message());
        remove_trace(path);
    }
}

/* A step of 8 KiB of ids, so that little disk is soon full and the log soon folded. TOLD, unless
 * below 0, is a pipe that is told of each commit. */
static Status record_large(const char *path, uint32_t steps, int told, uint64_t *committed)
{
    enum { TOKENS = 1024, TOP_K = 8 };
    static uint16_t experts[TOKENS * TOP_K];
    static uint32_t words[TOKENS];
    TraceLayer layer = {.experts = 16, .top_k = TOP_K};
    RecorderOptions options = {.transaction_steps = 4};
    Recorder *recorder;
    TRY(recorder_open(path, &(TraceRun){0}, &layer, 1, &options, &recorder));
    Status status = OK;
    for (uint32_t i = 0; i < steps && status == OK; i++) {
        TraceStep step = {
            .step = i, .tokens = TOKENS, .request = words, .position = words, .experts = experts};
        status = recorder_step(recorder, &step, NULL, 0, NULL, 0);
        uint64_t before = *committed;
        *committed = recorder_committed_steps(recorder);
        if (told >= 0 && *committed > before &&
            write(told, committed, sizeof *committed) != sizeof *committed)
            _exit(1);
    }
    Status closed = recorder_close(recorder);
    return status != OK ? status : closed;
}

/* Kills CHILD after US microseconds from its first report; its last report. */
static uint64_t kill_recorder(const char *path, uint32_t steps, long us)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        uint64_t committed = 0;
        close(ends[0]);
        _exit(record_large(path, steps, ends[1], &committed) != OK);
    }
    close(ends[1]);
    uint64_t reported = last_report(ends[0], child, us);
    close(ends[0]);
    int ended;
    assert_int_equal(waitpid(child, &ended, 0), child);
    assert_true(WIFSIGNALED(ended) || WEXITSTATUS(ended) == 0);
    return reported;
}

static void assert_large_steps(const char *path, uint64_t least)
{
    TraceCheck found;
    assert_ok(trace_check(path, &found, NULL, NULL)); /* takes back what a journal holds, too */
    assert_integrity(path);
    assert_true(found.steps >= least);
    remove_trace(path);
}

/* Some 16 MiB of log, a thousand steps, are folded into the file at a time. */
static void a_recorder_killed_while_folding_its_log_leaves_every_committed_step(void **unused)
{
    (void)unused;
    const char *path = scratch_path("folding.db");
    uint64_t state = 17;
    for (int round = 0; round < 6; round++)
        assert_large_steps(path, kill_recorder(path, 3000, 50000 + random_below(&state, 400000)));
}

/* Few steps: most of the child's time is closing. It may have ended before it is killed. */
static void a_recorder_killed_while_closing_leaves_every_committed_step(void **unused)
{
    (void)unused;
    const char *path = scratch_path("closing.db");
    uint64_t state = 18;
    for (int round = 0; round < 30; round++)
        assert_large_steps(path, kill_recorder(path, 12, random_below(&state, 6000)));
}

/* The recording into a full disk failed with REASON; every step it called committed is there. */
static void assert_committed_part_intact(const char *path, Status status, const char *reason,
                                         uint64_t committed)
{
    assert_int_equal(status, ERR_IO);
    assert_true(strncmp(error_message(), path, strlen(path)) == 0);
    if (strstr(error_message(), reason) == NULL)
        fail_msg("%s: wanted \"%s\"", error_message(), reason);
    assert_true(committed >= 4);
    TraceCheck found;
    assert_ok(trace_check(path, &found, NULL, NULL));
    assert_true(found.steps >= committed);
    assert_true(found.steps < 4000);
    assert_int_equal(found.steps % 4, 0);
    PackedTrace packed;
    assert_ok(packed_trace_load(path, &packed));
    assert_true(packed.n_steps == found.steps);
    packed_trace_free(&packed);
}

static void a_full_disk_keeps_what_was_committed(void **unused)
{
    (void)unused;
    const char *folder = scratch_path("full");
    assert_int_equal(mkdir(folder, 0700), 0);
    if (mount("tmpfs", folder, "tmpfs", 0, "size=3m") != 0) {
        print_message("no tmpfs can be mounted here; the limited file size stands in for it\n");
        rmdir(folder);
        skip();
    }
    const char *path = scratch_path("full/trace.db");
    uint64_t committed = 0;
    Status status = record_large(path, 4000, -1, &committed);
    assert_committed_part_intact(path, status, "full", committed);
    remove_trace(path);

    /* No room for one step: nothing is left behind. */
    char *filler = mem_alloc(3 << 20, 1);
    int fd = open(scratch_path("full/filler"), O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_true(write(fd, filler, (3 << 20) - 150000) > 0);
    close(fd);
    mem_free(filler);
    committed = 0;
    status = record_large(path, 4000, -1, &committed);
    assert_int_equal(status, ERR_IO);
    assert_int_equal(committed, 0);
    assert_false(file_exists(path));
    assert_int_equal(umount(folder), 0);
}

/* A killed recorder's file on a medium that cannot be written: with its log it is refused, because
 * committed steps would be missing; folded and without a log it reads. */
static void on_a_read_only_medium_no_committed_step_is_left_out(void **unused)
{
    (void)unused;
    const char *folder = scratch_path("medium");
    assert_int_equal(mkdir(folder, 0700), 0);
    if (mount("tmpfs", folder, "tmpfs", 0, "size=8m") != 0) {
        print_message("no tmpfs can be mounted here\n");
        rmdir(folder);
        skip();
    }
    const char *path = scratch_path("medium/trace.db");
    RandomTrace trace = random_trace(4);
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0)
        record_until_killed(path, &trace, ends[1]);
    close(ends[1]);
    uint64_t reported = last_report(ends[0], child, 5000);
    close(ends[0]);
    assert_int_equal(waitpid(child, NULL, 0), child);
    unlink(scratch_path("medium/trace.db-shm"));
    assert_int_equal(mount("tmpfs", folder, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
    TraceReader *reader;
    assert_int_equal(trace_reader_open(path, &reader), ERR_IO);
    assert_non_null(strstr(error_message(), "needs a directory that can be written"));
    assert_int_equal(mount("tmpfs", folder, NULL, MS_REMOUNT, NULL), 0);
    sqlite3 *db; /* the last one to close folds the log; the file stays in log mode */
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "SELECT count(*) FROM run", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_false(file_exists(scratch_path("medium/trace.db-wal")));
    assert_int_equal(mount("tmpfs", folder, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
    assert_reads_back(path, &trace, (uint32_t)reported);
    assert_int_equal(umount(folder), 0);
}

static void a_limited_file_size_keeps_what_was_committed(void **unused)
{
    (void)unused;
    const char *path = scratch_path("limited.db");
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit limit = {.rlim_cur = 2 << 20, .rlim_max = before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    uint64_t committed = 0;
    Status status = record_large(path, 4000, -1, &committed);
    char message[1024];
    snprintf(message, sizeof message, "%s", error_message());
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    (fail)(status, "%s", message);
    assert_committed_part_intact(path, status, "File too large", committed);
    remove_trace(path);
}

/* Whatever a failed test has left mounted. */
static int unmount_all(void **unused)
{
    (void)unused;
    umount(scratch_path("full"));
    umount(scratch_path("medium"));
    return 0;
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_recorder_leaves_every_committed_step),
        cmocka_unit_test(a_recorder_killed_while_opening_leaves_a_trace_or_none),
        cmocka_unit_test(a_recorder_killed_while_folding_its_log_leaves_every_committed_step),
        cmocka_unit_test(a_recorder_killed_while_closing_leaves_every_committed_step),
        cmocka_unit_test(a_full_disk_keeps_what_was_committed),
        cmocka_unit_test(on_a_read_only_medium_no_committed_step_is_left_out),
        cmocka_unit_test(a_limited_file_size_keeps_what_was_committed),
    };
    return cmocka_run_group_tests(tests, NULL, unmount_all);
}
