/* Simulated time of experts that the host computes: from memory, from its caches, and in what
 * shares; and what an event takes besides. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "policies/link.h"
#include "sim/timing.h"

enum { EXPERTS = 6, SLOT_BYTES = 1000, COLD_NS = 10000, WARM_NS = 1000 };

static void put(Hardware *hardware, const char *name, CostUnit unit, double value)
{
    CostTable *table;
    assert_ok(hardware_add_table(hardware, name, "", unit, NULL, 0, &table));
    assert_ok(cost_table_put(table, (double[]){0}, value, 0));
}

/* NS for each expert and each of its rows. */
static void put_host(Hardware *hardware, const char *name, double ns)
{
    static const char *const AXES[] = {"rows", "active"};
    CostTable *table;
    assert_ok(hardware_add_table(hardware, name, "", UNIT_NS, AXES, 2, &table));
    for (uint32_t active = 1; active <= EXPERTS; active++)
        for (uint32_t rows = 1; rows <= 4; rows++)
            assert_ok(cost_table_put(table, (double[]){rows, active}, ns * active * rows, 0));
}

/* The caches hold two experts, and half of a third. */
static void put_reuse(Hardware *hardware)
{
    static const char *const AXES[] = {"bytes"};
    CostTable *table;
    assert_ok(hardware_add_table(hardware, "host/reuse", "", UNIT_FACTOR, AXES, 1, &table));
    assert_ok(cost_table_put(table, (double[]){2 * SLOT_BYTES}, 0, 0));
    assert_ok(cost_table_put(table, (double[]){4 * SLOT_BYTES}, 1, 0));
}

/* One MoE layer, nothing of which takes time but experts on the host. */
static void make_machine(Hardware *hardware)
{
    HardwareModel *model;
    *hardware = (Hardware){.backend = "cpu", .device = "cpu: made up"};
    assert_ok(hardware_add_model(hardware, "model", &model));
    assert_ok(mem_new(&model->ops[STACK_DECODER], 1, sizeof(HardwareOp), "ops"));
    model->ops[STACK_DECODER][model->n_ops[STACK_DECODER]++] = (HardwareOp){.op = OP_EXPERTS};
    assert_ok(mem_new(&model->slots, 1, sizeof *model->slots, "slots"));
    model->slots[model->n_slots++] = (HardwareSlots){.experts = EXPERTS, .slot_bytes = SLOT_BYTES};
    put(hardware, "gpu/experts", UNIT_NS, 0);
    put(hardware, "copy/h2d", UNIT_NS, 0);
    put(hardware, "decide", UNIT_NS, 0);
    put(hardware, "end/load", UNIT_NS, 0);
    put_reuse(hardware);
    put_host(hardware, "host/experts", COLD_NS);
    put_host(hardware, "host/warm", WARM_NS);
}

/* How long a step takes in which the host computes N EXPERTS of ROWS each. */
static uint64_t step_ns(Timing *timing, const uint16_t *experts, const uint32_t *rows, uint32_t n)
{
    const StepFeatures step = {.phase = PHASE_DECODE, .tokens = 1, .requests = 1};
    const TimingEvent event = {.n = n, .experts = experts, .rows = rows};
    BufferAction actions[EXPERTS];
    StepTime time;
    for (uint32_t i = 0; i < n; i++)
        actions[i] =
            (BufferAction){.expert = experts[i], .kind = RESIDENCY_HOST, .slot = BUFFER_NO_SLOT};
    assert_ok(timing_begin(timing, &step, 0));
    assert_ok(timing_event(timing, &event, actions, n));
    assert_ok(timing_end(timing, &time));
    return time.duration_ns;
}

static uint64_t one_ns(Timing *timing, uint16_t expert)
{
    return step_ns(timing, &expert, (const uint32_t[]){1}, 1);
}

static Timing *open_timing(const Hardware *hardware, Plan *plan)
{
    static const TraceLayer LAYER = {.experts = EXPERTS, .top_k = 1, .expert_bytes = SLOT_BYTES};
    Timing *timing;
    *plan = plan_default();
    plan->buffer.on = true;
    plan->buffer.slots = 1;
    snprintf(plan->buffer.evict, sizeof plan->buffer.evict, "lru");
    plan->compute.mode = COMPUTE_ON_HOST;
    const TimingOptions options = {
        .hardware = hardware, .model = "model", .plan = plan, .layers = &LAYER, .n_layers = 1};
    assert_ok(timing_new(&options, &timing));
    return timing;
}

