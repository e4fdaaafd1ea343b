#include "base/status.h"
#include "tests/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "policies/buffer.h"
#include "policies/plan_keys.h"

static Status parse(const char *text, Plan *plan)
{
    cJSON *json = NULL;
    TRY(json_parse(text, strlen(text), "plan.json", &json));
    Status status = plan_from_json(json, "plan.json", plan);
    cJSON_Delete(json);
    return status;
}

static Plan parse_good(const char *text)
{
    Plan plan;
    assert_ok(parse(text, &plan));
    return plan;
}

static void a_plan_of_nothing_is_the_default(void **unused)
{
    (void)unused;
    Plan plan = parse_good("{\"moebius_plan\": 1}");
    Plan wanted = plan_default();
    assert_memory_equal(&plan, &wanted, sizeof plan);
    assert_false(plan.buffer.on);
    assert_int_equal(plan.gating.mode, GATING_DYNAMIC);
    assert_int_equal(plan.batching.max_tokens, 4096);
    plan = parse_good("{\"moebius_plan\": 1, \"buffer\": null}");
    assert_memory_equal(&plan, &wanted, sizeof plan);
}

static void the_full_plan_is_read(void **unused)
{
    (void)unused;
    Plan plan =
        parse_good("{\"moebius_plan\": 1, \"name\": \"lifo-inactive-first 10/layer\", \"seed\": 12,"
                   " \"gating\": {\"mode\": \"dynamic\"},"
                   " \"buffer\": {\"scope\": \"layer\", \"slots\": 10, \"order\": \"batch\","
                   "   \"evict\": \"lifo-inactive-first\", \"params\": {}},"
                   " \"prefetch\": {\"predictor\": \"none\", \"distance\": 1, \"max_inflight\": 2},"
                   " \"placement\": {\"ranks\": 1, \"method\": \"contiguous\", \"map\": null,"
                   "   \"replicas\": null},"
                   " \"batching\": {\"max_tokens\": 512, \"mode\": \"as-recorded\"},"
                   " \"link\": {\"h2d_gb_per_s\": null}}");
    assert_string_equal(plan.name, "lifo-inactive-first 10/layer");
    assert_int_equal(plan.seed, 12);
    assert_true(plan.buffer.on);
    assert_int_equal(plan.buffer.scope, SCOPE_LAYER);
    assert_int_equal(plan.buffer.slots, 10);
    assert_int_equal(plan.buffer.bytes, 0);
    assert_int_equal(plan.buffer.order, ORDER_BATCH);
    assert_string_equal(plan.buffer.evict, "lifo-inactive-first");
    assert_int_equal(plan.batching.max_tokens, 512);
    assert_true(plan.link.h2d_gb_per_s == 0);
    plan = parse_good("{\"moebius_plan\": 1, \"gating\": {\"mode\": \"static\","
                      " \"capacity_factor\": 0.25, \"dispatch\": \"mask\"},"
                      " \"buffer\": {\"scope\": \"device\", \"bytes\": 1000000,"
                      " \"order\": \"serial\", \"evict\": \"belady\"},"
                      " \"link\": {\"h2d_gb_per_s\": 12.5}}");
    assert_int_equal(plan.gating.mode, GATING_STATIC);
    assert_true(plan.gating.capacity_factor == 0.25);
    assert_int_equal(plan.gating.dispatch, DISPATCH_MASK);
    assert_int_equal(plan.buffer.scope, SCOPE_DEVICE);
    assert_int_equal(plan.buffer.bytes, 1000000);
    assert_int_equal(plan.buffer.order, ORDER_SERIAL);
    assert_true(plan.link.h2d_gb_per_s == 12.5);
}

/* A plan that splits, but the end of its section. */
#define BUFFERED_SPLIT "\"buffer\": {\"slots\": 4}, \"compute\": {\"mode\": \"split\""

