/* Simulated time under expert parallelism through the program: results, timelines, sweeps and
 * serving. */
#include "tests/hardware_maker.h"

#include <math.h>
#include <string.h>

#include "base/files.h"
#include "tests/cli_run.h"
#include "tests/json_at.h"
#include "tests/routed_trace.h"

enum { EXPERTS = 4, D_MODEL = 32, EVENTS = 3 };

static void make_layers(TraceLayer layers[EVENTS])
{
    for (uint32_t i = 0; i < EVENTS; i++)
        layers[i] = (TraceLayer){
            .layer = i, .experts = EXPERTS, .top_k = 1, .d_model = D_MODEL, .expert_bytes = 1000};
}

enum { STEPS = 20, STEP_NS = 3000, WAY_NS = 500 };

static CliRun run;

static void route(uint64_t *random, uint16_t *experts)
{
    (void)random;
    memcpy(experts, (const uint16_t[EVENTS * 2]){0, 1, 2, 3, 1, 1}, EVENTS * 2 * sizeof *experts);
}

static const char *make_trace(const char *name)
{
    const char *path = scratch_path(name);
    TraceLayer layers[EVENTS];
    make_layers(layers);
    const TraceRun of = {
        .tool = "test", .source = "test", .model = "model", .model_config = "{}", .device = "none"};
    record_routed(path, &(RoutedTrace){.run = &of,
                                       .layers = layers,
                                       .n_layers = EVENTS,
                                       .steps = STEPS,
                                       .requests = 2,
                                       .first = PHASE_DECODE,
                                       .phase = PHASE_DECODE,
                                       .route = route});
    return path;
}

/* Experts take nothing, and all exchanges are as long. */
static const char *make_profile(const char *trace)
{
    const char *path = scratch_path("hw.json");
    Hardware hardware;
    CostTable *table;
    make_hardware(trace, STEP_NS, 0, path);
    assert_ok(hardware_load(path, &hardware));
    assert_ok(hardware_add_table(&hardware, "all-to-all", "2 ranks", UNIT_NS, NULL, 0, &table));
    assert_ok(cost_table_put(table, (const double[1]){0}, WAY_NS, 0));
    assert_ok(hardware_save(&hardware, path));
    hardware_free(&hardware);
    return path;
}

static void check_rank(const cJSON *time, int rank)
{
    const cJSON *item =
        cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(time, "per_rank"), rank);
    const double total_ns = number_at(time, "total_ns");
    assert_true(number_at(item, "rank") == rank);
    assert_true(number_at(item, "compute_ns") == STEPS * STEP_NS);
    assert_true(number_at(item, "all_to_all_ns") == number_at(time, "all_to_all_ns"));
    assert_true(number_at(item, "idle_ns") == 0);
    assert_true(fabs(number_at(item, "utilisation") - STEPS * STEP_NS / total_ns) < 1e-12);
    assert_true(number_at(item, "assignments") == STEPS * (rank == 0 ? 4 : 2));
}

static void simulate_tells_the_time_of_several_ranks(void **unused)
{
    (void)unused;
    const char *trace = make_trace("trace.db");
    const char *path = make_profile(trace);
    cli_run((const char *[]){"simulate", "--trace", trace, "--hardware", path, "--set",
                             "placement.ranks=2", "--json", NULL},
            &run);
    if (run.code != 0)
        fail_msg("%s", run.err);
    cJSON *json = cJSON_Parse(run.out);
    const cJSON *time = cJSON_GetObjectItemCaseSensitive(json, "time");
    assert_true(number_at(time, "ranks") == 2);
    assert_true(number_at(time, "all_to_all_ns") == STEPS * EVENTS * 2 * WAY_NS);
    assert_true(number_at(time, "total_ns") == STEPS * (STEP_NS + EVENTS * 2 * WAY_NS));
    assert_true(number_at(time, "imbalance_ns") == 0);
    check_rank(time, 0);
    check_rank(time, 1);
    assert_true(number_at(json, "misses") == 0);
    cJSON_Delete(json);
}