static void what_the_caches_hold_is_warm_until_so_much_else_was_read(void **unused)
{
    (void)unused;
    Hardware hardware;
    Plan plan;
    make_machine(&hardware);
    Timing *timing = open_timing(&hardware, &plan);
    assert_int_equal(one_ns(timing, 0), COLD_NS);
    assert_int_equal(one_ns(timing, 0), WARM_NS);
    assert_int_equal(one_ns(timing, 1), COLD_NS);
    assert_int_equal(one_ns(timing, 0), WARM_NS);
    assert_int_equal(one_ns(timing, 2), COLD_NS);
    assert_int_equal(one_ns(timing, 1), (WARM_NS + COLD_NS) / 2);
    assert_int_equal(one_ns(timing, 3), COLD_NS);
    assert_int_equal(one_ns(timing, 0), COLD_NS);
    timing_free(timing);
    hardware_free(&hardware);
}

static void each_expert_takes_its_share_of_as_many_of_its_rows(void **unused)
{
    (void)unused;
    Hardware hardware;
    Plan plan;
    make_machine(&hardware);
    Timing *timing = open_timing(&hardware, &plan);
    /* 2 experts of 1 row and 2 of 3 rows, of each sort half. */
    assert_int_equal(step_ns(timing, (const uint16_t[]){0, 1}, (const uint32_t[]){1, 3}, 2),
                     COLD_NS * (2 * 1 + 2 * 3) / 2);
    assert_int_equal(step_ns(timing, (const uint16_t[]){1, 4}, (const uint32_t[]){2, 2}, 2),
                     (WARM_NS * 2 * 2 + COLD_NS * 2 * 2) / 2);
    timing_free(timing);
    hardware_free(&hardware);
}

/* Tokens come to the host, which is told of the router no sooner than if that had a stamp, wakes
 * up, computes and has the results fetched, and at the end of the step waits for the device. */
static void an_event_takes_what_crosses_the_link_besides(void **unused)
{
    (void)unused;
    enum { OFFER_NS = 40, STAMP_NS = 20, WAKE_NS = 100, FETCH_NS = 70, ISSUE_NS = 30 };
    static const char *const TOKENS[] = {"tokens"};
    Hardware hardware;
    Plan plan;
    CostTable *table;
    make_machine(&hardware);
    assert_ok(hardware_add_table(&hardware, "stamp/queued", "", UNIT_NS, TOKENS, 1, &table));
    assert_ok(cost_table_put(table, (double[]){1}, STAMP_NS, 0));
    snprintf(hardware.backend, sizeof hardware.backend, "gpu");
    put(&hardware, "issue/together", UNIT_NS, 0);
    put(&hardware, "copy/together", UNIT_NS, 0);
    put(&hardware, "wake", UNIT_NS, WAKE_NS);
    put(&hardware, "host/offer", UNIT_NS, OFFER_NS);
    put(&hardware, "host/fetch", UNIT_NS, FETCH_NS);
    put(&hardware, "issue/fetch", UNIT_NS, ISSUE_NS);
    Timing *timing = open_timing(&hardware, &plan);
    assert_int_equal(one_ns(timing, 0),
                     OFFER_NS + STAMP_NS + WAKE_NS + COLD_NS + FETCH_NS + WAKE_NS);
    timing_free(timing);
    hardware_free(&hardware);
}

/* A step in which the host computes expert 0, read for the first time, and expert 1 is loaded in
 * LOAD_NS, where the one takes 1.5 times as long beside the other, and that 2 times. */
