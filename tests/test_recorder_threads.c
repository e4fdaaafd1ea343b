/* The recorder, its writer and readers beside one another. */
#define _XOPEN_SOURCE 700
#include <math.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "tests/random_trace.h"
#include "tests/recorder_files.h"

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void a_step_is_committed_in_time_although_no_other_follows(void **unused)
{
    (void)unused;
    const char *path = scratch_path("timed.db");
    RandomTrace trace = random_trace(2);
    RecorderOptions options = {.transaction_ns = 50000000};
    RandomStep made;
    Recorder *recorder;
    assert_ok(
        recorder_open(path, &(TraceRun){0}, trace.layers, trace.n_layers, &options, &recorder));
    random_step(&trace, 0, &made);
    assert_ok(record_random_step(recorder, &made));
    assert_int_equal(recorder_committed_steps(recorder), 0);
    uint64_t start = clock_ns();
    while (recorder_committed_steps(recorder) == 0 && clock_ns() - start < 5000000000u)
        sleep_ms(5);
    assert_int_equal(recorder_committed_steps(recorder), 1);
    assert_true(clock_ns() - start >= 20000000);
    assert_reads_back(path, &trace, 1); /* while the recorder is there */
    assert_ok(recorder_close(recorder));
    assert_one_file(path);
}

static void steps_are_written_although_nobody_wakes_the_writer(void **unused)
{
    (void)unused;
    const char *path = scratch_path("looks.db");
    RandomTrace trace = random_trace(4);
    RecorderOptions options = {.transaction_steps = 4, .transaction_ns = 3600000000000u};
    RandomStep made;
    Recorder *recorder;
    assert_ok(
        recorder_open(path, &(TraceRun){0}, trace.layers, trace.n_layers, &options, &recorder));
    for (uint32_t i = 0; i < 4; i++) { /* of 8 slots */
        random_step(&trace, i, &made);
        assert_ok(record_random_step(recorder, &made));
        sleep_ms(10);
    }
    uint64_t start = clock_ns();
    while (recorder_committed_steps(recorder) < 4 && clock_ns() - start < 5000000000u)
        sleep_ms(1);
    assert_int_equal(recorder_committed_steps(recorder), 4);
    assert_ok(recorder_close(recorder));
    assert_int_equal(assert_reads_back(path, &trace, 4), 4);
}

static void a_reader_sees_one_state_while_the_recorder_goes_on(void **unused)
{
    (void)unused;
    const char *path = scratch_path("both.db");
    RandomTrace trace = random_trace(6);
    RecorderOptions options = {.transaction_steps = 1};
    Recorder *recorder;
    RandomStep made;
    TraceReader *reader;
    TraceStep step;
    assert_ok(
        recorder_open(path, &(TraceRun){0}, trace.layers, trace.n_layers, &options, &recorder));
    for (uint32_t i = 0; i < 10; i++) {
        random_step(&trace, i, &made);
        assert_ok(record_random_step(recorder, &made));
    }
    while (recorder_committed_steps(recorder) < 10)
        sleep_ms(1);
    assert_ok(trace_reader_open(path, &reader));
    for (uint32_t i = 10; i < 20; i++) {
        random_step(&trace, i, &made);
        assert_ok(record_random_step(recorder, &made));
    }
    assert_ok(recorder_close(recorder)); /* the log stays: somebody reads */
    assert_int_equal(trace_reader_steps(reader), 10);
    for (uint32_t i = 0; i < 10; i++) {
        random_step(&trace, i, &made);
        assert_ok(trace_reader_next_step(reader, &step));
        assert_same_step(&trace, &made, &step);
    }
    assert_int_equal(trace_reader_next_step(reader, &step), STATUS_END);
    trace_reader_close(reader);
    assert_int_equal(assert_reads_back(path, &trace, 20), 20);
}

static void *hold_write_lock(void *argument)
{
    sqlite3 *db = argument;
    sleep_ms(300);
    sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return NULL;
}

static void a_full_ring_makes_the_producer_wait_and_loses_nothing(void **unused)
{
    (void)unused;
    const char *path = scratch_path("pressure.db");
    RandomTrace trace = random_trace(7);
    RecorderOptions options = {.ring_slots = 2, .transaction_steps = 3};
    Recorder *recorder;
    sqlite3 *db;
    pthread_t thread;
    assert_ok(
        recorder_open(path, &(TraceRun){0}, trace.layers, trace.n_layers, &options, &recorder));
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(pthread_create(&thread, NULL, hold_write_lock, db), 0);
    uint64_t longest = 0;
    for (uint32_t i = 0; i < 200; i++) {
        RandomStep made;
        random_step(&trace, i, &made);
        uint64_t start = clock_ns();
        assert_ok(record_random_step(recorder, &made));
        uint64_t waited = clock_ns() - start;
        longest = waited > longest ? waited : longest;
    }
    pthread_join(thread, NULL);
    sqlite3_close(db);
    assert_true(longest > 100000000);
    assert_ok(recorder_close(recorder));
    assert_int_equal(assert_reads_back(path, &trace, 200), 200);
}

