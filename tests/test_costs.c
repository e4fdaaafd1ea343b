/* Looking up costs, against a plain reference. */
#include "tests/support.h"

#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "sim/op_costs.h"

static const char *const AXIS_NAMES[] = {"a", "b", "c"};

/* A table of random nested lines. */
static void add_random_table(Hardware *hardware, uint64_t *state, uint32_t n_axes, CostUnit unit)
{
    CostTable *table;
    char name[48];
    snprintf(name, sizeof name, "t%u", hardware->n_tables);
    assert_ok(hardware_add_table(hardware, name, "s", unit, AXIS_NAMES, n_axes, &table));
    uint32_t n = 1 + random_below(state, n_axes == 0 ? 1 : 40);
    for (uint32_t i = 0; i < n; i++) {
        double at[COST_AXES];
        for (uint32_t a = 0; a < COST_AXES; a++)
            at[a] = random_below(state, 5) * 3;
        assert_ok(cost_table_put(table, at, random_below(state, 1000) - 10.0, 0));
    }
}

/* True when the points that begin like FIXED [axis] and then have PLACE go on to AT on the next
 * axis, from there or close behind it; the last axis has no next one. */
static bool reaches(const CostTable *table, uint32_t axis, const double *fixed, double place,
                    const double *at)
{
    double least = INFINITY;
    double most = -INFINITY;
    for (uint32_t i = 0; axis + 1 < table->n_axes && i < table->n_points; i++) {
        const double *point = table->at + (size_t)i * table->n_axes;
        bool is_there = point[axis] == place;
        for (uint32_t a = 0; a < axis; a++)
            is_there = is_there && point[a] == fixed[a];
        if (!is_there)
            continue;
        most = fmax(most, point[axis + 1]);
        least = fmin(least, point[axis + 1]);
    }
    return axis + 1 == table->n_axes || (most >= at[axis + 1] && least <= 1.25 * at[axis + 1]);
}

/* The distinct places of AXIS below and above AT among the points that begin like FIXED: the
 * largest at most there, and the smallest from there on, of those that reach AT or of ALL. NAN:
 * there is none. */
static void neighbours(const CostTable *table, uint32_t axis, const double *fixed, const double *at,
                       bool all, double *low, double *high)
{
    *low = NAN;
    *high = NAN;
    for (uint32_t i = 0; i < table->n_points; i++) {
        const double *point = table->at + (size_t)i * table->n_axes;
        bool is_there = true;
        for (uint32_t a = 0; a < axis; a++)
            is_there = is_there && point[a] == fixed[a];
        if (!is_there || (!all && !reaches(table, axis, fixed, point[axis], at)))
            continue;
        if (point[axis] <= at[axis] && !(point[axis] <= *low))
            *low = point[axis];
        if (point[axis] >= at[axis] && !(point[axis] >= *high))
            *high = point[axis];
    }
}

/* Lines that do not reach the point are passed over where others do on both sides. */
static void choose(const CostTable *table, uint32_t axis, const double *fixed, const double *at,
                   double *low, double *high)
{
    neighbours(table, axis, fixed, at, false, low, high);
    if (isnan(*low) || isnan(*high))
        neighbours(table, axis, fixed, at, true, low, high);
}

static double plain(const CostTable *table, uint32_t axis, double *fixed, const double *at,
                    CostStatus *status)
{
    bool holds = table->unit == UNIT_FACTOR;
    double low;
    double high;
    if (axis == table->n_axes) {
        for (uint32_t i = 0; i < table->n_points; i++)
            if (cost_place_compare(table, table->at + (size_t)i * table->n_axes, fixed) == 0)
                return table->value[i];
        fail_msg("the reference lost a point");
    }
    choose(table, axis, fixed, at, &low, &high);
    fixed[axis] = isnan(low) ? high : low;
    double cost = plain(table, axis + 1, fixed, at, status);
    if (low == high)
        return cost;
    CostStatus seen = isnan(low) || isnan(high) ? COST_EXTRAPOLATED : COST_INTERPOLATED;
    *status = seen > *status ? seen : *status;
    if (isnan(low))
        return cost;
    if (isnan(high))
        return low > 0 && !holds ? cost * (at[axis] / low) : cost;
    fixed[axis] = high;
    double other = plain(table, axis + 1, fixed, at, status);
    return cost + (other - cost) * ((at[axis] - low) / (high - low));
}

