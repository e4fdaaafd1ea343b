/* Steps beside slow loads: whatever is late, overtaken or cancelled, the numbers are those of the
 * model without a buffer, and the decisions those of a link that takes no time.
 * tests/gpu/test_overlap.c runs this on the GPU. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tests/small_executor.h"

enum { MAX_TOKENS = 8, STEPS = 40, MOST_RECORDS = 4096 };

#ifndef TEST_DEVICE
#define TEST_DEVICE "cpu"
#endif

typedef struct {
    float logits[STEPS][VOCABULARY];
    ResidencyRecord records[MOST_RECORDS];
    size_t n_records;
    uint64_t prefetches;
    uint64_t cancelled;
    uint64_t late;
} Ran;

static void run_step(Executor *executor, uint32_t step, uint64_t *random, Ran *ran)
{
    uint32_t token[MAX_TOKENS];
    uint32_t slot[MAX_TOKENS];
    uint32_t position[MAX_TOKENS];
    uint32_t n = 1 + random_below(random, 5);
    StepOutput output;
    for (uint32_t i = 0; i < n; i++) {
        token[i] = random_below(random, VOCABULARY);
        slot[i] = step % MAX_REQUESTS;
        position[i] = i;
    }
    const StepInput input = {
        .tokens = n, .token = token, .kv_slot = slot, .position = position, .logits = LOGITS_LAST};
    assert_ok(executor_step(executor, &input, &output));
    executor_release(executor, step % MAX_REQUESTS);
    memcpy(ran->logits[step], output.logits, sizeof ran->logits[step]);
    for (size_t i = 0; i < output.n_residency; i++) {
        const ResidencyRecord *record = &output.residency[i];
        assert_true(ran->n_records < MOST_RECORDS);
        ran->records[ran->n_records++] = *record;
        ran->prefetches += record->kind == RESIDENCY_PREFETCH;
        ran->cancelled += record->kind == RESIDENCY_PREFETCH && record->bytes == 0;
        ran->late += record->kind == RESIDENCY_HIT && record->bytes > 0;
    }
}

static void run_plan(Executor *executor, const Plan *plan, Ran *ran)
{
    uint64_t random = 17;
    *ran = (Ran){0};
    assert_ok(executor_set_plan(executor, plan));
    for (uint32_t step = 0; step < (briefest() ? 1 : brief() ? 4 : STEPS); step++)
        run_step(executor, step, &random, ran);
}

static Plan make_plan(ReplayOrder order, BufferScopeKind scope, const char *predictor)
{
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.order = order;
    plan.buffer.scope = scope;
    plan.buffer.slots = scope == SCOPE_DEVICE ? 14 : 5;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "lru");
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s", predictor);
    plan.prefetch.max_inflight = 4;
    return plan;
}

static void assert_same_decisions(const Ran *fast, const Ran *slow)
{
    assert_int_equal(fast->n_records, slow->n_records);
    for (size_t i = 0; i < fast->n_records; i++) {
        const ResidencyRecord *a = &fast->records[i];
        const ResidencyRecord *b = &slow->records[i];
        assert_true(a->layer == b->layer && a->expert == b->expert && a->kind == b->kind &&
                    a->slot == b->slot);
    }
}

static void assert_same_numbers(const Ran *a, const Ran *b)
{
    assert_memory_equal(a->logits, b->logits, sizeof a->logits);
}

static Executor *open_executor(const Plan *plan)
{
    ExecutorOptions options = small_options(plan, TEST_DEVICE, MAX_TOKENS);
    Executor *executor;
    /* What later plans ask for. */
    const Plan others[] = {make_plan(ORDER_STAGED, SCOPE_LAYER, "next-gate"),
                           make_plan(ORDER_STAGED, SCOPE_DEVICE, "next-gate")};
    options.others = others;
    options.n_others = 2;
    assert_ok(executor_open(checkpoint, &options, &executor));
    return executor;
}

/* Runs PLAN without a throttle, and over a link of GB_PER_S; returns the loads that were late. */
static uint64_t run_beside(Executor *executor, Plan *plan, double gb_per_s, const Ran *whole)
{
    static Ran fast;
    static Ran slow;
    run_plan(executor, plan, &fast);
    assert_same_numbers(whole, &fast);
    plan->link.h2d_gb_per_s = gb_per_s;
    run_plan(executor, plan, &slow);
    assert_same_numbers(whole, &slow);
    assert_same_decisions(&fast, &slow);
    assert_true(slow.prefetches > 0 && slow.late <= slow.cancelled);
    return slow.late;
}

/* What is slow depends on how fast the machine computes. */
static void check_order(ReplayOrder order)
{
    static const char *const PREDICTORS[] = {"frequency", "transition", "next-gate"};
    static Ran whole;
    const Plan all = plan_default();
    Executor *executor = open_executor(&all);
    uint64_t late = brief();
    run_plan(executor, &all, &whole);
    for (double gb_per_s = 0.02; late == 0 || gb_per_s == 0.02; gb_per_s /= 4) {
        assert_true(gb_per_s > 0.0002); /* at 0.02 an expert takes 0.3 ms */
        for (BufferScopeKind scope = SCOPE_LAYER;
             scope <= (briefest() ? SCOPE_LAYER : SCOPE_DEVICE); scope++)
            for (size_t p = briefest() ? 2 : 0; p < 3; p++) {
                Plan plan = make_plan(order, scope, PREDICTORS[p]);
                late += run_beside(executor, &plan, gb_per_s, &whole);
            }
    }
    executor_close(executor);
}

static void slow_loads_change_nothing_in_serial_order(void **unused)
{
    (void)unused;
    check_order(ORDER_SERIAL);
}

static void slow_loads_change_nothing_in_batches(void **unused)
{
    (void)unused;
    check_order(ORDER_BATCH);
}

static void slow_loads_change_nothing_in_staged_order(void **unused)
{
    (void)unused;
    check_order(ORDER_STAGED);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slow_loads_change_nothing_in_serial_order),
        cmocka_unit_test(slow_loads_change_nothing_in_batches),
        cmocka_unit_test(slow_loads_change_nothing_in_staged_order),
    };
    return cmocka_run_group_tests(tests, make_model, close_model);
}
