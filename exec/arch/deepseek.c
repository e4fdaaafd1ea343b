/* DeepSeek-V2 and DeepSeek-V3: latent attention, shared experts, group-limited routing. */
#include <math.h>

#include "exec/arch/config.h"
#include "exec/arch/rules.h"

/* YaRN's factor of the logits: mscale_all_dim's, squared. */
static void scale_logits(const RopeConfig *rope, AttentionConfig *attention)
{
    if (rope->type == ROPE_DEFAULT || rope->mscale_all_dim == 0 || rope->factor <= 1)
        return;
    double mscale = 0.1 * rope->mscale_all_dim * log(rope->factor) + 1;
    attention->scale = (float)(attention->scale * mscale * mscale);
}

/* Sizes of the latent attention; nope + rotary dimensions make a key. */
static Status read_attention(const JsonAt *root, ModelConfig *config, AttentionConfig *attention)
{
    uint32_t nope = 0;
    uint32_t rotary = 0;
    uint32_t turned = 0;
    bool bias = false;
    TRY(config_need_u32(root, "num_attention_heads", NULL, 1, MAX_SIZE, &attention->n_heads));
    TRY(config_need_u32(root, "qk_nope_head_dim", NULL, 1, MAX_SIZE, &nope));
    TRY(config_need_u32(root, "qk_rope_head_dim", NULL, 2, MAX_SIZE, &rotary));
    TRY(config_need_u32(root, "v_head_dim", NULL, 1, MAX_SIZE, &attention->value_dim));
    TRY(config_need_u32(root, "kv_lora_rank", NULL, 1, MAX_SIZE, &attention->kv_rank));
    TRY(config_u32(root, "q_lora_rank", 1, MAX_SIZE, &attention->q_rank));
    TRY(config_bool(root, "attention_bias", &bias));
    attention->n_kv_heads = attention->n_heads;
    attention->norm_eps = 1e-6f; /* whatever rms_norm_eps says */
    attention->key_dim = nope + rotary;
    attention->qkv_bias = bias;
    attention->o_bias = bias;
    attention->rotary = ROTARY_INTERLEAVED;
    attention->rotary_dims = rotary;
    attention->scale = 1.0f / sqrtf((float)attention->key_dim);
    TRY(config_rope(root, 10000, rotary, config, &turned));
    if (turned != rotary)
        return json_fail(root, "partial_rotary_factor: only 1 goes with latent attention");
    scale_logits(&config->rope, attention);
    TRY(config_check_attention(root, attention));
    if ((uint64_t)attention->n_heads * (attention->kv_rank + rotary) > MAX_SIZE)
        return json_fail(root, "kv_lora_rank: %u for %u heads are more than %d", attention->kv_rank,
                         attention->n_heads, MAX_SIZE);
    return OK;
}

/* n_group and topk_group, where the choice is limited to groups. */
static Status read_groups(const JsonAt *root, const LayerConfig *layer, RouterConfig *router)
{
    TRY(config_need_u32(root, "n_group", NULL, 1, layer->experts, &router->groups));
    TRY(config_need_u32(root, "topk_group", NULL, 1, router->groups, &router->top_groups));
    if (layer->experts % router->groups != 0)
        return json_fail(root, "n_routed_experts: %u is no multiple of n_group, %u", layer->experts,
                         router->groups);
    uint32_t open = layer->experts / router->groups * router->top_groups;
    if (layer->top_k > open)
        return json_fail(root, "num_experts_per_tok: %u, the groups chosen have only %u",
                         layer->top_k, open);
    return OK;
}

static Status read_moe(const JsonAt *root, const ModelConfig *config, Activation activation,
                       LayerConfig *layer)
{
    uint32_t d_ff = 0;
    layer->moe = true;
    TRY(config_experts(root, "n_routed_experts", "num_local_experts", &layer->experts,
                       &layer->top_k));
    TRY(config_need_u32(root, "moe_intermediate_size", NULL, 1, MAX_SIZE, &d_ff));
    TRY(config_u32(root, "n_shared_experts", 0, MAX_SIZE / d_ff, &layer->shared_experts));
    layer->ffn = config_ffn(config->d_model, d_ff, true, activation);
    layer->shared = config_ffn(config->d_model, d_ff * layer->shared_experts, true, activation);
    return OK;
}

