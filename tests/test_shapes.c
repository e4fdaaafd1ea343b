/* Models without files: their sizes, their layers, and the numbers they are made of. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "exec/executor.h"
#include "exec/shape.h"
#include "exec/synthetic.h"
#include "tests/cli_run.h"

static const char DEEP[] =
    "{\"model_type\":\"qwen3_moe\",\"vocab_size\":96,\"hidden_size\":64,\"intermediate_size\":96,"
    "\"moe_intermediate_size\":32,\"num_hidden_layers\":61,\"num_attention_heads\":4,"
    "\"num_key_value_heads\":2,\"head_dim\":16,\"num_experts\":16,\"num_experts_per_tok\":4,"
    "\"norm_topk_prob\":true,\"hidden_act\":\"silu\",\"max_position_embeddings\":64,"
    "\"rms_norm_eps\":1e-6}";
static const char TRANSLATOR[] =
    "{\"model_type\":\"nllb-moe\",\"vocab_size\":96,\"d_model\":64,\"encoder_layers\":8,"
    "\"encoder_attention_heads\":4,\"encoder_ffn_dim\":96,\"encoder_sparse_step\":2,"
    "\"decoder_layers\":12,\"decoder_attention_heads\":4,\"decoder_ffn_dim\":96,"
    "\"decoder_sparse_step\":2,\"num_experts\":8,\"max_position_embeddings\":64}";
static const char STACKED[] =
    "{\"model_type\":\"gpt_oss\",\"vocab_size\":96,\"hidden_size\":48,\"intermediate_size\":32,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,"
    "\"num_local_experts\":8,\"num_experts_per_tok\":2,\"max_position_embeddings\":64,"
    "\"rms_norm_eps\":1e-5}";

/* "shape:" and the path of a file with CONFIG, valid until the next call. */
static const char *shape_of(const char *config)
{
    static char name[600];
    const char *path = scratch_path("config.json");
    assert_ok(file_write_all(path, config, strlen(config)));
    snprintf(name, sizeof name, "shape:%s", path);
    return name;
}

static Checkpoint *open_model(const char *name)
{
    Checkpoint *checkpoint;
    assert_ok(checkpoint_open_model(name, &checkpoint));
    return checkpoint;
}

/* ---- sizes ---- */

static void shapes_have_the_published_number_of_parameters(void **unused)
{
    (void)unused;
    /* In billions, as their model cards and papers say. */
    static const struct {
        const char *name;
        double parameters;
        uint32_t moe_layers;
    } PUBLISHED[] = {
        {"shape:mixtral-8x7b", 46.7, 32},     {"shape:olmoe-1b-7b", 6.92, 16},
        {"shape:qwen1.5-moe", 14.3, 24},      {"shape:qwen3-30b-a3b", 30.5, 48},
        {"shape:deepseek-v2-lite", 15.7, 26}, {"shape:deepseek-v3", 671, 58},
        {"shape:gpt-oss-20b", 20.9, 24},      {"shape:paper-lm-52b", 52, 12},
        {"shape:nllb-moe-54b", 54.5, 12},
    };
    size_t count;
    shape_list(&count);
    assert_int_equal(count, sizeof PUBLISHED / sizeof *PUBLISHED);
    for (size_t i = 0; i < count; i++) {
        Checkpoint *checkpoint = open_model(PUBLISHED[i].name);
        double parameters = (double)checkpoint_bytes(checkpoint) / 2e9;
        if (fabs(parameters / PUBLISHED[i].parameters - 1) > 0.005)
            fail_msg("%s: %.3f billion parameters, published are %.3f", PUBLISHED[i].name,
                     parameters, PUBLISHED[i].parameters);
        assert_int_equal(checkpoint_config(checkpoint)->n_moe_layers, PUBLISHED[i].moe_layers);
        checkpoint_close(checkpoint);
    }
}

