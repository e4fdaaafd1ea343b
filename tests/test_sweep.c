#include "base/status.h"
#include "tests/support.h"

#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "sim/study_db.h"
#include "sim/study_pick.h"
#include "sim/study_schema.h"
#include "tests/sweep_maker.h"

static void the_grid_is_the_product_in_key_order_with_the_last_key_fastest(void **unused)
{
    (void)unused;
    Study study = make_study("{\"moebius_study\": 1, \"base\": {\"seed\": 7}, \"grid\": "
                             "{\"buffer.slots\": [4, 2], \"buffer.evict\": [\"lru\", \"mru\"]}}");
    const uint32_t slots[] = {4, 4, 2, 2};
    const char *const evict[] = {"lru", "mru", "lru", "mru"};
    assert_int_equal(study.n_plans - study.n_bounds, 4);
    for (size_t i = 0; i < 4; i++) {
        char name[64];
        assert_true(study.plans[i].buffer.on);
        assert_int_equal(study.plans[i].seed, 7);
        assert_int_equal(study.plans[i].buffer.slots, slots[i]);
        assert_string_equal(study.plans[i].buffer.evict, evict[i]);
        snprintf(name, sizeof name, "%s %u/layer batch", evict[i], slots[i]);
        assert_string_equal(study.plans[i].name, name);
    }
    study_free(&study);
}

static void values_that_the_name_does_not_show_are_added_to_it(void **unused)
{
    (void)unused;
    Study study = make_study("{\"moebius_study\": 1, \"base\": {\"name\": \"mine\"}, \"grid\": "
                             "{\"buffer.slots\": [4], \"buffer.evict\": [\"random\"],"
                             " \"seed\": [1, 2]}}");
    assert_string_equal(study.plans[0].name, "mine: random 4/layer batch seed=1");
    assert_string_equal(study.plans[1].name, "mine: random 4/layer batch seed=2");
    study_free(&study);
}

static void listed_plans_stand_after_the_grid_and_keep_their_names(void **unused)
{
    (void)unused;
    Study study =
        make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [4]}, \"plans\":"
                   " [{\"name\": \"own\", \"buffer\": {\"slots\": 5, \"evict\": \"mru\"}},"
                   "  {\"buffer\": {\"slots\": 6, \"evict\": \"lifo\", \"order\": \"serial\"}}]}");
    assert_int_equal(study.n_plans - study.n_bounds, 3);
    assert_int_equal(study.plans[0].buffer.slots, 4);
    assert_string_equal(study.plans[1].name, "own");
    assert_string_equal(study.plans[2].name, "lifo 6/layer serial");
    study_free(&study);
}

static void every_budget_gets_the_bound_once_unless_it_was_asked_for(void **unused)
{
    (void)unused;
    Study study = make_study(SMALL_STUDY);
    assert_int_equal(study.n_bounds, SMALL_BOUNDS);
    assert_int_equal(study.n_plans, SMALL_PLANS + SMALL_BOUNDS);
    for (size_t i = SMALL_PLANS; i < study.n_plans; i++)
        assert_string_equal(study.plans[i].buffer.evict, "belady");
    study_free(&study);
    study = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.evict\": [\"lru\", \"belady\"],"
                       " \"buffer.slots\": [2, 3]}, \"plans\": [{\"buffer\": {\"slots\": 3,"
                       " \"evict\": \"fifo\", \"order\": \"serial\"}}]}");
    assert_int_equal(study.n_bounds, 1);
    assert_int_equal(study.plans[study.n_plans - 1].buffer.order, ORDER_SERIAL);
    assert_int_equal(study.plans[study.n_plans - 1].buffer.slots, 3);
    study_free(&study);
}

static void
every_placement_on_several_ranks_has_a_bound_of_its_own_unless_there_are_copies(void **unused)
{
    (void)unused;
    static const char *const BOUNDS[] = {"belady 2/layer batch",
                                         "belady 2/layer batch 2 ranks contiguous",
                                         "belady 2/layer batch 2 ranks greedy"};
    Study study = make_study(
        "{\"moebius_study\": 1, \"base\": {\"buffer\": {\"slots\": 2}}, \"grid\": {"
        "\"placement.ranks\": [1, 2], \"placement.method\": [\"contiguous\", \"greedy\"]}, "
        "\"plans\": ["
        "{\"buffer\": {\"slots\": 2}, \"placement\": {\"ranks\": 2, \"method\": \"replicate\","
        " \"replicas\": 1}}]}");
    assert_int_equal(study.n_bounds, 3);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(study.plans[study.n_plans - 3 + i].name, BOUNDS[i]);
    assert_string_equal(study.plans[4].name, "lru 2/layer batch 2 ranks replicate");
    study_free(&study);
}

