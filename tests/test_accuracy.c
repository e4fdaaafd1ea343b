/* Errors of simulated times: the statistics against plain sums, the operation to blame, the ranking
 * of plans. */
#include "tests/support.h"

#include <math.h>
#include <stdlib.h>

#include "analysis/accuracy.h"
#include "base/memory.h"

enum { RUNS = 5, STEPS = 40, LAYERS = 3, STEP_OPS = 2 * LAYERS };

/* Times of one step, of which each layer has an attention and an experts' operation. */
typedef struct {
    uint64_t step_ns;
    TimingRecord ops[STEP_OPS];
} Times;

static Times random_times(uint64_t *random, const Times *like, double off)
{
    Times times = {0};
    times.step_ns = like != NULL ? (uint64_t)((double)like->step_ns * off)
                                 : 100000 + random_below(random, 100000);
    for (uint32_t i = 0; i < STEP_OPS; i++) {
        times.ops[i] = (TimingRecord){.layer = i / 2, .op = i % 2 ? OP_EXPERTS : OP_ATTENTION};
        times.ops[i].duration_ns = like != NULL ? (uint64_t)((double)like->ops[i].duration_ns * off)
                                                : 1000 + random_below(random, 100000);
    }
    return times;
}

static void predict(Accuracy *accuracy, const Times *times)
{
    assert_ok(accuracy_predict(accuracy, PHASE_DECODE, 2, times->step_ns));
    assert_ok(accuracy_predict_ops(accuracy, times->ops, STEP_OPS, NULL, 0));
}

static void measure(Accuracy *accuracy, uint32_t run, const Times *times)
{
    assert_ok(accuracy_measure(accuracy, run, times->step_ns));
    assert_ok(accuracy_measure_ops(accuracy, run, times->ops, STEP_OPS, NULL, 0));
}

static int compare_doubles(const void *left, const void *right)
{
    const double *a = left;
    const double *b = right;
    return (*a > *b) - (*a < *b);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static void assert_near(double a, double b)
{
    assert_true(fabs(a - b) <= 1e-9 * (1 + fabs(b)));
}

/* The statistics of steps whose errors are ERRORS. */
static void check_stats(const ErrorStats *stats, const double errors[STEPS])
{
    double absolute[STEPS];
    double mean = 0;
    double bias = 0;
    for (size_t i = 0; i < STEPS; i++) {
        absolute[i] = fabs(errors[i]);
        mean += absolute[i] / STEPS;
        bias += errors[i] / STEPS;
    }
    assert_int_equal(stats->n, STEPS);
    assert_near(stats->mean, mean);
    assert_near(stats->bias, bias);
    assert_near(stats->median, median(absolute, STEPS));
    assert_near(stats->worst, absolute[STEPS - 1]);
    assert_near(stats->p95, absolute[STEPS * 95 / 100 - 1]);
}

static void errors_are_those_of_the_median_run(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        uint64_t random = seed;
        static Times predicted[STEPS];
        static Times measured[STEPS][RUNS];
        double steps[STEPS];
        double layer[STEPS];
        Accuracy *accuracy;
        AccuracyReport report;
        assert_ok(accuracy_new(RUNS, &accuracy));
        for (size_t i = 0; i < STEPS; i++) {
            double runs[RUNS];
            double layer_runs[RUNS];
            predicted[i] = random_times(&random, NULL, 0);
            predict(accuracy, &predicted[i]);
            for (uint32_t run = 0; run < RUNS; run++) {
                measured[i][run] =
                    random_times(&random, &predicted[i], 0.5 + random_below(&random, 100) / 100.0);
                runs[run] = (double)measured[i][run].step_ns;
                layer_runs[run] = (double)(measured[i][run].ops[2].duration_ns +
                                           measured[i][run].ops[3].duration_ns);
            }
            double truth = median(runs, RUNS);
            steps[i] = ((double)predicted[i].step_ns - truth) / truth;
            truth = median(layer_runs, RUNS);
            layer[i] =
                ((double)(predicted[i].ops[2].duration_ns + predicted[i].ops[3].duration_ns) -
                 truth) /
                truth;
        }
        for (uint32_t run = 0; run < RUNS; run++)
            for (size_t i = 0; i < STEPS; i++)
                measure(accuracy, run, &measured[i][run]);
        assert_ok(accuracy_report(accuracy, &report));
        check_stats(&report.steps, steps);
        check_stats(&report.phases[PHASE_DECODE], steps);
        check_stats(&report.layers[1], layer);
        assert_int_equal(report.phases[PHASE_PREFILL].n, 0);
        assert_int_equal(report.kinds[OP_EXPERTS].n, STEPS);
        assert_int_equal(report.kinds[ACCURACY_LOADS].n, 0);
        assert_int_equal(report.all.tokens, 2 * STEPS);
        accuracy_report_free(&report);
        accuracy_free(accuracy);
    }
}