static void costs_are_those_of_a_plain_reference(void **unused)
{
    (void)unused;
    uint64_t state = 5;
    for (int round = 0; round < 200; round++) {
        Hardware hardware = {0};
        Costs *costs;
        for (uint32_t axes = 0; axes <= COST_AXES; axes++)
            add_random_table(&hardware, &state, axes, (CostUnit)random_below(&state, COST_UNITS));
        assert_ok(costs_new(&hardware, &costs));
        for (int query = 0; query < 200; query++) {
            uint32_t number = random_below(&state, hardware.n_tables);
            const CostTable *table = &hardware.tables[number];
            double at[COST_AXES];
            double fixed[COST_AXES];
            CostUse use = {0};
            CostStatus status = COST_OK;
            for (int a = 0; a < COST_AXES; a++)
                at[a] = random_below(&state, 30) / 2.0;
            assert_int_equal(costs_find(costs, table->name, "s"), number);
            double cost = costs_at(costs, number, at, &use);
            double wanted = plain(table, 0, fixed, at, &status);
            assert_true(fabs(cost - wanted) <= 1e-9 * (1 + fabs(wanted)));
            for (CostStatus s = 0; s < COST_STATUSES; s++)
                assert_int_equal(use.n[s], s == status);
        }
        costs_free(costs);
        hardware_free(&hardware);
    }
}

static void measured_points_come_back_exactly(void **unused)
{
    (void)unused;
    uint64_t state = 9;
    Hardware hardware = {0};
    Costs *costs;
    CostUse use = {0};
    uint64_t points = 0;
    for (int i = 0; i < 30; i++)
        add_random_table(&hardware, &state, 1 + (uint32_t)i % 3, UNIT_NS);
    assert_ok(costs_new(&hardware, &costs));
    for (uint32_t t = 0; t < hardware.n_tables; t++) {
        const CostTable *table = &hardware.tables[t];
        for (uint32_t i = 0; i < table->n_points; i++, points++)
            assert_true(costs_at(costs, t, table->at + (size_t)i * table->n_axes, &use) ==
                        table->value[i]);
    }
    assert_int_equal(use.n[COST_OK], points);
    costs_free(costs);
    hardware_free(&hardware);
}

static void outside_the_grid_the_utilisation_is_held(void **unused)
{
    (void)unused;
    Hardware hardware = {0};
    Costs *costs;
    CostTable *table;
    CostUse use = {0};
    assert_ok(hardware_add_table(&hardware, "time", "", UNIT_NS, AXIS_NAMES, 1, &table));
    assert_ok(cost_table_put(table, &(double){8}, 100, 0));
    assert_ok(cost_table_put(table, &(double){2}, 40, 0));
    assert_ok(hardware_add_table(&hardware, "factor", "", UNIT_FACTOR, AXIS_NAMES, 1, &table));
    assert_ok(cost_table_put(table, &(double){8}, 1.5, 0));
    assert_ok(costs_new(&hardware, &costs));
    assert_true(costs_at(costs, 0, &(double){16}, &use) == 200);
    assert_true(costs_at(costs, 0, &(double){1}, &use) == 40);
    assert_true(costs_at(costs, 0, &(double){5}, &use) == 70);
    assert_true(costs_at(costs, 1, &(double){800}, &use) == 1.5);
    assert_int_equal(use.n[COST_EXTRAPOLATED], 3);
    assert_int_equal(use.n[COST_INTERPOLATED], 1);
    costs_free(costs);
    hardware_free(&hardware);
}

/* It is no work of the tokens: of two requests with many it is what it is of two with one. */
static void what_is_left_of_a_step_stays_outside_the_grid(void **unused)
{
    (void)unused;
    static const char *const AXIS_NAMES[] = {"requests", "tokens"};
    Hardware hardware = {0};
    CostTable *table;
    Costs *costs;
    CostUse use = {0};
    assert_ok(
        hardware_add_table(&hardware, "step/rest", "model graph", UNIT_NS, AXIS_NAMES, 2, &table));
    assert_ok(cost_table_put(table, (const double[]){1, 1}, 100, 0));
    assert_ok(cost_table_put(table, (const double[]){1, 256}, 400, 0));
    assert_ok(cost_table_put(table, (const double[]){2, 1}, 200, 0));
    assert_ok(costs_new(&hardware, &costs));
    uint32_t rest = costs_find(costs, "step/rest", "model graph");
    assert_true(costs_at(costs, rest, (const double[]){2, 128}, &use) == 200);
    assert_true(costs_at(costs, rest, (const double[]){1, 1000}, &use) == 400);
    assert_int_equal(use.n[COST_EXTRAPOLATED], 2);
    costs_free(costs);
    hardware_free(&hardware);
}

