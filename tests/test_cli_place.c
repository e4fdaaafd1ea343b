/* Placements through the program: place, and export to the engines' formats, read back here. */
#include "base/status.h"
#include "tests/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "tests/cli_run.h"
#include "tests/routed_trace.h"

enum { LAYERS = 3, EXPERTS = 8, TOP_K = 2, STEPS = 40, MAX_SLOTS = 32, ALL_LAYERS = 6 };

static CliRun run;

/* The lower an expert, the more often. */
static void route(uint64_t *random, uint16_t *experts)
{
    for (size_t i = 0; i < LAYERS * 2; i++) {
        experts[2 * i] = (uint16_t)random_below(random, 1 + random_below(random, EXPERTS));
        experts[2 * i + 1] = (uint16_t)((experts[2 * i] + 1) % EXPERTS);
    }
}

/* MoE layers 1, 3 and 4 of a model of ALL_LAYERS; of each step two tokens. */
static const char *make_trace(const char *name, Stack stack)
{
    const char *path = scratch_path(name);
    const Phase phase = stack == STACK_ENCODER ? PHASE_ENCODE : PHASE_DECODE;
    TraceLayer layers[LAYERS] = {{.layer = 1}, {.layer = 3}, {.layer = 4}};
    for (uint32_t i = 0; i < LAYERS; i++) {
        layers[i].experts = EXPERTS;
        layers[i].top_k = TOP_K;
        layers[i].stack = stack;
        snprintf(layers[i].name, sizeof layers[i].name, "layer %u", layers[i].layer);
    }
    const TraceRun of = {.tool = "test",
                         .source = "test",
                         .model = "model",
                         .model_config = "{\"num_hidden_layers\": 6}",
                         .device = "none"};
    record_routed(path, &(RoutedTrace){.run = &of,
                                       .layers = layers,
                                       .n_layers = LAYERS,
                                       .steps = STEPS,
                                       .requests = 2,
                                       .first = phase,
                                       .phase = phase,
                                       .route = route,
                                       .random = 5});
    return path;
}

static void program(const char *const *arguments)
{
    cli_run(arguments, &run);
    if (run.code != 0)
        fail_msg("%s", run.err);
}

static void assert_refused(const char *const *arguments, const char *why)
{
    cli_run(arguments, &run);
    assert_int_equal(run.code, 2);
    assert_true(cli_said_one_line(&run));
    if (strstr(run.err, why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", run.err, why);
}

static cJSON *load(const char *path)
{
    cJSON *json;
    assert_ok(json_load(path, JSON_PLAN_BYTES, &json));
    return json;
}

static const cJSON *at_path(const cJSON *json, const char *const *keys)
{
    for (; *keys != NULL; keys++)
        json = cJSON_GetObjectItemCaseSensitive(json, *keys);
    assert_non_null(json);
    return json;
}

/* The expert in each of SLOTS is on that slot's rank in PLAN's map of LAYER, and all copies are
 * there. */
static void assert_slots_are_the_map(const cJSON *plan, uint32_t layer, const uint32_t *slots,
                                     uint32_t n, uint32_t ranks)
{
    char key[16];
    snprintf(key, sizeof key, "%u", layer);
    const cJSON *map = at_path(plan, (const char *[]){"placement", "map", key, NULL});
    uint32_t copies = 0;
    for (int expert = 0; expert < cJSON_GetArraySize(map); expert++) {
        const cJSON *rank;
        cJSON_ArrayForEach(rank, cJSON_GetArrayItem(map, expert))
        {
            uint32_t found = 0;
            uint32_t first = (uint32_t)rank->valueint * (n / ranks);
            for (uint32_t i = first; i < first + n / ranks; i++)
                found += slots[i] == (uint32_t)expert;
            assert_int_equal(found, 1);
            copies++;
        }
    }
    assert_int_equal(copies, n);
}

static void place_on(const char *trace, const char *plan, const char *ranks, const char *method,
                     const char *replicas)
{
    program((const char *[]){"place", "--trace", trace, "--ranks", ranks, "--method", method,
                             "--out", plan, replicas != NULL ? "--replicas" : NULL, replicas,
                             NULL});
}

static uint32_t read_row(const cJSON *row, uint32_t *slots)
{
    uint32_t n = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, row) slots[n++] = (uint32_t)item->valueint;
    return n;
}

static void sglang_json_has_a_row_for_every_layer(void **unused)
{
    (void)unused;
    const char *trace = make_trace("s.db", STACK_DECODER);
    const char *plan = scratch_path("s-plan.json");
    const char *out = scratch_path("s.json");
    place_on(trace, plan, "4", "replicate", "4");
    program(
        (const char *[]){"export", "--to", "sglang", trace, "--plan", plan, "--out", out, NULL});
    cJSON *json = load(out);
    cJSON *placed = load(plan);
    const cJSON *rows = at_path(json, (const char *[]){"physical_to_logical_map", NULL});
    assert_int_equal(cJSON_GetArraySize(rows), ALL_LAYERS);
    for (uint32_t layer = 0; layer < ALL_LAYERS; layer++) {
        uint32_t slots[MAX_SLOTS];
        assert_int_equal(read_row(cJSON_GetArrayItem(rows, (int)layer), slots), EXPERTS + 4);
        if (layer == 1 || layer == 3 || layer == 4)
            assert_slots_are_the_map(placed, layer, slots, EXPERTS + 4, 4);
        else
            for (uint32_t i = 0; i < EXPERTS + 4; i++)
                assert_int_equal(slots[i], i % EXPERTS);
    }
    cJSON_Delete(json);
    cJSON_Delete(placed);
}

static int rows_of(const char *path)
{
    cJSON *json = load(path);
    int n = cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(json, "physical_to_logical_map"));
    cJSON_Delete(json);
    return n;
}

