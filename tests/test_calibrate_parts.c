/* What calibration is made of: the routing that it forces, the rounds that count, and what becomes
 * of the samples. */
#include "base/status.h"
#include "tests/support.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "sim/costs.h"
#include "tests/calibrate_maker.h"
#include "tests/disturbed_machine.h"

/* A calibration of MODEL with every expert in place, closed by close_model(). */
static Calibration open_model(uint32_t requests, uint32_t length, uint32_t tokens)
{
    static CalibrateOptions options;
    static Hardware hardware;
    const Plan plan = plan_default();
    options = options_of_cpu();
    hardware = (Hardware){0};
    Calibration c = {.options = &options, .hardware = &hardware, .model = MODEL};
    assert_ok(calibration_open(&c, MODEL, &plan, requests, length, tokens));
    return c;
}

static void close_model(Calibration *c)
{
    calibration_free(c);
    hardware_free(c->hardware);
}

/* Rows of each of EXPERTS, of TOKENS tokens with TOP_K each, which must differ. */
static void count_rows(const uint16_t *forced, uint32_t tokens, uint32_t top_k, uint32_t experts,
                       uint32_t *rows)
{
    memset(rows, 0, experts * sizeof *rows);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t k = 0; k < top_k; k++) {
            uint16_t expert = forced[t * top_k + k];
            assert_true(expert < experts);
            for (uint32_t other = 0; other < k; other++)
                assert_int_not_equal(forced[t * top_k + other], expert);
            rows[expert]++;
        }
}

static void forced_routing_is_of_as_many_experts_and_of_the_load_it_says(void **unused)
{
    (void)unused;
    Calibration c = open_model(2, 64, 1024);
    for (uint32_t tokens = 1; tokens <= 1024; tokens = tokens * 2 + tokens % 3)
        for (uint32_t active = 4; active <= 32 && active <= 4 * tokens; active++)
            for (int skew = 0; skew <= 2; skew++) {
                uint32_t rows[32];
                double load = calibration_force(&c, STACK_DECODER, tokens, active, skew / 2.0);
                for (uint32_t layer = 0; layer < c.config->n_moe_layers; layer++) {
                    uint32_t n = 0;
                    double wanted = 0;
                    count_rows(c.forced + (size_t)layer * tokens * 4, tokens, 4, 32, rows);
                    for (uint32_t e = 0; e < 32; e++) {
                        n += rows[e] > 0;
                        wanted += rows[e] > 0 ? cost_load_of(rows[e]) : 0;
                    }
                    assert_int_equal(n, active);
                    assert_true(fabs(load - wanted / n) < 1e-9);
                }
            }
    close_model(&c);
}

static void rows_that_fall_by_rank_are_as_uneven_as_it_says(void **unused)
{
    (void)unused;
    Calibration c = open_model(2, 64, 1024);
    for (uint32_t tokens = 1; tokens <= 1024; tokens = tokens * 2 + tokens % 3)
        for (uint32_t active = 4; active <= 32 && active <= 4 * tokens; active++) {
            double unevenness = calibration_force_zipf(&c, STACK_DECODER, tokens, active);
            for (uint32_t layer = 0; layer < c.config->n_moe_layers; layer++) {
                uint32_t rows[32];
                uint32_t n = 0;
                uint32_t most = 0;
                double squares = 0;
                count_rows(c.forced + (size_t)layer * tokens * 4, tokens, 4, 32, rows);
                for (uint32_t e = 0; e < 32; e++) {
                    n += rows[e] > 0;
                    most = rows[e] > most ? rows[e] : most;
                    squares += (double)rows[e] * rows[e];
                }
                assert_int_equal(n, active);
                assert_true(most <= tokens);
                assert_true(fabs(unevenness - cost_unevenness(n, 4 * tokens, squares)) < 1e-9);
            }
            if (tokens >= 64 && active >= 16)
                assert_true(unevenness > 0.5);
        }
    close_model(&c);
}

/* Beside a device, or where a machine is played. The thread goes to processor 1, and the loop is
 * timed ten times before the rounds and twice after each; others come in the third. A step that
 * takes long, as any may where the machine at hand is busy, is not asked for, and all is done
 * again.
 */
