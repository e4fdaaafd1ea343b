/* Slots of a budget that layers share, as the training part wants them. */
#include "tests/reference_prefetch.h"

#include <stdio.h>

#include "base/memory.h"
#include "sim/parts.h"
#include "sim/replay.h"
#include "sim/sweep_learn.h"
#include "tests/train_maker.h"

static BufferCounts counts_of(const Plan *plan)
{
    ReplayFuture future = {0};
    ReplayResult result;
    assert_ok(replay_prepare(&trace.packed, plan, &future));
    assert_ok(replay_run(&trace.packed, plan, &future, NULL, NULL, &result));
    BufferCounts counts = result.total.counts;
    replay_result_free(&result);
    replay_future_free(&future);
    return counts;
}

static uint64_t bytes_loaded(const Plan *plan)
{
    BufferCounts counts = counts_of(plan);
    return counts.bytes_loaded + counts.bytes_prefetched;
}

static PlanTable *table_of_slots(const uint32_t *slots)
{
    PlanTable *table;
    uint32_t n = trace.n_layers;
    assert_ok(plan_table_new(TABLE_NUMBERS, n, n, n, &table));
    PlanTableParts parts = plan_table_parts(table);
    for (uint32_t i = 0; i < n; i++) {
        parts.layer[i] = trace.layers[i].layer;
        parts.first_row[i + 1] = i + 1;
        parts.first_value[i + 1] = i + 1;
        parts.value[i] = slots[i];
    }
    return table;
}

/* The fewest bytes of all shares of the budget, each replayed; what is learnt besides is learnt for
 * each. */
static uint64_t try_all_shares(const Plan *plan, const TraceParts *parts, uint32_t layer,
                               uint32_t *slots, uint64_t left)
{
    uint64_t best = UINT64_MAX;
    if (layer >= trace.n_layers || layer >= REF_LAYERS) {
        Plan given = *plan;
        Plan learnt;
        given.buffer.budget = (PlanLearned){.table = table_of_slots(slots)};
        assert_ok(learn_plan(&trace.packed, NULL, parts, &given, &learnt));
        best = bytes_loaded(&learnt);
        plan_free(&learnt);
        plan_free(&given);
        return best;
    }
    uint64_t weight = plan->buffer.bytes > 0 ? trace.layers[layer].expert_bytes : 1;
    uint32_t least = plan->buffer.order == ORDER_STAGED ? 0 : 1;
    for (uint32_t n = least; n <= trace.layers[layer].experts && n * weight <= left; n++) {
        slots[layer] = n;
        uint64_t bytes = try_all_shares(plan, parts, layer + 1, slots, left - n * weight);
        best = bytes < best ? bytes : best;
    }
    return best;
}

/* Makes a trace of few enough shares to try them all. */
static void make_small_trace(uint64_t *state)
{
    do {
        if (trace.packed.layers != NULL)
            ref_trace_free(&trace);
        ref_trace_make(&trace, random_next(state), 20);
    } while (trace.n_layers > 3);
}

static void optimal_budgets_load_no_more_than_any_other_where_they_were_learnt(void **unused)
{
    (void)unused;
    static const char *const EVICT[] = {"lru",    "fifo",         "lfu",    "lifo-inactive-first",
                                        "belady", "belady-admit", "static", "s3-fifo"};
    uint64_t state = 11;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        uint32_t slots[REF_LAYERS];
        Plan learnt;
        make_small_trace(&state);
        Plan plan = make_plan(EVICT[seed % 8], (ReplayOrder)random_below(&state, REPLAY_ORDERS),
                              SCOPE_LAYER, 1 + random_below(&state, 4));
        if (random_below(&state, 2)) {
            plan.buffer.bytes = 300 + 100 * plan.buffer.slots;
            plan.buffer.slots = 0;
        }
        plan.buffer.budget.choice = BUDGET_OPTIMAL;
        plan.buffer.hot.choice = eviction_needs_hot(plan.buffer.evict) ? HOT_HOTTEST : HOT_NONE;
        if (!eviction_needs_future(plan.buffer.evict) && random_below(&state, 2))
            plan.buffer.initial.choice = HOT_HOTTEST;
        const TraceParts parts = {
            .trains = true, .train = {0, trace.packed.n_steps}, .test = {0, trace.packed.n_steps}};
        uint64_t each = plan.buffer.bytes > 0 ? plan.buffer.bytes : plan.buffer.slots;
        assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt));
        uint64_t bytes = bytes_loaded(&learnt);
        uint64_t best = try_all_shares(&plan, &parts, 0, slots, each * trace.n_layers);
        if (bytes != best)
            fail_msg("trace %llu: %s, order %s: loads %llu bytes, the fewest are %llu",
                     (unsigned long long)seed, plan.buffer.evict,
                     plan_order_name(plan.buffer.order), (unsigned long long)bytes,
                     (unsigned long long)best);
        plan_free(&learnt);
    }
    ref_trace_free(&trace);
}

