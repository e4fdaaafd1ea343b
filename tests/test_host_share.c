#include "tests/reference_buffer.h"

#include <stdio.h>

#include "base/memory.h"
#include "policies/host_share.h"
#include "policies/plan_measured.h"
#include "sim/replay.h"
#include "tests/action_log.h"

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* The larger side where SET (bits) is loaded. */
static uint64_t time_of(const ShareCosts *costs, const uint64_t *host_ns, uint32_t n, uint32_t set)
{
    uint64_t loads = 0;
    uint64_t host = 0;
    for (uint32_t i = 0; i < n; i++) {
        loads += set >> i & 1 ? costs->load_ns : 0;
        host += set >> i & 1 ? 0 : host_ns[i];
    }
    loads += loads > 0 ? costs->load_event_ns : 0;
    host += host > 0 ? costs->host_event_ns : 0;
    return larger(loads, host);
}

/* Of all sets, the one with the least time, then the fewest loads, then the costliest loaded, lower
 * positions first: what that order says of two sets is said by the first in which they differ. */
static uint32_t best_set(const ShareCosts *costs, const uint64_t *host_ns, uint32_t n)
{
    uint32_t order[16];
    uint32_t best = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = i;
        for (; at > 0 && host_ns[order[at - 1]] < host_ns[i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    for (uint32_t set = 1; set < UINT32_C(1) << n; set++) {
        uint64_t is = time_of(costs, host_ns, n, set);
        uint64_t was = time_of(costs, host_ns, n, best);
        int fewer = __builtin_popcount(best) - __builtin_popcount(set);
        if (is > was || (is == was && fewer < 0))
            continue;
        uint32_t i = 0;
        while (i < n && (set >> order[i] & 1) == (best >> order[i] & 1))
            i++;
        if (is < was || fewer > 0 || (i < n && (set >> order[i] & 1)))
            best = set;
    }
    return best;
}

static void split_is_the_best_of_all_choices(void **unused)
{
    (void)unused;
    uint64_t state = 5;
    uint32_t seen[3] = {0}; /* all on the host, some, all loaded */
    for (int round = 0; round < 4000; round++) {
        uint32_t n = random_below(&state, 12);
        uint32_t spread = 1 + random_below(&state, 60);
        ShareCosts costs = {.load_ns = 1 + random_below(&state, 60)};
        uint64_t host_ns[16];
        if (round % 2 == 1) {
            costs.host_event_ns = random_below(&state, 100);
            costs.load_event_ns = random_below(&state, 100);
        }
        HostMiss misses[16];
        for (uint32_t i = 0; i < n; i++) {
            host_ns[i] = 1 + random_below(&state, spread);
            misses[i] = (HostMiss){host_ns[i], i};
        }
        uint32_t loads = host_share_split(&costs, misses, n);
        uint32_t loaded = 0;
        uint32_t all = 0;
        for (uint32_t i = 0; i < n; i++) {
            all |= UINT32_C(1) << misses[i].at;
            loaded |= i < loads ? UINT32_C(1) << misses[i].at : 0;
            assert_true(misses[i].host_ns == host_ns[misses[i].at]);
        }
        assert_int_equal(all, (UINT32_C(1) << n) - 1);
        uint32_t wanted = best_set(&costs, host_ns, n);
        if (loaded != wanted)
            fail_msg("round %d: loads %x, the best is %x", round, loaded, wanted);
        seen[n > 0 && loads == n ? 2 : loads > 0]++;
    }
    assert_true(seen[0] > 100 && seen[1] > 1000 && seen[2] > 20);
}

/* A table of one layer, 7, with POINTS[n] of [rows, ns]. */
static PlanTable *points_table(const uint32_t (*points)[2], uint32_t n)
{
    PlanTable *table;
    assert_ok(plan_table_new(TABLE_ROWS, 1, n, 2 * n, &table));
    PlanTableParts parts = plan_table_parts(table);
    parts.layer[0] = 7;
    parts.first_row[1] = n;
    for (uint32_t i = 0; i < n; i++) {
        parts.first_value[i + 1] = 2 * (i + 1);
        memcpy(parts.value + 2 * i, points[i], sizeof points[i]);
    }
    return table;
}

static void host_costs_are_the_points_and_lines_between_them(void **unused)
{
    (void)unused;
    static const uint32_t POINTS[][2] = {{2, 100}, {4, 100}, {10, 401}, {30, 3000}};
    static const uint32_t WANTED[][2] = {{1, 100},   {2, 100},   {3, 100},        {4, 100},
                                         {5, 150},   {9, 350},   {10, 401},       {20, 1700},
                                         {30, 3000}, {31, 3100}, {60000, 6000000}};
    PlanTable *table = points_table(POINTS, 4);
    for (size_t i = 0; i < sizeof WANTED / sizeof WANTED[0]; i++)
        assert_int_equal(host_share_ns(table, 0, WANTED[i][0]), WANTED[i][1]);
    plan_table_release(table);
}

/* Random costs of each layer, for mode split. */
static void give_costs(const RefTrace *trace, uint64_t *state, Plan *plan)
{
    uint32_t n = trace->n_layers;
    uint32_t rows[REF_LAYERS][3];
    uint32_t host_ns[REF_LAYERS][3];
    ExpertCosts costs[REF_LAYERS];
    plan->compute.host_ns.choice = COMPUTE_COSTS_MEASURED;
    plan->compute.load_ns.choice = COMPUTE_COSTS_MEASURED;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t points = 1 + random_below(state, 3);
        for (uint32_t at = 0; at < points; at++) {
            rows[i][at] = (at > 0 ? rows[i][at - 1] : 0) + 1 + random_below(state, 3);
            host_ns[i][at] = (at > 0 ? host_ns[i][at - 1] : 1) + random_below(state, 40);
        }
        costs[i] = (ExpertCosts){points,
                                 rows[i],
                                 host_ns[i],
                                 1 + random_below(state, 60),
                                 {random_below(state, 80), random_below(state, 80)}};
    }
    if (random_below(state, 2) == 0)
        plan->compute.event_ns.choice = COMPUTE_COSTS_MEASURED;
    assert_ok(plan_measure(plan, trace->layers, n, costs));
    assert_null(plan_unmeasured(plan));
}

/* What the tables of PLAN say in plain arithmetic. */
static uint64_t plain_host_ns(const Plan *plan, uint32_t layer, uint32_t rows)
{
    const PlanTable *table = plan->compute.host_ns.table;
    uint32_t at = plan_table_find(table, layer);
    uint32_t n = plan_table_rows(table, at);
    const uint32_t *last = plan_table_row(table, at, n - 1).values;
    if (rows > last[0])
        return (uint64_t)last[1] * rows / last[0];
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t *here = plan_table_row(table, at, i).values;
        if (rows <= here[0] && i == 0)
            return here[1];
        if (rows == here[0])
            return here[1];
        if (rows < here[0]) {
            const uint32_t *low = plan_table_row(table, at, i - 1).values;
            return low[1] + (uint64_t)(here[1] - low[1]) * (rows - low[0]) / (here[0] - low[0]);
        }
    }
    return 0;
}