/* Of what only the eviction of the plan understands it has nothing. */
static void a_bound_is_a_plan_that_is_read_as_it_is_written(void **unused)
{
    (void)unused;
    Study study = make_study(
        "{\"moebius_study\": 1, \"plans\": ["
        "{\"buffer\": {\"slots\": 2, \"evict\": \"ema-score\", \"params\": {\"alpha\": 0.25}}},"
        "{\"buffer\": {\"slots\": 3, \"evict\": \"static\", \"hot\": {\"0\": [1]},"
        " \"initial\": {\"0\": [1]}}}, {\"buffer\": {\"slots\": 4}, \"compute\": {\"mode\":"
        " \"gpu\"}, \"prefetch\": {\"predictor\": \"frequency\", \"experts\": 3}}]}");
    assert_int_equal(study.n_bounds, 3);
    for (size_t i = 3; i < study.n_plans; i++) {
        char *text;
        cJSON *json;
        Plan plan;
        assert_ok(plan_to_text(&study.plans[i], &text));
        assert_ok(json_parse(text, strlen(text), "bound", &json));
        assert_ok(plan_from_json(json, "bound", &plan));
        assert_string_equal(plan.buffer.evict, "belady");
        plan_free(&plan);
        cJSON_Delete(json);
        mem_free(text);
    }
    study_free(&study);
}

static void bad_studies_are_refused_with_the_place(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        const char *wanted; /* part of the message */
    } cases[] = {
        {"[]", "study.json: must be an object"},
        {"{}", "moebius_study"},
        {"{\"moebius_study\": 2, \"grid\": {\"buffer.slots\": [1]}}", "moebius_study: 2"},
        {"{\"moebius_study\": 1}", "neither grid nor plans"},
        {"{\"moebius_study\": 1, \"plans\": []}", "neither grid nor plans"},
        {"{\"moebius_study\": 1, \"plans\": {}}", "plans: must be a list"},
        {"{\"moebius_study\": 1, \"plans\": [3]}", "plans[0]: must be a plan"},
        {"{\"moebius_study\": 1, \"plans\": [{\"buffer\": {\"slots\": 0, \"evict\": \"lru\"}}]}",
         "plans[0]: buffer.slots: 0"},
        {"{\"moebius_study\": 1, \"plans\": [{\"buffers\": {}}]}", "plans[0]: buffers: unknown"},
        {"{\"moebius_study\": 1, \"plans\": [{}], \"base\": {}}", "base: is used with grid only"},
        {"{\"moebius_study\": 1, \"grid\": {}}", "grid: is empty"},
        {"{\"moebius_study\": 1, \"grid\": []}", "grid: must be an object"},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": 3}}",
         "grid.buffer.slots: must be a list"},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": []}}", "grid.buffer.slots: is empty"},
        {"{\"moebius_study\": 1, \"base\": 3, \"grid\": {\"buffer.slots\": [1]}}",
         "base: must be a plan"},
        {"{\"moebius_study\": 1, \"gird\": {}}", "gird: unknown key"},
        {"{\"moebius_study\": 1, \"name\": 5, \"grid\": {\"buffer.slots\": [1]}}", "name: must be"},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slot\": [1]}}", "buffer.slot: unknown key"},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [1, 0]}}",
         "study.json: combination 2 (buffer.slots=0): buffer.slots: 0"},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [1], \"buffer.evict\": [\"lru\","
         " \"best\"]}}",
         "combination 2 (buffer.slots=1, buffer.evict=\"best\"): buffer.evict: \"best\""},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slots.x\": [1], \"buffer.slots\": [2]}}",
         "study.json: "},
        {"{\"moebius_study\": 1, \"grid\": {\"\": [1]}}", "study.json: "},
        {"{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [1]}} x", "study.json: line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Study study;
        int64_t before = mem_live_blocks();
        Status status = parse_study(cases[i].text, &study);
        if (status != ERR_INPUT || strstr(error_message(), cases[i].wanted) == NULL)
            fail_msg("%s: status %d: %s", cases[i].text, status, error_message());
        assert_int_equal(mem_live_blocks(), before);
    }
}

