/* Sweeps that go on where they were stopped, killed or finished. */
#include "base/status.h"
#include "tests/support.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "sim/study_db.h"
#include "sim/study_pick.h"
#include "tests/sweep_maker.h"

static void one_job_and_two_jobs_give_the_same_rows(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(13, 50);
    Study study = make_study(SMALL_STUDY);
    const char *one = scratch_path("one.db");
    const char *two = scratch_path("two.db");
    SweepTotals totals;
    sweep_once(&trace, &study, one, 1, &totals);
    sweep_once(&trace, &study, two, 2, &totals);
    assert_same_rows(two, one);
    study_free(&study);
    packed_trace_free(&trace);
}

static void a_stopped_sweep_continues_to_the_same_rows(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(14, 50);
    Study study = make_study(SMALL_STUDY);
    const char *whole = scratch_path("whole.db");
    const char *parts = scratch_path("parts.db");
    SweepTotals totals;
    sweep_once(&trace, &study, whole, 2, &totals);
    uint64_t kept = 0;
    for (int part = 0;; part++) {
        Stopper stopper = {.after = 10};
        const SweepOptions options = {.jobs = 1 + (uint32_t)part % 2,
                                      .stop = &stopper.stop,
                                      .progress = stop_after,
                                      .argument = &stopper};
        assert_ok(sweep_run(&trace, "trace.db", &study, parts, &options, &totals));
        assert_int_equal(totals.kept, kept);
        kept += totals.done;
        assert_int_equal(query_number(parts, "SELECT count(*) FROM result WHERE done = 1"), kept);
        if (!totals.stopped)
            break;
        assert_true(totals.done >= 10);
        assert_true(part < 8);
    }
    assert_int_equal(kept, study.n_plans);
    assert_same_rows(parts, whole);
    study_free(&study);
    packed_trace_free(&trace);
}

/* Stopped after the first curve: the lookups of all parts are those of one uninterrupted run. */
static void a_stopped_sweep_of_every_size_replays_none_that_a_curve_answered(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(27, 40);
    Study study =
        make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.evict\": [\"lru\", \"mru\","
                   " \"fifo\"], \"buffer.slots\": [2], \"buffer.order\": [\"serial\"],"
                   " \"buffer.scope\": [\"layer\", \"device\"]}}");
    SweepTotals totals;
    assert_ok(study_every_size(&study, trace.layers, trace.n_layers));
    sweep_once(&trace, &study, scratch_path("sizes-whole.db"), 1, &totals);
    const uint64_t whole = totals.lookups;
    Stopper stopper = {.after = 1};
    const SweepOptions options = {
        .jobs = 1, .stop = &stopper.stop, .progress = stop_after, .argument = &stopper};
    const char *parts = scratch_path("sizes-parts.db");
    assert_ok(sweep_run(&trace, "trace.db", &study, parts, &options, &totals));
    assert_true(totals.stopped);
    assert_true(totals.done >= EXPERTS);
    assert_int_equal(totals.lookups, trace.n_lookups);
    const uint64_t done = totals.done;
    sweep_once(&trace, &study, parts, 1, &totals);
    assert_int_equal(totals.kept, done);
    assert_int_equal(totals.done, study.n_plans - done);
    assert_int_equal(totals.lookups + trace.n_lookups, whole);
    for (size_t i = 0; i < study.n_plans; i++)
        assert_row(parts, &trace, &study.plans[i]);
    study_free(&study);
    packed_trace_free(&trace);
}

/* Runs a sweep in a child and kills it after MICROSECONDS. */
static void sweep_and_kill(const PackedTrace *trace, const Study *study, const char *out,
                           uint32_t microseconds)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        SweepTotals totals;
        const SweepOptions options = {.jobs = 2};
        _exit(sweep_run(trace, "trace.db", study, out, &options, &totals) == OK ? 0 : 1);
    }
    const struct timespec pause = {.tv_nsec = 1000L * (long)microseconds};
    nanosleep(&pause, NULL);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