/* With distance 1 all that is in flight is of one layer, so that layers do not depend on each
 * other. Farther ahead they may: then equal shares are the bound. */
static void optimal_budgets_count_what_is_loaded_ahead(void **unused)
{
    (void)unused;
    static const char *const PREDICTORS[] = {"frequency", "previous-step", "transition", "oracle",
                                             "synthetic:0.8,0.5"};
    static const char *const EVICT[] = {"lru", "lfu", "lifo-inactive-first", "static", "arc"};
    uint64_t state = 12;
    uint64_t prefetches = 0;
    for (uint64_t seed = 0; seed < 100; seed++) {
        uint32_t slots[REF_LAYERS];
        Plan learnt;
        Plan equal;
        make_small_trace(&state);
        Plan plan = make_plan(EVICT[seed % 5], (ReplayOrder)random_below(&state, REPLAY_ORDERS),
                              SCOPE_LAYER, 1 + random_below(&state, 4));
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s",
                 PREDICTORS[seed / 5 % 5]);
        plan.prefetch.distance = 1 + random_below(&state, 2);
        if (strcmp(plan.prefetch.predictor, "oracle") == 0)
            snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "oracle:%u",
                     plan.prefetch.distance);
        if (seed / 5 % 5 == 0 || seed / 5 % 5 == 2)
            plan.prefetch.table.choice = random_below(&state, 2) ? TABLE_TRAINED : 0;
        plan.prefetch.max_inflight = 1 + random_below(&state, 3);
        plan.buffer.budget.choice = BUDGET_OPTIMAL;
        plan.buffer.hot.choice = eviction_needs_hot(plan.buffer.evict) ? HOT_HOTTEST : HOT_NONE;
        const TraceParts parts = {
            .trains = true, .train = {0, trace.packed.n_steps}, .test = {0, trace.packed.n_steps}};
        assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt));
        uint64_t bytes = bytes_loaded(&learnt);
        plan_free(&learnt);
        plan.buffer.budget.choice = BUDGET_UNIFORM;
        assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &equal));
        assert_true(bytes <= bytes_loaded(&equal));
        prefetches += counts_of(&equal).prefetches;
        plan_free(&equal);
        uint64_t best =
            try_all_shares(&plan, &parts, 0, slots, (uint64_t)plan.buffer.slots * trace.n_layers);
        if (plan.prefetch.distance == 1 ? bytes != best : bytes < best)
            fail_msg("trace %llu: %s, order %s, %s: loads %llu bytes, the fewest are %llu",
                     (unsigned long long)seed, plan.buffer.evict,
                     plan_order_name(plan.buffer.order), plan.prefetch.predictor,
                     (unsigned long long)bytes, (unsigned long long)best);
    }
    print_message("%llu prefetches\n", (unsigned long long)prefetches);
    assert_true(prefetches > 100);
    ref_trace_free(&trace);
}

/* The first N experts of each of N_LAYERS, or all it has. */
static PlanTable *table_of_first(uint32_t n, uint32_t n_layers)
{
    PlanTable *table;
    uint32_t used = 0;
    for (uint32_t i = 0; i < n_layers; i++)
        used += n < trace.layers[i].experts ? n : trace.layers[i].experts;
    assert_ok(plan_table_new(TABLE_LISTS, n_layers, n_layers, used, &table));
    PlanTableParts parts = plan_table_parts(table);
    used = 0;
    for (uint32_t i = 0; i < n_layers; i++) {
        parts.layer[i] = trace.layers[i].layer;
        parts.first_row[i + 1] = i + 1;
        for (uint32_t e = 0; e < n && e < trace.layers[i].experts; e++)
            parts.value[used++] = e;
        parts.first_value[i + 1] = used;
    }
    return table;
}