/* The experts of EVENT that the host computes, as bits of positions. */
static uint32_t on_host(const RefBuffer *buffer, const Plan *plan, const RefEvent *event)
{
    uint32_t at[REF_EXPERTS];
    uint64_t host_ns[REF_EXPERTS];
    uint32_t misses = 0;
    uint32_t n = 0;
    uint32_t layer = buffer->trace->layers[event->layer].layer;
    for (uint32_t i = 0; i < event->n; i++) {
        if (buffer->experts[event->layer][event->experts[i]].resident)
            continue;
        misses |= UINT32_C(1) << i;
        at[n] = i;
        if (plan->compute.mode == COMPUTE_SPLIT)
            host_ns[n] = plain_host_ns(plan, layer, event->tokens[i]);
        n++;
    }
    if (plan->compute.mode == COMPUTE_ON_HOST)
        return misses;
    const uint32_t *event_ns = plan_table_list(plan->compute.event_ns.table, layer).values;
    const ShareCosts costs = {plan_table_list(plan->compute.load_ns.table, layer).values[0],
                              event_ns != NULL ? event_ns[0] : 0,
                              event_ns != NULL ? event_ns[1] : 0};
    uint32_t loaded = best_set(&costs, host_ns, n);
    for (uint32_t i = 0; i < n; i++)
        if (loaded >> i & 1)
            misses &= ~(UINT32_C(1) << at[i]);
    return misses;
}

