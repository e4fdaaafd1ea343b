#include "base/status.h"

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "tests/fault_vfs.h"
#include "tests/random_trace.h"
#include "traces/packed.h"

enum { STEPS = 14, MAX_CUTS = 400 };

static void remove_trace(const char *path)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < 4; i++) {
        char name[512];
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        unlink(name);
    }
}

/* A recording during which the power is cut again and again. */
typedef struct {
    char path[256];
    Recorder *_Atomic recorder;
    _Atomic uint64_t committed;
    uint64_t state;
    uint32_t cuts;
    uint64_t promised[MAX_CUTS]; /* steps committed before the cut */
} Watched;

/* Records STEPS steps, four to a transaction. *COMMITTED is at most what was committed when it
 * ended. */
static Status record(const char *path, const RandomTrace *trace, bool full_sync,
                     uint64_t *committed, Watched *watched)
{
    const RecorderOptions options = {.transaction_steps = 4,
                                     .transaction_ns = 3600000000000u,
                                     .ring_slots = 2,
                                     .durability = full_sync ? DURABLE_POWER : DURABLE_PROCESS};
    const TraceRun run = {.tool = "test"};
    Recorder *recorder;
    Status status = OK;
    *committed = 0;
    TRY(recorder_open(path, &run, trace->layers, trace->n_layers, &options, &recorder));
    if (watched != NULL)
        atomic_store(&watched->recorder, recorder);
    for (uint32_t i = 0; i < STEPS && status == OK; i++) {
        RandomStep made;
        random_step(trace, i, &made);
        status = record_random_step(recorder, &made);
        *committed = recorder_committed_steps(recorder);
    }
    if (watched != NULL) {
        while (recorder_committed_steps(recorder) < STEPS / 4 * 4)
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        atomic_store(&watched->recorder, NULL); /* closing frees it */
    }
    if (status == OK)
        return recorder_close(recorder);
    recorder_abandon(recorder);
    return status;
}

/* After a recording that ended with STATUS: nothing, or a good trace of the first COMMITTED steps
 * or more. */
static void assert_committed_part_intact(const char *path, const RandomTrace *trace, Status status,
                                         uint64_t committed, const char *what)
{
    TraceCheck found = {0};
    if (!file_exists(path)) {
        if (status == OK || committed > 0)
            fail_msg("%s: status %d, %d steps committed, and no file", what, status,
                     (int)committed);
        return;
    }
    Status checked = trace_check(path, &found, NULL, NULL);
    if (checked != OK || found.steps < committed || (status == OK && found.steps != STEPS))
        fail_msg("%s: status %d, %d steps committed, %d found: %s", what, status, (int)committed,
                 (int)found.steps, checked != OK ? error_message() : "");
    assert_reads_back(path, trace, (uint32_t)committed);
}

typedef struct {
    const char *name;
    Fault fault;
} Class;

static const Class WRITING[] = {
    {"write", {.calls = FAULT_WRITE, .code = SQLITE_IOERR_WRITE}},
    {"torn write", {.calls = FAULT_WRITE, .code = SQLITE_IOERR_WRITE, .torn = true}},
    {"full disk", {.calls = FAULT_WRITE, .code = SQLITE_FULL, .lasting = true, .torn = true}},
    {"failing disk",
     {.calls = FAULT_WRITE | FAULT_SYNC | FAULT_TRUNCATE | FAULT_DELETE | FAULT_READ,
      .code = SQLITE_IOERR_WRITE,
      .lasting = true}},
    {"sync", {.calls = FAULT_SYNC, .code = SQLITE_IOERR_FSYNC}},
    {"truncate", {.calls = FAULT_TRUNCATE, .code = SQLITE_IOERR_TRUNCATE}},
    {"open", {.calls = FAULT_OPEN, .code = SQLITE_CANTOPEN}},
    {"delete", {.calls = FAULT_DELETE, .code = SQLITE_IOERR_DELETE}},
    {"index of the log", {.calls = FAULT_SHARED, .code = SQLITE_IOERR_SHMMAP}},
    {"read", {.calls = FAULT_READ, .code = SQLITE_IOERR_READ}},
};

/* Makes the first, second, third ... call of its class fail; returns how many there were. */
static uint64_t fail_each(const Class *class, bool full_sync, unsigned *failed)
{
    const char *path = scratch_path("faults.db");
    RandomTrace trace = random_trace(12);
    for (uint64_t k = 1;; k++) {
        char what[128];
        uint64_t committed;
        Fault fault = class->fault;
        fault.at = k;
        int64_t before = mem_live_blocks();
        error_clear();
        fault_vfs_arm(&fault);
        Status status = record(path, &trace, full_sync, &committed, NULL);
        bool came = fault_vfs_disarm();
        snprintf(what, sizeof what, "%s %d", class->name, (int)k);
        if (mem_live_blocks() != before)
            fail_msg("%s: %d blocks are still held", what, (int)(mem_live_blocks() - before));
        if (status != OK && strncmp(error_message(), path, strlen(path)) != 0)
            fail_msg("%s: \"%s\" does not begin with the file", what, error_message());
        assert_true(status == OK || status == ERR_IO || status == ERR_INPUT ||
                    status == ERR_OUTPUT);
        assert_committed_part_intact(path, &trace, status, committed, what);
        remove_trace(path);
        *failed += status != OK;
        if (!came)
            return k - 1;
    }
}

