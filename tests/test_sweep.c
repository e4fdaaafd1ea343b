/* The rows of a sweep are what its replays give. */
#include "base/status.h"
#include "tests/support.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "sim/study_pick.h"
#include "tests/sweep_maker.h"

static void rows_are_what_each_replay_gives(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(11, 60);
    Study study = make_study(SMALL_STUDY);
    const char *out = scratch_path("equal.db");
    SweepTotals totals;
    sweep_once(&trace, &study, out, 2, &totals);
    assert_int_equal(totals.plans, study.n_plans);
    assert_int_equal(totals.done, study.n_plans);
    assert_int_equal(totals.bounds, SMALL_BOUNDS);
    assert_false(totals.stopped);
    ReplayFuture future = {0};
    for (size_t i = 0; i < study.n_plans; i++) {
        ReplayResult result;
        char sql[400];
        assert_ok(replay_prepare(&trace, &study.plans[i], &future));
        assert_ok(replay_run(&trace, &study.plans[i], &future, NULL, NULL, &result));
        const BufferCounts *counts = &result.total.counts;
        snprintf(sql, sizeof sql,
                 "SELECT count(*) FROM result WHERE plan_id = %zu AND hits = %llu AND misses = %llu"
                 " AND lookups = %llu AND bytes_loaded = %llu AND evictions = %llu"
                 " AND memory_bytes = %llu AND assignment_hits = %llu AND done = 1",
                 i + 1, (unsigned long long)counts->hits, (unsigned long long)counts->misses,
                 (unsigned long long)trace.n_lookups, (unsigned long long)counts->bytes_loaded,
                 (unsigned long long)counts->evictions, (unsigned long long)result.memory_bytes,
                 (unsigned long long)result.total.assignment_hits);
        assert_int_equal(query_number(out, sql), 1);
        snprintf(sql, sizeof sql, "SELECT hits FROM layer_result WHERE plan_id = %zu AND layer = 3",
                 i + 1);
        assert_int_equal(query_number(out, sql), result.layers[1].counts.hits);
        replay_result_free(&result);
    }
    replay_future_free(&future);
    assert_int_equal(query_number(out, "SELECT count(*) FROM result WHERE bound = 1"),
                     SMALL_BOUNDS);
    assert_int_equal(query_number(out, "PRAGMA application_id"), STUDY_APPLICATION_ID);
    assert_int_equal(query_number(out, "PRAGMA user_version"), STUDY_SCHEMA);
    study_free(&study);
    packed_trace_free(&trace);
}

static const char PREFETCH_STUDY[] =
    "{\"moebius_study\": 1, \"base\": {\"buffer\": {\"slots\": 3}}, \"grid\":"
    " {\"prefetch.predictor\": [\"none\", \"frequency\", \"oracle:1\"]}}";

static void rows_count_prefetches_and_predictors_that_know_the_future_are_bounds(void **unused)
{
    const PickOptions options = {
        .best = PICK_MISSES, .conditions.where = "evict = 'lru'", .conditions.misses_at_most = 1};
    uint64_t link_bytes[3];
    Pick pick;
    (void)unused;
    PackedTrace trace = make_trace(13, 80);
    Study study = make_study(PREFETCH_STUDY);
    const char *out = scratch_path("prefetch.db");
    ReplayFuture future = {0};
    SweepTotals totals;
    sweep_once(&trace, &study, out, 1, &totals);
    for (size_t i = 0; i < 3; i++) {
        ReplayResult result;
        char sql[400];
        const BufferCounts *counts = &result.total.counts;
        assert_ok(replay_run(&trace, &study.plans[i], &future, NULL, NULL, &result));
        snprintf(sql, sizeof sql,
                 "SELECT count(*) FROM result WHERE predictor = '%s' AND evict = 'lru' AND"
                 " prefetches = %llu AND prefetch_hits = %llu AND prefetch_evicted = %llu AND"
                 " bytes_prefetched = %llu AND bound = %d",
                 study.plans[i].prefetch.predictor, (unsigned long long)counts->prefetches,
                 (unsigned long long)counts->prefetch_hits,
                 (unsigned long long)counts->prefetch_evicted,
                 (unsigned long long)counts->bytes_prefetched, i == 2);
        assert_int_equal(query_number(out, sql), 1);
        assert_true(counts->prefetches > 0 || i == 0);
        link_bytes[i] = counts->bytes_loaded + counts->bytes_prefetched;
        replay_result_free(&result);
    }
    assert_ok(study_pick(out, &options, &pick));
    size_t best = link_bytes[1] < link_bytes[0];
    assert_string_equal(pick.plan.prefetch.predictor, study.plans[best].prefetch.predictor);
    study_free(&study);
    packed_trace_free(&trace);
}