static void refusals_name_the_path_and_what_is_allowed(void **unused)
{
    (void)unused;
    static const struct {
        const char *rest; /* after {"moebius_plan": 1, */
        const char *wanted;
    } cases[] = {
        {"\"bufer\": {}", "bufer: unknown key, allowed are moebius_plan, name, seed, gating"},
        {"\"name\": 3", "name: must be a string"},
        {"\"name\": \"0123456789012345678901234567890123456789012345678901234567890123456789"
         "012345678901234567890123456789012345678901234567890123456789\"",
         "name: longer than 127 bytes"},
        {"\"seed\": -1", "seed: -1, allowed is 0 to"},
        {"\"seed\": 1.5", "seed: 1.5, must be a whole number"},
        {"\"seed\": 18446744073709551616", "seed: "},
        {"\"gating\": 3", "gating: must be an object"},
        {"\"gating\": null", "gating: must be an object"},
        {"\"gating\": {\"mode\": \"padded\"}",
         "gating.mode: \"padded\", allowed are dynamic, static"},
        {"\"gating\": {\"capacity_factor\": 1}", "gating.capacity_factor: needs gating.mode"},
        {"\"gating\": {\"dispatch\": \"mask\"}", "gating.dispatch: needs gating.mode"},
        {"\"gating\": {\"mode\": \"static\", \"capacity_factor\": 0}", "gating.capacity_factor: 0"},
        {"\"gating\": {\"mode\": \"static\", \"capacity_factor\": \"1\"}",
         "gating.capacity_factor: must be a number"},
        {"\"gating\": {\"mode\": \"static\", \"dispatch\": \"sorted\"}",
         "gating.dispatch: \"sorted\", allowed are padded, mask"},
        {"\"buffer\": 3", "buffer: must be an object"},
        {"\"buffer\": []", "buffer: must be an object"},
        {"\"buffer\": {}", "buffer: needs \"slots\" or \"bytes\""},
        {"\"buffer\": {\"slots\": null, \"bytes\": null}", "buffer: needs \"slots\" or \"bytes\""},
        {"\"buffer\": {\"slots\": 0}", "buffer.slots: 0, allowed is 1 to 4294967295"},
        {"\"buffer\": {\"slots\": 4294967296}", "buffer.slots: 4294967296, allowed"},
        {"\"buffer\": {\"slots\": -4}", "buffer.slots: -4, allowed"},
        {"\"buffer\": {\"slots\": true}", "buffer.slots: must be a whole number"},
        {"\"buffer\": {\"slots\": [4]}", "buffer.slots: must be a whole number"},
        {"\"buffer\": {\"bytes\": 0}", "buffer.bytes: 0, allowed is 1 to"},
        {"\"buffer\": {\"slots\": 4, \"bytes\": 5}", "buffer.bytes: allowed is one of"},
        {"\"buffer\": {\"slots\": 4, \"scope\": \"rank\"}",
         "buffer.scope: \"rank\", allowed are layer, device"},
        {"\"buffer\": {\"slots\": 4, \"order\": \"random\"}",
         "buffer.order: \"random\", allowed are serial, batch, staged"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"best\"}",
         "buffer.evict: \"best\", allowed are fifo, lifo, lifo-inactive-first, lru"},
        {"\"buffer\": {\"slots\": 4, \"evict\": null}", "buffer.evict: must be a string"},
        {"\"buffer\": {\"slots\": 4, \"params\": {\"x\": 1}}", "buffer.params.x: unknown key"},
        {"\"buffer\": {\"slots\": 4, \"params\": {\"alpha\": 0.5}}",
         "buffer.params.alpha: needs buffer.evict \"ema-score\""},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"ema-score\", \"params\": {\"alpha\": 0}}",
         "buffer.params.alpha: 0"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"ema-score\", \"params\": {\"alpha\": 1.5}}",
         "buffer.params.alpha: 1.5"},
        {"\"buffer\": {\"slots\": 4, \"params\": null}", "buffer.params: must be an object"},
        {"\"buffer\": {\"slots\": 4, \"Slots\": 4}", "buffer.Slots: unknown key"},
        {"\"buffer\": {\"slots\": 4, \"scope\": \"device\", \"budget\": \"skew\"}",
         "buffer.budget: needs buffer.scope \"layer\""},
        {"\"buffer\": {\"slots\": 4, \"budget\": \"fair\"}",
         "buffer.budget: \"fair\", allowed are uniform, skew, optimal"},
        {"\"buffer\": {\"slots\": 4, \"budget\": null}", "buffer.budget: must be a word"},
        {"\"buffer\": {\"budget\": \"optimal\"}", "buffer: needs \"slots\" or \"bytes\""},
        {"\"buffer\": {\"budget\": {\"0\": [1]}}", "buffer.budget.0: must be a whole number"},
        {"\"buffer\": {\"budget\": {\"0\": 65536}}", "buffer.budget.0: 65536, allowed"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"belady\", \"initial\": \"hottest\"}",
         "buffer.initial: buffer.evict \"belady\" starts cold"},
        {"\"buffer\": {\"slots\": 4, \"initial\": {\"0\": [[1]]}}",
         "buffer.initial.0: must be a whole number"},
        {"\"buffer\": {\"slots\": 4, \"hot\": \"hottest\"}",
         "buffer.hot: needs buffer.evict \"static\""},
        {"\"buffer\": {\"slots\": 4, \"hot\": {\"0\": [1]}}", "buffer.hot: needs buffer.evict"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": 3}",
         "buffer.hot: must be a word, or an object of layers"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": \"warm\"}",
         "buffer.hot: \"warm\", allowed are hottest"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": {\"01\": [1]}}",
         "buffer.hot: \"01\", allowed are numbers of layers"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": {\"1\": 1}}",
         "buffer.hot: 1: must be a list of numbers"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": {\"7\": [1, -1]}}",
         "buffer.hot.7: -1, allowed is 0 to 65534"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": {\"7\": [], \"7\": []}}",
         "7: the key stands twice"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": {\"7\": [1]}, \"x\": 1}",
         "buffer.x: unknown key"},
        {"\"prefetch\": {\"predictor\": \"oracle:1\"}",
         "prefetch.predictor: \"oracle:1\" needs a buffer"},
        {"\"prefetch\": {\"predictor\": \"guess\"}",
         "prefetch.predictor: \"guess\", allowed are none, frequency, previous-step"},
        {"\"prefetch\": {\"predictor\": \"oracle\"}", "\"oracle\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"oracle:0\"}", "\"oracle:0\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"oracle:1024\"}", "\"oracle:1024\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"oracle:2x\"}", "\"oracle:2x\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"activation-match\"}", "\"activation-match\", allowed"},
        {"\"prefetch\": {\"predictor\": \"activation-match:1\"}", "match:1\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"activation-match:513\"}", "match:513\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"next-gate:1\"}", "\"next-gate:1\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"frequency:2\"}", "\"frequency:2\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"synthetic:1\"}", "\"synthetic:1\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"synthetic:1,0\"}", "\"synthetic:1,0\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"synthetic:1.1,1\"}", "1.1,1\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"synthetic:0x1p-1,1\"}", "0x1p-1,1\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"synthetic:1,1 \"}", "\"synthetic:1,1 \", allowed are"},
        {"\"buffer\": {\"slots\": 4}, \"prefetch\": {\"predictor\": \"oracle:2\", \"distance\": 1}",
         "prefetch.distance: 1, allowed is 2 with predictor \"oracle:2\""},
        {"\"buffer\": {\"slots\": 4}, \"prefetch\": {\"predictor\": \"pre-gate\", \"distance\": 2}",
         "prefetch.distance: 2, allowed is 1 with predictor \"pre-gate\""},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"belady\"}, \"prefetch\": {\"predictor\": "
         "\"frequency\"}",
         "prefetch.predictor: \"frequency\" does not go with buffer.evict \"belady\""},
        {"\"prefetch\": {\"distance\": 1024}", "prefetch.distance: 1024, allowed is 1 to 1023"},
        {"\"prefetch\": {\"max_inflight\": 0}", "prefetch.max_inflight: 0, allowed is 1 to 65535"},
        {"\"prefetch\": {\"experts\": 0}", "prefetch.experts: 0, allowed is 1 to 65535"},
        {"\"prefetch\": {\"table\": \"trained\"}", "prefetch.table: needs prefetch.predictor"},
        {"\"buffer\": {\"slots\": 4}, \"prefetch\": {\"predictor\": \"transition\", "
         "\"successors\": "
         "3}",
         "prefetch.successors: needs prefetch.predictor \"transition\" with a table"},
        {"\"buffer\": {\"slots\": 4}, \"prefetch\": {\"predictor\": \"transition\", \"table\": "
         "{\"0\": [1]}}",
         "prefetch.table: 0: must be a list of lists"},
        {"\"prefetch\": {\"recall\": 1}", "prefetch.recall: unknown key"},
        {"\"compute\": {\"mode\": \"cpu\"}", "compute.mode: \"cpu\", allowed are gpu, host, split"},
        {"\"compute\": {\"mode\": \"host\"}", "compute.mode: \"host\" needs a buffer"},
        {"\"compute\": {\"host_ns\": \"measured\"}",
         "compute.host_ns: needs compute.mode \"split\""},
        {"\"compute\": {\"load_ns\": {\"0\": 1}}", "compute.load_ns: needs compute.mode \"split\""},
        {"\"compute\": {\"load\": 1}", "compute.load: unknown key"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"belady\"}, \"compute\": {\"mode\": \"host\"}",
         "compute.mode: \"host\" does not go with buffer.evict \"belady\""},
        {"\"buffer\": {\"slots\": 4, \"order\": \"serial\"}, \"compute\": {\"mode\": \"split\"}",
         "compute: mode \"split\" weighs all misses of an event"},
        {BUFFERED_SPLIT ", \"host_ns\": {\"0\": []}}", "compute.host_ns: 0: needs at least one"},
        {BUFFERED_SPLIT ", \"host_ns\": {\"0\": [[1]]}}",
         "host_ns: 0: must be a list of [rows, ns]"},
        {BUFFERED_SPLIT ", \"host_ns\": {\"0\": [[0, 5]]}}",
         "compute.host_ns.0: 0, allowed is 1 to"},
        {BUFFERED_SPLIT ", \"host_ns\": {\"4\": [[1, 5], [1, 6]]}}",
         "4: [1, 6] after [1, 5]: rows"},
        {BUFFERED_SPLIT ", \"host_ns\": {\"4\": [[1, 5], [2, 4]]}}",
         "4: [2, 4] after [1, 5]: rows"},
        {BUFFERED_SPLIT ", \"load_ns\": {\"0\": 0}}", "compute.load_ns.0: 0, allowed is 1 to"},
        {BUFFERED_SPLIT ", \"event_ns\": {\"2\": [7]}}", "compute.event_ns: 2: must be [ns, ns]"},
        {"\"placement\": {\"ranks\": 0}", "placement.ranks: 0, allowed is 1 to 256"},
        {"\"placement\": {\"method\": \"best\"}", "placement.method: \"best\", allowed are"},
        {"\"placement\": {\"map\": \"trained\"}",
         "placement: map: method \"contiguous\" has none; \"given\" takes any"},
        {"\"placement\": {\"method\": \"given\"}", "placement: method \"given\" needs a map"},
        {"\"placement\": {\"map\": []}", "placement.map: must be a word, or an object of layers"},
        {"\"placement\": {\"map\": \"learn\"}", "placement.map: \"learn\", allowed are trained"},
        {"\"placement\": {\"map\": {\"0\": [[0]]}}",
         "placement: map: method \"contiguous\" has none"},
        {"\"placement\": {\"ranks\": 2, \"replicas\": 1}",
         "placement: replicas: method \"contiguous\" has none"},
        {"\"placement\": {\"ranks\": 2, \"method\": \"given\", \"map\": {\"3\": [[0], []]}}",
         "placement: map: layer 3: expert 1 is on no rank"},
        {"\"placement\": {\"ranks\": 2, \"method\": \"given\", \"map\": {\"3\": [[0], [2]]}}",
         "placement: map: layer 3: expert 1 on rank 2, there are 2"},
        {"\"placement\": {\"ranks\": 2, \"method\": \"given\", \"map\": {\"3\": [[1, 1]]}}",
         "placement: map: layer 3: expert 0 twice on rank 1"},
        {"\"placement\": {\"ranks\": 2, \"method\": \"given\", \"map\": {\"3\": [[0, 1], [1]]}}",
         "placement: replicas: 0, layer 3 of the map has 3 copies of 2 experts"},
        {"\"placement\": {\"ranks\": 2, \"method\": \"given\", \"replicas\": 1, \"map\": "
         "{\"3\": [[0, 1], [1]], \"5\": [[0], [1]]}}",
         "placement: replicas: 1, layer 5 of the map has 2 copies of 2 experts"},
        {"\"batching\": {\"max_tokens\": 0}", "batching.max_tokens: 0, allowed is 1 to 16777216"},
        {"\"batching\": {\"mode\": \"packed\"}",
         "batching.mode: \"packed\", allowed are as-recorded, apart, mixed, continuous"},
        {"\"batching\": {\"mode\": \"apart\"}", "batching: mode \"apart\" needs \"sequences\""},
        {"\"batching\": {\"mode\": \"mixed\", \"sequences\": null}", "needs \"sequences\""},
        {"\"batching\": {\"sequences\": 4}",
         "batching.sequences: needs batching.mode \"apart\", \"mixed\" or \"continuous\""},
        {"\"batching\": {\"mode\": \"continuous\"}", "\"continuous\" needs \"sequences\""},
        {"\"batching\": {\"arrivals\": \"trace\"}",
         "batching.arrivals: needs batching.mode \"continuous\""},
        {"\"batching\": {\"mode\": \"continuous\", \"sequences\": 2, \"arrivals\": \"poisson\"}",
         "batching: arrivals need \"requests_per_s\""},
        {"\"batching\": {\"requests_per_s\": 2}",
         "batching.requests_per_s: needs batching.arrivals \"fixed\" or \"poisson\""},
        {"\"batching\": {\"arrivals\": \"fixed\", \"requests_per_s\": 0}",
         "batching.requests_per_s: 0, allowed is "},
        {"\"batching\": {\"arrivals\": \"burst\"}",
         "batching.arrivals: \"burst\", allowed are at-once, trace, fixed, poisson"},
        {"\"batching\": {\"mode\": \"apart\", \"sequences\": 9, \"max_tokens\": 8}",
         "batching.sequences: 9, allowed is 1 to 8"},
        {"\"batching\": {\"mode\": \"apart\", \"sequences\": 0}",
         "batching.sequences: 0, allowed is 1 to 16777216"},
        {"\"link\": {\"h2d_gb_per_s\": 0}", "link.h2d_gb_per_s: 0, allowed"},
        {"\"link\": {\"h2d_gb_per_s\": \"12\"}", "link.h2d_gb_per_s: must be a number"},
        {"\"link\": {\"d2h\": 1}", "link.d2h: unknown key"},
        {"\"seed\": 1, \"seed\": 2", "seed: the key stands twice"},
        {"\"buffer\": {\"slots\": 1, \"slots\": 2}", "slots: the key stands twice"},
        {"\"seed\": 1e999", "too large"},
        {"\"seed\": NaN", "not JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[512];
        Plan plan;
        int64_t before = mem_live_blocks();
        snprintf(text, sizeof text, "{\"moebius_plan\": 1, %s}", cases[i].rest);
        Status status = parse(text, &plan);
        if (status != ERR_INPUT || strstr(error_message(), cases[i].wanted) == NULL ||
            strncmp(error_message(), "plan.json: ", 11) != 0)
            fail_msg("%s: status %d: %s", cases[i].rest, status, error_message());
        assert_int_equal(mem_live_blocks(), before);
    }
}