static void fewer_layers_are_the_first_ones(void **unused)
{
    (void)unused;
    static const char *const NAMES[2] = {"shape:qwen3-30b-a3b", "shape:qwen3-30b-a3b:3"};
    Checkpoint *whole = open_model(NAMES[0]);
    Checkpoint *cut = open_model(NAMES[1]);
    const ModelTensors *first = checkpoint_tensors(whole);
    const ModelTensors *second = checkpoint_tensors(cut);
    assert_int_equal(checkpoint_config(cut)->n_layers, 3);
    assert_non_null(strstr(checkpoint_config(cut)->json, "\"num_hidden_layers\":\t3,"));
    float values[2][32];
    for (uint32_t layer = 0; layer < 3; layer++) {
        tensor_floats(&first->layers[layer].router, 77, 32, values[0]);
        tensor_floats(&second->layers[layer].router, 77, 32, values[1]);
        assert_memory_equal(values[0], values[1], sizeof values[0]);
    }
    checkpoint_close(whole);
    checkpoint_close(cut);
}

static void layers_that_are_cut_may_have_been_without_experts(void **unused)
{
    (void)unused;
    char name[700];
    snprintf(name, sizeof name, "%s:2",
             shape_of("{\"model_type\":\"qwen2_moe\",\"hidden_size\":32,\"num_hidden_layers\":4,"
                      "\"num_attention_heads\":2,\"num_key_value_heads\":2,"
                      "\"intermediate_size\":32,\"moe_intermediate_size\":16,"
                      "\"shared_expert_intermediate_size\":16,\"num_experts\":4,"
                      "\"num_experts_per_tok\":2,\"decoder_sparse_step\":1,"
                      "\"mlp_only_layers\":[1,2,3],\"vocab_size\":64,"
                      "\"max_position_embeddings\":128,\"rms_norm_eps\":1e-6,"
                      "\"rope_theta\":10000.0,\"hidden_act\":\"silu\"}"));
    Checkpoint *checkpoint = open_model(name);
    assert_int_equal(checkpoint_config(checkpoint)->n_layers, 2);
    assert_int_equal(checkpoint_config(checkpoint)->n_moe_layers, 1);
    checkpoint_close(checkpoint);
}

static void layers_count_for_each_stack(void **unused)
{
    (void)unused;
    char name[700];
    snprintf(name, sizeof name, "%s:4", shape_of(TRANSLATOR));
    Checkpoint *checkpoint = open_model(name);
    const ModelConfig *config = checkpoint_config(checkpoint);
    assert_int_equal(config->n_encoder_layers, 4);
    assert_int_equal(config->n_layers, 8);
    assert_int_equal(config->n_moe_layers, 4);
    checkpoint_close(checkpoint);
    snprintf(name, sizeof name, "%s:8+1", shape_of(TRANSLATOR));
    checkpoint = open_model(name);
    config = checkpoint_config(checkpoint);
    assert_int_equal(config->n_encoder_layers, 8);
    assert_int_equal(config->n_layers, 9);
    checkpoint_close(checkpoint);
}

static void what_is_no_shape_is_refused(void **unused)
{
    (void)unused;
    static const char *const CASES[][2] = {
        {"shape:nothing", "there are mixtral-8x7b, "},
        {"shape:", "there are mixtral-8x7b, "},
        {"shape:olmoe-1b-7b:17", "num_hidden_layers: 16, but 17 layers are asked for"},
        {"shape:olmoe-1b-7b:0", "is no number of layers"},
        {"shape:olmoe-1b-7b:", "is no number of layers"},
        {"shape:olmoe-1b-7b:2x", "is no number of layers"},
        {"shape:olmoe-1b-7b:2+", "is no number of layers"},
        {"shape:olmoe-1b-7b:2+1", "the model has one stack of layers"},
        {"shape:deepseek-v3:3", "none of its layers has experts"},
        {"shape:/nowhere/config.json", "/nowhere/config.json: "},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Checkpoint *checkpoint;
        assert_int_not_equal(checkpoint_open_model(CASES[i][0], &checkpoint), OK);
        if (strstr(error_message(), CASES[i][1]) == NULL)
            fail_msg("%s: %s", CASES[i][0], error_message());
    }
}

static void every_allocation_that_fails_is_an_error(void **unused)
{
    (void)unused;
    char name[700];
    snprintf(name, sizeof name, "%s:2", shape_of(TRANSLATOR));
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Checkpoint *checkpoint;
        Status status = checkpoint_open_model(name, &checkpoint);
        failing_end(&failing, status);
        if (status == OK)
            checkpoint_close(checkpoint);
    }
}

/* ---- values ---- */