static void plans_of_the_host_count_what_it_computes_and_get_no_bound(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(15, 60);
    Study study = make_study("{\"moebius_study\": 1, \"plans\": [{\"buffer\": {\"slots\": 3},"
                             " \"compute\": {\"mode\": \"host\"}}]}");
    Study split = make_study(
        "{\"moebius_study\": 1, \"plans\": [{\"name\": \"s\", \"buffer\": {\"slots\": 3},"
        " \"compute\": {\"mode\": \"split\"}}]}");
    const char *out = scratch_path("host.db");
    const SweepOptions options = {.jobs = 1};
    SweepTotals totals;
    sweep_once(&trace, &study, out, 1, &totals);
    assert_int_equal(totals.plans, 1);
    assert_int_equal(query_number(out, "SELECT host_computed = misses AND loads = 0 AND"
                                       " host_rows = assignments AND compute = 'host' FROM result"),
                     1);
    assert_int_equal(sweep_run(&trace, "t", &split, out, &options, &totals), ERR_PLAN);
    assert_non_null(strstr(error_message(), "plan \"s\": compute.host_ns: must be measured"));
    study_free(&study);
    study_free(&split);
    packed_trace_free(&trace);
}

static void a_study_of_schema_1_is_continued_with_the_columns_of_prefetching(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(13, 80);
    Study small = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [2]}}");
    Study more = make_study(PREFETCH_STUDY);
    const char *out = scratch_path("older.db");
    const PickOptions options = {.best = PICK_MISSES, .conditions.misses_at_most = 1};
    SweepTotals totals;
    Pick pick;
    sweep_once(&trace, &small, out, 1, &totals);
    change(out, "ALTER TABLE result DROP COLUMN predictor;"
                "ALTER TABLE result DROP COLUMN prefetches;"
                "ALTER TABLE result DROP COLUMN prefetch_hits;"
                "ALTER TABLE result DROP COLUMN prefetch_evicted;"
                "ALTER TABLE result DROP COLUMN bytes_prefetched;" WITHOUT_PARTS
                "PRAGMA user_version = 1");
    assert_ok(study_pick(out, &options, &pick));
    sweep_once(&trace, &more, out, 1, &totals);
    assert_int_equal(query_number(out, "PRAGMA user_version"), STUDY_SCHEMA);
    assert_int_equal(query_number(out, "SELECT count(*) FROM result WHERE prefetches > 0"), 2);
    assert_int_equal(
        query_number(out, "SELECT count(*) FROM result WHERE slots = 2 AND predictor = 'none'"), 2);
    study_free(&small);
    study_free(&more);
    packed_trace_free(&trace);
}

static void no_policy_beats_the_bound_of_its_budget_in_serial_order_by_layer(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(12, 80);
    Study study = make_study(SMALL_STUDY);
    const char *out = scratch_path("bound.db");
    SweepTotals totals;
    sweep_once(&trace, &study, out, 1, &totals);
    const char *serial = "SELECT count(*) FROM result a JOIN result b USING(slots, scope,"
                         " replay_order) WHERE a.bound = 0 AND b.bound = 1 AND a.scope = 'layer'"
                         " AND a.replay_order = 'serial'";
    char worse[400];
    snprintf(worse, sizeof worse, "%s AND a.misses < b.misses", serial);
    assert_int_equal(query_number(out, serial), 12);
    assert_int_equal(query_number(out, worse), 0);
    study_free(&study);
    packed_trace_free(&trace);
}