static void of_one_run_the_noise_is_not_known(void **unused)
{
    (void)unused;
    AccuracyReport report;
    Accuracy *accuracy;
    cJSON *json;
    assert_ok(accuracy_new(1, &accuracy));
    assert_ok(accuracy_predict(accuracy, PHASE_DECODE, 1, 100));
    assert_ok(accuracy_measure(accuracy, 0, 100));
    assert_ok(accuracy_report(accuracy, &report));
    assert_true(report.all.noise < 0 && report.steps.noise < 0);
    assert_ok(accuracy_json(&report, &json));
    const cJSON *end = cJSON_GetObjectItem(cJSON_GetObjectItem(json, "end_to_end"), "all");
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(end, "noise")));
    cJSON_Delete(json);
    accuracy_report_free(&report);
    accuracy_free(accuracy);
}

static void a_run_that_is_measured_again_is_forgotten(void **unused)
{
    (void)unused;
    const TimingRecord op = {.op = OP_EXPERTS, .duration_ns = 9};
    AccuracyReport report;
    Accuracy *accuracy;
    assert_ok(accuracy_new(2, &accuracy));
    assert_ok(accuracy_predict(accuracy, PHASE_DECODE, 1, 100));
    assert_ok(accuracy_predict_ops(accuracy, &op, 1, NULL, 0));
    for (uint32_t run = 0; run < 2; run++) {
        assert_ok(accuracy_measure(accuracy, run, 100000));
        accuracy_forget_steps(accuracy, run);
        assert_ok(accuracy_measure(accuracy, run, 100));
        const TimingRecord late = {.op = OP_EXPERTS, .duration_ns = 900000};
        assert_ok(accuracy_measure_ops(accuracy, run, &late, 1, NULL, 0));
        accuracy_forget_ops(accuracy, run);
        assert_ok(accuracy_measure_ops(accuracy, run, &op, 1, NULL, 0));
    }
    assert_ok(accuracy_report(accuracy, &report));
    assert_near(report.all.measured_ns, 100);
    assert_near(report.all.noise, 0);
    assert_near(report.kinds[OP_EXPERTS].measured_ns, 9);
    accuracy_report_free(&report);
    accuracy_free(accuracy);
}

/* All runs alike, and the prediction of one operation off. */
static void the_operation_that_is_off_is_blamed(void **unused)
{
    (void)unused;
    for (int wrong = 0; wrong < 2; wrong++) {
        uint64_t random = 7;
        static Times measured[STEPS];
        Accuracy *accuracy;
        AccuracyReport report;
        double off = 0;
        assert_ok(accuracy_new(2, &accuracy));
        for (size_t i = 0; i < STEPS; i++) {
            measured[i] = random_times(&random, NULL, 0);
            Times predicted = measured[i];
            for (uint32_t op = (uint32_t)wrong; op < STEP_OPS; op += 2) {
                predicted.ops[op].duration_ns *= 3;
                off += 2 * (double)measured[i].ops[op].duration_ns;
            }
            predict(accuracy, &predicted);
        }
        for (uint32_t run = 0; run < 2; run++)
            for (size_t i = 0; i < STEPS; i++)
                measure(accuracy, run, &measured[i]);
        assert_ok(accuracy_report(accuracy, &report));
        assert_int_equal(report.blamed, wrong ? OP_EXPERTS : OP_ATTENTION);
        assert_near(report.blamed_ns, off);
        assert_near(report.blamed_share, 1);
        assert_near(report.steps.worst, 0);
        assert_near(report.kinds[report.blamed].bias, 2);
        accuracy_report_free(&report);
        accuracy_free(accuracy);
    }
}