static void what_is_no_plan_at_all_is_refused(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        const char *wanted;
    } cases[] = {
        {"", "line 1: not JSON"},
        {"3", "must be an object"},
        {"[]", "must be an object"},
        {"null", "must be an object"},
        {"{}", "the key \"moebius_plan\" is missing"},
        {"{\"moebius_plan\": 2}", "moebius_plan: 2, allowed is 1"},
        {"{\"moebius_plan\": \"1\"}", "moebius_plan: must be a whole number"},
        {"{\"moebius_plan\": 1} {}", "line 1"},
        {"{\"moebius_plan\": 1,}", "line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Plan plan;
        Status status = parse(cases[i].text, &plan);
        if (status != ERR_INPUT || strstr(error_message(), cases[i].wanted) == NULL)
            fail_msg("%s: status %d: %s", cases[i].text, status, error_message());
    }
}

static void deep_large_and_absent_files_are_refused(void **unused)
{
    (void)unused;
    Plan plan;
    const char *path = scratch_path("large.json");
    size_t bytes = JSON_PLAN_BYTES + 1;
    char *text = malloc(bytes);
    memset(text, ' ', bytes);
    memcpy(text, "{\"moebius_plan\": 1}", 19);
    assert_ok(file_write_all(path, text, bytes));
    assert_int_equal(plan_load(path, &plan), ERR_INPUT);
    assert_ok(file_write_all(path, text, bytes - 1));
    assert_ok(plan_load(path, &plan));
    memset(text, '[', 200);
    assert_ok(file_write_all(path, text, 200));
    assert_int_equal(plan_load(path, &plan), ERR_INPUT);
    assert_non_null(strstr(error_message(), "nested too deeply"));
    free(text);
    assert_int_equal(plan_load(scratch_path("absent.json"), &plan), ERR_INPUT);
    assert_non_null(strstr(error_message(), "absent.json: cannot open"));
}

