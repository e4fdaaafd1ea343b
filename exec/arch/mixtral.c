/* Mixtral, OLMoE and PhiMoE: the same decoder with other norms, routers and names. */
#include "exec/arch/config.h"
#include "exec/arch/rules.h"

/* All layers are alike. */
static void fill_layers(const LayerConfig *like, ModelConfig *config)
{
    for (uint32_t i = 0; i < config->n_layers; i++)
        config->layers[i] = *like;
}

/* What the three share: one FFN size, one window for all layers. */
static Status read_common(const JsonAt *root, double theta, const char *experts,
                          const char *other_experts, ModelConfig *config, LayerConfig *layer)
{
    uint32_t d_ff = 0;
    Activation activation;
    *layer = (LayerConfig){.stack = STACK_DECODER, .moe = true};
    TRY(config_decoder(root, config));
    TRY(config_activation(root, "hidden_act", "silu", &activation));
    TRY(config_attention(root, config, &layer->attention));
    TRY(config_rope(root, theta, layer->attention.key_dim, config, &layer->attention.rotary_dims));
    TRY(config_experts(root, experts, other_experts, &layer->experts, &layer->top_k));
    TRY(config_need_u32(root, "intermediate_size", NULL, 1, MAX_SIZE, &d_ff));
    layer->ffn = config_ffn(config->d_model, d_ff, true, activation);
    return OK;
}

static Status mixtral_read_config(const JsonAt *root, ModelConfig *config)
{
    LayerConfig layer;
    TRY(read_common(root, 1e6, "num_local_experts", "num_experts", config, &layer));
    TRY(config_u32(root, "sliding_window", 1, MAX_SIZE, &layer.attention.window));
    layer.router = config_router(ROUTER_SOFTMAX, true);
    fill_layers(&layer, config);
    return OK;
}

static Status olmoe_read_config(const JsonAt *root, ModelConfig *config)
{
    LayerConfig layer;
    bool bias = false;
    bool normalise = false;
    TRY(read_common(root, 1e4, "num_experts", "num_local_experts", config, &layer));
    TRY(config_bool(root, "attention_bias", &bias));
    TRY(config_bool(root, "norm_topk_prob", &normalise));
    TRY(config_f32(root, "clip_qkv", 0, 1e9, &layer.attention.clip));
    layer.attention.qkv_bias = bias;
    layer.attention.o_bias = bias;
    layer.attention.row_norm = true;
    layer.router = config_router(ROUTER_SOFTMAX, normalise);
    fill_layers(&layer, config);
    return OK;
}

static Status phimoe_read_config(const JsonAt *root, ModelConfig *config)
{
    LayerConfig layer;
    bool bias = false;
    TRY(read_common(root, 1e6, "num_local_experts", "num_experts", config, &layer));
    TRY(config_bool(root, "attention_bias", &bias));
    TRY(config_bool(root, "lm_head_bias", &config->head_bias));
    TRY(config_u32(root, "sliding_window", 1, MAX_SIZE, &layer.attention.window));
    layer.attention.qkv_bias = bias;
    layer.attention.o_bias = bias;
    config->norm = NORM_LAYER;
    config->norm_bias = true;
    layer.router = config_router(ROUTER_SPARSEMIXER, false);
    layer.router.jitter = 0.01f;
    TRY(config_f32(root, "router_jitter_noise", 0, 1, &layer.router.jitter));
    if (layer.top_k != 2)
        return json_fail(root, "num_experts_per_tok: %u, a sparsemixer takes 2", layer.top_k);
    fill_layers(&layer, config);
    return OK;
}

static const TensorRule MIXTRAL_LAYER[] = {
    RULES_LAYER_NORMS,
    RULES_SELF_ATTENTION,
    RULES_SELF_OUTPUT,
    {"block_sparse_moe.gate.weight",
     "mlp.gate.weight",
     IN_LAYER(router),
     NULL,
     {SIZE_EXPERTS, SIZE_MODEL}},
    {0},
};

static const TensorRule PHIMOE_LAYER[] = {
    RULES_LAYER_NORMS,
    RULES_SELF_ATTENTION,
    RULES_SELF_OUTPUT,
    {"block_sparse_moe.gate.weight",
     "mlp.router.weight",
     IN_LAYER(router),
     NULL,
     {SIZE_EXPERTS, SIZE_MODEL}},
    {0},
};

static const TensorRule OLMOE_LAYER[] = {
    RULES_LAYER_NORMS,
    RULES_SELF_ATTENTION,
    RULES_SELF_OUTPUT,
    {"self_attn.q_norm.weight", NULL, IN_LAYER(attention.q_norm), NULL, {SIZE_QUERIES}},
    {"self_attn.k_norm.weight", NULL, IN_LAYER(attention.k_norm), NULL, {SIZE_KEYS}},
    {"mlp.gate.weight", NULL, IN_LAYER(router), NULL, {SIZE_EXPERTS, SIZE_MODEL}},
    {0},
};

#define STACKED                                                                                    \
    {                                                                                              \
        "mlp.experts.gate_up_proj", "mlp.experts.down_proj", NULL, NULL, false                     \
    }

const Architecture ARCH_MIXTRAL = {
    .model_type = "mixtral",
    .layer_keys = {"num_hidden_layers"},
    .read_config = mixtral_read_config,
    .model = RULES_DECODER_MODEL,
    .ffn = RULES_NUMBERED_FFN,
    .decoder = {.layer_prefix = "model.layers.%u.",
                .layer = MIXTRAL_LAYER,
                .moe_name = "mlp",
                .expert_prefix = "block_sparse_moe.experts.%u.",
                .stacked = STACKED},
    .ignored = IGNORED_BUFFERS,
};

const Architecture ARCH_PHIMOE = {
    .model_type = "phimoe",
    .layer_keys = {"num_hidden_layers"},
    .read_config = phimoe_read_config,
    .model = RULES_DECODER_MODEL,
    .ffn = RULES_NUMBERED_FFN,
    .decoder = {.layer_prefix = "model.layers.%u.",
                .layer = PHIMOE_LAYER,
                .moe_name = "mlp",
                .expert_prefix = "block_sparse_moe.experts.%u.",
                .stacked = STACKED},
    .ignored = IGNORED_BUFFERS,
};

const Architecture ARCH_OLMOE = {
    .model_type = "olmoe",
    .layer_keys = {"num_hidden_layers"},
    .read_config = olmoe_read_config,
    .model = RULES_DECODER_MODEL,
    .ffn = RULES_GATED_FFN,
    .decoder = {.layer_prefix = "model.layers.%u.",
                .layer = OLMOE_LAYER,
                .moe_name = "mlp",
                .expert_prefix = "mlp.experts.%u.",
                .stacked = STACKED},
    .ignored = IGNORED_BUFFERS,
};
