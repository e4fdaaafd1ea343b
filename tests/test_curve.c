#include "tests/buffer_maker.h"

#include "base/memory.h"
#include "sim/curve.h"

static const char *const STACK[] = {"lru", "mru", "lfu", "belady", "belady-admit"};
enum { N_STACK = sizeof STACK / sizeof STACK[0] };

static RefTrace trace;

static Plan serial_plan(const char *evict, BufferScopeKind scope, uint32_t slots)
{
    return make_plan(evict, ORDER_SERIAL, scope, slots);
}

/* The curve at SIZE is what a replay with SIZE slots says, layer by layer. */
static void assert_size(const MissCurve *curve, const Plan *plan, const ReplayFuture *future)
{
    ReplayResult result;
    uint32_t size = plan->buffer.slots;
    assert_ok(replay_run(&trace.packed, plan, future, NULL, NULL, &result));
    for (uint32_t i = 0; i < curve->n_layers; i++) {
        size_t at = (size_t)i * curve->n_sizes + size - 1;
        const ReplayLayer *layer = &result.layers[i];
        if (curve->hits[at] != layer->counts.hits)
            fail_msg("%s, scope %s, %u slots, layer %u: %llu hits, a replay has %llu",
                     plan->buffer.evict, plan_scope_name(plan->buffer.scope), size, i,
                     (unsigned long long)curve->hits[at], (unsigned long long)layer->counts.hits);
        assert_true(curve->assignment_hits[at] == layer->assignment_hits);
        assert_true(curve->assignments[i] == layer->assignments);
    }
    assert_true(curve_misses(curve, size) == result.total.counts.misses);
    replay_result_free(&result);
}

static void one_pass_gives_what_a_replay_of_every_size_gives(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 120; seed++) {
        ref_trace_make(&trace, 9000 + seed, 60);
        for (size_t p = 0; p < N_STACK; p++)
            for (int scope = SCOPE_LAYER; scope <= SCOPE_DEVICE; scope++) {
                MissCurve curve;
                ReplayFuture future = {0};
                Plan plan = serial_plan(STACK[p], (BufferScopeKind)scope, 1);
                assert_ok(replay_prepare(&trace.packed, &plan, &future));
                assert_ok(curve_run(&trace.packed, &plan, &future, &curve));
                for (uint32_t size = 1; size <= curve.n_sizes; size++) {
                    plan.buffer.slots = size;
                    assert_size(&curve, &plan, &future);
                }
                assert_true(curve_misses(&curve, UINT32_MAX) ==
                            curve_misses(&curve, curve.n_sizes));
                assert_true(curve_misses(&curve, 0) == trace.packed.n_lookups);
                curve_free(&curve);
                replay_future_free(&future);
            }
        ref_trace_free(&trace);
    }
}

/* A scan over all experts again and again: lru hits nothing until all of them fit. */
static void the_first_hit_of_lru_on_a_cyclic_scan_is_at_the_whole_cycle(void **unused)
{
    (void)unused;
    const TraceLayer layer = {.experts = 10, .top_k = 1, .expert_bytes = 1};
    PackedTrace scan;
    MissCurve curve;
    const ReplayFuture none = {0};
    uint32_t zero = 0;
    assert_ok(packed_trace_new(&layer, 1, &scan));
    for (uint32_t i = 0; i < 70; i++) {
        uint16_t expert = (uint16_t)(i % 7);
        TraceStep step = {.step = i,
                          .phase = PHASE_DECODE,
                          .tokens = 1,
                          .request = &zero,
                          .position = &i,
                          .experts = &expert};
        assert_ok(packed_trace_add_step(&scan, &step));
    }
    Plan plan = serial_plan("lru", SCOPE_LAYER, 1);
    assert_ok(curve_run(&scan, &plan, &none, &curve));
    assert_int_equal(curve_first_hit(&curve), 7);
    assert_int_equal(curve_misses(&curve, 6), 70);
    assert_int_equal(curve_misses(&curve, 7), 7);
    curve_free(&curve);
    plan = serial_plan("mru", SCOPE_LAYER, 1);
    assert_ok(curve_run(&scan, &plan, &none, &curve));
    assert_int_equal(curve_first_hit(&curve), 2);
    curve_free(&curve);
    packed_trace_free(&scan);
}

static void policies_and_orders_without_a_stack_are_refused(void **unused)
{
    (void)unused;
    ref_trace_make(&trace, 3, 10);
    const ReplayFuture none = {0};
    MissCurve curve;
    Plan plan = serial_plan("fifo", SCOPE_LAYER, 1);
    assert_false(curve_is_exact(&plan));
    assert_int_equal(curve_run(&trace.packed, &plan, &none, &curve), ERR_UNSUPPORTED);
    assert_non_null(strstr(error_message(), "fifo in order serial"));
    plan = serial_plan("lru", SCOPE_LAYER, 1);
    plan.buffer.order = ORDER_BATCH;
    assert_false(curve_is_exact(&plan));
    assert_int_equal(curve_run(&trace.packed, &plan, &none, &curve), ERR_UNSUPPORTED);
    ref_trace_free(&trace);
}

static void every_failed_allocation_of_a_curve_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    ref_trace_make(&trace, 3, 10);
    const ReplayFuture none = {0};
    const Plan plan = serial_plan("lru", SCOPE_DEVICE, 1);
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        MissCurve curve;
        Status status = curve_run(&trace.packed, &plan, &none, &curve);
        failing_end(&failing, status);
        curve_free(&curve);
    }
    ref_trace_free(&trace);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_pass_gives_what_a_replay_of_every_size_gives),
        cmocka_unit_test(the_first_hit_of_lru_on_a_cyclic_scan_is_at_the_whole_cycle),
        cmocka_unit_test(policies_and_orders_without_a_stack_are_refused),
        cmocka_unit_test(every_failed_allocation_of_a_curve_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
