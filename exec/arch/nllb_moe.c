/* NLLB-MoE: two stacks, LayerNorm, two-matrix FFNs with biases, sinusoidal positions, top-2 routing
 * with the weights normalised over the two.
 *
 * transformers 5.17 uses the router's one-hot mask as ids; this follows the published model
 * (NLLB team 2022, and transformers 4): an expert's output is scaled by 1 - moe_token_dropout, as
 * its dropout was in training, and an expert takes at most moe_eval_capacity_token_fraction of a
 * step's tokens. */
#include <math.h>

#include "exec/arch/config.h"
#include "exec/arch/rules.h"

/* Sizes that the config has once per stack. */
typedef struct {
    uint32_t layers;
    uint32_t heads;
    uint32_t d_ff;
    uint32_t sparse_step; /* layer i is MoE when i + 1 is a multiple of it, 0: never */
} StackKeys;

static Status read_stack(const JsonAt *root, bool encoder, StackKeys *keys)
{
    keys->sparse_step = 4;
    TRY(config_need_u32(root, encoder ? "encoder_layers" : "decoder_layers", NULL, 1,
                        TRACE_MAX_LAYERS, &keys->layers));
    TRY(config_need_u32(root, encoder ? "encoder_attention_heads" : "decoder_attention_heads", NULL,
                        1, MAX_SIZE, &keys->heads));
    TRY(config_need_u32(root, encoder ? "encoder_ffn_dim" : "decoder_ffn_dim", NULL, 1, MAX_SIZE,
                        &keys->d_ff));
    return config_u32(root, encoder ? "encoder_sparse_step" : "decoder_sparse_step", 0, MAX_SIZE,
                      &keys->sparse_step);
}

static Status read_router(const JsonAt *root, RouterConfig *router)
{
    static const char *const POLICIES[] = {"all", NULL};
    JsonAt at;
    int policy = 0;
    bool prioritised = false;
    bool before = false;
    float dropout = 0.2f;
    *router = config_router(ROUTER_SOFTMAX, true);
    router->capacity = 1;
    if (json_given(root, "second_expert_policy", &at))
        TRY(json_choice(&at, POLICIES, &policy));
    TRY(config_bool(root, "batch_prioritized_routing", &prioritised));
    TRY(config_bool(root, "router_bias", &router->bias));
    TRY(config_bool(root, "normalize_router_prob_before_dropping", &before));
    TRY(config_f32(root, "moe_token_dropout", 0, 1, &dropout));
    TRY(config_f64(root, "moe_eval_capacity_token_fraction", 0, 1, &router->capacity));
    router->capacity = router->capacity < 1 ? router->capacity : 0;
    /* Which tokens go first matters only where some are dropped. */
    if (prioritised && router->capacity > 0 && json_given(root, "batch_prioritized_routing", &at))
        return config_unsupported(&at, "with a capacity, only false is supported");
    router->normalise_kept = !before;
    router->output_scale = 1 - dropout;
    return OK;
}

static Status read_model(const JsonAt *root, ModelConfig *config)
{
    bool scaled = true;
    config_defaults(config);
    config->norm = NORM_LAYER;
    config->norm_bias = true;
    config->norm_eps = 1e-5f; /* torch's own; no key */
    config->sinusoidal = true;
    config->tied_head = true;
    config->pad = 1;
    config->decoder_start = 2;
    TRY(config_not_quantised(root));
    TRY(config_need_u32(root, "vocab_size", NULL, 1, MAX_SIZE, &config->vocabulary));
    TRY(config_need_u32(root, "d_model", "hidden_size", 4, MAX_SIZE, &config->d_model));
    TRY(config_need_u32(root, "max_position_embeddings", NULL, 1, MAX_SIZE,
                        &config->max_positions));
    TRY(config_bool(root, "scale_embedding", &scaled));
    config->embedding_scale = scaled ? sqrtf((float)config->d_model) : 1;
    TRY(config_bool(root, "tie_word_embeddings", &config->tied_head));
    return config_tokens(root, config);
}

static Status fill_layer(const JsonAt *root, const StackKeys *keys, uint32_t number,
                         const ModelConfig *config, LayerConfig *layer)
{
    Activation activation;
    AttentionConfig *attention = &layer->attention;
    if (config->d_model % keys->heads != 0)
        return json_fail(root, "d_model: %u is no multiple of %u attention heads", config->d_model,
                         keys->heads);
    attention->n_heads = keys->heads;
    attention->n_kv_heads = keys->heads;
    attention->key_dim = config->d_model / keys->heads;
    attention->value_dim = attention->key_dim;
    attention->scale = 1.0f / sqrtf((float)attention->key_dim);
    attention->qkv_bias = true;
    attention->o_bias = true;
    TRY(config_activation(root, "activation_function", "relu", &activation));
    layer->ffn = config_ffn(config->d_model, keys->d_ff, false, activation);
    layer->ffn.bias = true;
    layer->cross = layer->stack == STACK_DECODER;
    layer->moe = keys->sparse_step > 0 && (number + 1) % keys->sparse_step == 0;
    if (!layer->moe)
        return OK;
    layer->top_k = 2;
    TRY(config_need_u32(root, "num_experts", NULL, 2, TRACE_MAX_EXPERTS, &layer->experts));
    return read_router(root, &layer->router);
}