/* What ranks decide does not depend on time. */
static void counts_are_the_same_without_a_profile(void **unused)
{
    (void)unused;
    static const char *const KEYS[] = {"lookups", "hits", "loads", "evictions", "memory_bytes"};
    const char *trace = make_trace("counted.db");
    const char *profile = make_profile(trace);
    double counts[2][5];
    for (int timed = 0; timed < 2; timed++) {
        cli_run((const char *[]){"simulate", "--trace", trace, "--set", "placement.ranks=2",
                                 "--set", "buffer.slots=1", "--json", timed ? "--hardware" : NULL,
                                 profile, NULL},
                &run);
        if (run.code != 0)
            fail_msg("%s", run.err);
        cJSON *json = cJSON_Parse(run.out);
        for (int i = 0; i < 5; i++)
            counts[timed][i] = number_at(json, KEYS[i]);
        cJSON_Delete(json);
    }
    assert_true(counts[0][2] > 0 && counts[0][4] == 2 * EVENTS * 1000);
    assert_memory_equal(counts[0], counts[1], sizeof counts[0]);
}

/* Steps that come of requests that are there from the start are those of the trace. */
static void served_steps_take_what_recorded_ones_do(void **unused)
{
    (void)unused;
    static const char *const SLOTS[] = {"seed=0", "buffer.slots=1"};
    const char *trace = make_trace("served.db");
    const char *profile = make_profile(trace);
    for (int buffered = 0; buffered < 2; buffered++) {
        static const char *const MODES[] = {"as-recorded", "continuous"};
        double total_ns[2];
        double misses[2];
        for (int mode = 0; mode < 2; mode++) {
            char set[64];
            snprintf(set, sizeof set, "batching.mode=%s", MODES[mode]);
            cli_run((const char *[]){"simulate", "--trace", trace, "--hardware", profile, "--set",
                                     "placement.ranks=2", "--set", SLOTS[buffered], "--set", set,
                                     "--set", mode ? "batching.sequences=2" : "seed=0", "--json",
                                     NULL},
                    &run);
            if (run.code != 0)
                fail_msg("%s", run.err);
            cJSON *json = cJSON_Parse(run.out);
            total_ns[mode] = number_at(cJSON_GetObjectItemCaseSensitive(json, "time"), "total_ns");
            misses[mode] = number_at(json, "misses");
            cJSON_Delete(json);
        }
        assert_true(total_ns[0] > 0 && total_ns[0] == total_ns[1]);
        assert_true((misses[0] > 0) == buffered && misses[0] == misses[1]);
    }
}

/* Whatever else is asked for, it is the plan that is named. */
static void a_placement_that_does_not_fit_the_layers_is_refused(void **unused)
{
    (void)unused;
    static const char WHY[] =
        "moebius: simulate: --set: placement.ranks: 5, layer 0 has 4 experts\n";
    const char *trace = make_trace("few.db");
    const char *profile = make_profile(trace);
    for (int i = 0; i < 4; i++) {
        cli_run((const char *[]){"simulate", "--trace", trace, "--set", "placement.ranks=5",
                                 "--set", i % 2 ? "buffer.slots=1" : "seed=0",
                                 i / 2 ? "--hardware" : NULL, profile, NULL},
                &run);
        assert_int_equal(run.code, 2);
        assert_string_equal(run.err, WHY);
    }
}