/* The same steps of other layers: another model was run. */
static void steps_that_were_not_predicted_are_refused(void **unused)
{
    (void)unused;
    uint64_t random = 3;
    Times times = random_times(&random, NULL, 0);
    Accuracy *accuracy;
    AccuracyReport report;
    assert_ok(accuracy_new(1, &accuracy));
    predict(accuracy, &times);
    assert_int_equal(accuracy_report(accuracy, &report), ERR_MISMATCH);
    assert_int_equal(accuracy_measure_ops(accuracy, 0, times.ops, STEP_OPS - 2, NULL, 0),
                     ERR_MISMATCH);
    assert_int_equal(accuracy_measure_ops(accuracy, 0, times.ops, STEP_OPS, NULL, 0), ERR_MISMATCH);
    accuracy_free(accuracy);
}

static void tau_counts_pairs_and_regret_looks_at_the_pick(void **unused)
{
    (void)unused;
    const double up[] = {1, 2, 3, 4};
    const double down[] = {4, 3, 2, 1};
    const double one_swap[] = {1, 3, 2, 4};
    const double ties[] = {1, 1, 2, 3};
    assert_near(accuracy_kendall(up, up, 4), 1);
    assert_near(accuracy_kendall(up, down, 4), -1);
    assert_near(accuracy_kendall(up, one_swap, 4), 4.0 / 6);
    assert_near(accuracy_kendall(up, ties, 4), 5 / sqrt(6.0 * 5));
    assert_near(accuracy_kendall(up, up, 1), 1);
    const double near[] = {0.6, 0.6, 0.1, 0.1};
    DistinctRanking ranking = accuracy_rank_distinct(up, up, near, 4);
    assert_near(ranking.tau, 1);
    assert_int_equal(ranking.pairs, 6);
    assert_int_equal(ranking.distinct, 5);
    assert_near(accuracy_rank_distinct(down, up, near, 4).tau, -1);
    const double far[] = {9, 9, 9, 9};
    assert_int_equal(accuracy_rank_distinct(down, up, far, 4).distinct, 0);
    assert_near(accuracy_rank_distinct(down, up, far, 4).tau, 1);
    assert_near(accuracy_regret(up, up, 4), 0);
    assert_near(accuracy_regret(up, one_swap + 1, 3), 0.5);
    assert_near(accuracy_regret(down, up, 4), 3);
}

static void memory_that_ends_is_told(void **unused)
{
    (void)unused;
    uint64_t random = 5;
    Times times = random_times(&random, NULL, 0);
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Accuracy *accuracy = NULL;
        AccuracyReport report = {0};
        Status status = accuracy_new(1, &accuracy);
        if (status == OK)
            status = accuracy_predict(accuracy, PHASE_PREFILL, 1, times.step_ns);
        if (status == OK)
            status = accuracy_predict_ops(accuracy, times.ops, STEP_OPS, NULL, 0);
        if (status == OK)
            status = accuracy_measure(accuracy, 0, times.step_ns);
        if (status == OK)
            status = accuracy_measure_ops(accuracy, 0, times.ops, STEP_OPS, NULL, 0);
        if (status == OK)
            status = accuracy_report(accuracy, &report);
        failing_end(&failing, status);
        accuracy_report_free(&report);
        accuracy_free(accuracy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_those_of_the_median_run),
        cmocka_unit_test(of_one_run_the_noise_is_not_known),
        cmocka_unit_test(a_run_that_is_measured_again_is_forgotten),
        cmocka_unit_test(the_operation_that_is_off_is_blamed),
        cmocka_unit_test(steps_that_were_not_predicted_are_refused),
        cmocka_unit_test(tau_counts_pairs_and_regret_looks_at_the_pick),
        cmocka_unit_test(memory_that_ends_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
