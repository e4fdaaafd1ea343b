/* Points predicted from the others, against a plain reference. */
#include "tests/support.h"

#include <math.h>

#include "analysis/leave_one_out.h"
#include "base/memory.h"
#include "sim/costs.h"

static const char *const AXES[] = {"a", "b"};

static void a_straight_line_is_predicted_exactly(void **unused)
{
    (void)unused;
    Hardware hardware = {0};
    CostTable *table;
    LeaveOneOut out;
    assert_ok(hardware_add_table(&hardware, "t", "", UNIT_NS, AXES, 1, &table));
    for (double x = 1; x < 100; x *= 2)
        assert_ok(cost_table_put(table, &x, 5 + 3 * x, 0.01 * x));
    assert_ok(leave_one_out(table, &out));
    assert_int_equal(out.points, 5);
    assert_true(out.mean < 1e-12 && out.p95 < 1e-12);
    assert_true(fabs(out.noise - 0.08) < 1e-12);
    for (double x = 1, i = 0; x < 100; x *= 2, i++)
        assert_true(table->at[(int)i] == x && table->value[(int)i] == 5 + 3 * x);
    hardware_free(&hardware);
}

static void errors_are_those_of_tables_without_the_point(void **unused)
{
    (void)unused;
    uint64_t state = 4;
    for (int round = 0; round < 30; round++) {
        Hardware hardware = {0};
        CostTable *table;
        LeaveOneOut out;
        double sum = 0;
        uint32_t n = 0;
        assert_ok(hardware_add_table(&hardware, "t", "", UNIT_NS, AXES, 2, &table));
        for (int i = 0; i < 25; i++) {
            double at[] = {random_below(&state, 4), random_below(&state, 6)};
            assert_ok(cost_table_put(table, at, 1 + random_below(&state, 50), 0));
        }
        for (uint32_t left = 0; left < table->n_points; left++) {
            Hardware others = {0};
            CostTable *rest;
            CostUse use = {0};
            Costs *costs;
            assert_ok(hardware_add_table(&others, "t", "", UNIT_NS, AXES, 2, &rest));
            for (uint32_t i = 0; i < table->n_points; i++)
                if (i != left)
                    assert_ok(cost_table_put(rest, table->at + 2 * i, table->value[i], 0));
            assert_ok(costs_new(&others, &costs));
            double cost = costs_at(costs, 0, table->at + 2 * left, &use);
            if (use.n[COST_INTERPOLATED] > 0) {
                sum += fabs(cost / table->value[left] - 1);
                n++;
            }
            costs_free(costs);
            hardware_free(&others);
        }
        assert_ok(leave_one_out(table, &out));
        assert_int_equal(out.points, n);
        assert_true(n == 0 || fabs(out.mean - sum / n) < 1e-9);
        hardware_free(&hardware);
    }
}

static void tables_of_two_points_predict_none(void **unused)
{
    (void)unused;
    Hardware hardware = {0};
    CostTable *table;
    LeaveOneOut out;
    assert_ok(hardware_add_table(&hardware, "t", "", UNIT_NS, AXES, 1, &table));
    assert_ok(leave_one_out(table, &out));
    assert_ok(cost_table_put(table, &(double){1}, 5, 0));
    assert_ok(cost_table_put(table, &(double){2}, 5, 0));
    assert_ok(leave_one_out(table, &out));
    assert_int_equal(out.points, 0);
    hardware_free(&hardware);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_straight_line_is_predicted_exactly),
        cmocka_unit_test(errors_are_those_of_tables_without_the_point),
        cmocka_unit_test(tables_of_two_points_predict_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
