/* What static gating drops of a trace, against the executor's own rule applied step by step. */
#include "tests/random_trace.h"

#include "base/memory.h"
#include "exec/gating.h"
#include "sim/static_gating.h"

static void count_layer(const Plan *plan, const TraceStep *step, const TraceLayer *layer,
                        uint16_t *experts, StaticGatingCounts *counts)
{
    uint32_t scratch[RANDOM_TOP_K + 600];
    uint32_t n = step->tokens * layer->top_k;
    uint32_t capacity = gating_capacity(plan, step->tokens);
    uint64_t kept = 0;
    uint64_t before = 0;
    for (uint32_t i = 0; i < n; i++)
        before += experts[i] != EXPERT_DROPPED;
    gating_limit(capacity, step->tokens, layer->top_k, layer->experts, scratch, experts, NULL);
    for (uint32_t i = 0; i < n; i++)
        kept += experts[i] != EXPERT_DROPPED;
    counts->assignments += before;
    counts->dropped += before - kept;
    counts->slots += (uint64_t)capacity * layer->experts;
}

static StaticGatingCounts plain_counts(const RandomTrace *trace, const Plan *plan, uint32_t steps)
{
    StaticGatingCounts counts = {0};
    for (uint32_t i = 0; i < steps; i++) {
        RandomStep made;
        random_step(trace, i, &made);
        StackSpan span = layers_span(trace->layers, trace->n_layers, made.step.stack);
        uint16_t *experts = made.experts;
        for (uint32_t l = span.first; l < span.first + span.count; l++) {
            count_layer(plan, &made.step, &trace->layers[l], experts, &counts);
            experts += made.step.tokens * trace->layers[l].top_k;
        }
    }
    return counts;
}

static void counts_are_those_of_the_executors_rule(void **unused)
{
    (void)unused;
    enum { STEPS = 30, ROUNDS = 40 };
    static const double FACTORS[] = {1e-6, 0.02, 0.05, 0.3, 1};
    uint64_t dropped = 0;
    for (uint64_t seed = 0; seed < ROUNDS; seed++) {
        const RandomTrace trace = random_trace(seed);
        Plan plan = plan_default();
        char name[32];
        snprintf(name, sizeof name, "gating-%d.db", (int)seed);
        const char *path = scratch_path(name);
        assert_ok(record_random(path, &trace, STEPS, NULL));
        plan.gating.mode = GATING_STATIC;
        plan.gating.capacity_factor = FACTORS[seed % (sizeof FACTORS / sizeof *FACTORS)];
        StaticGatingCounts counts;
        StaticGatingCounts wanted = plain_counts(&trace, &plan, STEPS);
        assert_ok(static_gating_count(&path, 1, &plan, &counts));
        assert_true(counts.assignments == wanted.assignments);
        assert_true(counts.dropped == wanted.dropped);
        assert_true(counts.slots == wanted.slots);
        dropped += counts.dropped;
    }
    assert_true(dropped > 0);
}

static void every_shard_counts(void **unused)
{
    (void)unused;
    const RandomTrace trace = random_trace(3);
    Plan plan = plan_default();
    StaticGatingCounts one;
    StaticGatingCounts both;
    const char *path = scratch_path("shard.db");
    const char *const twice[] = {path, path};
    assert_ok(record_random(path, &trace, 9, NULL));
    plan.gating.mode = GATING_STATIC;
    plan.gating.capacity_factor = 0.1;
    assert_ok(static_gating_count(twice, 1, &plan, &one));
    assert_ok(static_gating_count(twice, 2, &plan, &both));
    assert_true(both.slots == 2 * one.slots && both.dropped == 2 * one.dropped);
    const char *const missing[] = {path, "/nowhere/trace.db"};
    assert_int_not_equal(static_gating_count(missing, 2, &plan, &both), OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_those_of_the_executors_rule),
        cmocka_unit_test(every_shard_counts),
    };
    memory_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
