/* What a config and a checkpoint are read as. */
#include "base/status.h"

#include "tests/checkpoint_maker.h"

#include "base/clock.h"
#include "base/files.h"
#include "tests/harmed_checkpoint.h"

/* Changes FROM to TO in the config.json of the default checkpoint. */
static void assert_config_refused(const char *from, const char *to, Status wanted, const char *why)
{
    CheckpointSpec spec = {.config_from = from, .config_to = to};
    const char *directory = make(&spec);
    char place[512];
    assert_open_fails(directory, wanted, why);
    snprintf(place, sizeof place, "%s/config.json: ", directory);
    if (strncmp(error_message(), place, strlen(place)) != 0)
        fail_msg("\"%s\" does not begin with the file", error_message());
}

static void assert_config_accepted(const char *from, const char *to)
{
    CheckpointSpec spec = {.config_from = from, .config_to = to};
    Checkpoint *checkpoint = NULL;
    assert_ok(checkpoint_open(make(&spec), &checkpoint));
    checkpoint_close(checkpoint);
}

static void assert_tensor(const Tensor *tensor, const char *name, uint64_t rows, uint64_t columns)
{
    assert_non_null(tensor->data);
    assert_string_equal(tensor->name, name);
    assert_int_equal(tensor->rank, columns != 0 ? 2 : 1);
    assert_int_equal(tensor->shape[0], rows);
    assert_int_equal(tensor->shape[1], columns);
}

static void a_config_is_read_key_by_key(void **state)
{
    (void)state;
    CheckpointSpec spec = {.vocabulary = 77,
                           .d_model = 24,
                           .n_layers = 5,
                           .n_heads = 6,
                           .n_kv_heads = 3,
                           .head_dim = 10,
                           .d_ff = 20,
                           .expert_d_ff = 12,
                           .experts = 7,
                           .top_k = 3,
                           .sparse_step = 2,
                           .dense_layers = 1u << 3,
                           .max_positions = 99,
                           .eos = 5,
                           .norm_top_k = true,
                           .untied = true,
                           .bias = true};
    Checkpoint *checkpoint = NULL;
    assert_ok(checkpoint_open(make(&spec), &checkpoint));
    const ModelConfig *config = checkpoint_config(checkpoint);
    assert_string_equal(config->architecture, "qwen3_moe");
    assert_int_equal(config->vocabulary, 77);
    assert_int_equal(config->d_model, 24);
    assert_int_equal(config->layers[4].attention.n_heads, 6);
    assert_int_equal(config->layers[4].attention.n_kv_heads, 3);
    assert_int_equal(config->layers[4].attention.key_dim, 10);
    assert_int_equal(config->max_positions, 99);
    assert_true(config->norm_eps == 1e-6f && config->rope.theta == 10000.0f);
    assert_true(!config->tied_head && config->layers[0].attention.qkv_bias);
    assert_true(config->layers[0].attention.o_bias && config->layers[0].attention.head_norm);
    assert_int_equal(config->n_eos, 1);
    assert_int_equal(config->eos[0], 5);
    assert_int_equal(config->n_moe_layers, 1);
    assert_int_equal(config->max_experts, 7);
    assert_int_equal(config->max_top_k, 3);
    assert_non_null(strstr(config->json, "\"Qwen3MoeForCausalLM\""));
    for (uint32_t i = 0; i < 5; i++) { /* of the layers 1 and 3 that the step picks, 3 is dense */
        assert_int_equal(config->layers[i].moe, i == 1);
        assert_int_equal(config->layers[i].ffn.d_ff, i == 1 ? 12 : 20);
        assert_int_equal(config->layers[i].experts, i == 1 ? 7 : 0);
        assert_int_equal(config->layers[i].router.normalise, i == 1);
    }
    checkpoint_close(checkpoint);
}

