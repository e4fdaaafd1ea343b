/* Studies with times: what is picked under which constraints, the front, and older files. */
#include "tests/sweep_maker.h"

#include <unistd.h>

#include "base/memory.h"
#include "sim/study_front.h"
#include "sim/study_pick.h"
#include "sim/study_schema.h"

/* A study.db of plans of so many slots, whose rows say what CHANGES says. */
static const char *make_study_db(const char *name, const char *changes)
{
    const char *path = scratch_path(name);
    PackedTrace trace = make_trace(22, 10);
    Study study = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.evict\": [\"lru\","
                             " \"fifo\"], \"buffer.slots\": [2, 4, 8]}}");
    SweepTotals totals;
    unlink(path);
    sweep_once(&trace, &study, path, 1, &totals);
    change(path, changes);
    study_free(&study);
    packed_trace_free(&trace);
    return path;
}

/* More slots are faster; fifo needs as much memory and is slower, but for 8 slots. */
static const char TIMES[] =
    "UPDATE study SET hardware = 'box';"
    "UPDATE result SET peak_bytes = 1000 + 100 * slots, total_ns = 1000000 - 100 * slots,"
    " tokens_per_s = 100 + slots, exposed_load_ns = 7;"
    "UPDATE result SET total_ns = total_ns + 50, tokens_per_s = tokens_per_s - 1"
    " WHERE evict = 'fifo';"
    "UPDATE result SET peak_bytes = 1700, tokens_per_s = 110, total_ns = 999000 WHERE evict ="
    " 'fifo' AND slots = 8;";

static Pick picked(const char *path, PickBest best, StudyConditions conditions)
{
    Pick pick;
    conditions.misses_at_most = conditions.misses_at_most > 0 ? conditions.misses_at_most : 1;
    const PickOptions options = {.best = best, .conditions = conditions};
    assert_ok(study_pick(path, &options, &pick));
    return pick;
}

static void assert_picked(const Pick *pick, const char *evict, uint32_t slots)
{
    assert_string_equal(pick->plan.buffer.evict, evict);
    assert_int_equal(pick->plan.buffer.slots, slots);
    assert_true(pick->time.known);
}

static void the_fastest_under_a_memory_limit_is_picked(void **unused)
{
    (void)unused;
    const char *path = make_study_db("fastest.db", TIMES);
    Pick pick = picked(path, PICK_TIME, (StudyConditions){0});
    assert_picked(&pick, "fifo", 8);
    assert_int_equal(pick.time.peak_bytes, 1700);
    assert_int_equal(pick.time.total_ns, 999000);
    assert_true(pick.time.tokens_per_s == 110);
    assert_false(pick.time.served);
    pick = picked(path, PICK_TIME, (StudyConditions){.memory_at_most = 1699});
    assert_picked(&pick, "lru", 4);
    pick = picked(path, PICK_TIME, (StudyConditions){.memory_at_most = 1400});
    assert_picked(&pick, "lru", 4);
    assert_int_equal(pick.candidates, 4);
    pick = picked(path, PICK_TIME, (StudyConditions){.memory_at_most = 1399});
    assert_picked(&pick, "lru", 2);
}

static void the_least_memory_with_enough_throughput_is_picked(void **unused)
{
    (void)unused;
    const char *path = make_study_db("least.db", TIMES);
    Pick pick = picked(path, PICK_MEMORY, (StudyConditions){.tokens_per_s_at_least = 102});
    assert_picked(&pick, "lru", 2);
    pick = picked(path, PICK_MEMORY, (StudyConditions){.tokens_per_s_at_least = 102.5});
    assert_picked(&pick, "lru", 4);
    pick = picked(path, PICK_MEMORY, (StudyConditions){.tokens_per_s_at_least = 109});
    assert_picked(&pick, "fifo", 8);
    /* The fastest that can be run has 110 tokens/s. */
    pick = picked(path, PICK_MEMORY, (StudyConditions){.slowdown_at_most = 0.08});
    assert_picked(&pick, "lru", 2);
    pick = picked(path, PICK_MEMORY, (StudyConditions){.slowdown_at_most = 0.07});
    assert_picked(&pick, "lru", 4);
    assert_int_equal(pick.candidates, 4);
    PickOptions none = {.best = PICK_MEMORY,
                        .conditions = {.misses_at_most = 1, .tokens_per_s_at_least = 111}};
    assert_int_equal(study_pick(path, &none, &pick), ERR_INPUT);
    assert_non_null(strstr(error_message(), "no result meets the conditions"));
}

