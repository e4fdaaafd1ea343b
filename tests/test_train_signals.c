/* Budgets learnt under policies that read scores and predictors that read signals, against every
 * other share, each replayed. */
#include "tests/signalled_trace.h"

#include <stdio.h>

#include "base/memory.h"
#include "sim/replay.h"
#include "sim/sweep_learn.h"
#include "traces/packed_part.h"

/* A part of a trace whose shares are few enough to try them all. */
typedef struct {
    Signalled it;
    TraceSignals *signals;
    PackedTrace packed; /* the part */
    uint64_t first;     /* step */
    uint32_t budget;    /* slots of all layers */
} SharedPart;

static void make_shared_part(SharedPart *part, const Plan *plan, uint64_t *seed)
{
    const SignalNeeds needs = plan_needs_signals(plan);
    do {
        if (part->it.ref.packed.layers != NULL)
            ref_trace_free(&part->it.ref);
        signalled_make(&part->it, random_next(seed), 1 + random_below(seed, 20));
    } while (part->it.ref.n_layers > 3);
    const PackedTrace *whole = &part->it.ref.packed;
    part->signals = signals_of(&part->it, &needs);
    part->first = random_below(seed, (uint32_t)whole->n_steps);
    part->packed = packed_trace_part(whole, part->first, whole->n_steps);
    part->budget = plan->buffer.slots * whole->n_layers;
}

static uint64_t bytes_of_part(const SharedPart *part, const Plan *plan)
{
    ReplayFuture future = {.signals = part->signals,
                           .signals_skipped =
                               packed_trace_part_first_event(&part->it.ref.packed, part->first)};
    ReplayResult result;
    assert_ok(replay_run(&part->packed, plan, &future, NULL, NULL, &result));
    uint64_t bytes = result.total.counts.bytes_loaded + result.total.counts.bytes_prefetched;
    replay_result_free(&result);
    return bytes;
}

/* The fewest bytes of all shares of what is LEFT of the budget from LAYER on. */
static uint64_t fewest_bytes(const SharedPart *part, const Plan *plan, uint32_t layer,
                             uint32_t *slots, uint32_t left)
{
    const RefTrace *ref = &part->it.ref;
    uint64_t best = UINT64_MAX;
    if (layer < ref->n_layers && layer < REF_LAYERS) {
        uint32_t least = plan->buffer.order == ORDER_STAGED ? 0 : 1;
        for (uint32_t n = least; n <= ref->layers[layer].experts && n <= left; n++) {
            slots[layer] = n;
            uint64_t bytes = fewest_bytes(part, plan, layer + 1, slots, left - n);
            best = bytes < best ? bytes : best;
        }
        return best;
    }
    PlanTable *table;
    Plan given = *plan;
    assert_ok(plan_table_new(TABLE_NUMBERS, layer, layer, layer, &table));
    PlanTableParts parts = plan_table_parts(table);
    for (uint32_t i = 0; i < layer; i++) {
        parts.layer[i] = ref->layers[i].layer;
        parts.first_row[i + 1] = parts.first_value[i + 1] = i + 1;
        parts.value[i] = slots[i];
    }
    given.buffer.budget = (PlanLearned){.table = table};
    best = bytes_of_part(part, &given);
    plan_table_release(table);
    return best;
}

static void optimal_budgets_are_those_of_the_policys_scores_and_the_predictors_signals(void **state)
{
    (void)state;
    static const char *const PREDICTORS[] = {"none", "next-gate", "activation-match:3"};
    uint64_t seed = 31;
    for (uint32_t i = 0; i < 90; i++) {
        static SharedPart part;
        uint32_t slots[REF_LAYERS];
        Plan learnt;
        Plan plan = plan_default();
        plan.buffer.on = true;
        plan.buffer.order = (ReplayOrder)random_below(&seed, REPLAY_ORDERS);
        plan.buffer.scope = SCOPE_LAYER;
        plan.buffer.slots = 1 + random_below(&seed, 4);
        plan.prefetch.max_inflight = 1 + random_below(&seed, 6);
        snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s",
                 i % 3 == 0 || random_below(&seed, 2) ? "ema-score" : "lfu");
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s", PREDICTORS[i % 3]);
        make_shared_part(&part, &plan, &seed);
        const Steps steps = {part.first, part.it.ref.packed.n_steps};
        const TraceParts parts = {.trains = true, .train = steps, .test = steps};
        uint64_t best = fewest_bytes(&part, &plan, 0, slots, part.budget);
        plan.buffer.budget.choice = BUDGET_OPTIMAL;
        assert_ok(learn_plan(&part.it.ref.packed, part.signals, &parts, &plan, &learnt));
        assert_int_equal(bytes_of_part(&part, &learnt), best);
        plan_free(&learnt);
        trace_signals_free(part.signals);
        ref_trace_free(&part.it.ref);
        part.it.ref.packed.layers = NULL;
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            optimal_budgets_are_those_of_the_policys_scores_and_the_predictors_signals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