static void sglang_layers_are_given_or_end_with_the_last(void **unused)
{
    (void)unused;
    const char *trace = make_trace("l.db", STACK_DECODER);
    const char *plan = scratch_path("l-plan.json");
    const char *out = scratch_path("l.json");
    place_on(trace, plan, "2", "greedy", NULL);
    program((const char *[]){"export", "--to", "sglang", "--plan", plan, "--out", out, NULL});
    assert_int_equal(rows_of(out), 5);
    program((const char *[]){"export", "--to", "sglang", "--plan", plan, "--out", out, "--layers",
                             "9", NULL});
    assert_int_equal(rows_of(out), 9);
    assert_refused((const char *[]){"export", "--to", "sglang", "--plan", plan, "--out", out,
                                    "--layers", "4", NULL},
                   "layer 4 is none of the model's 4");
}

/* "  3: [0, 1]" as a layer and its slots. */
static uint32_t read_yaml_row(const char *line, uint32_t *layer, uint32_t *slots)
{
    char *end;
    uint32_t n = 0;
    assert_memory_equal(line, "  ", 2);
    *layer = (uint32_t)strtoul(line + 2, &end, 10);
    assert_memory_equal(end, ": [", 3);
    for (line = end + 3;; line = end + 2) {
        slots[n++] = (uint32_t)strtoul(line, &end, 10);
        if (*end == ']')
            break;
        assert_memory_equal(end, ", ", 2);
    }
    assert_string_equal(end, "]\n");
    return n;
}

static void trtllm_yaml_has_the_slots_of_each_moe_layer(void **unused)
{
    (void)unused;
    const char *trace = make_trace("t.db", STACK_DECODER);
    const char *plan = scratch_path("t-plan.json");
    const char *out = scratch_path("t.yaml");
    const uint32_t numbers[LAYERS] = {1, 3, 4};
    char line[512];
    place_on(trace, plan, "2", "replicate", "2");
    program((const char *[]){"export", "--to", "trtllm", "--plan", plan, "--out", out, NULL});
    cJSON *placed = load(plan);
    FILE *stream = fopen(out, "r");
    assert_non_null(fgets(line, sizeof line, stream));
    assert_string_equal(line, "num_slots: 10\n");
    assert_non_null(fgets(line, sizeof line, stream));
    assert_string_equal(line, "initial_global_assignments:\n");
    for (uint32_t i = 0; i < LAYERS; i++) {
        uint32_t slots[MAX_SLOTS];
        uint32_t layer;
        assert_non_null(fgets(line, sizeof line, stream));
        assert_int_equal(read_yaml_row(line, &layer, slots), 10);
        assert_int_equal(layer, numbers[i]);
        assert_slots_are_the_map(placed, layer, slots, 10, 2);
    }
    assert_non_null(fgets(line, sizeof line, stream));
    assert_string_equal(line, "layer_updates_per_iter: 0\n");
    assert_null(fgets(line, sizeof line, stream));
    fclose(stream);
    cJSON_Delete(placed);
    program((const char *[]){"export", "--to", "trtllm", "--plan", plan, "--out", out,
                             "--layer-updates", "2", NULL});
    char *text;
    size_t bytes;
    assert_ok(file_read_all(out, 1 << 16, &text, &bytes));
    assert_non_null(strstr(text, "\nlayer_updates_per_iter: 2\n"));
    mem_free(text);
}