static void a_failing_disk_is_reported_and_the_committed_part_stays(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof WRITING / sizeof *WRITING; i++)
        for (int full_sync = 0; full_sync < 2; full_sync++) {
            unsigned failed = 0;
            uint64_t calls = fail_each(&WRITING[i], full_sync, &failed);
            assert_true(calls > 0);
            print_message("%s%s: %u of %d calls made the recording fail\n", WRITING[i].name,
                          full_sync ? ", full sync" : "", failed, (int)calls);
            if (WRITING[i].fault.calls & FAULT_WRITE)
                assert_true(failed > 0);
        }
}

static Status check_and_load(const char *path)
{
    TraceCheck found;
    PackedTrace packed;
    TRY(trace_check(path, &found, NULL, NULL));
    TRY(packed_trace_load(path, &packed));
    packed_trace_free(&packed);
    return OK;
}

static void a_read_that_fails_is_an_error_and_never_another_trace(void **unused)
{
    (void)unused;
    static const Class classes[] = {
        {"read", {.calls = FAULT_READ, .code = SQLITE_IOERR_READ}},
        {"short read", {.calls = FAULT_READ, .code = SQLITE_IOERR_SHORT_READ}},
        {"dead disk", {.calls = FAULT_READ, .code = SQLITE_IOERR_READ, .lasting = true}},
        {"open", {.calls = FAULT_OPEN, .code = SQLITE_CANTOPEN, .lasting = true}},
    };
    const char *path = scratch_path("reading.db");
    RandomTrace trace = random_trace(12);
    assert_ok(record_random(path, &trace, STEPS, NULL));
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        bool came = true;
        unsigned failed = 0;
        for (uint64_t k = 1; came; k++) {
            Fault fault = classes[i].fault;
            fault.at = k;
            int64_t before = mem_live_blocks();
            fault_vfs_arm(&fault);
            Status status = check_and_load(path);
            came = fault_vfs_disarm();
            failed += status != OK;
            if (mem_live_blocks() != before)
                fail_msg("%s %d: %d blocks are still held", classes[i].name, (int)k,
                         (int)(mem_live_blocks() - before));
            if (status != OK && strncmp(error_message(), path, strlen(path)) != 0)
                fail_msg("%s %d: \"%s\"", classes[i].name, (int)k, error_message());
        }
        assert_true(failed > 0);
    }
    assert_ok(check_and_load(path));
}

static const char *cut_path(uint32_t cut)
{
    char name[32];
    snprintf(name, sizeof name, "cut-%u.db", cut);
    return scratch_path(name);
}

/* Cuts the power here; what is left is looked at later. */
static void cut_now(void *argument)
{
    Watched *watched = argument;
    Recorder *recorder = atomic_load(&watched->recorder);
    if (recorder != NULL)
        atomic_store(&watched->committed, recorder_committed_steps(recorder));
    if (watched->cuts == MAX_CUTS)
        return;
    watched->promised[watched->cuts] = atomic_load(&watched->committed);
    power_cut(watched->path, cut_path(watched->cuts++), &watched->state);
}

/* Steps that cut CUT has left. */
static uint64_t assert_cut_left_a_good_trace(const Watched *watched, uint32_t cut, bool full_sync)
{
    const char *path = cut_path(cut);
    RandomTrace trace = random_trace(12);
    TraceCheck found = {0};
    Status status = file_exists(path) ? trace_check(path, &found, NULL, NULL) : ERR_INPUT;
    bool nothing = status == ERR_INPUT || status == ERR_NOT_A_TRACE;
    if (status != OK && !nothing)
        fail_msg("cut %u: %s", cut, error_message());
    if (full_sync && found.steps < watched->promised[cut])
        fail_msg("cut %u: %d steps left of %d", cut, (int)found.steps, (int)watched->promised[cut]);
    if (status == OK)
        assert_reads_back(path, &trace, (uint32_t)found.steps);
    remove_trace(path);
    return found.steps;
}

static void a_power_cut_leaves_a_good_trace_and_with_full_sync_every_committed_step(void **unused)
{
    (void)unused;
    uint64_t rounds = exhaustive() ? 200 : 6;
    for (uint64_t round = 0; round < rounds; round++) {
        bool full_sync = round % 2 == 1;
        static Watched watched;
        watched = (Watched){.state = round};
        const char *path = watched.path;
        snprintf(watched.path, sizeof watched.path, "%s", scratch_path("power.db"));
        RandomTrace trace = random_trace(12);
        uint64_t committed;
        uint64_t steps_left = 0;
        power_watch(cut_now, &watched);
        Status status = record(path, &trace, full_sync, &committed, &watched);
        power_unwatch();
        assert_ok(status);
        assert_int_equal(assert_reads_back(path, &trace, STEPS), STEPS);
        remove_trace(path);
        for (uint32_t cut = 0; cut < watched.cuts; cut++)
            steps_left += assert_cut_left_a_good_trace(&watched, cut, full_sync);
        assert_true(watched.cuts > 50);
        assert_true(steps_left > 0);
        print_message("%s: %u cuts, %d steps left in all\n",
                      full_sync ? "full sync" : "normal sync", watched.cuts, (int)steps_left);
    }
}

int main(void)
{
    memory_install();
    fault_vfs_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failing_disk_is_reported_and_the_committed_part_stays),
        cmocka_unit_test(a_read_that_fails_is_an_error_and_never_another_trace),
        cmocka_unit_test(a_power_cut_leaves_a_good_trace_and_with_full_sync_every_committed_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