/* A table of SHAPE with random layers, rows and values, or none. */
static PlanTable *random_table(uint64_t *state, PlanTableShape shape, uint32_t least, uint32_t most)
{
    PlanTable *table;
    uint32_t n_layers = random_below(state, 4);
    uint32_t rows = shape == TABLE_ROWS ? random_below(state, 4) : 1;
    uint32_t values = shape == TABLE_NUMBERS ? 1 : random_below(state, 5);
    assert_ok(plan_table_new(shape, n_layers, n_layers * rows, n_layers * rows * values, &table));
    PlanTableParts parts = plan_table_parts(table);
    for (uint32_t i = 0; i < n_layers; i++) {
        parts.layer[i] = (i > 0 ? parts.layer[i - 1] + 1 : 0) + random_below(state, 1000);
        parts.first_row[i + 1] = (i + 1) * rows;
    }
    for (uint32_t i = 0; i < n_layers * rows; i++)
        parts.first_value[i + 1] = (i + 1) * values;
    for (uint32_t i = 0; i < n_layers * rows * values; i++)
        parts.value[i] = least + random_below(state, most - least + 1);
    return table;
}

static void take(PlanLearned *learned, PlanTable *table)
{
    plan_learn(learned, table);
    plan_table_release(table);
}

static void random_learned(uint64_t *state, Plan *plan)
{
    if (eviction_needs_hot(plan->buffer.evict)) {
        plan->buffer.hot.choice = HOT_HOTTEST;
        if (random_below(state, 3) > 0)
            take(&plan->buffer.hot, random_table(state, TABLE_LISTS, 0, 65534));
    }
    if (plan->buffer.scope == SCOPE_LAYER) {
        plan->buffer.budget.choice = random_below(state, BUDGET_OPTIMAL + 1);
        if (random_below(state, 3) == 0)
            take(&plan->buffer.budget, random_table(state, TABLE_NUMBERS, 0, 65535));
        if (plan->buffer.budget.table != NULL && random_below(state, 2)) {
            plan->buffer.slots = 0;
            plan->buffer.bytes = 0;
        }
    }
    if (!eviction_needs_future(plan->buffer.evict) && random_below(state, 2)) {
        plan->buffer.initial.choice = HOT_HOTTEST;
        if (random_below(state, 2))
            take(&plan->buffer.initial, random_table(state, TABLE_LISTS, 0, 65534));
    }
}

