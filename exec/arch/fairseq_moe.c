/* The MoE language models of fairseq (Artetxe et al. 2021), which the paper's language workload
 * runs: LayerNorm before attention and FFN, two-matrix FFNs, experts in every moe_freq-th layer,
 * top-2 routing with the weights normalised over the two.
 *
 * fairseq has no config.json: a converted directory has one with "model_type": "fairseq_moe" and
 * the names of fairseq's arguments (decoder_layers, decoder_embed_dim, decoder_ffn_embed_dim,
 * decoder_attention_heads, moe_freq, moe_expert_count, activation_fn, max_target_positions,
 * share_decoder_input_output_embed, decoder_learned_pos, no_scale_embedding,
 * moe_eval_capacity_token_fraction, moe_normalize_gate_prob_before_dropping), vocab_size,
 * pad_token_id and eos_token_id. Tensors keep the names of fairseq's state dict. */
#include <math.h>

#include "exec/arch/config.h"
#include "exec/arch/rules.h"

static Status read_model(const JsonAt *root, ModelConfig *config)
{
    bool unscaled = false;
    config_defaults(config);
    config->norm = NORM_LAYER;
    config->norm_bias = true;
    config->norm_eps = 1e-5f;
    config->pad = 1;
    config->sinusoidal = true;
    TRY(config_not_quantised(root));
    TRY(config_need_u32(root, "vocab_size", NULL, 1, MAX_SIZE, &config->vocabulary));
    TRY(config_need_u32(root, "decoder_embed_dim", NULL, 4, MAX_SIZE, &config->d_model));
    TRY(config_need_u32(root, "decoder_layers", NULL, 1, TRACE_MAX_LAYERS, &config->n_layers));
    TRY(config_need_u32(root, "max_target_positions", NULL, 1, MAX_SIZE, &config->max_positions));
    TRY(config_bool(root, "no_scale_embedding", &unscaled));
    config->embedding_scale = unscaled ? 1 : sqrtf((float)config->d_model);
    TRY(config_bool(root, "share_decoder_input_output_embed", &config->tied_head));
    TRY(config_bool(root, "decoder_learned_pos", &config->learned_positions));
    config->sinusoidal = !config->learned_positions;
    TRY(config_tokens(root, config));
    if (config->pad > MAX_SIZE)
        return json_fail(root, "pad_token_id: %u, positions count on from it", config->pad);
    return config_layers(root, config);
}

static Status read_attention(const JsonAt *root, const ModelConfig *config,
                             AttentionConfig *attention)
{
    TRY(config_need_u32(root, "decoder_attention_heads", NULL, 1, MAX_SIZE, &attention->n_heads));
    if (config->d_model % attention->n_heads != 0)
        return json_fail(root, "decoder_embed_dim: %u is no multiple of %u attention heads",
                         config->d_model, attention->n_heads);
    attention->n_kv_heads = attention->n_heads;
    attention->key_dim = config->d_model / attention->n_heads;
    attention->value_dim = attention->key_dim;
    attention->scale = 1.0f / sqrtf((float)attention->key_dim);
    attention->qkv_bias = true;
    attention->o_bias = true;
    return OK;
}

static Status read_router(const JsonAt *root, LayerConfig *layer)
{
    bool before = false;
    double fraction = 0.25; /* fairseq's default of the argument */
    layer->top_k = 2;
    layer->router = config_router(ROUTER_SOFTMAX, true);
    TRY(config_need_u32(root, "moe_expert_count", NULL, 2, TRACE_MAX_EXPERTS, &layer->experts));
    TRY(config_bool(root, "moe_normalize_gate_prob_before_dropping", &before));
    TRY(config_f64(root, "moe_eval_capacity_token_fraction", 0, 1, &fraction));
    layer->router.capacity = fraction < 1 ? fraction : 0;
    layer->router.normalise_kept = !before;
    return OK;
}

