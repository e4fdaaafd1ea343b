/* Costs by which misses are divided between loads and the host, as a profile gives them. */
#include "tests/reference_buffer.h"

#include "base/memory.h"
#include "policies/plan_measured.h"
#include "tests/action_log.h"
#include "tests/points_maker.h"

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

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(costs_that_lack_a_layer_are_refused),
        cmocka_unit_test(measured_costs_must_ascend),
        cmocka_unit_test(a_profile_gives_the_costs_that_a_plan_leaves_to_be_measured),
        cmocka_unit_test(costs_that_a_plan_cannot_hold_are_the_most_that_it_can),
        cmocka_unit_test(every_failed_allocation_in_measuring_leaves_the_plan_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