static void latencies_of_served_plans_are_told_and_can_be_asked_for(void **unused)
{
    (void)unused;
    char changes[1024];
    snprintf(changes, sizeof changes,
             "%s UPDATE result SET ttft_median_ns = 5, ttft_p99_ns = 90, tbt_median_ns = 3,"
             " tbt_p99_ns = 1000 / slots",
             TIMES);
    const char *path = make_study_db("served.db", changes);
    Pick pick =
        picked(path, PICK_MEMORY, (StudyConditions){.where = "tbt_p99_ns < 300 AND evict = 'lru'"});
    assert_picked(&pick, "lru", 4);
    assert_true(pick.time.served);
    assert_int_equal(pick.time.tbt_p99_ns, 250);
    assert_int_equal(pick.time.ttft_p99_ns, 90);
}

static void a_study_without_times_says_how_to_get_them(void **unused)
{
    (void)unused;
    Pick pick;
    StudyFront front;
    const char *path = make_study_db("timeless.db", "SELECT 1");
    const StudyConditions all = {.misses_at_most = 1};
    PickOptions options = {.best = PICK_TIME, .conditions = all};
    assert_int_equal(study_pick(path, &options, &pick), ERR_INPUT);
    assert_non_null(strstr(error_message(), "the study has no times: sweep with --hardware"));
    options.best = PICK_MEMORY;
    options.conditions.tokens_per_s_at_least = 5;
    assert_int_equal(study_pick(path, &options, &pick), ERR_INPUT);
    assert_non_null(strstr(error_message(), "the study has no times"));
    assert_int_equal(study_front(path, &all, &front), ERR_INPUT);
    assert_non_null(strstr(error_message(), "the study has no times"));
    /* Memory is then that of the experts. */
    options.conditions = (StudyConditions){.misses_at_most = 1, .memory_at_most = 4 * 3000};
    assert_ok(study_pick(path, &options, &pick));
    assert_int_equal(pick.candidates, 4);
    assert_int_equal(pick.memory_bytes, 2 * 3000);
}

/* Against all pairs. */
static void the_front_is_of_those_that_no_other_beats(void **unused)
{
    (void)unused;
    const StudyConditions all = {.misses_at_most = 1, .with_bounds = true};
    for (uint64_t seed = 0; seed < 12; seed++) {
        char changes[1024];
        snprintf(changes, sizeof changes,
                 "UPDATE result SET total_ns = 1000, exposed_load_ns = 1,"
                 " peak_bytes = 100 + (plan_id * 7919 + %u) %% 5,"
                 " tokens_per_s = 50 + (plan_id * 104729 + %u) %% 6",
                 (unsigned)seed * 31, (unsigned)seed * 17);
        const char *path = make_study_db("front.db", changes);
        StudyFront front;
        assert_ok(study_front(path, &all, &front));
        assert_true(front.n_points > 0);
        for (size_t i = 0; i < front.n_points; i++) {
            char sql[256];
            const PlanTime *time = &front.points[i].time;
            snprintf(sql, sizeof sql,
                     "SELECT count(*) FROM result WHERE peak_bytes <= %llu AND tokens_per_s >= %f"
                     " AND (peak_bytes < %llu OR tokens_per_s > %f)",
                     (unsigned long long)time->peak_bytes, time->tokens_per_s,
                     (unsigned long long)time->peak_bytes, time->tokens_per_s);
            assert_int_equal(query_number(path, sql), 0);
        }
        assert_int_equal(
            query_number(path,
                         "SELECT count(*) FROM (SELECT DISTINCT peak_bytes, tokens_per_s FROM"
                         " result AS a WHERE NOT EXISTS (SELECT 1 FROM result AS b WHERE"
                         " b.peak_bytes <= a.peak_bytes AND b.tokens_per_s >= a.tokens_per_s AND"
                         " (b.peak_bytes < a.peak_bytes OR b.tokens_per_s > a.tokens_per_s)))"),
            front.n_points);
        study_front_free(&front);
    }
}