static void blocks_come_out_as_blocks(void **unused)
{
    (void)unused;
    const char *trace = make_trace("b.db", STACK_DECODER);
    const char *plan = scratch_path("b-plan.json");
    const char *out = scratch_path("b.json");
    place_on(trace, plan, "4", "contiguous", NULL);
    program(
        (const char *[]){"export", "--to", "sglang", trace, "--plan", plan, "--out", out, NULL});
    cJSON *json = load(out);
    const cJSON *row;
    cJSON_ArrayForEach(row, at_path(json, (const char *[]){"physical_to_logical_map", NULL}))
    {
        uint32_t slots[MAX_SLOTS];
        assert_int_equal(read_row(row, slots), EXPERTS);
        for (uint32_t i = 0; i < EXPERTS; i++)
            assert_int_equal(slots[i], i);
    }
    cJSON_Delete(json);
    assert_refused((const char *[]){"export", "--to", "sglang", "--plan", plan, "--out", out, NULL},
                   "placement.method \"contiguous\" needs TRACE");
}

static void what_a_format_cannot_say_is_refused(void **unused)
{
    (void)unused;
    const char *trace = make_trace("r.db", STACK_DECODER);
    const char *encoder = make_trace("e.db", STACK_ENCODER);
    const char *plan = scratch_path("r-plan.json");
    const char *given = scratch_path("given.json");
    const char *out = scratch_path("refused");
    static const char UNEVEN[] =
        "{\"moebius_plan\": 1, \"placement\": {\"ranks\": 2, \"method\": \"given\","
        " \"map\": {\"1\": [[0], [0], [0], [1]]}}}";
    static const char MIXED[] =
        "{\"moebius_plan\": 1, \"placement\": {\"ranks\": 2, \"method\": \"given\","
        " \"map\": {\"1\": [[0], [1]], \"2\": [[0], [1], [0], [1]]}}}";
    place_on(trace, plan, "3", "greedy", NULL);
    assert_refused((const char *[]){"export", "--to", "trtllm", "--plan", plan, "--out", out, NULL},
                   "8 experts with their copies on 3 ranks: the format has as many on each rank");
    place_on(trace, plan, "2", "greedy", NULL);
    assert_refused(
        (const char *[]){"export", "--to", "trtllm", encoder, "--plan", plan, "--out", out, NULL},
        "layer 1 is an encoder's: the format has one stack");
    assert_ok(file_write_all(given, UNEVEN, sizeof UNEVEN - 1));
    assert_refused(
        (const char *[]){"export", "--to", "sglang", "--plan", given, "--out", out, NULL},
        "layer 1: rank 0 has more than 2 experts");
    assert_ok(file_write_all(given, MIXED, sizeof MIXED - 1));
    assert_refused(
        (const char *[]){"export", "--to", "sglang", "--plan", given, "--out", out, NULL},
        "layer 2 has 4 experts on ranks, layer 1 has 2: the format has as many in each layer");
    assert_false(file_exists(out));
}