static void a_killed_sweep_can_be_read_and_continues_to_the_same_rows(void **unused)
{
    (void)unused;
    uint64_t state = 24;
    PackedTrace trace = make_trace(25, 300);
    Study study = make_study(SMALL_STUDY);
    char whole[256];
    char killed[256];
    SweepTotals totals;
    snprintf(whole, sizeof whole, "%s", scratch_path("not-killed.db"));
    snprintf(killed, sizeof killed, "%s", scratch_path("killed.db"));
    sweep_once(&trace, &study, whole, 2, &totals);
    for (int round = 0; round < 20; round++) {
        Pick pick;
        const PickOptions options = {.best = PICK_MISSES, .conditions.misses_at_most = 1};
        unlink(killed);
        sweep_and_kill(&trace, &study, killed, 1000 + random_below(&state, 20000));
        Status status = study_pick(killed, &options, &pick);
        if (status != OK && status != ERR_INPUT)
            fail_msg("round %d: status %d: %s", round, status, error_message());
        sweep_once(&trace, &study, killed, 2, &totals);
        assert_int_equal(totals.kept + totals.done, study.n_plans);
        assert_same_rows(killed, whole);
        assert_ok(study_pick(killed, &options, &pick));
    }
    study_free(&study);
    packed_trace_free(&trace);
}

/* A child has half written a change to PATH, and takes its locks away with it some time later. */
static pid_t start_dying(const char *path)
{
    int ready[2];
    char byte = 0;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct timespec pause = {.tv_nsec = 200000000};
        sqlite3 *sqlite;
        bool written =
            sqlite3_open_v2(path, &sqlite, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK &&
            sqlite3_exec(sqlite, "BEGIN EXCLUSIVE; UPDATE result SET hits = 7, misses = 0", NULL,
                         NULL, NULL) == SQLITE_OK &&
            sqlite3_db_cacheflush(sqlite) == SQLITE_OK;
        if (!written || write(ready[1], &byte, 1) != 1)
            _exit(1);
        nanosleep(&pause, NULL);
        _exit(0);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return child;
}

static void a_study_whose_writer_is_dying_is_read_when_it_is_dead(void **unused)
{
    (void)unused;
    const PickOptions options = {.best = PICK_MISSES, .conditions.misses_at_most = 1};
    PackedTrace trace = make_trace(28, 50);
    Study study = make_study(SMALL_STUDY);
    const char *out = scratch_path("dying.db");
    SweepTotals totals;
    Pick before;
    Pick after;
    sweep_once(&trace, &study, out, 1, &totals);
    char *rows = dump(out);
    assert_ok(study_pick(out, &options, &before));
    pid_t child = start_dying(out);
    assert_ok(study_pick(out, &options, &after));
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(after.plan_id, before.plan_id);
    assert_int_equal(after.misses, before.misses);
    char *left = dump(out);
    assert_string_equal(left, rows);
    free(left);
    free(rows);
    study_free(&study);
    packed_trace_free(&trace);
}

static void a_finished_sweep_replays_nothing_again(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(15, 20);
    Study study = make_study(SMALL_STUDY);
    const char *out = scratch_path("finished.db");
    SweepTotals totals;
    sweep_once(&trace, &study, out, 1, &totals);
    char *before = query(out, "SELECT * FROM result");
    sweep_once(&trace, &study, out, 1, &totals);
    char *after = query(out, "SELECT * FROM result");
    assert_int_equal(totals.done, 0);
    assert_int_equal(totals.kept, study.n_plans);
    assert_string_equal(before, after);
    assert_int_equal(query_number(out, "SELECT count(*) FROM study"), 1);
    free(before);
    free(after);
    study_free(&study);
    packed_trace_free(&trace);
}

static void a_larger_study_of_the_same_trace_adds_its_plans(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(16, 20);
    Study first = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [2, 3, 3]}}");
    Study second = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [3, 4]}}");
    const char *out = scratch_path("larger.db");
    SweepTotals totals;
    sweep_once(&trace, &first, out, 2, &totals);
    assert_int_equal(totals.plans, 4); /* 2 and 3, and their bounds: repeats count once */
    sweep_once(&trace, &second, out, 2, &totals);
    assert_int_equal(totals.plans, 4);
    assert_int_equal(totals.kept, 2);
    assert_int_equal(totals.done, 2);
    assert_int_equal(query_number(out, "SELECT count(*) FROM result WHERE done = 1"), 6);
    study_free(&first);
    study_free(&second);
    packed_trace_free(&trace);
}