/* EVENT without the experts of HOST, and the actions that these are. */
static void take_out(RefBuffer *buffer, RefEvent *event, uint32_t host, BufferCounts *counts)
{
    RefEvent rest = *event;
    rest.n = rest.n_touches = 0;
    for (uint32_t i = 0; i < event->n; i++) {
        if (host >> i & 1) {
            ref_act(buffer, RESIDENCY_HOST, event->layer, event->experts[i], UINT32_MAX);
            counts->host_computed++;
            counts->host_rows += event->tokens[i];
            continue;
        }
        rest.experts[rest.n++] = event->experts[i];
    }
    for (uint32_t j = 0; j < event->n_touches; j++)
        for (uint32_t i = 0; i < rest.n; i++)
            if (event->touches[j] == rest.experts[i])
                rest.touches[rest.n_touches++] = event->touches[j];
    *event = rest;
}

static void run(const RefTrace *trace, const Plan *plan, Log *log, ReplayResult *result)
{
    ReplayFuture future = {0};
    assert_ok(
        replay_run(&trace->packed, plan, &future, log != NULL ? log_append : NULL, log, result));
}

/* Follows the plain reference, whose events lose what the host computes before it sees them. */
static void check_against_reference(const RefTrace *trace, const Plan *plan)
{
    static RefTrace rest;
    static RefBuffer reference;
    size_t most = 3 * trace->packed.n_lookups + REF_LAYERS * REF_EXPERTS;
    Log log = {0};
    BufferCounts wanted = {0};
    ReplayResult result;
    ReplayResult fast;
    run(trace, plan, &log, &result);
    run(trace, plan, NULL, &fast);
    rest = *trace;
    ref_start(&reference, &rest, plan, most);
    for (; reference.event < rest.n_events; reference.event++) {
        RefEvent *event = &rest.events[reference.event];
        take_out(&reference, event, on_host(&reference, plan, event), &wanted);
        ref_event(&reference, event);
    }
    assert_int_equal(log.n, reference.n_actions);
    for (size_t i = 0; i < log.n; i++) {
        const BufferAction *is = &log.actions[i];
        const BufferAction *must = &reference.actions[i];
        if (is->kind != must->kind || is->layer_index != must->layer_index ||
            is->expert != must->expert || is->slot != must->slot)
            fail_msg("%s %s %s: action %zu: %s %u.%u in %u, the reference has %s %u.%u in %u",
                     plan->buffer.evict, plan_order_name(plan->buffer.order),
                     plan_compute_name(plan->compute.mode), i, residency_kind_name(is->kind),
                     is->layer_index, is->expert, is->slot, residency_kind_name(must->kind),
                     must->layer_index, must->expert, must->slot);
    }
    const BufferCounts *counts = &result.total.counts;
    assert_int_equal(counts->host_computed, wanted.host_computed);
    assert_int_equal(counts->host_rows, wanted.host_rows);
    assert_int_equal(counts->misses, counts->loads + counts->host_computed);
    assert_int_equal(counts->hits + counts->misses, trace->packed.n_lookups);
    assert_memory_equal(&fast.total, &result.total, sizeof fast.total);
    replay_result_free(&fast);
    replay_result_free(&result);
    free(reference.actions);
    free(log.actions);
}

static void the_buffer_sees_what_the_host_leaves_of_an_event(void **unused)
{
    (void)unused;
    static RefTrace trace;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        uint64_t state = seed;
        ref_trace_make(&trace, seed, 30);
        for (const char *const *name = eviction_names(); *name != NULL; name++)
            for (int kind = 0; kind < 4 * REPLAY_ORDERS; kind++) {
                Plan plan = plan_default();
                plan.buffer.on = true;
                plan.buffer.order = (ReplayOrder)(kind / 4);
                plan.buffer.scope = kind & 1 ? SCOPE_DEVICE : SCOPE_LAYER;
                plan.compute.mode = kind & 2 ? COMPUTE_SPLIT : COMPUTE_ON_HOST;
                plan.buffer.slots = 1 + random_below(&state, kind & 1 ? 40 : 12);
                snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", *name);
                if (eviction_needs_future(*name) || eviction_needs_scores(*name) ||
                    (plan.buffer.order == ORDER_SERIAL && (kind & 2)))
                    continue;
                ref_random_learned(&trace, &state, &plan);
                if (kind & 2)
                    give_costs(&trace, &state, &plan);
                check_against_reference(&trace, &plan);
                plan_free(&plan);
            }
        ref_trace_free(&trace);
    }
}