static void a_grid_of_more_than_a_million_plans_is_refused_before_it_is_made(void **unused)
{
    (void)unused;
    char text[20000] = "{\"moebius_study\": 1, \"grid\": {";
    for (int key = 0; key < 6; key++) {
        size_t used = strlen(text);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s\"key%d\": [0",
                                 key > 0 ? ", " : "", key);
        for (int i = 1; i < 100; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, ",%d", i);
        snprintf(text + used, sizeof text - used, "]");
    }
    strcat(text, "}}");
    Study study;
    assert_int_equal(parse_study(text, &study), ERR_INPUT);
    assert_non_null(strstr(error_message(), "more than 1000000 combinations"));
}

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

/* The row of PLAN in OUT has the counts of a replay; what a curve does not know is NULL there. */
static void assert_row(const char *out, const PackedTrace *trace, const Plan *plan)
{
    ReplayFuture future = {0};
    ReplayResult result;
    char sql[700];
    assert_ok(replay_prepare(trace, plan, &future));
    assert_ok(replay_run(trace, plan, &future, NULL, NULL, &result));
    const BufferCounts *counts = &result.total.counts;
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM result WHERE name = '%s' AND hits = %llu AND misses = %llu"
             " AND bytes_loaded = %llu AND ifnull(evictions, %llu) = %llu AND memory_bytes = %llu"
             " AND assignment_hits = %llu AND assignments = %llu AND done = 1"
             " AND (SELECT hits FROM layer_result WHERE layer = 3 AND"
             " layer_result.plan_id = result.plan_id) = %llu",
             plan->name, (unsigned long long)counts->hits, (unsigned long long)counts->misses,
             (unsigned long long)counts->bytes_loaded, (unsigned long long)counts->evictions,
             (unsigned long long)counts->evictions, (unsigned long long)result.memory_bytes,
             (unsigned long long)result.total.assignment_hits,
             (unsigned long long)result.total.assignments,
             (unsigned long long)result.layers[1].counts.hits);
    if (query_number(out, sql) != 1)
        fail_msg("%s: not what a replay gives", plan->name);
    replay_result_free(&result);
    replay_future_free(&future);
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
    char *left = dump(one);
    char *right = dump(two);
    assert_string_equal(left, right);
    free(left);
    free(right);
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
    char *left = dump(whole);
    char *right = dump(parts);
    assert_string_equal(left, right);
    free(left);
    free(right);
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
    char *expected = dump(whole);
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
        char *rows = dump(killed);
        assert_string_equal(rows, expected);
        free(rows);
        assert_ok(study_pick(killed, &options, &pick));
    }
    free(expected);
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

/* A study.db whose rows say what WRITE_ROWS says, and not what a replay would. */
static void make_study_db(const char *path, const char *changes)
{
    PackedTrace trace = make_trace(22, 10);
    Study study =
        make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.evict\": [\"lru\", \"fifo\","
                   " \"lifo\", \"belady\"], \"buffer.slots\": [4]}}");
    SweepTotals totals;
    unlink(path);
    sweep_once(&trace, &study, path, 1, &totals);
    change(path, changes);
    study_free(&study);
    packed_trace_free(&trace);
}

static const char FOUR_ROWS[] =
    "UPDATE result SET bytes_loaded = 500, misses = 50, miss_ratio = 0.5, memory_bytes = 900;"
    "UPDATE result SET bytes_loaded = 400, misses = 40, miss_ratio = 0.4 WHERE evict = 'fifo';"
    "UPDATE result SET memory_bytes = 800 WHERE evict = 'lifo';"
    "UPDATE result SET bytes_loaded = 100, misses = 10, miss_ratio = 0.1, memory_bytes = 100"
    " WHERE evict = 'belady'";

static const char *picked(const char *path, PickOptions options)
{
    static char evict[32];
    Pick pick;
    if (options.conditions.misses_at_most == 0)
        options.conditions.misses_at_most = 1;
    assert_ok(study_pick(path, &options, &pick));
    memcpy(evict, pick.plan.buffer.evict, sizeof evict);
    return evict;
}

static void the_pick_has_the_fewest_bytes_or_the_least_memory(void **unused)
{
    (void)unused;
    const char *path = scratch_path("pick.db");
    make_study_db(path, FOUR_ROWS);
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MISSES}), "fifo");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MEMORY}), "lifo");
    assert_string_equal(
        picked(path, (PickOptions){.best = PICK_MEMORY, .conditions.misses_at_most = 0.45}),
        "fifo");
    assert_string_equal(
        picked(path, (PickOptions){.best = PICK_MISSES, .conditions.where = "evict <> 'fifo'"}),
        "lifo");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MISSES,
                                                   .conditions.where = "evict IN ('lru')"
                                                                       " OR misses > 1e9"}),
                        "lru");
    Pick pick;
    const PickOptions options = {.best = PICK_MISSES, .conditions.misses_at_most = 1};
    assert_ok(study_pick(path, &options, &pick));
    assert_int_equal(pick.candidates, 3);
    assert_int_equal(pick.bytes_loaded, 400);
    assert_int_equal(pick.misses, 40);
    assert_int_equal(pick.memory_bytes, 900);
}