static Status read_config(const JsonAt *root, ModelConfig *config)
{
    StackKeys keys[2];
    TRY(read_model(root, config));
    TRY(read_stack(root, false, &keys[STACK_DECODER]));
    TRY(read_stack(root, true, &keys[STACK_ENCODER]));
    config->n_encoder_layers = keys[STACK_ENCODER].layers;
    config->n_layers = keys[STACK_ENCODER].layers + keys[STACK_DECODER].layers;
    TRY(config_layers(root, config));
    for (uint32_t i = 0; i < config->n_layers; i++) {
        LayerConfig *layer = &config->layers[i];
        uint32_t first = layer->stack == STACK_ENCODER ? 0 : config->n_encoder_layers;
        TRY(fill_layer(root, &keys[layer->stack], i - first, config, layer));
    }
    return OK;
}

static const TensorRule MODEL[] = {
    {"model.shared.weight", NULL, IN_MODEL(embedding), NULL, {SIZE_VOCABULARY, SIZE_MODEL}},
    {"model.encoder.layer_norm.weight", NULL, IN_MODEL(encoder_norm.weight), NULL, {SIZE_MODEL}},
    {"model.encoder.layer_norm.bias", NULL, IN_MODEL(encoder_norm.bias), NULL, {SIZE_MODEL}},
    {"model.decoder.layer_norm.weight", NULL, IN_MODEL(final_norm.weight), NULL, {SIZE_MODEL}},
    {"model.decoder.layer_norm.bias", NULL, IN_MODEL(final_norm.bias), NULL, {SIZE_MODEL}},
    {"lm_head.weight", NULL, IN_MODEL(head), when_untied, {SIZE_VOCABULARY, SIZE_MODEL}},
    {0},
};

static const TensorRule LAYER[] = {
    {"self_attn_layer_norm.weight", NULL, IN_LAYER(input_norm.weight), NULL, {SIZE_MODEL}},
    {"self_attn_layer_norm.bias", NULL, IN_LAYER(input_norm.bias), NULL, {SIZE_MODEL}},
    RULES_LINEAR("self_attn.q_proj", attention.q, NULL, SIZE_QUERIES, SIZE_MODEL),
    RULES_LINEAR("self_attn.k_proj", attention.k, NULL, SIZE_KEYS, SIZE_MODEL),
    RULES_LINEAR("self_attn.v_proj", attention.v, NULL, SIZE_VALUES, SIZE_MODEL),
    RULES_LINEAR("self_attn.out_proj", attention.o, NULL, SIZE_MODEL, SIZE_MIXED),
    {"cross_attention_layer_norm.weight",
     NULL,
     IN_LAYER(cross_norm.weight),
     when_cross,
     {SIZE_MODEL}},
    {"cross_attention_layer_norm.bias", NULL, IN_LAYER(cross_norm.bias), when_cross, {SIZE_MODEL}},
    RULES_LINEAR("cross_attention.q_proj", cross.q, when_cross, SIZE_QUERIES, SIZE_MODEL),
    RULES_LINEAR("cross_attention.k_proj", cross.k, when_cross, SIZE_KEYS, SIZE_MODEL),
    RULES_LINEAR("cross_attention.v_proj", cross.v, when_cross, SIZE_VALUES, SIZE_MODEL),
    RULES_LINEAR("cross_attention.out_proj", cross.o, when_cross, SIZE_MODEL, SIZE_MIXED),
    {"ff_layer_norm.weight", NULL, IN_LAYER(ffn_norm.weight), NULL, {SIZE_MODEL}},
    {"ff_layer_norm.bias", NULL, IN_LAYER(ffn_norm.bias), NULL, {SIZE_MODEL}},
    {"ffn.router.classifier.weight", NULL, IN_LAYER(router), when_moe, {SIZE_EXPERTS, SIZE_MODEL}},
    {"ffn.router.classifier.bias", NULL, IN_LAYER(router_bias), when_router_bias, {SIZE_EXPERTS}},
    {0},
};

static const char *const IGNORED[] = {"model.encoder.embed_tokens.weight",
                                      "model.decoder.embed_tokens.weight",
                                      "*.embed_positions.weights", "lm_head.weight", NULL};

const Architecture ARCH_NLLB_MOE = {
    .model_type = "nllb-moe",
    .layer_keys = {"encoder_layers", "decoder_layers"},
    .read_config = read_config,
    .model = MODEL,
    .ffn = RULES_PLAIN_FFN,
    .decoder = {.layer_prefix = "model.decoder.layers.%u.",
                .layer = LAYER,
                .moe_name = "ffn",
                .dense_prefix = "ffn.",
                .expert_prefix = "ffn.experts.expert_%u."},
    .encoder = {.layer_prefix = "model.encoder.layers.%u.",
                .layer = LAYER,
                .moe_name = "ffn",
                .dense_prefix = "ffn.",
                .expert_prefix = "ffn.experts.expert_%u."},
    .ignored = IGNORED,
};