static void results_of_another_trace_are_refused_and_left_alone(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(17, 20);
    PackedTrace other = make_trace(18, 20);
    Study study = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [2]}}");
    const char *out = scratch_path("other.db");
    SweepTotals totals;
    SweepOptions options = {.jobs = 1};
    sweep_once(&trace, &study, out, 1, &totals);
    char *before = query(out, "SELECT * FROM result");
    assert_int_equal(sweep_run(&other, "other.db", &study, out, &options, &totals), ERR_INPUT);
    assert_non_null(strstr(error_message(), "holds results of another trace"));
    char *after = query(out, "SELECT * FROM result");
    assert_string_equal(before, after);
    free(before);
    free(after);
    study_free(&study);
    packed_trace_free(&trace);
    packed_trace_free(&other);
}

static void the_digest_sees_every_part_of_a_trace(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(19, 20);
    TraceDigest digest = study_trace_digest(&trace, NULL);
    assert_string_equal(study_trace_digest(&trace, NULL).text, digest.text);
    trace.layers[1].expert_bytes++;
    assert_string_not_equal(study_trace_digest(&trace, NULL).text, digest.text);
    trace.layers[1].expert_bytes--;
    trace.experts[trace.n_lookups - 1] ^= 1;
    assert_string_not_equal(study_trace_digest(&trace, NULL).text, digest.text);
    trace.experts[trace.n_lookups - 1] ^= 1;
    trace.counts[trace.counts_bytes - 1] ^= 1;
    assert_string_not_equal(study_trace_digest(&trace, NULL).text, digest.text);
    packed_trace_free(&trace);
}

static void digests_agree_where_both_say_something(void **unused)
{
    (void)unused;
    const char *plain = "steps=5 lookups=9 crc32c=00000001";
    const char *scored = "steps=5 lookups=9 crc32c=00000001 scores=0000000a";
    const char *other = "steps=5 lookups=9 crc32c=00000001 scores=0000000b";
    const char *ahead = "steps=5 lookups=9 crc32c=00000001 predictions2=0000000b";
    assert_true(study_digests_agree(plain, plain));
    assert_true(study_digests_agree(plain, scored));
    assert_true(study_digests_agree(scored, plain));
    assert_true(study_digests_agree(scored, ahead));
    assert_false(study_digests_agree(scored, other));
    assert_false(study_digests_agree("steps=5 lookups=9 crc32c=00000002", plain));
    assert_false(study_digests_agree("steps=5 lookups=99 crc32c=00000001", plain));
    assert_false(study_digests_agree("scores=0000000a", scored));
    assert_false(study_digests_agree("", plain));
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_job_and_two_jobs_give_the_same_rows),
        cmocka_unit_test(a_stopped_sweep_continues_to_the_same_rows),
        cmocka_unit_test(a_stopped_sweep_of_every_size_replays_none_that_a_curve_answered),
        cmocka_unit_test(a_killed_sweep_can_be_read_and_continues_to_the_same_rows),
        cmocka_unit_test(a_study_whose_writer_is_dying_is_read_when_it_is_dead),
        cmocka_unit_test(a_finished_sweep_replays_nothing_again),
        cmocka_unit_test(a_larger_study_of_the_same_trace_adds_its_plans),
        cmocka_unit_test(results_of_another_trace_are_refused_and_left_alone),
        cmocka_unit_test(the_digest_sees_every_part_of_a_trace),
        cmocka_unit_test(digests_agree_where_both_say_something),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