static Status lend_random_step(Recorder *recorder, const RandomStep *made, uint32_t kept_for)
{
    return recorder_lend_step(recorder, &made->step, kept_for, made->residency, made->n_residency,
                              made->timing, made->n_timing);
}

/* Arrays that are lent change as soon as they may, while the file is locked for a while. */
static void what_is_lent_is_read_before_it_may_change(void **unused)
{
    (void)unused;
    static RandomStep made[4];
    for (uint32_t kept_for = 1; kept_for <= 4; kept_for++) {
        const char *path = scratch_path("lent.db");
        RandomTrace trace = random_trace(7 + kept_for);
        RecorderOptions options = {.transaction_steps = 3};
        Recorder *recorder;
        sqlite3 *db;
        pthread_t thread;
        unlink(path);
        assert_ok(
            recorder_open(path, &(TraceRun){0}, trace.layers, trace.n_layers, &options, &recorder));
        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
        assert_int_equal(pthread_create(&thread, NULL, hold_write_lock, db), 0);
        for (uint32_t i = 0; i < 60; i++) {
            RandomStep *step = &made[i % kept_for];
            random_step(&trace, i, step);
            assert_ok(i % 5 == 4 ? record_random_step(recorder, step)
                                 : lend_random_step(recorder, step, kept_for));
        }
        recorder_settle(recorder);
        memset(made, 0xEE, sizeof made);
        pthread_join(thread, NULL);
        sqlite3_close(db);
        assert_ok(recorder_close(recorder));
        assert_int_equal(assert_reads_back(path, &trace, 60), 60);
    }
}

static void a_wrong_expert_that_is_lent_fails_a_later_call(void **unused)
{
    (void)unused;
    const char *path = scratch_path("lent-wrong.db");
    RandomTrace trace = random_trace(4);
    static RandomStep made;
    Recorder *recorder;
    trace.layers[0].stack = STACK_DECODER;
    assert_ok(recorder_open(path, &(TraceRun){0}, trace.layers, trace.n_layers, NULL, &recorder));
    random_step(&trace, 5, &made);
    assert_ok(record_random_step(recorder, &made));
    random_step(&trace, 6, &made);
    made.experts[0] = (uint16_t)trace.layers[0].experts;
    assert_ok(lend_random_step(recorder, &made, 2));
    recorder_settle(recorder);
    assert_int_equal(recorder_close(recorder), ERR_INPUT);
    assert_non_null(strstr(error_message(), "lent-wrong.db: step"));
}

static void abandoning_keeps_what_is_committed_and_removes_an_empty_file(void **unused)
{
    (void)unused;
    const char *path = scratch_path("abandon.db");
    RandomTrace trace = random_trace(9);
    RecorderOptions options = {.transaction_steps = 4, .transaction_ns = 3600000000000u};
    Recorder *recorder;
    RandomStep made;
    assert_ok(
        recorder_open(path, &(TraceRun){0}, trace.layers, trace.n_layers, &options, &recorder));
    for (uint32_t i = 0; i < 3; i++) {
        random_step(&trace, i, &made);
        assert_ok(record_random_step(recorder, &made));
    }
    (fail)(ERR_INPUT, "what went wrong elsewhere");
    recorder_abandon(recorder);
    assert_string_equal(error_message(), "what went wrong elsewhere");
    assert_no_file(path);
    recorder_abandon(NULL);

    assert_ok(
        recorder_open(path, &(TraceRun){0}, trace.layers, trace.n_layers, &options, &recorder));
    for (uint32_t i = 0; i < 6; i++) {
        random_step(&trace, i, &made);
        assert_ok(record_random_step(recorder, &made));
    }
    while (recorder_committed_steps(recorder) < 4)
        sleep_ms(1);
    recorder_abandon(recorder);
    assert_one_file(path);
    assert_int_equal(assert_reads_back(path, &trace, 4), 4);
    TraceReader *reader;
    assert_ok(trace_reader_open(path, &reader));
    assert_false(trace_reader_complete(reader));
    trace_reader_close(reader);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_committed_in_time_although_no_other_follows),
        cmocka_unit_test(steps_are_written_although_nobody_wakes_the_writer),
        cmocka_unit_test(a_reader_sees_one_state_while_the_recorder_goes_on),
        cmocka_unit_test(a_full_ring_makes_the_producer_wait_and_loses_nothing),
        cmocka_unit_test(what_is_lent_is_read_before_it_may_change),
        cmocka_unit_test(a_wrong_expert_that_is_lent_fails_a_later_call),
        cmocka_unit_test(abandoning_keeps_what_is_committed_and_removes_an_empty_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
