/* Predictions of layers ahead: what they are, and that nothing else depends on them. */
#include "tests/reference_model.h"

#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "exec/run.h"
#include "tests/checkpoint_maker.h"
#include "traces/reader.h"

enum { LAYERS = 6, MOE_LAYERS = 5, EXPERTS = 8, TOP_K = 2, VOCABULARY = 96 };
enum { TOKENS = 12, STEPS = 3, MAX_LENGTH = TOKENS * STEPS };

static Checkpoint *checkpoint;

static int make_model(void **state)
{
    (void)state;
    const CheckpointSpec spec = {
        .seed = 23, .n_layers = LAYERS, .dense_layers = 4, .max_positions = 64, .untied = true};
    make_checkpoint(scratch_path("model"), &spec);
    assert_ok(checkpoint_open(scratch_path("model"), &checkpoint));
    assert_int_equal(checkpoint_config(checkpoint)->n_moe_layers, MOE_LAYERS);
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    checkpoint_close(checkpoint);
    return 0;
}

static Executor *open_executor(const Plan *plan, uint32_t predictions)
{
    Executor *executor;
    const ExecutorOptions options = {.plan = plan,
                                     .device = "cpu",
                                     .threads = 2,
                                     .max_requests = 2,
                                     .max_length = MAX_LENGTH,
                                     .max_tokens = TOKENS,
                                     .logits = LOGITS_ALL,
                                     .predictions = predictions};
    assert_ok(executor_open(checkpoint, &options, &executor));
    return executor;
}

/* Step I of two requests, the tokens of the first in slot 0. */
typedef struct {
    uint32_t token[TOKENS];
    uint32_t kv_slot[TOKENS];
    uint32_t position[TOKENS];
} Given;

static StepInput make_step(uint64_t *seed, uint32_t i, Given *given)
{
    for (uint32_t t = 0; t < TOKENS; t++) {
        given->token[t] = random_below(seed, VOCABULARY);
        given->kv_slot[t] = t < 5 ? 0 : 1;
        given->position[t] = t < 5 ? 5 * i + t : 7 * i + t - 5;
    }
    return (StepInput){.tokens = TOKENS,
                       .token = given->token,
                       .kv_slot = given->kv_slot,
                       .position = given->position,
                       .scores = true,
                       .logits = LOGITS_ALL};
}

/* Runs the same step in both; all numbers that both have must be the same bits. */
static void assert_same_numbers(Executor *plain, Executor *predicting, const StepInput *input)
{
    StepOutput a;
    StepOutput b;
    size_t routed = (size_t)TOKENS * TOP_K * MOE_LAYERS;
    assert_ok(executor_step(plain, input, &a));
    assert_ok(executor_step(predicting, input, &b));
    assert_memory_equal(a.experts, b.experts, routed * sizeof *a.experts);
    assert_memory_equal(a.weights, b.weights, routed * sizeof *a.weights);
    assert_memory_equal(a.logits, b.logits, (size_t)TOKENS * VOCABULARY * sizeof *a.logits);
    assert_memory_equal(a.router_scores, b.router_scores,
                        (size_t)TOKENS * EXPERTS * MOE_LAYERS * sizeof *a.router_scores);
    assert_int_equal(a.n_residency, b.n_residency);
    for (size_t i = 0; i < a.n_residency; i++) {
        const ResidencyRecord *is = &b.residency[i];
        const ResidencyRecord *must = &a.residency[i];
        assert_true(is->layer == must->layer && is->expert == must->expert &&
                    is->kind == must->kind && is->slot == must->slot);
    }
    assert_int_equal(a.n_distances, 0);
}

static void predictions_change_no_number_of_a_step(void **state)
{
    (void)state;
    uint64_t seed = 3;
    for (int kind = 0; kind < 3; kind++) {
        Plan plan = plan_default();
        plan.buffer.on = kind == 1;
        plan.buffer.slots = 3;
        plan.gating.mode = kind == 2 ? GATING_STATIC : GATING_DYNAMIC;
        plan.gating.capacity_factor = 0.4;
        Executor *plain = open_executor(&plan, 0);
        Executor *predicting = open_executor(&plan, 1 + (uint32_t)kind);
        for (uint32_t i = 0; i < STEPS; i++) {
            Given given;
            StepInput input = make_step(&seed, i, &given);
            assert_same_numbers(plain, predicting, &input);
        }
        executor_close(plain);
        executor_close(predicting);
    }
}