/* The first first_k_dense_replace layers are dense, the rest are like MOE. */
static Status fill_layers(const JsonAt *root, const LayerConfig *moe, bool ffn_bias,
                          ModelConfig *config)
{
    uint32_t n_dense = 0;
    uint32_t dense_d_ff = 0;
    TRY(config_u32(root, "first_k_dense_replace", 0, MAX_SIZE, &n_dense));
    if (n_dense > 0)
        TRY(config_need_u32(root, "intermediate_size", NULL, 1, MAX_SIZE, &dense_d_ff));
    for (uint32_t i = 0; i < config->n_layers; i++) {
        config->layers[i] = *moe;
        config->layers[i].shared.bias = ffn_bias;
        if (i >= n_dense)
            continue;
        config->layers[i] = (LayerConfig){
            .stack = STACK_DECODER,
            .attention = moe->attention,
            .ffn = config_ffn(config->d_model, dense_d_ff, true, moe->ffn.activation)};
        config->layers[i].ffn.bias = ffn_bias;
    }
    return OK;
}

static Status read_scale(const JsonAt *root, float default_scale, float *scale)
{
    *scale = default_scale;
    return config_f32(root, "routed_scaling_factor", 0, 1e6, scale);
}

static Status v2_read_router(const JsonAt *root, LayerConfig *layer)
{
    static const char *const METHODS[] = {"greedy", "group_limited_greedy", NULL};
    JsonAt at;
    int method = 0;
    layer->router = config_router(ROUTER_SOFTMAX, false);
    TRY(read_scale(root, 1, &layer->router.scale));
    if (json_given(root, "topk_method", &at))
        TRY(json_choice(&at, METHODS, &method));
    return method == 1 ? read_groups(root, layer, &layer->router) : OK;
}

static Status v2_read_config(const JsonAt *root, ModelConfig *config)
{
    LayerConfig moe = {.stack = STACK_DECODER};
    Activation activation;
    bool ffn_bias = false;
    TRY(config_decoder(root, config));
    TRY(config_activation(root, "hidden_act", "silu", &activation));
    TRY(read_attention(root, config, &moe.attention));
    TRY(read_moe(root, config, activation, &moe));
    TRY(v2_read_router(root, &moe));
    TRY(config_bool(root, "mlp_bias", &ffn_bias));
    return fill_layers(root, &moe, ffn_bias, config);
}

static Status v3_read_router(const JsonAt *root, LayerConfig *layer)
{
    bool normalise = true;
    TRY(config_bool(root, "norm_topk_prob", &normalise));
    layer->router = config_router(ROUTER_SIGMOID, normalise);
    layer->router.correction = true;
    layer->router.group_best = 2;
    TRY(read_scale(root, 2.5f, &layer->router.scale));
    return read_groups(root, layer, &layer->router);
}

static Status v3_read_config(const JsonAt *root, ModelConfig *config)
{
    LayerConfig moe = {.stack = STACK_DECODER};
    Activation activation;
    bool interleaved = true;
    TRY(config_decoder(root, config));
    TRY(config_u32(root, "num_nextn_predict_layers", 0, TRACE_MAX_LAYERS, &config->predict_layers));
    TRY(config_activation(root, "hidden_act", "silu", &activation));
    TRY(read_attention(root, config, &moe.attention));
    TRY(config_bool(root, "rope_interleave", &interleaved));
    moe.attention.rotary = interleaved ? ROTARY_INTERLEAVED : ROTARY_HALVES;
    TRY(read_moe(root, config, activation, &moe));
    TRY(v3_read_router(root, &moe));
    return fill_layers(root, &moe, false, config);
}

static bool when_q_rank(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn)
{
    (void)config, (void)ffn;
    return layer->attention.q_rank > 0;
}