static void every_size_gets_the_row_that_its_replay_gives(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(26, 60);
    Study study = make_study(
        "{\"moebius_study\": 1, \"grid\": {\"buffer.evict\": [\"lru\", \"mru\", \"lfu\","
        " \"belady-admit\", \"fifo\"], \"buffer.slots\": [2, 5], \"buffer.order\": [\"batch\","
        " \"serial\"], \"buffer.scope\": [\"layer\", \"device\"]}, \"plans\": [{}]}");
    const char *out = scratch_path("sizes.db");
    SweepTotals totals;
    assert_ok(study_every_size(&study, trace.layers, trace.n_layers));
    const size_t sizes = EXPERTS + LAYERS * EXPERTS; /* of the two scopes */
    assert_int_equal(study.n_bounds, 2 * sizes);
    assert_int_equal(study.n_plans, 2 * 5 * sizes + 1 + study.n_bounds);
    sweep_once(&trace, &study, out, 2, &totals);
    assert_int_equal(totals.done, study.n_plans);
    assert_true(totals.lookups < study.n_plans * trace.n_lookups);
    for (size_t i = 0; i < study.n_plans; i++)
        assert_row(out, &trace, &study.plans[i]);
    const char *passed = "SELECT count(*) FROM result WHERE replay_ns IS NULL AND evict <> 'fifo'"
                         " AND replay_order = 'serial' AND (evict = 'belady') ="
                         " (evictions IS NULL)";
    assert_int_equal(query_number(out, passed), 5 * sizes);
    assert_int_equal(query_number(out, "SELECT count(*) FROM result WHERE evicted_newest IS NULL"),
                     5 * sizes);
    sweep_once(&trace, &study, out, 1, &totals);
    assert_int_equal(totals.done, 0);
    study_free(&study);
    packed_trace_free(&trace);
}

static void sizes_begin_where_the_listed_experts_fit(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(28, 40);
    static const char TEXT[] =
        "{\"moebius_study\": 1, \"base\": {\"buffer\": {\"slots\": 9, \"evict\": \"static\", "
        "\"hot\":"
        " {\"1\": [0, 2, 4], \"3\": [1], \"5\": [0, 1]}}}, \"grid\": {\"buffer.scope\":"
        " [\"layer\", \"device\"]}}";
    Study study = make_study(TEXT);
    SweepTotals totals;
    const char *out = scratch_path("listed.db");
    assert_ok(study_every_size(&study, trace.layers, trace.n_layers));
    sweep_once(&trace, &study, out, 1, &totals);
    assert_int_equal(query_number(out, "SELECT min(slots) FROM result WHERE evict = 'static' AND"
                                       " scope = 'layer'"),
                     3);
    assert_int_equal(query_number(out, "SELECT min(slots) FROM result WHERE evict = 'static' AND"
                                       " scope = 'device'"),
                     6);
    assert_int_equal(query_number(out, "SELECT count(*) FROM result WHERE done = 0"), 0);
    study_free(&study);
    packed_trace_free(&trace);
}