/* Under host nothing is ever loaded on demand, so who is resident at the start stays. */
static void host_keeps_what_the_plan_begins_with(void **unused)
{
    (void)unused;
    static RefTrace trace;
    ref_trace_make(&trace, 11, 30);
    Plan plan = plan_default();
    uint64_t state = 4;
    ReplayResult result;
    plan.buffer.on = true;
    plan.buffer.slots = 5;
    plan.compute.mode = COMPUTE_ON_HOST;
    plan.buffer.initial.table = ref_random_lists(&trace, &plan, &state);
    run(&trace, &plan, NULL, &result);
    uint64_t hits = 0;
    for (uint32_t e = 0; e < trace.n_events; e++)
        for (uint32_t i = 0; i < trace.events[e].n; i++)
            hits += ref_is_listed(&trace, plan.buffer.initial.table, trace.events[e].layer,
                                  trace.events[e].experts[i]);
    assert_true(hits > 0);
    assert_int_equal(result.total.counts.hits, hits);
    assert_int_equal(result.total.counts.loads, 0);
    assert_int_equal(result.total.counts.evictions, 0);
    replay_result_free(&result);
    plan_free(&plan);
    ref_trace_free(&trace);
}

static void costs_that_lack_a_layer_are_refused(void **unused)
{
    (void)unused;
    static const uint32_t POINTS[][2] = {{1, 10}};
    const TraceLayer layers[] = {{.layer = 7, .experts = 4, .top_k = 1},
                                 {.layer = 9, .experts = 4, .top_k = 1}};
    ExpertBuffer *buffer;
    Plan plan = plan_default();
    PlanTable *host_ns = points_table(POINTS, 1);
    PlanTable *load_ns;
    plan.buffer.on = true;
    plan.buffer.slots = 2;
    plan.compute.mode = COMPUTE_SPLIT;
    plan.compute.host_ns.choice = plan.compute.load_ns.choice = COMPUTE_COSTS_MEASURED;
    assert_int_equal(buffer_new(&plan, layers, 1, &buffer), ERR_PLAN);
    assert_non_null(strstr(error_message(), "compute.host_ns: must be measured before"));
    assert_ok(plan_table_new(TABLE_NUMBERS, 1, 1, 1, &load_ns));
    PlanTableParts parts = plan_table_parts(load_ns);
    parts.layer[0] = 7;
    parts.first_row[1] = parts.first_value[1] = parts.value[0] = 1;
    plan_learn(&plan.compute.host_ns, host_ns);
    plan_learn(&plan.compute.load_ns, load_ns);
    plan_table_release(host_ns);
    plan_table_release(load_ns);
    assert_int_equal(buffer_new(&plan, layers, 2, &buffer), ERR_PLAN);
    assert_non_null(strstr(error_message(), "layer 9 is missing"));
    assert_ok(buffer_new(&plan, layers, 1, &buffer));
    buffer_free(buffer);
    plan_free(&plan);
}

static void measured_costs_must_ascend(void **unused)
{
    (void)unused;
    static const uint32_t ROWS[] = {1, 4, 4};
    static const uint32_t NS[] = {10, 9, 11};
    const TraceLayer layer = {.layer = 3, .experts = 4, .top_k = 1};
    Plan plan = plan_default();
    plan.compute.host_ns.choice = COMPUTE_COSTS_MEASURED;
    ExpertCosts costs = {.n = 2, .rows = ROWS, .host_ns = NS, .load_ns = 1};
    assert_int_equal(plan_measure(&plan, &layer, 1, &costs), ERR_INPUT);
    assert_non_null(strstr(error_message(), "compute.host_ns: 3: [4, 9] after [1, 10]"));
    costs = (ExpertCosts){.n = 2, .rows = ROWS + 1, .host_ns = NS + 1, .load_ns = 1};
    assert_int_equal(plan_measure(&plan, &layer, 1, &costs), ERR_INPUT);
    costs.n = 0;
    assert_int_equal(plan_measure(&plan, &layer, 1, &costs), ERR_INPUT);
    costs.n = 1;
    assert_ok(plan_measure(&plan, &layer, 1, &costs));
    plan_free(&plan);
}

static void put(CostTable *table, double active, double rows, double value)
{
    const double at[] = {rows, active};
    assert_ok(cost_table_put(table, at, value, 0));
}