static bool when_no_q_rank(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn)
{
    (void)config, (void)ffn;
    return layer->attention.q_rank == 0;
}

static bool when_q_rank_bias(const ModelConfig *config, const LayerConfig *layer,
                             const FfnShape *ffn)
{
    (void)config, (void)ffn;
    return layer->attention.q_rank > 0 && layer->attention.qkv_bias;
}

static bool when_correction(const ModelConfig *config, const LayerConfig *layer,
                            const FfnShape *ffn)
{
    (void)config, (void)ffn;
    return layer->moe && layer->router.correction;
}

static const TensorRule LAYER[] = {
    RULES_LAYER_NORMS,
    {"self_attn.q_proj.weight",
     NULL,
     IN_LAYER(attention.q),
     when_no_q_rank,
     {SIZE_QUERIES, SIZE_MODEL}},
    {"self_attn.q_a_proj.weight",
     NULL,
     IN_LAYER(attention.q_a),
     when_q_rank,
     {SIZE_Q_RANK, SIZE_MODEL}},
    {"self_attn.q_a_proj.bias",
     NULL,
     IN_LAYER(attention.q_a_bias),
     when_q_rank_bias,
     {SIZE_Q_RANK}},
    {"self_attn.q_a_layernorm.weight",
     NULL,
     IN_LAYER(attention.q_a_norm),
     when_q_rank,
     {SIZE_Q_RANK}},
    {"self_attn.q_b_proj.weight",
     NULL,
     IN_LAYER(attention.q),
     when_q_rank,
     {SIZE_QUERIES, SIZE_Q_RANK}},
    {"self_attn.kv_a_proj_with_mqa.weight",
     NULL,
     IN_LAYER(attention.kv_a),
     NULL,
     {SIZE_LATENT, SIZE_MODEL}},
    {"self_attn.kv_a_proj_with_mqa.bias",
     NULL,
     IN_LAYER(attention.kv_a_bias),
     when_qkv_bias,
     {SIZE_LATENT}},
    {"self_attn.kv_a_layernorm.weight", NULL, IN_LAYER(attention.kv_a_norm), NULL, {SIZE_KV_RANK}},
    {"self_attn.kv_b_proj.weight",
     NULL,
     IN_LAYER(attention.kv_b),
     NULL,
     {SIZE_EXPANDED, SIZE_KV_RANK}},
    RULES_SELF_OUTPUT,
    {"mlp.gate.weight", NULL, IN_LAYER(router), when_moe, {SIZE_EXPERTS, SIZE_MODEL}},
    {"mlp.gate.e_score_correction_bias",
     NULL,
     IN_LAYER(correction),
     when_correction,
     {SIZE_EXPERTS}},
    {0},
};

#define DEEPSEEK_STACK                                                                             \
    {                                                                                              \
        .layer_prefix = "model.layers.%u.", .layer = LAYER, .moe_name = "mlp",                     \
        .dense_prefix = "mlp.", .expert_prefix = "mlp.experts.%u.",                                \
        .shared_prefix = "mlp.shared_experts.", .stacked = {                                       \
            "mlp.experts.gate_up_proj",                                                            \
            "mlp.experts.down_proj",                                                               \
            NULL,                                                                                  \
            NULL,                                                                                  \
            false                                                                                  \
        }                                                                                          \
    }

const Architecture ARCH_DEEPSEEK_V2 = {
    .model_type = "deepseek_v2",
    .layer_keys = {"num_hidden_layers"},
    .read_config = v2_read_config,
    .model = RULES_DECODER_MODEL,
    .ffn = RULES_GATED_FFN,
    .decoder = DEEPSEEK_STACK,
    .ignored = IGNORED_BUFFERS,
};

const Architecture ARCH_DEEPSEEK_V3 = {
    .model_type = "deepseek_v3",
    .layer_keys = {"num_hidden_layers"},
    .read_config = v3_read_config,
    .model = RULES_DECODER_MODEL,
    .ffn = RULES_GATED_FFN,
    .decoder = DEEPSEEK_STACK,
    .ignored = IGNORED_BUFFERS,
};