/* Entries of the part of DISTANCE, in layer order from that of MoE layer DISTANCE on. */
static const uint16_t *predicted_of(const StepOutput *output, uint32_t distance, uint32_t target,
                                    const float **weights)
{
    size_t at = (size_t)TOKENS * TOP_K * ((distance - 1) * MOE_LAYERS + target - distance);
    *weights = output->predicted_weights + at;
    return output->predicted + at;
}

/* The number of the model's MoE layer INDEX. */
static uint32_t layer_number(uint32_t index)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    for (uint32_t i = 0; i < config->n_layers; i++)
        if (config->layers[i].moe && index-- == 0)
            return i;
    fail_msg("no such layer");
    return 0;
}

/* What the router of MoE layer TARGET says to RESIDUAL [TOKENS][d]: within the rounding of f32, but
 * for choices that two experts nearly share. */
static void compare_prediction(const double *residual, uint32_t target, const uint16_t *experts,
                               const float *weights, uint32_t *compared)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    const LayerTensors *layer = &checkpoint_tensors(checkpoint)->layers[layer_number(target)];
    double x[TOKENS * 64];
    double scores[TOKENS * EXPERTS];
    assert_true(config->d_model <= 64);
    reference_norm(residual, TOKENS, config->d_model, &layer->ffn_norm.weight, config->norm_eps, x);
    reference_linear(x, TOKENS, config->d_model, &layer->router, NULL, scores);
    for (uint32_t i = 0; i < TOKENS; i++) {
        uint16_t best[TOP_K + 1];
        double weight[TOP_K + 1];
        LayerConfig shape = config->layers[layer_number(target)];
        shape.top_k = TOP_K + 1;
        shape.router.normalise = false;
        reference_route(&shape, scores + i * EXPERTS, best, weight);
        if (weight[0] - weight[1] < 1e-3 || weight[1] - weight[2] < 1e-3)
            continue;
        ++*compared;
        for (uint32_t k = 0; k < TOP_K; k++) {
            assert_int_equal(experts[i * TOP_K + k], best[k]);
            assert_true(fabs(weights[i * TOP_K + k] - weight[k]) < 1e-3);
        }
    }
}

static void predictions_are_those_of_a_plain_router_on_the_residual(void **state)
{
    (void)state;
    uint64_t seed = 9;
    uint32_t compared = 0;
    Given given;
    StepOutput output;
    Plan plan = plan_default();
    Executor *executor = open_executor(&plan, MOE_LAYERS - 1);
    StepInput input = make_step(&seed, 0, &given);
    const ReferenceStep step = {
        .n = TOKENS, .token = given.token, .request = given.kv_slot, .position = given.position};
    ReferenceOutput wanted = reference_forward(checkpoint, &step);
    size_t stride = (size_t)TOKENS * checkpoint_config(checkpoint)->d_model;
    assert_ok(executor_step(executor, &input, &output));
    assert_int_equal(output.n_distances, MOE_LAYERS - 1);
    for (uint32_t d = 1; d < MOE_LAYERS; d++)
        for (uint32_t target = d; target < MOE_LAYERS; target++) {
            const float *weights;
            const uint16_t *experts = predicted_of(&output, d, target, &weights);
            compare_prediction(wanted.residuals + (target - d) * stride, target, experts, weights,
                               &compared);
        }
    assert_true(compared > 100);
    reference_free(&wanted);
    executor_close(executor);
}

static void forced_routing_leaves_predictions_as_they_are(void **state)
{
    (void)state;
    uint64_t seed = 15;
    Plan plan = plan_default();
    Executor *gate = open_executor(&plan, 2);
    plan.buffer.on = true;
    plan.buffer.slots = 2;
    Executor *forced = open_executor(&plan, 2);
    for (uint32_t i = 0; i < STEPS; i++) {
        Given given;
        StepOutput a;
        StepOutput b;
        StepInput input = make_step(&seed, i, &given);
        assert_ok(executor_step(gate, &input, &a));
        input.forced_experts = a.experts;
        assert_ok(executor_step(forced, &input, &b));
        for (uint32_t d = 1; d <= 2; d++) {
            const float *weights;
            const float *forced_weights;
            size_t ids = (size_t)TOKENS * TOP_K * (MOE_LAYERS - d);
            const uint16_t *experts = predicted_of(&a, d, d, &weights);
            assert_memory_equal(predicted_of(&b, d, d, &forced_weights), experts, 2 * ids);
            assert_memory_equal(forced_weights, weights, ids * sizeof *weights);
        }
    }
    executor_close(gate);
    executor_close(forced);
}