/* A machine that computes calls of 4 experts at three numbers of rows, of 1 at one, and copies. */
static void make_profile(Hardware *hardware)
{
    static const char *const AXES[] = {"rows", "active"};
    static const char *const BYTES[] = {"bytes"};
    static const char *const TOKENS[] = {"tokens"};
    HardwareModel *model;
    CostTable *table;
    *hardware = (Hardware){.backend = "cpu", .device = "a machine"};
    assert_ok(hardware_add_model(hardware, "dir/m", &model));
    assert_ok(mem_new(&model->ops[0], 1, sizeof(HardwareOp), "ops"));
    model->ops[0][0] = (HardwareOp){.layer = 3, .op = OP_EXPERTS, .shape = "d8"};
    model->n_ops[0] = 1;
    assert_ok(mem_new(&model->slots, 1, sizeof *model->slots, "slots"));
    model->slots[0] = (HardwareSlots){.layer = 3, .experts = 8, .slot_bytes = 3000};
    model->n_slots = 1;
    assert_ok(hardware_add_table(hardware, "host/experts", "d8", UNIT_NS, AXES, 2, &table));
    put(table, 1, 1, 70);
    put(table, 4, 1, 190);
    put(table, 4, 2.5, 900); /* no whole number of rows */
    put(table, 4, 8, 180);
    put(table, 4, 16, 1000);
    assert_ok(hardware_add_table(hardware, "host/fetch", "d8", UNIT_NS, AXES, 1, &table));
    assert_ok(cost_table_put(table, (const double[]){1}, 500, 0));
    assert_ok(hardware_add_table(hardware, "issue/experts", "d8", UNIT_NS, TOKENS, 1, &table));
    assert_ok(cost_table_put(table, (const double[]){1}, 9, 0));
    assert_ok(cost_table_put(table, (const double[]){2}, 7, 0));
    assert_ok(hardware_add_table(hardware, "copy/h2d", "", UNIT_NS, BYTES, 1, &table));
    assert_ok(cost_table_put(table, (const double[]){1000}, 100, 0));
    assert_ok(cost_table_put(table, (const double[]){5000}, 300, 0));
}