/* Imported traces seldom say how large experts are: all take 0 bytes of memory. */
static void where_sizes_are_unknown_the_fewest_slots_are_the_least_memory(void **unused)
{
    (void)unused;
    const char *path = scratch_path("pick-slots.db");
    make_study_db(path, "UPDATE result SET bytes_loaded = 0, memory_bytes = 0, misses = 50;"
                        "UPDATE result SET slots = 3, misses = 60 WHERE evict = 'fifo';"
                        "UPDATE result SET slots = 5, misses = 40, scope = 'device'"
                        " WHERE evict = 'lifo'");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MISSES}), "lifo");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MEMORY}), "lifo");
    assert_string_equal(
        picked(path, (PickOptions){.best = PICK_MEMORY, .conditions.where = "scope = 'layer'"}),
        "fifo");
}

static void ties_go_to_misses_then_memory_then_the_first_row(void **unused)
{
    (void)unused;
    const char *path = scratch_path("ties.db");
    make_study_db(path, "UPDATE result SET bytes_loaded = 5, misses = 6, memory_bytes = 7");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MISSES}), "lru");
    change(path, "UPDATE result SET memory_bytes = 6 WHERE evict = 'lifo'");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MISSES}), "lifo");
    change(path, "UPDATE result SET misses = 5 WHERE evict = 'fifo'");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MISSES}), "fifo");
}

static void policies_of_the_future_are_picked_only_on_request(void **unused)
{
    (void)unused;
    const char *path = scratch_path("future.db");
    make_study_db(path, FOUR_ROWS);
    assert_string_equal(
        picked(path, (PickOptions){.best = PICK_MISSES, .conditions.with_bounds = true}), "belady");
    Pick pick;
    const PickOptions options = {.best = PICK_MISSES,
                                 .conditions.where = "evict = 'belady'",
                                 .conditions.misses_at_most = 1};
    assert_int_equal(study_pick(path, &options, &pick), ERR_INPUT);
}

static void plans_without_a_result_are_never_picked(void **unused)
{
    (void)unused;
    const char *path = scratch_path("undone.db");
    make_study_db(path, FOUR_ROWS);
    change(path, "UPDATE result SET done = 0 WHERE evict = 'fifo'");
    Pick pick;
    PickOptions options = {.best = PICK_MISSES, .conditions.misses_at_most = 1};
    assert_ok(study_pick(path, &options, &pick));
    assert_string_equal(pick.plan.buffer.evict, "lifo");
    assert_int_equal(pick.missing, 1);
    options.conditions.where = "evict = 'fifo'";
    assert_int_equal(study_pick(path, &options, &pick), ERR_INPUT);
}

static void a_where_that_is_not_one_expression_is_refused_and_changes_nothing(void **unused)
{
    (void)unused;
    const char *path = scratch_path("where.db");
    make_study_db(path, FOUR_ROWS);
    static const char *const bad[] = {
        "1); drop table result; --",
        "1) OR (1",
        "1) UNION SELECT 1,plan,1,1,1,1,1,1,1 FROM result --",
        "1; DELETE FROM result",
        "1, 2",
        "1 /*",
        "1 --",
        "",
        ";",
        "sluts < 4",
        "slots < ",
        "'",
        "1 FROM result",
        "1 ORDER BY misses DESC",
        "(SELECT count(*) FROM study) > 0",
        "(SELECT count(*) FROM sqlite_master) > 0",
        "(SELECT count(*) FROM pragma_table_info('result')) > 0",
        "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n)",
        "load_extension('x')",
        "count(*) > 1",
        "no_such_function(1)",
    };
    char *before = query(path, "SELECT * FROM result");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Pick pick;
        const PickOptions options = {
            .best = PICK_MISSES, .conditions.where = bad[i], .conditions.misses_at_most = 1};
        Status status = study_pick(path, &options, &pick);
        if (status == OK && strcmp(bad[i], "1 --") == 0)
            continue; /* a comment that ends with its line does no harm */
        if (status != ERR_INPUT)
            fail_msg("%s: status %d: %s", bad[i], status, error_message());
    }
    char *after = query(path, "SELECT * FROM result");
    assert_string_equal(before, after);
    free(before);
    free(after);
    Pick pick;
    const PickOptions wrong = {
        .best = PICK_MISSES, .conditions.where = "sluts < 4", .conditions.misses_at_most = 1};
    assert_int_equal(study_pick(path, &wrong, &pick), ERR_INPUT);
    assert_string_equal(error_message(), "--where: no such column: sluts");
}