static void random_prefetch(uint64_t *state, Plan *plan)
{
    static const char *const PREDICTORS[] = {"none",       "frequency", "previous-step",
                                             "transition", "oracle:7",  "synthetic:0.75,0.5"};
    plan->prefetch.distance = 1 + random_below(state, TRACE_MAX_LAYERS - 1);
    plan->prefetch.max_inflight = 1 + random_below(state, TRACE_MAX_EXPERTS);
    plan->prefetch.experts = random_below(state, 20);
    if (!plan->buffer.on || eviction_needs_future(plan->buffer.evict))
        return;
    snprintf(plan->prefetch.predictor, sizeof plan->prefetch.predictor, "%s",
             PREDICTORS[random_below(state, 6)]);
    if (strcmp(plan->prefetch.predictor, "frequency") == 0 ||
        strcmp(plan->prefetch.predictor, "transition") == 0) {
        plan->prefetch.table.choice = random_below(state, 2);
        if (random_below(state, 2))
            take(&plan->prefetch.table, random_table(state, TABLE_ROWS, 0, 1000000));
        if (plan->prefetch.predictor[0] == 't' &&
            (plan->prefetch.table.choice > 0 || plan->prefetch.table.table != NULL))
            plan->prefetch.successors = random_below(state, 20);
    }
    if (strcmp(plan->prefetch.predictor, "oracle:7") == 0)
        plan->prefetch.distance = 7;
}

/* Costs with ascending rows and ns that do not fall. */
static PlanTable *random_costs(uint64_t *state)
{
    PlanTable *table;
    uint32_t n = 1 + random_below(state, 5);
    uint32_t last[2] = {0, 1};
    assert_ok(plan_table_new(TABLE_ROWS, 1, n, 2 * n, &table));
    PlanTableParts parts = plan_table_parts(table);
    parts.layer[0] = random_below(state, 1000);
    parts.first_row[1] = n;
    for (uint32_t i = 0; i < n; i++) {
        last[0] += 1 + random_below(state, 100);
        last[1] += random_below(state, 1000000);
        parts.first_value[i + 1] = 2 * (i + 1);
        memcpy(parts.value + 2 * i, last, sizeof last);
    }
    return table;
}

static PlanTable *random_event_costs(uint64_t *state)
{
    uint32_t n = 1 + random_below(state, 4);
    PlanTable *table;
    assert_ok(plan_table_new(TABLE_LISTS, n, n, 2 * n, &table));
    PlanTableParts parts = plan_table_parts(table);
    for (uint32_t i = 0; i < n; i++) {
        parts.layer[i] = 3 * i;
        parts.first_row[i + 1] = i + 1;
        parts.first_value[i + 1] = 2 * (i + 1);
        parts.value[2 * i] = random_below(state, 100000);
        parts.value[2 * i + 1] = random_below(state, 100000);
    }
    return table;
}

