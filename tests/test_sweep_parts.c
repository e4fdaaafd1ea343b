#include "tests/sweep_maker.h"

#include <unistd.h>

#include "base/memory.h"
#include "sim/study_db.h"
#include "sim/study_pick.h"
#include "sim/study_schema.h"
#include "traces/packed_part.h"

/* Replays steps FIRST to END - 1 of TRACE, cold, under row PLAN_ID as pick writes it. */
static void assert_row_is_of(const PackedTrace *trace, uint64_t first, uint64_t end,
                             const char *path, int64_t plan_id)
{
    PackedTrace part = packed_trace_part(trace, first, end);
    ReplayFuture future = {0};
    ReplayResult result;
    Pick pick;
    char where[64];
    snprintf(where, sizeof where, "plan_id = %lld", (long long)plan_id);
    const PickOptions options = {.best = PICK_MISSES,
                                 .conditions.where = where,
                                 .conditions.misses_at_most = 1,
                                 .conditions.with_bounds = true};
    assert_ok(study_pick(path, &options, &pick));
    assert_null(plan_unlearned(&pick.plan));
    assert_ok(replay_prepare(&part, &pick.plan, &future));
    assert_ok(replay_run(&part, &pick.plan, &future, NULL, NULL, &result));
    assert_int_equal(pick.lookups, part.n_lookups);
    assert_int_equal(pick.hits, result.total.counts.hits);
    assert_int_equal(pick.bytes_loaded, result.total.counts.bytes_loaded);
    assert_int_equal(pick.memory_bytes, result.memory_bytes);
    plan_free(&pick.plan);
    replay_result_free(&result);
    replay_future_free(&future);
}

static void plans_that_learn_are_scored_on_what_none_learnt_from(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(31, 81);
    Study study = make_study(TRAINED_STUDY);
    const char *out = scratch_path("trained.db");
    SweepTotals totals;
    sweep_once(&trace, &study, out, 2, &totals);
    assert_int_equal(totals.plans, TRAINED_PLANS + TRAINED_BOUNDS);
    assert_true(totals.parts.trains);
    char *parts = query(out, "SELECT train_first, train_end, test_first, test_end FROM study");
    assert_string_equal(parts, "0|40|40|81|\n");
    free(parts);
    for (int64_t id = 1; id <= TRAINED_PLANS + TRAINED_BOUNDS; id++)
        assert_row_is_of(&trace, 40, 81, out, id);
    assert_int_equal(query_number(out, "SELECT count(*) FROM learnt"), TRAINED_TABLES);
    study_free(&study);
    packed_trace_free(&trace);
}

static void a_study_that_learns_nothing_is_scored_on_all_of_the_trace(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(32, 50);
    Study study = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [2, 3]}}");
    const char *out = scratch_path("online.db");
    SweepTotals totals;
    sweep_once(&trace, &study, out, 1, &totals);
    char *parts = query(out, "SELECT train_first, train_end, test_first, test_end FROM study");
    assert_string_equal(parts, "NULL|NULL|0|50|\n");
    free(parts);
    assert_row_is_of(&trace, 0, 50, out, 1);
    study_free(&study);
    packed_trace_free(&trace);
}

static SweepOptions options_for_parts(const char *train, const char *test)
{
    SweepOptions options = {.jobs = 1};
    if (train != NULL)
        assert_ok(trace_part_parse(train, &options.parts.train));
    if (test != NULL)
        assert_ok(trace_part_parse(test, &options.parts.test));
    return options;
}