/* Every copy of an expert takes memory, with a buffer that has room for all as without one. */
static void copies_of_experts_count_in_the_memory_of_all_ranks(void **unused)
{
    (void)unused;
    const char *trace = make_trace("copied.db");
    const char *profile = make_profile(trace);
    const char *plan = scratch_path("copied.json");
    cli_run((const char *[]){"place", "--trace", trace, "--ranks", "2", "--method", "replicate",
                             "--replicas", "3", "--out", plan, NULL},
            &run);
    if (run.code != 0)
        fail_msg("%s", run.err);
    for (int i = 0; i < 6; i++) {
        cli_run((const char *[]){"simulate", "--trace", trace, "--plan", plan, "--json", "--set",
                                 i % 2 ? "buffer.slots=4" : "seed=0", "--set",
                                 i / 2 == 2 ? "batching.mode=continuous" : "seed=0", "--set",
                                 i / 2 == 2 ? "batching.sequences=2" : "seed=0",
                                 i / 2 ? "--hardware" : NULL, profile, NULL},
                &run);
        if (run.code != 0)
            fail_msg("%s", run.err);
        cJSON *json = cJSON_Parse(run.out);
        assert_true(number_at(json, "memory_bytes") == EVENTS * (EXPERTS + 3) * 1000);
        cJSON_Delete(json);
    }
}

static double misses_of(const char *trace, const char *budget, const char *order)
{
    char set[64];
    char orders[64];
    snprintf(set, sizeof set, "buffer.budget=%s", budget);
    snprintf(orders, sizeof orders, "buffer.order=%s", order);
    cli_run((const char *[]){"simulate", "--trace", trace, "--set", "placement.ranks=2", "--set",
                             "placement.method=greedy", "--set", "buffer.slots=2", "--set", set,
                             "--set", orders, "--train", "0:0.5", "--test", "0:0.5", "--json",
                             NULL},
            &run);
    if (run.code != 0)
        fail_msg("%s", run.err);
    cJSON *json = cJSON_Parse(run.out);
    const double misses = number_at(json, "misses");
    cJSON_Delete(json);
    return misses;
}

/* The first layer needs two experts of a rank in turn, the last only ever one. */
static void budgets_are_learnt_for_the_buffers_of_all_ranks(void **unused)
{
    (void)unused;
    const char *trace = make_trace("learnt.db");
    assert_true(misses_of(trace, "optimal", "batch") <= misses_of(trace, "uniform", "batch"));
    assert_true(misses_of(trace, "optimal", "serial") <= misses_of(trace, "uniform", "serial"));
}

static const char *write_text(const char *name, const char *text)
{
    const char *path = scratch_path(name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
    return path;
}

/* A placement that is learnt from one half of the trace is scored on the other, and written. */
static void a_sweep_by_time_learns_placements(void **unused)
{
    (void)unused;
    const char *trace = make_trace("swept.db");
    const char *profile = make_profile(trace);
    const char *out = scratch_path("study.db");
    const char *plan = scratch_path("placed.json");
    const char *study =
        write_text("study.json", "{\"moebius_study\": 1, \"grid\": {\"placement.ranks\": [1, 2],"
                                 " \"placement.method\": [\"round-robin\", \"greedy\"]}}");
    cli_run((const char *[]){"sweep", "--trace", trace, "--study", study, "--out", out,
                             "--hardware", profile, NULL},
            &run);
    if (run.code != 0)
        fail_msg("%s", run.err);
    cli_run((const char *[]){"plan", "--from", out, "--best", "time", "--out", plan, "--where",
                             "name = 'all resident 2 ranks greedy'", "--json", NULL},
            &run);
    if (run.code != 0)
        fail_msg("%s", run.err);
    cli_run((const char *[]){"simulate", "--trace", trace, "--plan", plan, "--hardware", profile,
                             "--json", NULL},
            &run);
    if (run.code != 0)
        fail_msg("%s", run.err);
    cJSON *json = cJSON_Parse(run.out);
    const cJSON *time = cJSON_GetObjectItemCaseSensitive(json, "time");
    const cJSON *placement = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(json, "plan"), "placement");
    assert_true(number_at(time, "ranks") == 2);
    assert_true(number_at(time, "total_ns") == STEPS * (STEP_NS + EVENTS * 2 * WAY_NS));
    assert_true(cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(placement, "map")));
    cJSON_Delete(json);
}