static void place_learns_and_scores_on_parts(void **unused)
{
    (void)unused;
    const char *trace = make_trace("p.db", STACK_DECODER);
    const char *plan = scratch_path("p-plan.json");
    program((const char *[]){"place", "--trace", trace, "--ranks", "4", "--method",
                             "anticorrelated", "--out", plan, "--train", "0:0.25", "--test",
                             "0.5:1", "--json", NULL});
    cJSON *json;
    assert_ok(json_parse(run.out, strlen(run.out), "stdout", &json));
    assert_int_equal(at_path(json, (const char *[]){"train", "end_step", NULL})->valueint, 10);
    assert_int_equal(at_path(json, (const char *[]){"test", "first_step", NULL})->valueint, 20);
    assert_int_equal(at_path(json, (const char *[]){"total", "events", NULL})->valueint, 60);
    const cJSON *layers = at_path(json, (const char *[]){"per_layer", NULL});
    assert_int_equal(cJSON_GetArraySize(layers), LAYERS);
    double max_load = at_path(json, (const char *[]){"total", "max_load", NULL})->valuedouble;
    assert_true(max_load >= 0.25 && max_load <= 1);
    cJSON_Delete(json);
    program((const char *[]){"place", "--trace", trace, "--ranks", "4", "--method", "greedy",
                             "--out", plan, NULL});
    assert_non_null(strstr(run.out, "greedy on 4 ranks; scored on steps 20 to 39, learnt from 0 "
                                    "to 19."));
}

static void command_lines_that_do_not_go_together(void **unused)
{
    (void)unused;
    const char *trace = make_trace("c.db", STACK_DECODER);
    const char *out = scratch_path("nothing");
    assert_refused((const char *[]){"export", "--to", "csv", "--out", out, NULL},
                   "--to csv needs TRACE");
    assert_refused((const char *[]){"export", "--to", "sglang", trace, "--out", out, NULL},
                   "--to sglang needs --plan");
    assert_refused(
        (const char *[]){"export", "--to", "npy", trace, "--plan", out, "--out", out, NULL},
        "--plan means nothing to --to npy");
    assert_refused((const char *[]){"place", "--trace", trace, "--ranks", "2", "--method", "greedy",
                                    "--replicas", "2", "--out", out, NULL},
                   "--replicas needs --method replicate");
    assert_refused((const char *[]){"place", "--trace", trace, "--ranks", "2", "--method",
                                    "replicate", "--out", out, NULL},
                   "--method replicate needs --replicas");
    assert_refused((const char *[]){"place", "--trace", trace, "--ranks", "9", "--method",
                                    "contiguous", "--out", out, NULL},
                   "moebius: place: placement.ranks: 9, layer 1 has 8 experts");
    assert_refused((const char *[]){"place", "--trace", trace, "--ranks", "2", "--method",
                                    "contiguous", "--set", "batching.mode=continuous", "--set",
                                    "batching.sequences=2", "--out", out, NULL},
                   "moebius: place: --set: batching.mode: \"continuous\" plays arrivals in time");
    assert_false(file_exists(out));
}

static void a_plan_of_several_ranks_is_replayed_by_each(void **unused)
{
    (void)unused;
    const char *trace = make_trace("m.db", STACK_DECODER);
    const char *plan = scratch_path("m-plan.json");
    place_on(trace, plan, "2", "greedy", NULL);
    cli_run((const char *[]){"simulate", "--trace", trace, "--plan", plan, "--set",
                             "buffer.slots=2", NULL},
            &run);
    assert_int_equal(run.code, 0);
    assert_non_null(strstr(run.out, "2 ranks, placement greedy: lookups, loads and the memory of "
                                    "experts are those of all.\n"));
}

static void a_value_of_the_placement_is_asked_for_in_one_way(void **unused)
{
    (void)unused;
    const char *trace = make_trace("o.db", STACK_DECODER);
    const char *out = scratch_path("o-plan.json");
    assert_refused(
        (const char *[]){"place", "--trace", trace, "--ranks", "4", "--method", "greedy", "--set",
                         "placement.ranks=2", "--out", out, NULL},
        "--set placement.ranks=2: the placement is what --ranks, --method and --replicas");
    assert_false(file_exists(out));
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sglang_json_has_a_row_for_every_layer),
        cmocka_unit_test(sglang_layers_are_given_or_end_with_the_last),
        cmocka_unit_test(trtllm_yaml_has_the_slots_of_each_moe_layer),
        cmocka_unit_test(blocks_come_out_as_blocks),
        cmocka_unit_test(a_value_of_the_placement_is_asked_for_in_one_way),
        cmocka_unit_test(what_a_format_cannot_say_is_refused),
        cmocka_unit_test(place_learns_and_scores_on_parts),
        cmocka_unit_test(command_lines_that_do_not_go_together),
        cmocka_unit_test(a_plan_of_several_ranks_is_replayed_by_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
