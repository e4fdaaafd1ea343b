/* Runs of the same arrivals: of each number the middle one, and how much it differs. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include <math.h>
#include <stdlib.h>

#include "analysis/served_runs.h"
#include "base/memory.h"

enum { MOST_RUNS = 7, TRIALS = 200 };

static uint64_t state = 7;

static uint64_t draw(uint32_t below)
{
    return random_below(&state, below);
}

static LatencySummary draw_summary(void)
{
    return (LatencySummary){.n = draw(50),
                            .mean = 1 + (double)draw(1000) / 7,
                            .median = 1 + draw(1000),
                            .p90 = 1 + draw(1000),
                            .p99 = 1 + draw(1000),
                            .most = 1 + draw(1000)};
}

static void draw_reports(ServingReport *runs, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        runs[i] = (ServingReport){.requests = 9,
                                  .steps = draw(100),
                                  .tokens = draw(100),
                                  .output_tokens = 1 + draw(100),
                                  .duration_ns = 1 + draw(1000000),
                                  .busy_ns = draw(1000),
                                  .ttft = draw_summary(),
                                  .tbt = draw_summary(),
                                  .tpot = draw_summary(),
                                  .kept = 1 + draw(9),
                                  .latency = draw_summary()};
}

/* The value that (n - 1) / 2 others are at most, as ranks by counting have it. */
static double plain_middle(const double *values, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t below = 0;
        uint32_t equal = 0;
        for (uint32_t j = 0; j < n; j++) {
            below += values[j] < values[i];
            equal += values[j] == values[i];
        }
        if (below <= (n - 1) / 2 && (n - 1) / 2 < below + equal)
            return values[i];
    }
    fail_msg("no value in the middle");
    return 0;
}

/* By differences of pairs. */
static double plain_variation(const double *values, uint32_t n)
{
    double sum = 0;
    double squares = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += values[i];
        for (uint32_t j = 0; j < i; j++)
            squares += (values[i] - values[j]) * (values[i] - values[j]);
    }
    return n > 1 ? sqrt(squares / n / (n - 1)) / (sum / n) : 0;
}

#define CHECK_MIDDLE(FIELD)                                                                        \
    do {                                                                                           \
        for (uint32_t i = 0; i < n; i++)                                                           \
            values[i] = (double)runs[i].FIELD;                                                     \
        assert_true((double)middle.FIELD == plain_middle(values, n));                              \
    } while (0)
#define CHECK(FIELD, NOISE)                                                                        \
    do {                                                                                           \
        CHECK_MIDDLE(FIELD);                                                                       \
        assert_true(fabs(noise.NOISE - plain_variation(values, n)) < 1e-9);                        \
    } while (0)
#define CHECK_SUMMARY(NAME)                                                                        \
    do {                                                                                           \
        CHECK(NAME.mean, NAME.mean);                                                               \
        CHECK(NAME.median, NAME.median);                                                           \
        CHECK(NAME.p90, NAME.p90);                                                                 \
        CHECK(NAME.p99, NAME.p99);                                                                 \
        CHECK_MIDDLE(NAME.n);                                                                      \
        CHECK_MIDDLE(NAME.most);                                                                   \
    } while (0)

static void each_number_is_the_middle_one_and_its_noise_the_variation(void **unused)
{
    ServingReport runs[MOST_RUNS];
    (void)unused;
    for (int trial = 0; trial < TRIALS; trial++) {
        uint32_t n = 1 + (uint32_t)draw(MOST_RUNS);
        double values[MOST_RUNS];
        ServingReport middle;
        ServingNoise noise;
        draw_reports(runs, n);
        assert_ok(served_runs_middle(runs, n, &middle, &noise));
        assert_int_equal(middle.requests, 9);
        CHECK_MIDDLE(steps);
        CHECK_MIDDLE(tokens);
        CHECK_MIDDLE(output_tokens);
        CHECK_MIDDLE(busy_ns);
        CHECK(duration_ns, duration);
        CHECK_SUMMARY(ttft);
        CHECK_SUMMARY(tbt);
        CHECK_SUMMARY(tpot);
        CHECK_MIDDLE(kept);
        CHECK_SUMMARY(latency);
        for (uint32_t i = 0; i < n; i++)
            values[i] = serving_output_tokens_per_s(&runs[i]);
        assert_true(fabs(noise.output_tokens_per_s - plain_variation(values, n)) < 1e-9);
        for (uint32_t i = 0; i < n; i++)
            values[i] = serving_goodput_per_s(&runs[i]);
        assert_true(fabs(noise.goodput_per_s - plain_variation(values, n)) < 1e-9);
    }
}

static void one_run_has_no_noise(void **unused)
{
    ServingReport run;
    ServingReport middle;
    ServingNoise noise;
    (void)unused;
    draw_reports(&run, 1);
    assert_ok(served_runs_middle(&run, 1, &middle, &noise));
    assert_true(middle.ttft.p90 == run.ttft.p90 && middle.duration_ns == run.duration_ns);
    assert_true(noise.ttft.p90 == 0 && noise.duration == 0 && noise.output_tokens_per_s == 0);
}

static void every_failed_allocation_is_reported(void **unused)
{
    ServingReport runs[2];
    (void)unused;
    draw_reports(runs, 2);
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        ServingReport middle;
        ServingNoise noise;
        failing_end(&failing, served_runs_middle(runs, 2, &middle, &noise));
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_number_is_the_middle_one_and_its_noise_the_variation),
        cmocka_unit_test(one_run_has_no_noise),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