/* The first slot that lru hits with is told of one rank, which is where all look-ups are. */
static void the_first_hit_of_lru_is_not_that_of_several_ranks(void **unused)
{
    (void)unused;
    static const char *const RANKS[] = {"[2]", "[1, 2]"};
    const char *trace = make_trace("cliff.db");
    for (int i = 0; i < 2; i++) {
        char text[160];
        snprintf(text, sizeof text,
                 "{\"moebius_study\": 1, \"grid\": {\"buffer.evict\": [\"lru\"],"
                 " \"placement.ranks\": %s}}",
                 RANKS[i]);
        const char *study = write_text("cliff.json", text);
        cli_run((const char *[]){"sweep", "--trace", trace, "--study", study, "--sizes", "all",
                                 "--out", scratch_path(i ? "cliff1.db" : "cliff0.db"), "--json",
                                 NULL},
                &run);
        if (run.code != 0)
            fail_msg("%s", run.err);
        cJSON *json = cJSON_Parse(run.out);
        const cJSON *first = cJSON_GetObjectItemCaseSensitive(json, "lru_first_hit_slots");
        assert_int_equal(cJSON_GetObjectItemCaseSensitive(first, "layer") != NULL, i);
        cJSON_Delete(json);
    }
}

/* How many slices of NAME process PID has on track TID, and when the last begins. */
static int slices(const cJSON *events, int pid, int tid, const char *name, double *last_us)
{
    int n = 0;
    const cJSON *event;
    cJSON_ArrayForEach(event, events)
    {
        const char *called = cJSON_GetObjectItemCaseSensitive(event, "name")->valuestring;
        if (strcmp(cJSON_GetObjectItemCaseSensitive(event, "ph")->valuestring, "X") != 0 ||
            number_at(event, "pid") != pid || number_at(event, "tid") != tid ||
            strcmp(called, name) != 0)
            continue;
        *last_us = number_at(event, "ts");
        n++;
    }
    return n;
}

static void every_rank_is_a_process_of_the_timeline(void **unused)
{
    (void)unused;
    const char *trace = make_trace("drawn.db");
    const char *profile = make_profile(trace);
    const char *path = scratch_path("ranks.json");
    size_t bytes;
    const double step_us = (STEP_NS + EVENTS * 2 * WAY_NS) / 1e3;
    char *text;
    cli_run((const char *[]){"simulate", "--trace", trace, "--hardware", profile, "--set",
                             "placement.ranks=2", "--timeline", path, NULL},
            &run);
    if (run.code != 0)
        fail_msg("%s", run.err);
    assert_ok(file_read_all(path, 1 << 20, &text, &bytes));
    assert_non_null(strstr(text, "\"simulator, rank 0\""));
    assert_non_null(strstr(text, "\"simulator, rank 1\""));
    cJSON *json = cJSON_Parse(text);
    const cJSON *events = cJSON_GetObjectItemCaseSensitive(json, "traceEvents");
    for (int rank = 0; rank < 2; rank++)
        for (int port = 4; port <= 5; port++) {
            double last_us;
            assert_int_equal(slices(events, 2 + rank, port, "dispatch", &last_us), STEPS * EVENTS);
            assert_int_equal(slices(events, 2 + rank, port, "combine", &last_us), STEPS * EVENTS);
            assert_true(fabs(last_us - (STEPS * step_us - WAY_NS / 1e3)) < 1e-6);
            assert_int_equal(slices(events, 2 + rank, 2, "embed", &last_us), STEPS);
        }
    cJSON_Delete(json);
    mem_free(text);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(simulate_tells_the_time_of_several_ranks),
        cmocka_unit_test(every_rank_is_a_process_of_the_timeline),
        cmocka_unit_test(a_sweep_by_time_learns_placements),
        cmocka_unit_test(the_first_hit_of_lru_is_not_that_of_several_ranks),
        cmocka_unit_test(a_placement_that_does_not_fit_the_layers_is_refused),
        cmocka_unit_test(copies_of_experts_count_in_the_memory_of_all_ranks),
        cmocka_unit_test(budgets_are_learnt_for_the_buffers_of_all_ranks),
        cmocka_unit_test(counts_are_the_same_without_a_profile),
        cmocka_unit_test(served_steps_take_what_recorded_ones_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