static void random_compute(uint64_t *state, Plan *plan)
{
    if (!plan->buffer.on || eviction_needs_future(plan->buffer.evict))
        return;
    plan->compute.mode = (ComputeMode)random_below(
        state, plan->buffer.order == ORDER_SERIAL ? COMPUTE_SPLIT : COMPUTE_SPLIT + 1);
    if (plan->compute.mode != COMPUTE_SPLIT)
        return;
    plan->compute.host_ns.choice = plan->compute.load_ns.choice = COMPUTE_COSTS_MEASURED;
    if (random_below(state, 2))
        take(&plan->compute.host_ns, random_costs(state));
    if (random_below(state, 2))
        take(&plan->compute.load_ns, random_table(state, TABLE_NUMBERS, 1, 1000000));
    if (random_below(state, 2))
        take(&plan->compute.event_ns, random_event_costs(state));
    else if (plan->compute.host_ns.choice + plan->compute.load_ns.choice > 0)
        plan->compute.event_ns.choice = COMPUTE_COSTS_MEASURED;
}

static Plan random_plan(uint64_t *state)
{
    Plan plan = plan_default();
    uint32_t n_names = 0;
    while (eviction_names()[n_names] != NULL)
        n_names++;
    snprintf(plan.name, sizeof plan.name, "plan \"%u\" \\ \xC3\xA9", random_below(state, 1000));
    plan.seed = random_next(state) >> (11 + random_below(state, 50));
    if (random_below(state, 2)) {
        plan.gating.mode = GATING_STATIC;
        plan.gating.capacity_factor = (1 + random_below(state, 4000)) / 977.0;
        plan.gating.dispatch = random_below(state, 2) ? DISPATCH_MASK : DISPATCH_PADDED;
    }
    if (random_below(state, 4) > 0) {
        plan.buffer.on = true;
        plan.buffer.scope = random_below(state, 2) ? SCOPE_DEVICE : SCOPE_LAYER;
        plan.buffer.order = (ReplayOrder)random_below(state, REPLAY_ORDERS);
        if (random_below(state, 2))
            plan.buffer.slots =
                1 + (uint32_t)(random_next(state) >> (33 + random_below(state, 30)));
        else
            plan.buffer.bytes = 1 + (random_next(state) >> (12 + random_below(state, 50)));
        snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s",
                 eviction_names()[random_below(state, n_names)]);
        random_learned(state, &plan);
    }
    random_prefetch(state, &plan);
    if (plan_prefetches(&plan) || eviction_needs_scores(plan.buffer.evict))
        plan.buffer.budget.choice %= BUDGET_OPTIMAL;
    random_compute(state, &plan);
    plan.batching.max_tokens = 1 + random_below(state, TRACE_MAX_TOKENS);
    plan.batching.mode = (BatchingMode)random_below(state, BATCHING_CONTINUOUS + 1);
    if (plan.batching.mode != BATCHING_AS_RECORDED)
        plan.batching.sequences = 1 + random_below(state, plan.batching.max_tokens);
    if (plan.batching.mode == BATCHING_CONTINUOUS)
        plan.batching.arrivals = (ArrivalsKind)random_below(state, ARRIVALS_POISSON + 1);
    if (plan.batching.arrivals >= ARRIVALS_FIXED)
        plan.batching.requests_per_s = 0.5 + random_below(state, 1000) / 7.0;
    if (random_below(state, 2))
        plan.link.h2d_gb_per_s = (1 + random_below(state, 100000)) / 997.0;
    return plan;
}

static void assert_same_plan(const Plan *left, const Plan *right)
{
    assert_string_equal(left->name, right->name);
    assert_true(left->seed == right->seed);
    assert_int_equal(left->gating.mode, right->gating.mode);
    assert_true(left->gating.capacity_factor == right->gating.capacity_factor);
    assert_int_equal(left->gating.dispatch, right->gating.dispatch);
    assert_int_equal(left->buffer.on, right->buffer.on);
    assert_int_equal(left->buffer.scope, right->buffer.scope);
    assert_int_equal(left->buffer.order, right->buffer.order);
    assert_true(left->buffer.slots == right->buffer.slots);
    assert_true(left->buffer.bytes == right->buffer.bytes);
    assert_string_equal(left->buffer.evict, right->buffer.evict);
    for (size_t i = 0; i < PLAN_LEARNABLE; i++) {
        const char *path;
        Plan a = *left;
        Plan b = *right;
        assert_int_equal(plan_learned(&a, i, &path)->choice, plan_learned(&b, i, &path)->choice);
        assert_true(plan_table_is_same(plan_learned(&a, i, &path)->table,
                                       plan_learned(&b, i, &path)->table));
    }
    assert_int_equal(left->compute.mode, right->compute.mode);
    assert_string_equal(left->prefetch.predictor, right->prefetch.predictor);
    assert_int_equal(left->prefetch.distance, right->prefetch.distance);
    assert_int_equal(left->prefetch.max_inflight, right->prefetch.max_inflight);
    assert_int_equal(left->prefetch.experts, right->prefetch.experts);
    assert_int_equal(left->prefetch.successors, right->prefetch.successors);
    assert_int_equal(left->batching.max_tokens, right->batching.max_tokens);
    assert_int_equal(left->batching.mode, right->batching.mode);
    assert_int_equal(left->batching.sequences, right->batching.sequences);
    assert_int_equal(left->batching.arrivals, right->batching.arrivals);
    assert_true(left->batching.requests_per_s == right->batching.requests_per_s);
    assert_true(left->link.h2d_gb_per_s == right->link.h2d_gb_per_s);
}