static uint64_t beside_ns(double load_ns)
{
    static const uint16_t TWO[] = {0, 1};
    static const BufferAction ACTIONS[] = {
        {.expert = 0, .kind = RESIDENCY_HOST, .slot = BUFFER_NO_SLOT},
        {.expert = 1, .kind = RESIDENCY_LOAD}};
    const StepFeatures step = {.phase = PHASE_DECODE, .tokens = 1, .requests = 1};
    const TimingEvent event = {.n = 2, .experts = TWO, .rows = (const uint32_t[]){1, 1}};
    Hardware hardware;
    Plan plan;
    StepTime time;
    make_machine(&hardware);
    snprintf(hardware.backend, sizeof hardware.backend, "gpu");
    hardware.models[0].slots[0].slot_bytes = 8 << 20;
    for (uint32_t i = 0; i < hardware.n_tables; i++)
        if (strcmp(hardware.tables[i].name, "copy/h2d") == 0)
            hardware.tables[i].value[0] = load_ns;
    put(&hardware, "host/beside", UNIT_FACTOR, 1.5);
    put(&hardware, "copy/beside", UNIT_FACTOR, 2);
    Timing *timing = open_timing(&hardware, &plan);
    assert_ok(timing_begin(timing, &step, 0));
    assert_ok(timing_event(timing, &event, ACTIONS, 2));
    assert_ok(timing_end(timing, &time));
    timing_free(timing);
    hardware_free(&hardware);
    return time.duration_ns;
}

static void host_and_loads_take_longer_beside_each_other(void **unused)
{
    (void)unused;
    assert_int_equal(beside_ns(0), COLD_NS);
    /* All of the load is beside the host, and all of the host beside the load. */
    assert_in_range(beside_ns(600), COLD_NS + 399, COLD_NS + 401);
    assert_int_equal(beside_ns(5 * COLD_NS), 5 * COLD_NS + 1.5 * COLD_NS);
}

/* By how many they are and how long ago the host computed any. */
static void experts_take_longer_when_the_host_had_none_for_a_while(void **unused)
{
    (void)unused;
    static const char *const AXES[] = {"active", "elapsed"};
    enum { LONGER_NS = 60, LONG_NS = 1000000 };
    const StepFeatures step = {.phase = PHASE_DECODE, .tokens = 1, .requests = 1};
    const TimingEvent event = {.n = 1, .experts = (const uint16_t[]){0}};
    const BufferAction action = {.kind = RESIDENCY_HOST, .slot = BUFFER_NO_SLOT};
    static const uint64_t WAITS_NS[] = {0, LONG_NS / 2, 0, LONG_NS, 9 * LONG_NS};
    static const uint64_t WANTED_NS[] = {LONGER_NS, LONGER_NS / 2, 0, LONGER_NS, LONGER_NS};
    Hardware hardware;
    Plan plan;
    CostTable *table;
    make_machine(&hardware);
    assert_ok(hardware_add_table(&hardware, "host/rested", "", UNIT_NS, AXES, 2, &table));
    assert_ok(cost_table_put(table, (double[]){1, 0}, 0, 0));
    assert_ok(cost_table_put(table, (double[]){1, LONG_NS}, LONGER_NS, 0));
    Timing *timing = open_timing(&hardware, &plan);
    uint64_t start_ns = 2 * LONG_NS;
    for (size_t i = 0; i < sizeof WAITS_NS / sizeof *WAITS_NS; i++) {
        StepTime time;
        start_ns += WAITS_NS[i];
        assert_ok(timing_begin(timing, &step, start_ns));
        assert_ok(timing_event(timing, &event, &action, 1));
        assert_ok(timing_end(timing, &time));
        assert_int_equal(time.duration_ns, (i == 0 ? COLD_NS : WARM_NS) + WANTED_NS[i]);
        start_ns += time.duration_ns;
    }
    timing_free(timing);
    hardware_free(&hardware);
}