/* 8 and 16 experts were measured with 1 row, 10 ns for each expert, and with 100, 100 ns; and
 * BETWEEN experts with LOW and HIGH rows. */
static Costs *costs_of_experts(double between, double low, double low_ns, double high,
                               double high_ns, Hardware *hardware)
{
    CostTable *table;
    Costs *costs;
    assert_ok(hardware_add_table(hardware, "time", "", UNIT_NS, AXIS_NAMES, 2, &table));
    for (double experts = 8; experts <= 16; experts += 8)
        for (double rows = 1; rows <= 100; rows += 99)
            assert_ok(cost_table_put(table, (const double[]){experts, rows},
                                     rows == 1 ? 10 * experts : 100 * experts, 0));
    assert_ok(cost_table_put(table, (const double[]){between, low}, low_ns, 0));
    assert_ok(cost_table_put(table, (const double[]){between, high}, high_ns, 0));
    assert_ok(costs_new(hardware, &costs));
    return costs;
}

/* Of 13 experts few rows were measured, which does not tell what many take: 8 and 16 do. */
static void lines_that_are_too_short_are_passed_over(void **unused)
{
    (void)unused;
    Hardware hardware = {0};
    CostUse use = {0};
    Costs *costs = costs_of_experts(13, 1, 200, 2, 210, &hardware);
    assert_true(costs_at(costs, 0, (const double[]){13, 2}, &use) == 210);
    assert_true(costs_at(costs, 0, (const double[]){13, 100}, &use) == 1300);
    assert_true(costs_at(costs, 0, (const double[]){12, 100}, &use) == 1200);
    assert_true(costs_at(costs, 0, (const double[]){13, 200}, &use) == 420 * 50);
    costs_free(costs);
    hardware_free(&hardware);
}

/* Of 15 experts only many rows were measured, as of prompts: a few take what 8 and 16 tell. */
static void lines_that_begin_far_behind_are_passed_over(void **unused)
{
    (void)unused;
    Hardware hardware = {0};
    CostUse use = {0};
    Costs *costs = costs_of_experts(15, 10, 1000, 100, 1500, &hardware);
    assert_true(costs_at(costs, 0, (const double[]){12, 1}, &use) == 120);
    assert_true(costs_at(costs, 0, (const double[]){15, 1}, &use) == 150);
    assert_int_equal(use.n[COST_INTERPOLATED], 2);
    assert_true(costs_at(costs, 0, (const double[]){15, 8}, &use) == 1000);   /* close enough */
    assert_true(costs_at(costs, 0, (const double[]){15, 0.5}, &use) == 1000); /* nobody has it */
    costs_free(costs);
    hardware_free(&hardware);
}

static void what_has_no_table_is_missing(void **unused)
{
    (void)unused;
    Hardware hardware = {0};
    Costs *costs;
    CostTable *table;
    CostUse use = {0};
    assert_ok(hardware_add_table(&hardware, "time", "", UNIT_NS, AXIS_NAMES, 1, &table));
    assert_ok(costs_new(&hardware, &costs));
    assert_int_equal(costs_find(costs, "time", ""), COSTS_NONE);
    assert_int_equal(costs_find(costs, "other", ""), COSTS_NONE);
    assert_true(costs_at(costs, COSTS_NONE, &(double){1}, &use) == 0);
    assert_int_equal(use.n[COST_MISSING], 1);
    costs_free(costs);
    hardware_free(&hardware);
}

/* ---- experts ---- */