static void a_profile_gives_the_costs_that_a_plan_leaves_to_be_measured(void **unused)
{
    (void)unused;
    static const uint32_t WANTED[][2] = {{1, 40}, {8, 45}, {16, 250}};
    const TraceLayer layers[] = {{.layer = 3, .experts = 8, .expert_bytes = 6000},
                                 {.layer = 4, .experts = 8, .expert_bytes = 6000}};
    Hardware hardware;
    make_profile(&hardware);
    Plan plan = plan_default();
    assert_ok(plan_measure_on(&plan, &hardware, "other", layers, 2)); /* nothing to be measured */
    plan.compute.host_ns.choice = plan.compute.load_ns.choice = COMPUTE_COSTS_MEASURED;
    assert_int_equal(plan_measure_on(&plan, &hardware, "other", layers, 1), ERR_INPUT);
    assert_non_null(strstr(error_message(), "has no model other"));
    assert_int_equal(plan_measure_on(&plan, &hardware, "m", layers, 2), ERR_INPUT);
    assert_non_null(strstr(error_message(), "no table host/experts for layer 4"));
    assert_ok(plan_measure_on(&plan, &hardware, "m", layers, 1));
    assert_null(plan_unmeasured(&plan));
    assert_int_equal(plan_table_rows(plan.compute.host_ns.table, 0), 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_memory_equal(plan_table_row(plan.compute.host_ns.table, 0, i).values, WANTED[i],
                            sizeof WANTED[i]);
    assert_int_equal(plan_table_list(plan.compute.load_ns.table, 3).values[0], 200);
    assert_null(plan.compute.event_ns.table);
    plan_free(&plan);
    plan = plan_default();
    plan.compute.event_ns.choice = COMPUTE_COSTS_MEASURED;
    assert_ok(plan_measure_on(&plan, &hardware, "m", layers, 1));
    /* What a call of one expert takes beyond one more, queueing the hits, and fetching. */
    assert_int_equal(plan_table_list(plan.compute.event_ns.table, 3).values[0], 30 + 7 + 500);
    assert_int_equal(plan_table_list(plan.compute.event_ns.table, 3).values[1], 0);
    plan_free(&plan);
    plan = plan_default();
    plan.compute.load_ns.choice = COMPUTE_COSTS_MEASURED;
    plan.link.h2d_gb_per_s = 12; /* 6000 bytes take longer over it */
    assert_ok(plan_measure_on(&plan, &hardware, "m", layers, 1));
    assert_int_equal(plan_table_list(plan.compute.load_ns.table, 3).values[0], 500);
    plan_free(&plan);
    hardware_free(&hardware);
}

/* Profiles may say up to 10^18 ns. */
static void costs_that_a_plan_cannot_hold_are_the_most_that_it_can(void **unused)
{
    (void)unused;
    static const char *const ROWS[] = {"rows"};
    const TraceLayer layer = {.layer = 3, .experts = 8, .expert_bytes = 6000};
    Hardware hardware;
    CostTable *table;
    make_profile(&hardware);
    assert_ok(hardware_add_table(&hardware, "host/fetch", "d8", UNIT_NS, ROWS, 1, &table));
    table->value[0] = 1e18;
    assert_ok(hardware_add_table(&hardware, "lag", "", UNIT_NS, ROWS, 1, &table));
    assert_ok(cost_table_put(table, (const double[]){1}, 1e18, 0));
    assert_ok(hardware_add_table(&hardware, "host/experts", "d8", UNIT_NS, NULL, 0, &table));
    put(table, 4, 1e12, 2000); /* more rows than a plan counts */
    Plan plan = plan_default();
    plan.compute.host_ns.choice = plan.compute.event_ns.choice = COMPUTE_COSTS_MEASURED;
    assert_ok(plan_measure_on(&plan, &hardware, "m", &layer, 1));
    assert_int_equal(plan_table_rows(plan.compute.host_ns.table, 0), 3);
    for (int side = 0; side < 2; side++)
        assert_true(plan_table_list(plan.compute.event_ns.table, 3).values[side] == UINT32_MAX);
    plan_free(&plan);
    hardware_free(&hardware);
}

static void every_failed_allocation_in_measuring_leaves_the_plan_whole(void **unused)
{
    (void)unused;
    static const uint32_t ROWS[] = {1};
    static const uint32_t NS[] = {10};
    const TraceLayer layer = {.layer = 3, .experts = 4, .top_k = 1};
    const ExpertCosts costs = {.n = 1, .rows = ROWS, .host_ns = NS, .load_ns = 1};
    FailingAllocation failing = {0};
    while (failing_next(&failing)) {
        Plan plan = plan_default();
        plan.compute.host_ns.choice = plan.compute.load_ns.choice = COMPUTE_COSTS_MEASURED;
        plan.compute.event_ns.choice = COMPUTE_COSTS_MEASURED;
        Status status = plan_measure(&plan, &layer, 1, &costs);
        failing_end(&failing, status);
        int64_t held = (plan.compute.host_ns.table != NULL) + (plan.compute.load_ns.table != NULL) +
                       (plan.compute.event_ns.table != NULL);
        assert_int_equal(mem_live_blocks(), failing.live_blocks + held);
        plan_free(&plan);
    }
    assert_true(failing.k > 3);
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    const TraceLayer layer = {.layer = 3, .experts = 4, .top_k = 1};
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.slots = 2;
    plan.compute.mode = COMPUTE_ON_HOST;
    FailingAllocation failing = {0};
    while (failing_next(&failing)) {
        ExpertBuffer *buffer;
        Status status = buffer_new(&plan, &layer, 1, &buffer);
        failing_end(&failing, status);
        if (status == OK)
            buffer_free(buffer);
    }
    assert_true(failing.k > 9);
}

/* Taking both sides would cost more than either alone. */
static void tiny_experts_go_one_way_together(void **unused)
{
    (void)unused;
    const ShareCosts few = {.load_ns = 10, .host_event_ns = 90, .load_event_ns = 20};
    HostMiss misses[3];
    for (uint32_t n = 1; n <= 3; n++) {
        for (uint32_t i = 0; i < n; i++)
            misses[i] = (HostMiss){5, i};
        assert_int_equal(host_share_split(&few, misses, n), n);
    }
    const ShareCosts slow = {.load_ns = 10, .host_event_ns = 20, .load_event_ns = 90};
    assert_int_equal(host_share_split(&slow, misses, 3), 0);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_is_the_best_of_all_choices),
        cmocka_unit_test(tiny_experts_go_one_way_together),
        cmocka_unit_test(host_costs_are_the_points_and_lines_between_them),
        cmocka_unit_test(the_buffer_sees_what_the_host_leaves_of_an_event),
        cmocka_unit_test(host_keeps_what_the_plan_begins_with),
        cmocka_unit_test(costs_that_lack_a_layer_are_refused),
        cmocka_unit_test(measured_costs_must_ascend),
        cmocka_unit_test(a_profile_gives_the_costs_that_a_plan_leaves_to_be_measured),
        cmocka_unit_test(costs_that_a_plan_cannot_hold_are_the_most_that_it_can),
        cmocka_unit_test(every_failed_allocation_in_measuring_leaves_the_plan_whole),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
