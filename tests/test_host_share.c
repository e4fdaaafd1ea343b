/* Which misses the host computes. */
#include "tests/reference_buffer.h"

#include <stdio.h>

#include "base/memory.h"
#include "policies/host_share.h"
#include "sim/replay.h"
#include "tests/action_log.h"
#include "tests/points_maker.h"

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
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