/* Calls of 4 experts take 100 ns for each row of one, and 1000 more where one has 6 of 16 rows. */
static void make_experts(Hardware *hardware)
{
    static const char *const PLACES[] = {"active", "rows", "load"};
    HardwareModel *model;
    CostTable *table;
    assert_ok(hardware_add_model(hardware, "model", &model));
    assert_ok(mem_new(&model->ops[STACK_DECODER], 1, sizeof(HardwareOp), "ops"));
    model->ops[STACK_DECODER][0] = (HardwareOp){.op = OP_EXPERTS, .shape = "s"};
    model->n_ops[STACK_DECODER] = 1;
    assert_ok(hardware_add_table(hardware, "gpu/experts", "s", UNIT_NS, PLACES, 3, &table));
    for (double rows = 1; rows <= 8; rows++)
        assert_ok(cost_table_put(table, (double[]){4, rows, 1}, 100 * rows, 0));
    assert_ok(hardware_add_table(hardware, "uneven/experts", "s", UNIT_NS, PLACES, 2, &table));
    assert_ok(cost_table_put(table, (double[]){4, 4}, 1000, 0));
    assert_ok(hardware_add_table(hardware, "unevenness", "s", UNIT_FACTOR, PLACES, 2, &table));
    assert_ok(
        cost_table_put(table, (double[]){4, 4}, cost_unevenness(4, 16, 6 * 6 + 3 * 100. / 9), 0));
}

static uint64_t cost_of_rows(OpCosts *costs, const uint32_t rows[4])
{
    ExpertWork work = {0};
    for (uint32_t i = 0; i < 4; i++)
        expert_work_add(&work, rows[i]);
    return op_costs_experts(costs, 0, &work, false);
}

static void rows_that_are_shared_unevenly_cost_more_the_more_they_are(void **unused)
{
    (void)unused;
    Hardware hardware = {.backend = "cuda", .device = "made up"};
    const Plan plan = plan_default();
    OpCosts costs;
    make_experts(&hardware);
    assert_ok(op_costs_new(&hardware, "model", &plan, &costs));
    assert_int_equal(cost_of_rows(&costs, (uint32_t[]){4, 4, 4, 4}), 400);
    /* Sums of squares: 64 evenly, 69.33 as measured. */
    assert_int_equal(cost_of_rows(&costs, (uint32_t[]){5, 4, 4, 3}), 400 + 375);
    assert_int_equal(cost_of_rows(&costs, (uint32_t[]){5, 5, 3, 3}), 400 + 750);
    assert_int_equal(cost_of_rows(&costs, (uint32_t[]){13, 1, 1, 1}), 400 + 1500);
    op_costs_free(&costs);
    hardware_free(&hardware);
}

static void works_that_are_joined_are_one_of_all_their_experts(void **unused)
{
    (void)unused;
    const uint32_t rows[] = {13, 1, 200, 4};
    ExpertWork all = {0};
    ExpertWork joined = {0};
    ExpertWork more = {0};
    for (uint32_t i = 0; i < 4; i++) {
        expert_work_add(&all, rows[i]);
        expert_work_add(i < 2 ? &joined : &more, rows[i]);
    }
    expert_work_join(&joined, &more);
    assert_memory_equal(&joined, &all, sizeof all);
}

static double log_distance(const CostTable *table, uint32_t point, const double *at)
{
    double sum = 0;
    for (uint32_t a = 0; a < table->n_axes; a++)
        sum += fabs(log((table->at[(size_t)point * table->n_axes + a] + 1) / (at[a] + 1)));
    return sum;
}

static void the_nearest_place_is_that_by_the_ratios_of_all_axes(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        uint64_t state = seed;
        Hardware hardware = {0};
        add_random_table(&hardware, &state, 1 + seed % 3, UNIT_NS);
        const CostTable *table = &hardware.tables[0];
        const double at[COST_AXES] = {random_below(&state, 20), random_below(&state, 20),
                                      random_below(&state, 20)};
        uint32_t nearest = cost_table_nearest(table, at);
        assert_true(nearest < table->n_points);
        for (uint32_t i = 0; i < table->n_points; i++)
            assert_true(log_distance(table, nearest, at) <= log_distance(table, i, at) + 1e-9);
        hardware_free(&hardware);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(costs_are_those_of_a_plain_reference),
        cmocka_unit_test(measured_points_come_back_exactly),
        cmocka_unit_test(outside_the_grid_the_utilisation_is_held),
        cmocka_unit_test(what_is_left_of_a_step_stays_outside_the_grid),
        cmocka_unit_test(lines_that_are_too_short_are_passed_over),
        cmocka_unit_test(lines_that_begin_far_behind_are_passed_over),
        cmocka_unit_test(what_has_no_table_is_missing),
        cmocka_unit_test(rows_that_are_shared_unevenly_cost_more_the_more_they_are),
        cmocka_unit_test(works_that_are_joined_are_one_of_all_their_experts),
        cmocka_unit_test(the_nearest_place_is_that_by_the_ratios_of_all_axes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