/* By the time from its beginning to its beginning; what was never computed is as old as can be. */
static void experts_take_longer_the_longer_ago_they_were_computed(void **unused)
{
    (void)unused;
    static const char *const AXES[] = {"active", "elapsed"};
    enum { AGED_NS = 60, LONG_NS = 1000000 };
    const StepFeatures step = {.phase = PHASE_DECODE, .tokens = 1, .requests = 1};
    static const uint16_t EXPERTS_RUN[] = {0, 0, 1, 0, 1};
    static const uint64_t STARTS_NS[] = {1, 1 + LONG_NS / 2, 3 * LONG_NS, 4 * LONG_NS, 5 * LONG_NS};
    static const int WANTED_NS[] = {AGED_NS, 0, AGED_NS, AGED_NS, AGED_NS};
    Hardware hardware;
    Plan plan;
    CostTable *table;
    make_machine(&hardware);
    assert_ok(hardware_add_table(&hardware, "host/aged", "", UNIT_NS, AXES, 2, &table));
    assert_ok(cost_table_put(table, (double[]){1, 0}, -AGED_NS, 0));
    assert_ok(cost_table_put(table, (double[]){1, LONG_NS}, AGED_NS, 0));
    Timing *timing = open_timing(&hardware, &plan);
    for (size_t i = 0; i < sizeof STARTS_NS / sizeof *STARTS_NS; i++) {
        const TimingEvent event = {.n = 1, .experts = &EXPERTS_RUN[i]};
        const BufferAction action = {
            .expert = EXPERTS_RUN[i], .kind = RESIDENCY_HOST, .slot = BUFFER_NO_SLOT};
        StepTime time;
        assert_ok(timing_begin(timing, &step, STARTS_NS[i]));
        assert_ok(timing_event(timing, &event, &action, 1));
        assert_ok(timing_end(timing, &time));
        bool first = i == 0 || i == 2;
        assert_int_equal(time.duration_ns, (first ? COLD_NS : WARM_NS) + WANTED_NS[i]);
    }
    timing_free(timing);
    hardware_free(&hardware);
}

/* What is left of a step may be so far below 0 that the next one begins before the host was at its
 * experts. */
static void experts_that_were_computed_later_than_now_have_not_aged(void **unused)
{
    (void)unused;
    static const char *const AGED_AXES[] = {"active", "elapsed"};
    static const char *const ACTIVE[] = {"active"};
    enum { AGED_NS = 60, LONG_NS = 1000000, DECIDE_NS = 500 };
    static const uint16_t BOTH[] = {0, 1};
    static const uint32_t ROWS[] = {1, 1};
    Hardware hardware;
    Plan plan;
    CostTable *table;
    make_machine(&hardware);
    put(&hardware, "step/rest", UNIT_NS, 0);
    assert_ok(hardware_add_table(&hardware, "host/aged", "", UNIT_NS, AGED_AXES, 2, &table));
    assert_ok(cost_table_put(table, (double[]){1, 0}, 0, 0));
    assert_ok(cost_table_put(table, (double[]){1, LONG_NS}, AGED_NS, 0));
    assert_ok(hardware_add_table(&hardware, "decide/none", "", UNIT_NS, ACTIVE, 1, &table));
    assert_ok(cost_table_put(table, (double[]){1}, 0, 0));
    assert_ok(cost_table_put(table, (double[]){2}, DECIDE_NS, 0));
    assert_ok(hardware_add_table(&hardware, "step/rest", "", UNIT_NS, NULL, 0, &table));
    Timing *timing = open_timing(&hardware, &plan);
    table->value[0] = -LONG_NS;
    assert_int_equal(step_ns(timing, BOTH, ROWS, 2), 0);
    table->value[0] = 0;
    assert_int_equal(one_ns(timing, 0), WARM_NS);
    timing_free(timing);
    hardware_free(&hardware);
}

/* What was computed before is fetched meanwhile. */
static void of_many_rows_the_last_are_fetched_at_the_end(void **unused)
{
    (void)unused;
    static const char *const ROWS[] = {"rows"};
    enum { MANY = 2 * HOST_ROWS_AT_ONCE, FETCH_NS = 5 };
    const uint16_t expert = 0;
    Hardware hardware;
    Plan plan;
    CostTable *table;
    make_machine(&hardware);
    snprintf(hardware.backend, sizeof hardware.backend, "gpu");
    put(&hardware, "issue/together", UNIT_NS, 0);
    put(&hardware, "copy/together", UNIT_NS, 0);
    assert_ok(hardware_add_table(&hardware, "host/fetch", "", UNIT_NS, ROWS, 1, &table));
    assert_ok(cost_table_put(table, (double[]){1}, FETCH_NS, 0));
    assert_ok(cost_table_put(table, (double[]){MANY}, FETCH_NS * MANY, 0));
    Timing *timing = open_timing(&hardware, &plan);
    assert_int_equal(step_ns(timing, &expert, (const uint32_t[]){1}, 1), COLD_NS + FETCH_NS);
    assert_int_equal(step_ns(timing, &expert, (const uint32_t[]){MANY}, 1),
                     (uint64_t)WARM_NS * MANY + FETCH_NS * HOST_ROWS_AT_ONCE);
    timing_free(timing);
    hardware_free(&hardware);
}