static void picking_from_what_is_no_study_says_so(void **unused)
{
    (void)unused;
    Pick pick;
    PickOptions options = {.best = PICK_MISSES, .conditions.misses_at_most = 1};
    const char *text = scratch_path("pick-text.db");
    assert_ok(file_write_all(text, "this is certainly not an SQLite file, or is it?", 47));
    assert_int_equal(study_pick(text, &options, &pick), ERR_INPUT);
    assert_int_equal(study_pick(scratch_path("pick-absent.db"), &options, &pick), ERR_INPUT);
    assert_false(file_exists(scratch_path("pick-absent.db")));
    assert_int_equal(study_pick(":memory:", &options, &pick), ERR_INPUT);
    const char *broken = scratch_path("pick-broken.db");
    make_study_db(broken, "UPDATE result SET plan = '{\"moebius_plan\": 1, \"bufer\": {}}'"
                          " WHERE evict = 'lru'");
    options = (PickOptions){
        .best = PICK_MISSES, .conditions.where = "evict = 'lru'", .conditions.misses_at_most = 1};
    assert_int_equal(study_pick(broken, &options, &pick), ERR_INPUT);
    assert_non_null(strstr(error_message(), "result 1: bufer: unknown key"));
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
        cmocka_unit_test(the_grid_is_the_product_in_key_order_with_the_last_key_fastest),
        cmocka_unit_test(values_that_the_name_does_not_show_are_added_to_it),
        cmocka_unit_test(listed_plans_stand_after_the_grid_and_keep_their_names),
        cmocka_unit_test(every_budget_gets_the_bound_once_unless_it_was_asked_for),
        cmocka_unit_test(
            every_placement_on_several_ranks_has_a_bound_of_its_own_unless_there_are_copies),
        cmocka_unit_test(a_bound_is_a_plan_that_is_read_as_it_is_written),
        cmocka_unit_test(bad_studies_are_refused_with_the_place),
        cmocka_unit_test(a_grid_of_more_than_a_million_plans_is_refused_before_it_is_made),
        cmocka_unit_test(rows_are_what_each_replay_gives),
        cmocka_unit_test(rows_count_prefetches_and_predictors_that_know_the_future_are_bounds),
        cmocka_unit_test(plans_of_the_host_count_what_it_computes_and_get_no_bound),
        cmocka_unit_test(a_study_of_schema_1_is_continued_with_the_columns_of_prefetching),
        cmocka_unit_test(no_policy_beats_the_bound_of_its_budget_in_serial_order_by_layer),
        cmocka_unit_test(every_size_gets_the_row_that_its_replay_gives),
        cmocka_unit_test(sizes_begin_where_the_listed_experts_fit),
        cmocka_unit_test(one_job_and_two_jobs_give_the_same_rows),
        cmocka_unit_test(a_stopped_sweep_continues_to_the_same_rows),
        cmocka_unit_test(a_stopped_sweep_of_every_size_replays_none_that_a_curve_answered),
        cmocka_unit_test(a_killed_sweep_can_be_read_and_continues_to_the_same_rows),
        cmocka_unit_test(a_finished_sweep_replays_nothing_again),
        cmocka_unit_test(a_larger_study_of_the_same_trace_adds_its_plans),
        cmocka_unit_test(results_of_another_trace_are_refused_and_left_alone),
        cmocka_unit_test(the_digest_sees_every_part_of_a_trace),
        cmocka_unit_test(digests_agree_where_both_say_something),
        cmocka_unit_test(files_that_are_no_study_are_refused_and_left_alone),
        cmocka_unit_test(a_sweep_that_writes_nothing_leaves_no_file),
        cmocka_unit_test(the_pick_has_the_fewest_bytes_or_the_least_memory),
        cmocka_unit_test(where_sizes_are_unknown_the_fewest_slots_are_the_least_memory),
        cmocka_unit_test(ties_go_to_misses_then_memory_then_the_first_row),
        cmocka_unit_test(policies_of_the_future_are_picked_only_on_request),
        cmocka_unit_test(plans_without_a_result_are_never_picked),
        cmocka_unit_test(a_where_that_is_not_one_expression_is_refused_and_changes_nothing),
        cmocka_unit_test(picking_from_what_is_no_study_says_so),
        cmocka_unit_test(every_failed_allocation_of_a_sweep_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