static void parts_that_are_asked_for_are_scored_and_others_need_their_own_file(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(33, 60);
    Study trained = make_study(TRAINED_STUDY);
    Study online = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [2]}}");
    const char *out = scratch_path("asked.db");
    SweepTotals totals;
    SweepOptions options = options_for_parts("0.5:0.75", "0:0.25");
    assert_ok(sweep_run(&trace, "t", &trained, out, &options, &totals));
    char *before = query(out, "SELECT * FROM result");
    for (int64_t id = 1; id <= TRAINED_PLANS + TRAINED_BOUNDS; id++)
        assert_row_is_of(&trace, 0, 15, out, id);
    options = options_for_parts("0.5:0.8", "0:0.25");
    assert_int_equal(sweep_run(&trace, "t", &trained, out, &options, &totals), ERR_INPUT);
    assert_non_null(strstr(error_message(), "holds results of other parts of the trace"));
    options = options_for_parts(NULL, "0:0.25"); /* which learns nothing */
    assert_int_equal(sweep_run(&trace, "t", &online, out, &options, &totals), ERR_INPUT);
    options = options_for_parts("0:0.5", NULL);
    assert_int_equal(sweep_run(&trace, "t", &online, out, &options, &totals), ERR_INPUT);
    assert_non_null(strstr(error_message(), "--train: nothing is learnt"));
    char *after = query(out, "SELECT * FROM result");
    assert_string_equal(before, after);
    options = options_for_parts("0.5:0.75", "0:0.25");
    assert_ok(sweep_run(&trace, "t", &trained, out, &options, &totals));
    assert_int_equal(totals.done, 0);
    free(before);
    free(after);
    study_free(&trained);
    study_free(&online);
    packed_trace_free(&trace);
}

static void a_study_of_schema_2_is_of_all_steps(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(34, 60);
    Study small = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [2]}}");
    Study more = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [2, 4]}}");
    Study trained = make_study(TRAINED_STUDY);
    const char *out = scratch_path("schema2.db");
    const PickOptions best = {.best = PICK_MISSES, .conditions.misses_at_most = 1};
    SweepTotals totals;
    Pick pick;
    sweep_once(&trace, &small, out, 1, &totals);
    change(out, WITHOUT_PARTS "PRAGMA user_version = 2");
    assert_ok(study_pick(out, &best, &pick));
    SweepOptions options = {.jobs = 1};
    assert_int_equal(sweep_run(&trace, "t", &trained, out, &options, &totals), ERR_INPUT);
    assert_int_equal(query_number(out, "PRAGMA user_version"), 2);
    sweep_once(&trace, &more, out, 1, &totals);
    assert_int_equal(totals.kept, 2);
    assert_int_equal(query_number(out, "PRAGMA user_version"), STUDY_SCHEMA);
    study_free(&small);
    study_free(&more);
    study_free(&trained);
    packed_trace_free(&trace);
}

/* The next allocation fails, and the one after it, until all is done. */
static void every_failed_allocation_of_a_sweep_that_learns_leaves_no_file(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(35, 12);
    Study study = make_study("{\"moebius_study\": 1, \"plans\": [{\"buffer\": {\"evict\": "
                             "\"static\", \"slots\": 2}}]}");
    const char *out = scratch_path("memory.db");
    const SweepOptions options = {.jobs = 1};
    for (uint64_t k = 1;; k++) {
        SweepTotals totals;
        int64_t before = mem_live_blocks();
        mem_fail_at(k);
        Status status = sweep_run(&trace, "t", &study, out, &options, &totals);
        bool reached = mem_fail_reached();
        mem_fail_at(0);
        assert_int_equal(mem_live_blocks(), before);
        if (!reached) {
            assert_ok(status);
            break;
        }
        if (status == OK)
            unlink(out); /* SQLite did without */
    }
    study_free(&study);
    packed_trace_free(&trace);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_that_learn_are_scored_on_what_none_learnt_from),
        cmocka_unit_test(a_study_that_learns_nothing_is_scored_on_all_of_the_trace),
        cmocka_unit_test(parts_that_are_asked_for_are_scored_and_others_need_their_own_file),
        cmocka_unit_test(a_study_of_schema_2_is_of_all_steps),
        cmocka_unit_test(every_failed_allocation_of_a_sweep_that_learns_leaves_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