static void a_study_of_schema_3_gets_columns_of_times_and_its_plans_are_found_again(void **unused)
{
    (void)unused;
    const char *path = make_study_db(
        "schema3.db",
        "UPDATE result SET plan = replace(plan, ',\"arrivals\":\"at-once\"', ''), lookups = 77;"
        "UPDATE result SET plan = replace(plan, ',\"requests_per_s\":null', '');" WITHOUT_COMPUTE
        "PRAGMA user_version = 3");
    PackedTrace trace = make_trace(22, 10);
    Study study = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.evict\": [\"lru\"],"
                             " \"buffer.slots\": [2, 4, 8]}}");
    SweepTotals totals;
    assert_int_equal(query_number(path, "SELECT count(*) FROM result WHERE plan LIKE '%arrivals%'"),
                     0);
    sweep_once(&trace, &study, path, 1, &totals);
    assert_int_equal(totals.kept, totals.plans);
    assert_int_equal(query_number(path, "PRAGMA user_version"), STUDY_SCHEMA);
    assert_int_equal(query_number(path, "SELECT count(*) FROM result WHERE lookups = 77"),
                     query_number(path, "SELECT count(*) FROM result WHERE total_ns IS NULL"));
    study_free(&study);
    packed_trace_free(&trace);
}

static void results_with_the_times_of_a_profile_take_no_others(void **unused)
{
    (void)unused;
    const char *path = make_study_db("mixed.db", TIMES);
    PackedTrace trace = make_trace(22, 10);
    Study study = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [3]}}");
    const SweepOptions options = {.jobs = 1};
    SweepTotals totals;
    assert_int_equal(sweep_run(&trace, "t", &study, path, &options, &totals), ERR_INPUT);
    assert_non_null(strstr(error_message(), "holds results with the times of box, this sweep has "
                                            "none: give it a file of its own"));
    const Hardware hardware = {.device = "box"};
    const PlanTimer timer = {.hardware = &hardware};
    const SweepOptions timed = {.jobs = 1, .timer = &timer};
    assert_int_equal(sweep_run(&trace, "t", &study, path, &timed, &totals), ERR_INPUT);
    assert_null(strstr(error_message(), "another profile"));
    char sql[2048];
    snprintf(sql, sizeof sql, "%s; UPDATE study SET hardware = 'box, crc32c=00000001'", TIMES);
    path = make_study_db("old.db", sql);
    assert_int_equal(sweep_run(&trace, "t", &study, path, &timed, &totals), ERR_INPUT);
    assert_non_null(strstr(error_message(), "(another profile, or an earlier version took the "
                                            "checksum): give it a file of its own"));
    study_free(&study);
    packed_trace_free(&trace);
}

static void times_are_simulated_on_one_rank(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(22, 10);
    Study study = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [3]}}");
    const PlanTimer timer = {0};
    SweepRanks ranks = {.count = 2};
    const SweepOptions options = {.jobs = 1, .timer = &timer, .ranks = &ranks};
    SweepTotals totals;
    const char *path = scratch_path("ranks.db");
    assert_int_equal(sweep_run(&trace, "t", &study, path, &options, &totals), ERR_UNSUPPORTED);
    assert_non_null(strstr(error_message(), "do not share simulated times"));
    study_free(&study);
    packed_trace_free(&trace);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fastest_under_a_memory_limit_is_picked),
        cmocka_unit_test(the_least_memory_with_enough_throughput_is_picked),
        cmocka_unit_test(latencies_of_served_plans_are_told_and_can_be_asked_for),
        cmocka_unit_test(a_study_without_times_says_how_to_get_them),
        cmocka_unit_test(the_front_is_of_those_that_no_other_beats),
        cmocka_unit_test(a_study_of_schema_3_gets_columns_of_times_and_its_plans_are_found_again),
        cmocka_unit_test(results_with_the_times_of_a_profile_take_no_others),
        cmocka_unit_test(times_are_simulated_on_one_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