static void plans_survive_the_way_to_json_and_back(void **unused)
{
    (void)unused;
    uint64_t state = 3;
    for (int i = 0; i < 2000; i++) {
        Plan plan = random_plan(&state);
        Plan read;
        char *text;
        char *again;
        assert_ok(plan_to_text(&plan, &text));
        assert_ok(parse(text, &read));
        assert_same_plan(&plan, &read);
        assert_ok(plan_to_text(&read, &again));
        assert_string_equal(text, again);
        plan_free(&plan);
        plan_free(&read);
        mem_free(text);
        mem_free(again);
    }
}

static void set_writes_one_value_by_its_path(void **unused)
{
    (void)unused;
    cJSON *json;
    Plan plan = plan_default();
    assert_ok(plan_to_json(&plan, &json));
    assert_ok(plan_json_set(json, "buffer.slots=8"));
    assert_ok(plan_json_set(json, "buffer.evict=mru"));
    assert_ok(plan_json_set(json, "buffer.order=\"serial\""));
    assert_ok(plan_json_set(json, "name=a=b"));
    assert_ok(plan_json_set(json, "seed=7"));
    assert_ok(plan_json_set(json, "seed=9"));
    assert_ok(plan_from_json(json, "set", &plan));
    assert_true(plan.buffer.on);
    assert_int_equal(plan.buffer.slots, 8);
    assert_string_equal(plan.buffer.evict, "mru");
    assert_int_equal(plan.buffer.order, ORDER_SERIAL);
    assert_string_equal(plan.name, "a=b");
    assert_int_equal(plan.seed, 9);
    assert_ok(plan_json_set(json, "buffer.slots=null"));
    assert_ok(plan_json_set(json, "buffer.bytes=300"));
    assert_ok(plan_from_json(json, "set", &plan));
    assert_int_equal(plan.buffer.bytes, 300);
    assert_ok(plan_json_set(json, "buffer=null"));
    assert_ok(plan_from_json(json, "set", &plan));
    assert_false(plan.buffer.on);
    static const char *const bad[] = {"",          "=",    "=4",     "seed",     ".=4",
                                      "buffer.=4", ".a=4", "a..b=4", "seed.x=4", "name.x.y=4"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(plan_json_set(json, bad[i]), ERR_INPUT);
    assert_ok(plan_from_json(json, "set", &plan));
    cJSON_Delete(json);
}

/* The schema's description of KEY of SECTION. */
static const cJSON *schema_of(const cJSON *schema, const char *section, const char *key)
{
    const cJSON *object = schema;
    if (section[0] != '\0')
        object = cJSON_GetObjectItemCaseSensitive(
            cJSON_GetObjectItemCaseSensitive(schema, "properties"), section);
    const cJSON *additional = cJSON_GetObjectItemCaseSensitive(object, "additionalProperties");
    assert_true(cJSON_IsFalse(additional));
    return cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(object, "properties"),
                                            key);
}

static bool has_type(const cJSON *node, const char *wanted)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(node, "type");
    if (cJSON_IsString(type))
        return strcmp(type->valuestring, wanted) == 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, type) if (strcmp(item->valuestring, wanted) == 0) return true;
    return false;
}

static double number_in(const cJSON *node, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(node, key);
    if (!cJSON_IsNumber(item))
        fail_msg("the schema has no %s", key);
    return item->valuedouble;
}

static void assert_same_names(const cJSON *node, const char *const *names)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(node, "enum");
    int n = 0;
    for (; names[n] != NULL; n++) {
        const cJSON *item = cJSON_GetArrayItem(list, n);
        assert_true(cJSON_IsString(item));
        assert_string_equal(item->valuestring, names[n]);
    }
    assert_int_equal(cJSON_GetArraySize(list), n);
}

/* Either a word, or a table: an object of layers, of numbers inside as many lists as its shape. */
static void assert_schema_learns(const cJSON *choices, const PlanKey *key)
{
    const cJSON *words = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(choices, 0), "enum");
    const cJSON *node = cJSON_GetArrayItem(choices, 1);
    int n = 0;
    if (key->nullable)
        assert_true(cJSON_IsNull(cJSON_GetArrayItem(words, n++)));
    for (size_t i = 0; key->names[i] != NULL; i++)
        assert_string_equal(cJSON_GetArrayItem(words, n++)->valuestring, key->names[i]);
    assert_int_equal(cJSON_GetArraySize(words), n);
    assert_true(has_type(node, "object"));
    node = cJSON_GetObjectItemCaseSensitive(node, "patternProperties")->child;
    for (int depth = key->shape; depth > 0; depth--) {
        assert_true(has_type(node, "array"));
        node = cJSON_GetObjectItemCaseSensitive(node, "items");
    }
    assert_true(has_type(node, "integer"));
    assert_true(number_in(node, "minimum") == (double)key->least);
    assert_true(number_in(node, "maximum") == (double)key->most);
}