static void what_is_disturbed_is_measured_again(void **unused)
{
    (void)unused;
    const StepKind kind = {.requests = 1, .tokens = 1, .stamped_only = true};
    Calibration c = open_model(2, 64, 64);
    StepMeasured measured;
    uint64_t steps;
    int tries = 0;
    do {
        DisturbedMachine all = {.spells = {{.processor = 1, .first = 14, .end = UINT64_MAX}}};
        assert_true(tries++ < 100);
        disturbed_machine_begin(&all, &c.quiet);
        steps = c.texts;
        assert_ok(calibration_measure(&c, &kind, 5, &measured));
        steps = c.texts - steps;
    } while (c.quiet.rounds + c.quiet.again != steps);
    assert_int_equal(measured.repeats, 5);
    assert_int_equal(steps, 6);
    assert_int_equal(c.quiet.rounds, 5);
    assert_int_equal(c.quiet.again, 1);
    assert_int_equal(c.quiet.disturbed, 0);
    c.quiet.machine = NULL;
    close_model(&c);
}

/* ... and a profile tells. */
static void a_profile_tells_how_far_the_host_was_disturbed(void **unused)
{
    (void)unused;
    Calibration c = open_model(2, 64, 64);
    HardwareModel *model;
    assert_ok(hardware_add_model(c.hardware, MODEL, &model));
    calibration_note_host(&c);
    assert_int_equal(model->host.rounds, 0);
    c.quiet = (QuietProcessor){
        .best_ns = 30, .waited_ns = 7, .rounds = 10, .disturbed = 3, .loop_ns = 400, .again = 2};
    calibration_note_host(&c);
    assert_int_equal(model->host.best_ns, 30);
    assert_true(model->host.mean_ns == 40);
    assert_int_equal(model->host.rounds, 10);
    assert_int_equal(model->host.disturbed, 3);
    assert_int_equal(model->host.again, 2);
    assert_int_equal(model->host.waited_ns, 7);
    Calibration next = {.options = c.options, .hardware = c.hardware};
    calibration_open_quiet(&next);
    assert_int_equal(next.quiet.best_ns, 30);
    close_model(&c);
}

static void requests_are_brought_to_their_contexts(void **unused)
{
    (void)unused;
    Calibration c = open_model(5, 200, 64);
    StepOutput output;
    double ns;
    assert_ok(calibration_fill(&c, 3, 100));
    assert_ok(calibration_fill(&c, 5, 30));
    for (uint32_t r = 0; r < 5; r++)
        assert_int_equal(c.length[r], 30);
    StepKind kind = {.requests = 5, .tokens = 3, .context = 30};
    assert_ok(calibration_step(&c, &kind, false, &output, &ns));
    assert_int_equal(c.length[4], 33);
    kind = (StepKind){.requests = 2, .tokens = 4, .context = 7};
    assert_ok(calibration_step(&c, &kind, true, &output, &ns));
    assert_int_equal(c.length[1], 11);
    assert_int_equal(c.length[2], 33);
    assert_true(output.n_timing > 0 && ns > 0);
    close_model(&c);
}

static void samples_of_one_place_become_their_median(void **unused)
{
    (void)unused;
    const CalibrateOptions options = options_of_cpu();
    Hardware hardware = {0};
    Calibration c = {.options = &options, .hardware = &hardware, .model = MODEL};
    static const char *const AXIS[] = {"tokens"};
    static const double VALUES[] = {9, 1, 4, 8};
    for (uint32_t i = 0; i < 600; i++) {
        double at = i % 3;
        assert_ok(calibration_note(&c, i % 2 ? "a" : "b", "", UNIT_NS, AXIS, 1, &at,
                                   VALUES[i / 150] + at, 0.1 * (i / 150)));
    }
    assert_ok(calibration_settle(&c));
    assert_int_equal(hardware.n_tables, 2);
    for (uint32_t t = 0; t < 2; t++) {
        assert_int_equal(hardware.tables[t].n_points, 3);
        for (uint32_t i = 0; i < 3; i++) {
            assert_true(hardware.tables[t].value[i] == 6 + i);
            assert_true(fabs(hardware.tables[t].spread[i] - 0.3) < 1e-12);
        }
    }
    calibration_free(&c);
    hardware_free(&hardware);
}

