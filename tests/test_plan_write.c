/* Plans as they are written, whole and by --set. */
#include "base/status.h"
#include "tests/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "policies/buffer.h"
#include "tests/plan_maker.h"

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
        assert_ok(parse_plan(text, &read));
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

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_survive_the_way_to_json_and_back),
        cmocka_unit_test(set_writes_one_value_by_its_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