static void values_are_bf16_and_spread_as_asked(void **unused)
{
    (void)unused;
    enum { N = 1 << 16 };
    static float values[N];
    static const double DEVIATIONS[] = {1, 0.022, 0.0118};
    for (size_t d = 0; d < sizeof DEVIATIONS / sizeof *DEVIATIONS; d++) {
        const Synthetic tensor = synthetic_make("some.weight", 0, DEVIATIONS[d]);
        double sum = 0;
        double squares = 0;
        synthetic_values(&tensor, 12345, N, values);
        for (size_t i = 0; i < N; i++) {
            uint32_t bits;
            memcpy(&bits, &values[i], sizeof bits);
            assert_int_equal(bits & 0xFFFF, 0);
            sum += (double)values[i];
            squares += (double)values[i] * (double)values[i];
        }
        double deviation = sqrt(squares / N);
        assert_true(deviation / DEVIATIONS[d] > 0.7 && deviation / DEVIATIONS[d] < 1.45);
        assert_true(fabs(sum / N) < 4 * deviation / sqrt(N));
    }
}

static void norm_weights_are_positive_bf16_around_one(void **unused)
{
    (void)unused;
    enum { N = 1 << 14 };
    static float values[N];
    const Synthetic tensor = synthetic_make("norm.weight", 1, 0);
    double sum = 0;
    synthetic_values(&tensor, 0, N, values);
    for (size_t i = 0; i < N; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        assert_int_equal(bits & 0xFFFF, 0);
        assert_true(values[i] > 0 && values[i] < 2);
        sum += (double)values[i];
    }
    assert_true(fabs(sum / N - 1) < 0.01);
}

static void tensors_and_neighbours_are_not_alike(void **unused)
{
    (void)unused;
    enum { N = 1 << 14 };
    static float first[N];
    static float second[N];
    const Synthetic a = synthetic_make("model.layers.1.mlp.experts.1.up_proj.weight", 0, 1);
    const Synthetic b = synthetic_make("model.layers.1.mlp.experts.2.up_proj.weight", 0, 1);
    double with_other = 0;
    double with_next = 0;
    synthetic_values(&a, 0, N, first);
    synthetic_values(&b, 0, N, second);
    for (size_t i = 0; i + 1 < N; i++) {
        with_other += (double)first[i] * (double)second[i];
        with_next += (double)first[i] * (double)first[i + 1];
    }
    assert_true(fabs(with_other / N) < 4 / sqrt(N));
    assert_true(fabs(with_next / N) < 4 / sqrt(N));
}

/* Whatever the part, an element is that of its place in the tensor. */
static void parts_of_a_stack_are_its_elements(void **unused)
{
    (void)unused;
    Checkpoint *checkpoint = open_model(shape_of(STACKED));
    const LayerTensors *layer = &checkpoint_tensors(checkpoint)->layers[1];
    float row[64];
    for (uint32_t e = 0; e < 8; e++) {
        const Part *parts[] = {&layer->experts[e].gate,      &layer->experts[e].up,
                               &layer->experts[e].down,      &layer->experts[e].gate_bias,
                               &layer->experts[e].down_bias, &layer->experts[e].up_bias};
        for (size_t p = 0; p < 6; p++)
            for (uint32_t r = 0; r < parts[p]->rows; r++) {
                part_row(parts[p], r, row);
                for (uint32_t c = 0; c < parts[p]->columns; c++) {
                    uint64_t at =
                        parts[p]->first + r * parts[p]->row_step + c * parts[p]->column_step;
                    assert_true(row[c] == synthetic_value(*parts[p]->tensor.synthetic, at));
                }
            }
    }
    checkpoint_close(checkpoint);
}

/* ---- running ---- */

enum { TOKENS = 48 };

/* Runs one prompt of the model; checks its logits, and that no layer gives few experts all tokens.
 */