static void files_that_are_no_study_are_refused_and_left_alone(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(20, 5);
    Study study = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [2]}}");
    SweepOptions options = {.jobs = 1};
    SweepTotals totals;
    const char *text = scratch_path("text.db");
    const char *foreign = scratch_path("foreign.db");
    const char *newer = scratch_path("newer.db");
    assert_ok(file_write_all(text, "not a database, but long enough to look at it", 45));
    sqlite3 *sqlite;
    assert_int_equal(sqlite3_open(foreign, &sqlite), SQLITE_OK);
    sqlite3_exec(sqlite, "CREATE TABLE result(x)", NULL, NULL, NULL);
    sqlite3_close(sqlite);
    assert_int_equal(sweep_run(&trace, "t", &study, text, &options, &totals), ERR_INPUT);
    assert_non_null(strstr(error_message(), "not a Moebius study"));
    assert_int_equal(sweep_run(&trace, "t", &study, foreign, &options, &totals), ERR_INPUT);
    assert_non_null(strstr(error_message(), "not a Moebius study"));
    assert_true(file_exists(text) && file_exists(foreign));
    sweep_once(&trace, &study, newer, 1, &totals);
    change(newer, "PRAGMA user_version = 8");
    assert_int_equal(sweep_run(&trace, "t", &study, newer, &options, &totals), ERR_SCHEMA);
    study_free(&study);
    packed_trace_free(&trace);
}

static void a_sweep_that_writes_nothing_leaves_no_file(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(21, 5);
    Study good = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [2]}}");
    Study bad = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.bytes\": [20, 4000]}}");
    const char *out = scratch_path("nothing.db");
    volatile int stop = 1;
    SweepOptions options = {.jobs = 1};
    SweepTotals totals;
    assert_int_equal(sweep_run(&trace, "t", &bad, out, &options, &totals), ERR_PLAN);
    assert_non_null(strstr(error_message(), "plan \""));
    assert_false(file_exists(out));
    const char *missing = scratch_path("no-such-folder/study.db");
    assert_int_equal(sweep_run(&trace, "t", &good, missing, &options, &totals), ERR_OUTPUT);
    options.stop = &stop;
    Study many = make_study(SMALL_STUDY);
    assert_ok(sweep_run(&trace, "t", &many, out, &options, &totals));
    assert_int_equal(file_exists(out), totals.done > 0);
    study_free(&many);
    study_free(&good);
    study_free(&bad);
    packed_trace_free(&trace);
}

static void every_failed_allocation_of_a_sweep_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(23, 6);
    const char *out = scratch_path("memory.db");
    uint64_t last = 0;
    for (uint64_t k = 1;; k++) {
        Study study;
        SweepTotals totals;
        const SweepOptions options = {.jobs = 1};
        int64_t before = mem_live_blocks();
        mem_fail_at(k);
        Status status =
            parse_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [2]}}", &study);
        if (status == OK)
            status = sweep_run(&trace, "t", &study, out, &options, &totals);
        bool reached = mem_fail_reached();
        mem_fail_at(0);
        study_free(&study);
        if (status != OK && (status != ERR_MEMORY || file_exists(out)))
            fail_msg("allocation %llu: status %d: %s", (unsigned long long)k, status,
                     error_message());
        assert_true(status == OK || reached);
        if (status == OK)
            assert_int_equal(query_number(out, "SELECT sum(done) FROM result"), 2);
        unlink(out);
        assert_int_equal(mem_live_blocks(), before);
        last = k;
        if (!reached)
            break;
    }
    assert_true(last > 50);
    packed_trace_free(&trace);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_what_each_replay_gives),
        cmocka_unit_test(rows_count_prefetches_and_predictors_that_know_the_future_are_bounds),
        cmocka_unit_test(plans_of_the_host_count_what_it_computes_and_get_no_bound),
        cmocka_unit_test(a_study_of_schema_1_is_continued_with_the_columns_of_prefetching),
        cmocka_unit_test(no_policy_beats_the_bound_of_its_budget_in_serial_order_by_layer),
        cmocka_unit_test(every_size_gets_the_row_that_its_replay_gives),
        cmocka_unit_test(sizes_begin_where_the_listed_experts_fit),
        cmocka_unit_test(files_that_are_no_study_are_refused_and_left_alone),
        cmocka_unit_test(a_sweep_that_writes_nothing_leaves_no_file),
        cmocka_unit_test(every_failed_allocation_of_a_sweep_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
