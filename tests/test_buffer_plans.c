/* Buffers of plans: which are refused, and what they take. */
#include "tests/reference_buffer.h"

#include "base/memory.h"
#include "sim/replay.h"
#include "tests/action_log.h"
#include "tests/buffer_maker.h"

static void without_a_buffer_every_lookup_hits_in_its_own_slot(void **unused)
{
    (void)unused;
    static RefTrace trace;
    ref_trace_make(&trace, 5, 40);
    Plan plan = plan_default();
    ReplayResult result;
    Log log = run_logged(&trace.packed, &plan, &result);
    assert_int_equal(log.n, trace.packed.n_lookups);
    for (size_t i = 0; i < log.n; i++) {
        assert_int_equal(log.actions[i].kind, RESIDENCY_HIT);
        assert_int_equal(log.actions[i].slot, log.actions[i].expert);
    }
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < trace.n_layers; i++)
        bytes += trace.layers[i].experts * trace.layers[i].expert_bytes;
    assert_int_equal(result.memory_bytes, bytes);
    assert_int_equal(result.total.counts.misses, 0);
    assert_int_equal(result.total.assignment_hits, result.total.assignments);
    replay_result_free(&result);
    free(log.actions);
    ref_trace_free(&trace);
}

static void memory_is_slots_and_staging_slots(void **unused)
{
    (void)unused;
    const TraceLayer layers[] = {{.layer = 1, .experts = 8, .top_k = 2, .expert_bytes = 100},
                                 {.layer = 2, .experts = 4, .top_k = 2, .expert_bytes = 300}};
    static const struct {
        const char *evict;
        BufferScopeKind scope;
        uint32_t slots;
        uint64_t bytes;
    } cases[] = {
        {"lru", SCOPE_LAYER, 3, 3 * 100 + 3 * 300},
        {"lru", SCOPE_LAYER, 6, 6 * 100 + 4 * 300},
        {"belady", SCOPE_LAYER, 3, 4 * 100 + 4 * 300},
        {"belady-admit", SCOPE_LAYER, 3, 3 * 100 + 3 * 300},
        {"lru", SCOPE_DEVICE, 5, 5 * 300},
        {"belady", SCOPE_DEVICE, 5, 6 * 300},
        {"lru", SCOPE_DEVICE, UINT32_MAX, 12 * 300},
        {"lru", SCOPE_LAYER, UINT32_MAX, 8 * 100 + 4 * 300},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Plan plan = make_plan(cases[i].evict, ORDER_BATCH, cases[i].scope, cases[i].slots);
        ExpertBuffer *buffer;
        assert_ok(buffer_new(&plan, layers, 2, &buffer));
        assert_int_equal(buffer_memory_bytes(buffer), cases[i].bytes);
        assert_int_equal(buffer_uses_staging(buffer), strcmp(cases[i].evict, "belady") == 0);
        assert_int_equal(buffer_needs_future(buffer), strncmp(cases[i].evict, "belady", 6) == 0);
        buffer_free(buffer);
    }
}

static void plans_that_do_not_fit_the_layers_are_refused(void **unused)
{
    (void)unused;
    const TraceLayer layers[] = {{.layer = 1, .experts = 8, .top_k = 2, .expert_bytes = 100},
                                 {.layer = 7, .experts = 4, .top_k = 2, .expert_bytes = 300}};
    const TraceLayer unknown = {.layer = 3, .experts = 8, .top_k = 2};
    ExpertBuffer *buffer;
    Plan plan = make_plan("lru", ORDER_BATCH, SCOPE_LAYER, 0);
    plan.buffer.bytes = 299;
    assert_int_equal(buffer_new(&plan, layers, 2, &buffer), ERR_PLAN);
    assert_string_equal(error_message(), "buffer.bytes: 299, one expert of layer 7 takes 300");
    assert_int_equal(buffer_new(&plan, &unknown, 1, &buffer), ERR_PLAN);
    assert_non_null(strstr(error_message(), "layer 3 is not known"));
    plan.buffer.bytes = 650;
    assert_ok(buffer_new(&plan, layers, 2, &buffer));
    assert_int_equal(buffer_slots(buffer, 0), 6);
    assert_int_equal(buffer_slots(buffer, 1), 2);
    buffer_free(buffer);
    plan = make_plan("best", ORDER_BATCH, SCOPE_LAYER, 3);
    assert_int_equal(buffer_new(&plan, layers, 2, &buffer), ERR_PLAN);
    assert_non_null(strstr(error_message(), "buffer.evict"));
}