static void assert_runs(const char *name)
{
    Checkpoint *checkpoint = open_model(name);
    const Plan plan = plan_default();
    const ModelConfig *config = checkpoint_config(checkpoint);
    const ExecutorOptions options = {.plan = &plan,
                                     .device = "cpu",
                                     .max_requests = 1,
                                     .max_length = TOKENS,
                                     .max_tokens = TOKENS,
                                     .logits = LOGITS_ALL};
    uint32_t token[TOKENS];
    uint32_t position[TOKENS];
    const uint32_t slot[TOKENS] = {0};
    Executor *executor;
    StepOutput output;
    uint64_t random = 4;
    for (uint32_t i = 0; i < TOKENS; i++) {
        token[i] = random_below(&random, config->vocabulary);
        position[i] = i;
    }
    assert_ok(executor_open(checkpoint, &options, &executor));
    const StepInput input = {.tokens = TOKENS,
                             .token = token,
                             .kv_slot = slot,
                             .position = position,
                             .logits = LOGITS_ALL};
    assert_ok(executor_step(executor, &input, &output));
    double squares = 0;
    size_t n = (size_t)TOKENS * config->vocabulary;
    for (size_t i = 0; i < n; i++)
        squares += (double)output.logits[i] * (double)output.logits[i];
    assert_true(sqrt(squares / (double)n) > 0.3 && sqrt(squares / (double)n) < 3);
    const uint16_t *experts = output.experts;
    for (uint32_t l = 0; l < config->n_layers; l++) {
        uint32_t counts[64] = {0};
        uint32_t active = 0;
        if (!config->layers[l].moe)
            continue;
        for (uint32_t i = 0; i < TOKENS * config->layers[l].top_k; i++)
            active += counts[*experts++]++ == 0;
        if (active < config->layers[l].experts * 3 / 4)
            fail_msg("%s: layer %u: %u of %u experts", name, l, active, config->layers[l].experts);
    }
    executor_close(executor);
    checkpoint_close(checkpoint);
}

static void sixty_layers_keep_the_size_of_activations_and_spread_tokens(void **unused)
{
    (void)unused;
    assert_runs(shape_of(DEEP));
    assert_runs(shape_of(STACKED));
}

static void a_recorded_shape_validates_by_its_own_name(void **unused)
{
    (void)unused;
    static CliRun run;
    char name[600];
    char trace[256];
    snprintf(name, sizeof name, "%s", shape_of(DEEP));
    snprintf(trace, sizeof trace, "%s", scratch_path("shape.db"));
    RUN("record", "--model", name, "--layers", "3", "--tokens", "random:4x8", "--batch", "4",
        "--generate", "3", "--ignore-eos", "--timing", "--out", trace);
    assert_int_equal(run.code, 0);
    RUN("info", trace, "--json");
    assert_int_equal(run.code, 0);
    assert_non_null(strstr(run.out, "\"op\":\t\"experts\",\n\t\t\t\"prefill_ns\":"));
    RUN("info", trace);
    assert_non_null(strstr(run.out, "ms in a step "));
    RUN("validate", "--trace", trace, "--set", "buffer.slots=6");
    if (run.code != 0)
        fail_msg("exit %d: %s", run.code, run.err);
    assert_non_null(strstr(run.out, "agree"));
    RUN("record", "--model", "models/tiny-32x4", "--layers", "3", "--tokens", "random:4x8", "--out",
        trace);
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "--layers goes with --model shape:NAME"));
    RUN("record", "--model", name, "--text", "config.json", "--out", scratch_path("no.db"));
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "has no tokenizer"));
}

static void models_lists_the_shapes(void **unused)
{
    (void)unused;
    static CliRun run;
    size_t count;
    const Shape *shapes = shape_list(&count);
    RUN("models");
    assert_int_equal(run.code, 0);
    for (size_t i = 0; i < count; i++)
        assert_non_null(strstr(run.out, shapes[i].name));
    RUN("models", "shape:olmoe-1b-7b:2", "--json");
    assert_int_equal(run.code, 0);
    assert_non_null(strstr(run.out, "\"experts\":\t128,"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_have_the_published_number_of_parameters),
        cmocka_unit_test(fewer_layers_are_the_first_ones),
        cmocka_unit_test(layers_count_for_each_stack),
        cmocka_unit_test(layers_that_are_cut_may_have_been_without_experts),
        cmocka_unit_test(what_is_no_shape_is_refused),
        cmocka_unit_test(every_allocation_that_fails_is_an_error),
        cmocka_unit_test(values_are_bf16_and_spread_as_asked),
        cmocka_unit_test(norm_weights_are_positive_bf16_around_one),
        cmocka_unit_test(tensors_and_neighbours_are_not_alike),
        cmocka_unit_test(parts_of_a_stack_are_its_elements),
        cmocka_unit_test(sixty_layers_keep_the_size_of_activations_and_spread_tokens),
        cmocka_unit_test(a_recorded_shape_validates_by_its_own_name),
        cmocka_unit_test(models_lists_the_shapes),
    };
    memory_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