/* The trace's predictions, and those that steps gave out. */
typedef struct {
    uint16_t experts[STEPS * 4][2][TOKENS * TOP_K * MOE_LAYERS];
    uint16_t scores[STEPS * 4][2][TOKENS * TOP_K * MOE_LAYERS];
    uint32_t tokens[STEPS * 4];
    uint32_t n;
} Kept;

static Status keep(void *argument, const TraceStep *step, const StepInput *input,
                   const StepOutput *output)
{
    Kept *kept = argument;
    size_t stride = (size_t)step->tokens * TOP_K * MOE_LAYERS;
    (void)input;
    assert_true(kept->n < STEPS * 4);
    kept->tokens[kept->n] = step->tokens;
    for (uint32_t d = 0; d < 2; d++)
        for (size_t i = 0; i < stride; i++) {
            kept->experts[kept->n][d][i] = output->predicted[d * stride + i];
            kept->scores[kept->n][d][i] = f16_from_f32(output->predicted_weights[d * stride + i]);
        }
    kept->n++;
    return OK;
}

static void assert_recorded(const char *path, const Kept *kept)
{
    TraceReader *reader;
    TraceCheck found;
    TraceStep step;
    assert_ok(trace_check(path, &found, NULL, NULL));
    assert_int_equal(found.prediction_rows, 2 * kept->n);
    assert_ok(trace_reader_open(path, &reader));
    assert_int_equal(trace_reader_distances(reader), 2);
    for (uint32_t s = 0; s < kept->n; s++) {
        assert_ok(trace_reader_next_step(reader, &step));
        assert_int_equal(step.tokens, kept->tokens[s]);
        for (uint32_t d = 1; d <= 2; d++) {
            const uint16_t *experts;
            const uint16_t *scores;
            size_t bytes = 2 * (size_t)step.tokens * TOP_K * (MOE_LAYERS - d);
            assert_ok(trace_reader_prediction(reader, d, &experts, &scores));
            assert_memory_equal(experts, kept->experts[s][d - 1], bytes);
            assert_memory_equal(scores, kept->scores[s][d - 1], bytes);
        }
    }
    trace_reader_close(reader);
}

static void what_is_predicted_is_recorded(void **state)
{
    (void)state;
    static Kept kept;
    const char *path = scratch_path("recorded.db");
    uint32_t tokens[2][6] = {{1, 2, 3, 4, 5, 6}, {9, 8, 7}};
    static char label[] = "";
    TokenRequest requests[2] = {{.label = label, .tokens = tokens[0], .n_tokens = 6},
                                {.label = label, .tokens = tokens[1], .n_tokens = 3}};
    const TokenSet set = {.requests = requests, .n_requests = 2};
    const RunOptions options = {
        .batch = 2, .generate = 5, .ignore_eos = true, .max_tokens = TOKENS};
    const TraceRun run = {.tool = "test", .model = "random"};
    Plan plan = plan_default();
    Executor *executor = open_executor(&plan, 2);
    Recorder *recorder;
    RunTotals totals;
    uint32_t n_layers;
    const TraceLayer *layers = executor_layers(executor, &n_layers);
    unlink(path);
    assert_ok(recorder_open(path, &run, layers, n_layers, NULL, &recorder));
    assert_ok(run_requests(executor, checkpoint_config(checkpoint), &set, &options, recorder, keep,
                           &kept, NULL, NULL, &totals));
    assert_ok(recorder_close(recorder));
    executor_close(executor);
    assert_int_equal(kept.n, 5);
    assert_recorded(path, &kept);
}

static void predictions_beyond_the_last_layer_are_refused(void **state)
{
    (void)state;
    Executor *executor;
    Plan plan = plan_default();
    const ExecutorOptions options = {.plan = &plan,
                                     .device = "cpu",
                                     .threads = 1,
                                     .max_requests = 1,
                                     .max_length = 8,
                                     .max_tokens = 8,
                                     .predictions = MOE_LAYERS};
    assert_int_equal(executor_open(checkpoint, &options, &executor), ERR_INPUT);
    assert_non_null(strstr(error_message(), "predictions 5 MoE layers ahead, the model has room "
                                            "for 4"));
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(predictions_change_no_number_of_a_step),
        cmocka_unit_test(predictions_are_those_of_a_plain_router_on_the_residual),
        cmocka_unit_test(forced_routing_leaves_predictions_as_they_are),
        cmocka_unit_test(what_is_predicted_is_recorded),
        cmocka_unit_test(predictions_beyond_the_last_layer_are_refused),
    };
    return cmocka_run_group_tests(tests, make_model, close_model);
}