static void every_layer_keeps_room_for_the_lists_of_the_plan(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        Plan learnt;
        uint32_t n = 1 + seed % 3;
        ref_trace_make(&trace, seed, 20);
        Plan plan = make_plan(seed % 2 ? "static" : "lfu", (ReplayOrder)(seed % REPLAY_ORDERS),
                              SCOPE_LAYER, n + seed % 2);
        plan.buffer.budget.choice = seed % 5 < 3 ? BUDGET_OPTIMAL : BUDGET_SKEW;
        plan.buffer.initial.table = table_of_first(n, trace.n_layers);
        if (seed % 2)
            plan.buffer.hot.table = table_of_first(n, trace.n_layers);
        const TraceParts parts = {
            .trains = true, .train = {0, trace.packed.n_steps}, .test = {0, trace.packed.n_steps}};
        assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt));
        for (uint32_t i = 0; i < trace.n_layers; i++) {
            uint32_t slots =
                plan_table_list(learnt.buffer.budget.table, trace.layers[i].layer).values[0];
            assert_true(slots >= (n < trace.layers[i].experts ? n : trace.layers[i].experts));
        }
        bytes_loaded(&learnt); /* it can be replayed */
        plan_free(&learnt);
        plan_free(&plan);
        ref_trace_free(&trace);
    }
    ref_trace_make(&trace, 1, 20);
    Plan plan = make_plan("lru", ORDER_BATCH, SCOPE_LAYER, 1);
    Plan learnt;
    plan.buffer.budget.choice = BUDGET_OPTIMAL;
    plan.buffer.initial.table = table_of_first(REF_EXPERTS, trace.n_layers);
    const TraceParts parts = {.trains = true, .train = {0, 1}, .test = {0, 1}};
    assert_int_equal(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt), ERR_PLAN);
    assert_non_null(strstr(error_message(), "buffer.budget: what the layers keep and begin with"));
    plan_free(&plan);
    ref_trace_free(&trace);
}

/* One layer begins with more than an equal share, which is then no choice. */
static void a_list_may_take_more_than_an_equal_share(void **unused)
{
    (void)unused;
    uint32_t cases = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        Plan learnt;
        ref_trace_make(&trace, seed, 20);
        Plan plan = make_plan("lru", (ReplayOrder)(seed % REPLAY_ORDERS), SCOPE_LAYER, 2);
        plan.buffer.budget.choice = BUDGET_OPTIMAL;
        plan.buffer.initial.table = table_of_first(3, 1);
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "frequency");
        plan.prefetch.distance = 2;
        const TraceParts parts = {
            .trains = true, .train = {0, trace.packed.n_steps}, .test = {0, trace.packed.n_steps}};
        if (trace.n_layers > 1 && trace.layers[0].experts >= 3) {
            assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt));
            bytes_loaded(&learnt); /* it can be replayed */
            plan_free(&learnt);
            cases++;
        }
        plan_free(&plan);
        ref_trace_free(&trace);
    }
    assert_true(cases > 10);
}

/* A layer that needs all its experts alike beside one that needs the same two always. */
static void skewed_layers_get_the_fewer_slots(void **unused)
{
    (void)unused;
    const TraceLayer layers[2] = {{.layer = 2, .experts = 12, .top_k = 2, .expert_bytes = 10},
                                  {.layer = 5, .experts = 12, .top_k = 2, .expert_bytes = 10}};
    PackedTrace packed;
    Plan plan = make_plan("lru", ORDER_BATCH, SCOPE_LAYER, 7);
    Plan learnt;
    assert_ok(packed_trace_new(layers, 2, &packed));
    for (uint32_t s = 0; s < 60; s++) {
        const uint32_t zero = 0;
        const uint16_t ids[] = {(uint16_t)(2 * s % 12), (uint16_t)((2 * s + 1) % 12), 3, 8};
        const TraceStep step = {.step = s,
                                .phase = PHASE_DECODE,
                                .tokens = 1,
                                .request = &zero,
                                .position = &zero,
                                .experts = ids};
        assert_ok(packed_trace_add_step(&packed, &step));
    }
    plan.buffer.budget.choice = BUDGET_SKEW;
    const TraceParts parts = {.trains = true, .train = {0, 60}};
    assert_ok(learn_plan(&packed, NULL, &parts, &plan, &learnt));
    /* 12 and 2 effective experts share 14 slots. */
    assert_int_equal(plan_table_list(learnt.buffer.budget.table, 2).values[0], 12);
    assert_int_equal(plan_table_list(learnt.buffer.budget.table, 5).values[0], 2);
    plan_free(&learnt);
    packed_trace_free(&packed);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(optimal_budgets_load_no_more_than_any_other_where_they_were_learnt),
        cmocka_unit_test(every_layer_keeps_room_for_the_lists_of_the_plan),
        cmocka_unit_test(a_list_may_take_more_than_an_equal_share),
        cmocka_unit_test(optimal_budgets_count_what_is_loaded_ahead),
        cmocka_unit_test(skewed_layers_get_the_fewer_slots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