static void assert_schema_says(const cJSON *node, const PlanKey *key)
{
    if (node == NULL)
        fail_msg("the schema has no %s", key->name);
    if (key->kind != KEY_CHOICE && key->kind != KEY_NAME)
        assert_int_equal(has_type(node, "null"), key->nullable);
    switch (key->kind) {
    case KEY_TEXT:
        assert_true(has_type(node, "string"));
        assert_true(number_in(node, "maxLength") == (double)key->room - 1);
        break;
    case KEY_CHOICE:
    case KEY_NAME:
        assert_same_names(node, plan_key_names(key));
        break;
    case KEY_U32:
    case KEY_U64:
        assert_true(has_type(node, "integer"));
        assert_true(number_in(node, "minimum") == (double)key->least);
        assert_true(number_in(node, "maximum") == (double)key->most);
        break;
    case KEY_F64:
        assert_true(has_type(node, "number"));
        assert_true(number_in(node, "minimum") == key->low);
        assert_true(number_in(node, "maximum") == key->high);
        break;
    case KEY_PARAMS:
        assert_true(has_type(node, "object"));
        node = cJSON_GetObjectItemCaseSensitive(node, "properties");
        node = cJSON_GetObjectItemCaseSensitive(node, "alpha");
        assert_true(has_type(node, "number"));
        assert_true(number_in(node, "minimum") == key->low);
        assert_true(number_in(node, "maximum") == key->high);
        break;
    case KEY_LEARNED:
        assert_schema_learns(cJSON_GetObjectItemCaseSensitive(node, "anyOf"), key);
        break;
    }
}

/* A branch without a type takes null, whatever properties it asks of objects. */
static void assert_one_branch_takes_null(const cJSON *branches)
{
    int n = 0;
    const cJSON *branch;
    cJSON_ArrayForEach(branch, branches) n +=
        !cJSON_HasObjectItem(branch, "type") || has_type(branch, "null");
    assert_int_equal(n, 1);
}

static int count_properties(const cJSON *schema, const char *section)
{
    const cJSON *object = schema;
    if (section[0] != '\0')
        object = schema_of(schema, "", section);
    return cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(object, "properties"));
}

static void the_schema_says_what_the_parser_does(void **unused)
{
    (void)unused;
    cJSON *schema;
    size_t n_root = PLAN_SECTIONS - 1 + PLAN_TABLE[0].n_keys;
    assert_ok(json_load("policies/plan.schema.json", JSON_PLAN_BYTES, &schema));
    assert_int_equal(count_properties(schema, ""), n_root);
    for (size_t s = 0; s < PLAN_SECTIONS; s++) {
        const PlanSection *section = &PLAN_TABLE[s];
        if (s > 0)
            assert_int_equal(count_properties(schema, section->name), section->n_keys);
        if (s > 0)
            assert_int_equal(has_type(schema_of(schema, "", section->name), "null"),
                             section->nullable);
        for (size_t i = 0; i < section->n_keys; i++)
            assert_schema_says(schema_of(schema, section->name, section->keys[i].name),
                               &section->keys[i]);
    }
    assert_one_branch_takes_null(
        cJSON_GetObjectItemCaseSensitive(schema_of(schema, "", "buffer"), "oneOf"));
    cJSON_Delete(schema);
}

/* The value at "default" of every key is what the parser takes for a key left out. */
static void the_schema_has_the_defaults_of_the_parser(void **unused)
{
    (void)unused;
    cJSON *schema;
    cJSON *canonical;
    Plan plan = parse_good("{\"moebius_plan\": 1, \"gating\": {\"mode\": \"static\"},"
                           " \"buffer\": {\"slots\": 3}}");
    assert_ok(json_load("policies/plan.schema.json", JSON_PLAN_BYTES, &schema));
    assert_ok(plan_to_json(&plan, &canonical));
    for (size_t s = 0; s < PLAN_SECTIONS; s++)
        for (size_t i = 0; i < PLAN_TABLE[s].n_keys; i++) {
            const char *key = PLAN_TABLE[s].keys[i].name;
            const cJSON *given = schema_of(schema, PLAN_TABLE[s].name, key);
            const cJSON *object =
                s == 0 ? canonical
                       : cJSON_GetObjectItemCaseSensitive(canonical, PLAN_TABLE[s].name);
            const cJSON *wanted = cJSON_GetObjectItemCaseSensitive(given, "default");
            const cJSON *is = cJSON_GetObjectItemCaseSensitive(object, key);
            bool is_free = strcmp(key, "moebius_plan") == 0 || strcmp(key, "slots") == 0 ||
                           strcmp(key, "bytes") == 0 || strcmp(key, "mode") == 0;
            if (!is_free && !cJSON_Compare(is, wanted, true))
                fail_msg("%s.%s: the schema has another default", PLAN_TABLE[s].name, key);
        }
    cJSON_Delete(canonical);
    cJSON_Delete(schema);
}

static void every_failed_allocation_of_a_plan_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    const char *path = scratch_path("memory.json");
    static const char text[] =
        "{\"moebius_plan\": 1, \"buffer\": {\"slots\": 3, \"evict\": \"static\","
        " \"hot\": {\"5\": [2, 1], \"3\": [0]}}}";
    assert_ok(file_write_all(path, text, sizeof text - 1));
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Plan plan = {0};
        char *canonical = NULL;
        Status status = plan_load(path, &plan);
        if (status == OK)
            status = plan_to_text(&plan, &canonical);
        mem_free(canonical);
        plan_free(&plan);
        failing_end(&failing, status);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_of_nothing_is_the_default),
        cmocka_unit_test(the_full_plan_is_read),
        cmocka_unit_test(refusals_name_the_path_and_what_is_allowed),
        cmocka_unit_test(what_is_no_plan_at_all_is_refused),
        cmocka_unit_test(deep_large_and_absent_files_are_refused),
        cmocka_unit_test(plans_survive_the_way_to_json_and_back),
        cmocka_unit_test(set_writes_one_value_by_its_path),
        cmocka_unit_test(the_schema_says_what_the_parser_does),
        cmocka_unit_test(the_schema_has_the_defaults_of_the_parser),
        cmocka_unit_test(every_failed_allocation_of_a_plan_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