static void every_tensor_is_found_with_its_shape(void **state)
{
    (void)state;
    for (uint32_t shards = 0; shards < 6; shards++) {
        CheckpointSpec spec = {.n_layers = 4,
                               .sparse_step = 2,
                               .untied = shards % 2,
                               .bias = shards % 3 != 0,
                               .shards = shards,
                               .dtype = (Dtype[]){DTYPE_BF16, DTYPE_F16, DTYPE_F32}[shards % 3]};
        Checkpoint *checkpoint = NULL;
        assert_ok(checkpoint_open(make(&spec), &checkpoint));
        const ModelTensors *tensors = checkpoint_tensors(checkpoint);
        assert_tensor(&tensors->embedding, "model.embed_tokens.weight", 96, 32);
        assert_tensor(&tensors->final_norm.weight, "model.norm.weight", 32, 0);
        assert_tensor(&tensors->head, spec.untied ? "lm_head.weight" : "model.embed_tokens.weight",
                      96, 32);
        const LayerTensors *dense = &tensors->layers[2];
        const LayerTensors *moe = &tensors->layers[3];
        assert_tensor(&dense->attention.q, "model.layers.2.self_attn.q_proj.weight", 32, 32);
        assert_tensor(&dense->attention.k, "model.layers.2.self_attn.k_proj.weight", 16, 32);
        assert_tensor(&dense->attention.v, "model.layers.2.self_attn.v_proj.weight", 16, 32);
        assert_tensor(&dense->attention.o, "model.layers.2.self_attn.o_proj.weight", 32, 32);
        assert_tensor(&dense->attention.q_norm, "model.layers.2.self_attn.q_norm.weight", 8, 0);
        assert_tensor(&dense->attention.k_norm, "model.layers.2.self_attn.k_norm.weight", 8, 0);
        assert_tensor(&dense->input_norm.weight, "model.layers.2.input_layernorm.weight", 32, 0);
        assert_tensor(&dense->ffn_norm.weight, "model.layers.2.post_attention_layernorm.weight", 32,
                      0);
        assert_tensor(&dense->dense.gate.tensor, "model.layers.2.mlp.gate_proj.weight", 48, 32);
        assert_tensor(&dense->dense.up.tensor, "model.layers.2.mlp.up_proj.weight", 48, 32);
        assert_tensor(&dense->dense.down.tensor, "model.layers.2.mlp.down_proj.weight", 32, 48);
        assert_null(dense->router.data);
        assert_null(dense->experts);
        assert_tensor(&moe->router, "model.layers.3.mlp.gate.weight", 8, 32);
        assert_null(moe->dense.gate.tensor.data);
        assert_tensor(&moe->experts[7].down.tensor, "model.layers.3.mlp.experts.7.down_proj.weight",
                      32, 16);
        assert_tensor(&moe->experts[6].gate.tensor, "model.layers.3.mlp.experts.6.gate_proj.weight",
                      16, 32);
        assert_tensor(&moe->experts[0].up.tensor, "model.layers.3.mlp.experts.0.up_proj.weight", 16,
                      32);
        if (spec.bias) {
            assert_tensor(&moe->attention.q_bias, "model.layers.3.self_attn.q_proj.bias", 32, 0);
            assert_tensor(&moe->attention.k_bias, "model.layers.3.self_attn.k_proj.bias", 16, 0);
            assert_tensor(&moe->attention.v_bias, "model.layers.3.self_attn.v_proj.bias", 16, 0);
            assert_tensor(&moe->attention.o_bias, "model.layers.3.self_attn.o_proj.bias", 32, 0);
        } else {
            assert_null(moe->attention.q_bias.data);
            assert_null(moe->attention.o_bias.data);
        }
        assert_int_equal(checkpoint_expert_bytes(checkpoint, 3),
                         3 * 16 * 32 * dtype_bytes(spec.dtype));
        checkpoint_close(checkpoint);
    }
}