static Status read_config(const JsonAt *root, ModelConfig *config)
{
    LayerConfig moe = {.stack = STACK_DECODER, .moe = true};
    Activation activation;
    uint32_t d_ff = 0;
    uint32_t frequency = 2;
    TRY(read_model(root, config));
    TRY(read_attention(root, config, &moe.attention));
    TRY(config_activation(root, "activation_fn", "relu", &activation));
    TRY(config_need_u32(root, "decoder_ffn_embed_dim", NULL, 1, MAX_SIZE, &d_ff));
    TRY(config_u32(root, "moe_freq", 1, TRACE_MAX_LAYERS, &frequency));
    TRY(read_router(root, &moe));
    moe.ffn = config_ffn(config->d_model, d_ff, false, activation);
    moe.ffn.bias = true;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        config->layers[i] = moe;
        if ((i + 1) % frequency == 0)
            continue;
        config->layers[i] =
            (LayerConfig){.stack = STACK_DECODER, .attention = moe.attention, .ffn = moe.ffn};
    }
    return OK;
}

static bool when_learned(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn)
{
    (void)layer, (void)ffn;
    return config->learned_positions;
}

static const TensorRule MODEL[] = {
    {"decoder.embed_tokens.weight", NULL, IN_MODEL(embedding), NULL, {SIZE_VOCABULARY, SIZE_MODEL}},
    {"decoder.embed_positions.weight",
     NULL,
     IN_MODEL(positions),
     when_learned,
     {SIZE_POSITIONS, SIZE_MODEL}},
    {"decoder.layer_norm.weight", NULL, IN_MODEL(final_norm.weight), NULL, {SIZE_MODEL}},
    {"decoder.layer_norm.bias", NULL, IN_MODEL(final_norm.bias), NULL, {SIZE_MODEL}},
    {"decoder.output_projection.weight",
     NULL,
     IN_MODEL(head),
     when_untied,
     {SIZE_VOCABULARY, SIZE_MODEL}},
    {0},
};

static const TensorRule LAYER[] = {
    {"self_attn_layer_norm.weight", NULL, IN_LAYER(input_norm.weight), NULL, {SIZE_MODEL}},
    {"self_attn_layer_norm.bias", NULL, IN_LAYER(input_norm.bias), NULL, {SIZE_MODEL}},
    RULES_LINEAR("self_attn.q_proj", attention.q, NULL, SIZE_QUERIES, SIZE_MODEL),
    RULES_LINEAR("self_attn.k_proj", attention.k, NULL, SIZE_KEYS, SIZE_MODEL),
    RULES_LINEAR("self_attn.v_proj", attention.v, NULL, SIZE_VALUES, SIZE_MODEL),
    RULES_LINEAR("self_attn.out_proj", attention.o, NULL, SIZE_MODEL, SIZE_MIXED),
    {"final_layer_norm.weight", NULL, IN_LAYER(ffn_norm.weight), NULL, {SIZE_MODEL}},
    {"final_layer_norm.bias", NULL, IN_LAYER(ffn_norm.bias), NULL, {SIZE_MODEL}},
    {"moe_layer.gate.wg.weight", NULL, IN_LAYER(router), when_moe, {SIZE_EXPERTS, SIZE_MODEL}},
    {0},
};

static const char *const IGNORED[] = {"decoder.version", "decoder.output_projection.weight",
                                      "decoder.embed_positions._float_tensor", NULL};

const Architecture ARCH_FAIRSEQ_MOE = {
    .model_type = "fairseq_moe",
    .layer_keys = {"decoder_layers"},
    .read_config = read_config,
    .model = MODEL,
    .ffn = RULES_PLAIN_FFN,
    .decoder = {.layer_prefix = "decoder.layers.%u.",
                .layer = LAYER,
                .moe_name = "moe_layer",
                .dense_prefix = "",
                .expert_prefix = "moe_layer.experts.%u."},
    .ignored = IGNORED,
};