/* A table of one list for each of LAYERS[n]. */
static PlanTable *lists(const uint32_t *layers, uint32_t n, const uint32_t *experts,
                        const uint32_t *counts)
{
    PlanTable *table;
    uint32_t total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += counts[i];
    assert_ok(plan_table_new(TABLE_LISTS, n, n, total, &table));
    PlanTableParts parts = plan_table_parts(table);
    for (uint32_t i = 0; i < n; i++) {
        parts.layer[i] = layers[i];
        parts.first_row[i + 1] = i + 1;
        parts.first_value[i + 1] = parts.first_value[i] + counts[i];
    }
    memcpy(parts.value, experts, total * sizeof *experts);
    return table;
}

static void expect_refused(Plan *plan, const TraceLayer *layers, PlanTable *table,
                           const char *reason)
{
    ExpertBuffer *buffer;
    plan->buffer.hot.table = table;
    assert_int_equal(buffer_new(plan, layers, 2, &buffer), ERR_PLAN);
    if (strstr(error_message(), reason) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", error_message(), reason);
    plan_free(plan);
}

static void hot_sets_that_do_not_fit_the_layers_are_refused(void **unused)
{
    (void)unused;
    const TraceLayer layers[2] = {{.layer = 3, .experts = 8, .top_k = 2, .expert_bytes = 100},
                                  {.layer = 4, .experts = 8, .top_k = 2, .expert_bytes = 300}};
    Plan plan = make_plan("static", ORDER_BATCH, SCOPE_LAYER, 3);
    ExpertBuffer *buffer;
    expect_refused(&plan, layers, lists((uint32_t[]){5}, 1, (uint32_t[]){1}, (uint32_t[]){1}),
                   "buffer.hot: layer 5 is no MoE layer");
    expect_refused(&plan, layers, lists((uint32_t[]){3}, 1, (uint32_t[]){8}, (uint32_t[]){1}),
                   "buffer.hot: layer 3: expert 8, it has 8");
    expect_refused(&plan, layers, lists((uint32_t[]){4}, 1, (uint32_t[]){2, 0, 2}, (uint32_t[]){3}),
                   "buffer.hot: layer 4: expert 2 twice");
    expect_refused(&plan, layers,
                   lists((uint32_t[]){4}, 1, (uint32_t[]){0, 1, 2, 3}, (uint32_t[]){4}),
                   "buffer.hot: layer 4: takes 4 slots, it has 3");
    plan.buffer.scope = SCOPE_DEVICE;
    plan.buffer.slots = 0;
    plan.buffer.bytes = 700;
    expect_refused(&plan, layers,
                   lists((uint32_t[]){3, 4}, 2, (uint32_t[]){0, 1, 2, 3}, (uint32_t[]){2, 2}),
                   "buffer.hot: takes 800 bytes, the device has 700");
    plan.buffer.hot = (PlanLearned){.choice = HOT_HOTTEST};
    assert_int_equal(buffer_new(&plan, layers, 2, &buffer), ERR_PLAN);
    assert_non_null(strstr(error_message(), "buffer.hot: must be learnt"));
}

static void names_of_policies_are_found_and_others_are_not(void **unused)
{
    (void)unused;
    static const char *const WANTED[] = {"fifo",   "lifo",   "lifo-inactive-first",
                                         "lru",    "mru",    "lfu",
                                         "random", "belady", "belady-admit"};
    for (size_t i = 0; i < sizeof WANTED / sizeof WANTED[0]; i++) {
        bool found = false;
        for (const char *const *name = eviction_names(); *name != NULL; name++)
            found = found || strcmp(*name, WANTED[i]) == 0;
        assert_true(found);
        assert_int_equal(eviction_needs_future(WANTED[i]), strncmp(WANTED[i], "belady", 6) == 0);
    }
    assert_false(eviction_needs_future("belad"));
}

static void every_failed_allocation_of_a_buffer_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    static RefTrace trace;
    ref_trace_make(&trace, 8, 20);
    for (const char *const *name = eviction_names(); *name != NULL; name++) {
        if (eviction_needs_scores(*name))
            continue;
        for (FailingAllocation failing = {0}; failing_next(&failing);) {
            Plan plan = make_plan(*name, ORDER_BATCH, SCOPE_LAYER, 3);
            ReplayFuture future = {0};
            ReplayResult result;
            Status status = replay_prepare(&trace.packed, &plan, &future);
            if (status == OK)
                status = replay_run(&trace.packed, &plan, &future, NULL, NULL, &result);
            if (status == OK)
                replay_result_free(&result);
            failing_end(&failing, status);
            replay_future_free(&future);
        }
    }
    ref_trace_free(&trace);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_buffer_every_lookup_hits_in_its_own_slot),
        cmocka_unit_test(memory_is_slots_and_staging_slots),
        cmocka_unit_test(plans_that_do_not_fit_the_layers_are_refused),
        cmocka_unit_test(hot_sets_that_do_not_fit_the_layers_are_refused),
        cmocka_unit_test(names_of_policies_are_found_and_others_are_not),
        cmocka_unit_test(every_failed_allocation_of_a_buffer_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