static void the_least_sample_of_a_place_counts_where_others_are_in_the_way(void **unused)
{
    (void)unused;
    const CalibrateOptions options = options_of_cpu();
    Hardware hardware = {0};
    Calibration c = {.options = &options, .hardware = &hardware, .model = MODEL};
    static const char *const AXIS[] = {"bytes"};
    static const double VALUES[] = {9, 4, 8, 5};
    for (uint32_t i = 0; i < 8; i++) {
        double at = i % 2;
        assert_ok(calibration_note_least(&c, "a", AXIS, 1, &at, VALUES[i / 2] + at, 0.1));
    }
    assert_ok(calibration_settle(&c));
    assert_int_equal(hardware.tables[0].n_points, 2);
    for (uint32_t i = 0; i < 2; i++)
        assert_true(hardware.tables[0].value[i] == 4 + i);
    calibration_free(&c);
    hardware_free(&hardware);
}

static void stamps_are_linear_between_the_tokens_they_were_measured_at(void **unused)
{
    (void)unused;
    Calibration c = {.stamp_ns = 7};
    assert_true(calibration_stamp_ns(&c, 3) == 7);
    calibration_keep_stamp(&c, 2, 900);
    calibration_keep_stamp(&c, 2, 100);
    assert_true(calibration_stamp_ns(&c, 1) == 100 && calibration_stamp_ns(&c, 50) == 100);
    calibration_keep_stamp(&c, 6, 300);
    calibration_keep_stamp(&c, 7, 0);
    assert_true(calibration_stamp_ns(&c, 1) == 100 && calibration_stamp_ns(&c, 2) == 100);
    assert_true(calibration_stamp_ns(&c, 3) == 150 && calibration_stamp_ns(&c, 6) == 300);
    assert_true(calibration_stamp_ns(&c, 6.5) == 150 && calibration_stamp_ns(&c, 1000) == 0);
}

/* Simulated time looks costs of all experts up by those of the first layer. */
static void experts_shape_is_that_of_the_decoders_first_moe_layer(void **unused)
{
    (void)unused;
    char shape[160];
    char wanted[160];
    LayerConfig layers[4] = {0};
    const ModelConfig config = {.n_layers = 4, .n_encoder_layers = 1, .layers = layers};
    const Calibration c = {.config = &config, .compute = "f32"};
    assert_false(calibration_experts_shape(&c, shape));
    assert_string_equal(shape, "");
    for (uint32_t i = 0; i < 4; i++)
        layers[i] = (LayerConfig){
            .moe = i != 1, .experts = 8, .top_k = 2, .ffn = {.d_model = 64, .d_ff = 64 * (i + 1)}};
    assert_true(calibration_experts_shape(&c, shape));
    calibrate_shape(&config, 2, OP_EXPERTS, "f32", wanted);
    assert_string_equal(shape, wanted);
}

/* MODEL's experts are small. As if the CPU had a queue: the places are those of steps that run. */
static void small_prefetches_are_measured_by_how_many_they_are(void **unused)
{
    (void)unused;
    CalibrateOptions queued = options_of_cpu();
    Hardware hardware = {0};
    Calibration c = {.options = &queued, .hardware = &hardware, .model = MODEL};
    Plan plan = plan_default();
    char shape[160];
    plan.buffer.on = true;
    plan.buffer.slots = 31;
    assert_ok(calibration_open(&c, MODEL, &plan, 16, 64, 64));
    queued.device = "queued";
    assert_ok(calibrate_beside(&c));
    assert_ok(calibration_settle(&c));
    assert_true(calibration_experts_shape(&c, shape));
    const CostTable *table = hardware_table(&hardware, "wait/ahead", shape);
    assert_non_null(table);
    assert_int_equal(table->n_points, 8);
    for (uint32_t i = 0; i < table->n_points; i++)
        assert_true(table->at[i] == 1 + i && table->value[i] >= 0);
    assert_null(hardware_table(&hardware, "beside", shape));
    calibration_free(&c);
    hardware_free(&hardware);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forced_routing_is_of_as_many_experts_and_of_the_load_it_says),
        cmocka_unit_test(rows_that_fall_by_rank_are_as_uneven_as_it_says),
        cmocka_unit_test(what_is_disturbed_is_measured_again),
        cmocka_unit_test(a_profile_tells_how_far_the_host_was_disturbed),
        cmocka_unit_test(requests_are_brought_to_their_contexts),
        cmocka_unit_test(samples_of_one_place_become_their_median),
        cmocka_unit_test(the_least_sample_of_a_place_counts_where_others_are_in_the_way),
        cmocka_unit_test(stamps_are_linear_between_the_tokens_they_were_measured_at),
        cmocka_unit_test(experts_shape_is_that_of_the_decoders_first_moe_layer),
        cmocka_unit_test(small_prefetches_are_measured_by_how_many_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