static void values_do_not_depend_on_how_the_file_is_cut(void **state)
{
    (void)state;
    Checkpoint *whole = NULL;
    Checkpoint *cut = NULL;
    assert_ok(checkpoint_open(make(&(CheckpointSpec){.seed = 3}), &whole));
    assert_ok(checkpoint_open(make(&(CheckpointSpec){.seed = 3, .shards = 7}), &cut));
    for (uint32_t layer = 0; layer < 3; layer++)
        for (uint32_t expert = 0; expert < 8; expert++) {
            const Tensor *a = &checkpoint_tensors(whole)->layers[layer].experts[expert].down.tensor;
            const Tensor *b = &checkpoint_tensors(cut)->layers[layer].experts[expert].down.tensor;
            assert_int_equal(a->bytes, b->bytes);
            assert_memory_equal(a->data, b->data, a->bytes);
        }
    checkpoint_close(whole);
    checkpoint_close(cut);
}

static void impossible_sizes_are_refused(void **state)
{
    (void)state;
    assert_config_refused("\"num_experts\": 8", "\"num_experts\": 0", ERR_INPUT, "num_experts: 0");
    assert_config_refused("\"num_experts\": 8", "\"num_experts\": 65536", ERR_INPUT,
                          "num_experts: 65536");
    assert_config_refused("\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 0", ERR_INPUT,
                          "num_experts_per_tok: 0");
    assert_config_refused("\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 9", ERR_INPUT,
                          "num_experts_per_tok: 9, allowed is 1 to 8");
    assert_config_refused("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", ERR_INPUT,
                          "no multiple of num_key_value_heads, 3");
    assert_config_refused("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 0", ERR_INPUT,
                          "num_key_value_heads: 0");
    assert_config_refused("\"head_dim\": 8", "\"head_dim\": 7", ERR_INPUT, "head_dim: 7");
    assert_config_refused("\"head_dim\": 8", "\"head_dim\": 16777216", ERR_INPUT,
                          "4 heads of 16777216");
    assert_config_refused("\"vocab_size\": 96", "\"vocab_size\": 0", ERR_INPUT, "vocab_size: 0");
    assert_config_refused("\"vocab_size\": 96", "\"vocab_size\": 16777217", ERR_INPUT,
                          "vocab_size: 16777217");
    assert_config_refused("\"hidden_size\": 32", "\"hidden_size\": 1e300", ERR_INPUT,
                          "hidden_size");
    assert_config_refused("\"hidden_size\": 32", "\"hidden_size\": 32.5", ERR_INPUT,
                          "hidden_size: 32.5");
    assert_config_refused("\"hidden_size\": 32", "\"hidden_size\": -32", ERR_INPUT, "hidden_size");
    assert_config_refused("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 0", ERR_INPUT,
                          "num_hidden_layers: 0");
    assert_config_refused("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 1025", ERR_INPUT,
                          "num_hidden_layers: 1025, allowed is 1 to 1024");
    assert_config_refused("\"moe_intermediate_size\": 16", "\"moe_intermediate_size\": 0",
                          ERR_INPUT, "moe_intermediate_size: 0");
    assert_config_refused("\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": -1", ERR_INPUT,
                          "rms_norm_eps: -1");
    assert_config_refused("\"rope_theta\": 10000.0", "\"rope_theta\": 0", ERR_INPUT,
                          "rope_theta: 0");
    assert_config_refused("\"mlp_only_layers\": []", "\"mlp_only_layers\": [3]", ERR_INPUT,
                          "mlp_only_layers[0]: 3, allowed is 0 to 2");
    assert_config_refused("\"mlp_only_layers\": []", "\"mlp_only_layers\": 3", ERR_INPUT,
                          "mlp_only_layers: must be an array");
    assert_config_refused("\"eos_token_id\": 0", "\"eos_token_id\": [0,1,2,3,4,5,6,7,8]", ERR_INPUT,
                          "more than 8 end tokens");
}