/* One thread copies what it loads ahead before it goes on: that is told of the experts, as it is of
 * those that run, and not of what comes after. */
static void loads_ahead_of_one_thread_are_part_of_the_experts(void **unused)
{
    (void)unused;
    enum { EXPERTS_NS = 100, COPY_NS = 50, COMBINE_NS = 7 };
    static const HardwareOp OPS[] = {{0, OP_EXPERTS, ""}, {0, OP_COMBINE, ""}, {1, OP_EXPERTS, ""}};
    static const TraceLayer LAYERS[] = {
        {.layer = 0, .experts = EXPERTS, .top_k = 1, .expert_bytes = SLOT_BYTES},
        {.layer = 1, .experts = EXPERTS, .top_k = 1, .expert_bytes = SLOT_BYTES}};
    static const BufferAction AHEAD[] = {{.kind = RESIDENCY_HIT, .slot = 0},
                                         {.layer_index = 1, .kind = RESIDENCY_PREFETCH, .slot = 1}};
    static const BufferAction FOUND = {.layer_index = 1, .kind = RESIDENCY_HIT, .slot = 1};
    static const StepFeatures STEP = {.phase = PHASE_DECODE, .tokens = 1, .requests = 1};
    const uint16_t expert = 0;
    Hardware hardware = {.backend = "cpu", .device = "cpu: made up"};
    HardwareModel *model;
    Plan plan = plan_default();
    Timing *timing;
    StepTime time;
    assert_ok(hardware_add_model(&hardware, "model", &model));
    assert_ok(mem_new(&model->ops[STACK_DECODER], 3, sizeof(HardwareOp), "ops"));
    memcpy(model->ops[STACK_DECODER], OPS, sizeof OPS);
    model->n_ops[STACK_DECODER] = 3;
    put(&hardware, "gpu/experts", UNIT_NS, EXPERTS_NS);
    put(&hardware, "gpu/combine", UNIT_NS, COMBINE_NS);
    put(&hardware, "copy/h2d", UNIT_NS, COPY_NS);
    put(&hardware, "decide", UNIT_NS, 0);
    put(&hardware, "end/load", UNIT_NS, 0);
    plan.buffer.on = true;
    plan.buffer.slots = 1;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "lru");
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "frequency");
    const TimingOptions options = {
        .hardware = &hardware, .model = "model", .plan = &plan, .layers = LAYERS, .n_layers = 2};
    assert_ok(timing_new(&options, &timing));
    assert_ok(timing_begin(timing, &STEP, 0));
    assert_ok(timing_event(timing, &(TimingEvent){.n = 1, .experts = &expert}, AHEAD, 2));
    assert_ok(timing_event(timing, &(TimingEvent){1, 1, &expert, NULL, NULL}, &FOUND, 1));
    assert_ok(timing_end(timing, &time));
    const TimingTotals totals = timing_totals(timing);
    assert_int_equal(time.duration_ns, 2 * EXPERTS_NS + COPY_NS + COMBINE_NS);
    assert_int_equal(totals.op_ns[OP_COMBINE], COMBINE_NS);
    assert_string_equal(totals.missing[totals.n_missing - 1],
                        "memory/activations"); /* for want of which it is 0 */
    assert_int_equal(totals.op_ns[OP_EXPERTS], 2 * EXPERTS_NS + COPY_NS);
    timing_free(timing);
    hardware_free(&hardware);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_caches_hold_is_warm_until_so_much_else_was_read),
        cmocka_unit_test(each_expert_takes_its_share_of_as_many_of_its_rows),
        cmocka_unit_test(an_event_takes_what_crosses_the_link_besides),
        cmocka_unit_test(host_and_loads_take_longer_beside_each_other),
        cmocka_unit_test(experts_take_longer_when_the_host_had_none_for_a_while),
        cmocka_unit_test(experts_take_longer_the_longer_ago_they_were_computed),
        cmocka_unit_test(experts_that_were_computed_later_than_now_have_not_aged),
        cmocka_unit_test(of_many_rows_the_last_are_fetched_at_the_end),
        cmocka_unit_test(loads_ahead_of_one_thread_are_part_of_the_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