static void a_missing_key_is_named(void **state)
{
    (void)state;
    static const char *const NEEDED[] = {
        "vocab_size",          "hidden_size",  "num_hidden_layers",       "num_attention_heads",
        "num_experts_per_tok", "rms_norm_eps", "moe_intermediate_size",   "num_experts",
        "model_type",          "hidden_act",   "max_position_embeddings",
    };
    for (size_t i = 0; i < sizeof NEEDED / sizeof *NEEDED; i++) {
        char from[64];
        char to[64];
        char why[64];
        snprintf(from, sizeof from, "\"%s\":", NEEDED[i]);
        snprintf(to, sizeof to, "\"no_%s\":", NEEDED[i]);
        snprintf(why, sizeof why, "\"%s\" is missing", NEEDED[i]);
        assert_config_refused(from, to, ERR_INPUT, why);
    }
    CheckpointSpec dense = {
        .sparse_step = 2, .config_from = "\"intermediate_size\"", .config_to = "\"other\""};
    assert_open_fails(make(&dense), ERR_INPUT, "\"intermediate_size\" is missing, and layer 0");
}

static void what_the_executor_does_not_have_is_unsupported(void **state)
{
    (void)state;
    assert_config_refused("\"qwen3_moe\"", "\"llama\"", ERR_UNSUPPORTED,
                          "model_type: \"llama\" is not supported, supported are mixtral, olmoe");
    assert_config_refused("\"silu\"", "\"mish\"", ERR_UNSUPPORTED,
                          "hidden_act: \"mish\" is not supported, supported are silu");
    assert_config_refused("\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"xpos\"}",
                          ERR_UNSUPPORTED, "rope_scaling.rope_type: \"xpos\" is not supported");
    assert_config_refused("\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"ntk\"}",
                          ERR_UNSUPPORTED, "rope_scaling.type: \"ntk\" is not supported");
    assert_config_refused("\"rope_scaling\": null",
                          "\"rope_parameters\": {\"rope_theta\": 1e4, \"rope_type\": \"mrope\"}",
                          ERR_UNSUPPORTED, "rope_parameters.rope_type: ");
    assert_config_refused("\"rope_scaling\": null",
                          "\"quantization_config\": {\"quant_method\": \"mxfp4\"}", ERR_UNSUPPORTED,
                          "quant_method: quantised weights are not supported, "
                          "these are \"mxfp4\"");
    assert_config_refused("\"rope_scaling\": null",
                          "\"layer_types\": [\"full_attention\", \"linear_attention\"]",
                          ERR_UNSUPPORTED, "layer_types[1]: ");
    CheckpointSpec dense = {.dense_layers = 7};
    assert_open_fails(make(&dense), ERR_UNSUPPORTED, "none of its layers has experts");
}

static void what_a_scaling_needs_is_named(void **state)
{
    (void)state;
    assert_config_refused("\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\"}",
                          ERR_INPUT, "\"factor\" is missing");
    assert_config_refused("\"rope_scaling\": null",
                          "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8}", ERR_INPUT,
                          "\"low_freq_factor\" is missing");
    assert_config_refused("\"rope_scaling\": null",
                          "\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1, 1]}",
                          ERR_INPUT, "short_factor: must be an array of 4 numbers");
    assert_config_refused("\"rope_scaling\": null", "\"partial_rotary_factor\": 0.4", ERR_INPUT,
                          "rotary embeddings of 3 of 8 dimensions");
    assert_config_refused("\"use_sliding_window\": false", "\"use_sliding_window\": true",
                          ERR_INPUT, "\"sliding_window\" is missing");
    assert_config_refused("\"rope_scaling\": null",
                          "\"layer_types\": [\"full_attention\", \"sliding_attention\"]", ERR_INPUT,
                          "layer_types[1]: \"sliding_attention\", but \"sliding_window\"");
}

static void optional_keys_have_defaults_and_other_spellings(void **state)
{
    (void)state;
    assert_config_accepted("\"head_dim\": 8,", "");
    assert_config_accepted("\"head_dim\": 8", "\"head_dim\": null");
    assert_config_accepted("\"decoder_sparse_step\": 1,", "");
    assert_config_accepted("\"mlp_only_layers\": [],", "");
    assert_config_accepted("\"mlp_only_layers\": []", "\"mlp_only_layers\": null");
    assert_config_accepted("\"norm_topk_prob\": false,", "");
    assert_config_accepted("\"rope_scaling\": null,", "");
    assert_config_accepted("\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"default\"}");
    assert_config_accepted("\"eos_token_id\": 0", "\"eos_token_id\": null");
    assert_config_accepted("\"eos_token_id\": 0", "\"eos_token_id\": [1, 2]");
    assert_config_accepted("\"vocab_size\"", "\"unknown\": {\"x\": [1]}, \"vocab_size\"");
    CheckpointSpec spec = {.config_from = "\"rope_theta\": 10000.0",
                           .config_to = "\"rope_parameters\": {\"rope_theta\": 500000.0, "
                                        "\"rope_type\": \"default\"}"};
    Checkpoint *checkpoint = NULL;
    assert_ok(checkpoint_open(make(&spec), &checkpoint));
    assert_true(checkpoint_config(checkpoint)->rope.theta == 500000.0f);
    checkpoint_close(checkpoint);
}

static void a_config_that_claims_a_huge_model_takes_no_memory(void **state)
{
    (void)state;
    Harm harm = {.name = "none"};
    CheckpointSpec spec = {.edit = harm_tensor,
                           .edit_argument = &harm,
                           .config_from = "\"num_experts\": 8",
                           .config_to = "\"num_experts\": 65535"};
    assert_open_fails(make(&spec), ERR_INPUT,
                      "tensor model.layers.0.mlp.gate.weight: shape [8, 32], wanted [65535, 32]");
}

static void every_failing_allocation_is_an_error_without_a_leak(void **state)
{
    (void)state;
    CheckpointSpec spec = {.n_layers = 2, .experts = 2, .dense_layers = 1, .shards = 2};
    const char *directory = make(&spec);
    FailingAllocation failing = {0};
    while (failing_next(&failing)) {
        Checkpoint *checkpoint = NULL;
        Status status = checkpoint_open(directory, &checkpoint);
        failing_end(&failing, status);
        if (status == OK)
            checkpoint_close(checkpoint);
    }
    assert_true(failing.k > 25); /* cJSON takes its nodes from few blocks */
}

static void the_shipped_model_opens(void **state)
{
    (void)state;
    Checkpoint *checkpoint = NULL;
    if (!file_exists("models/tiny-32x4/config.json"))
        skip();
    uint64_t start = clock_ns();
    assert_ok(checkpoint_open("models/tiny-32x4", &checkpoint));
    print_message("models/tiny-32x4 opens in %.1f ms\n", (double)(clock_ns() - start) * 1e-6);
    const ModelConfig *config = checkpoint_config(checkpoint);
    assert_int_equal(config->n_moe_layers, 6);
    assert_int_equal(config->max_experts, 32);
    assert_int_equal(config->max_top_k, 4);
    assert_true(config->layers[5].router.normalise);
    assert_int_equal(checkpoint_expert_bytes(checkpoint, 0), 3 * 32 * 128 * 2);
    checkpoint_close(checkpoint);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_config_is_read_key_by_key),
        cmocka_unit_test(every_tensor_is_found_with_its_shape),
        cmocka_unit_test(values_do_not_depend_on_how_the_file_is_cut),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(a_missing_key_is_named),
        cmocka_unit_test(what_the_executor_does_not_have_is_unsupported),
        cmocka_unit_test(what_a_scaling_needs_is_named),
        cmocka_unit_test(optional_keys_have_defaults_and_other_spellings),
        cmocka_unit_test(a_config_that_claims_a_huge_model_takes_no_memory),
        cmocka_unit_test(every_failing_allocation_is_an_error_without_a_leak),
        cmocka_unit_test(the_shipped_model_opens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
