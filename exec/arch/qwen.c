/* Qwen2-MoE and Qwen3-MoE. */
#include "exec/arch/config.h"
#include "exec/arch/rules.h"

/* The keys from which the layers follow. */
typedef struct {
    AttentionConfig attention;
    RouterConfig router;
    Activation activation;
    uint32_t dense_d_ff; /* 0: not given */
    uint32_t expert_d_ff;
    uint32_t experts;
    uint32_t top_k;
    uint32_t shared_d_ff;
    uint32_t sparse_step; /* layer i is MoE when i + 1 is a multiple of it, 0: never */
} LayerKeys;

/* The window of all layers, or of those that "layer_types" or "max_window_layers" names. */
typedef struct {
    uint32_t size; /* 0: none */
    uint32_t first_layer;
} Window;

static Status read_layer_keys(const JsonAt *root, LayerKeys *keys)
{
    keys->sparse_step = 1;
    TRY(config_activation(root, "hidden_act", NULL, &keys->activation));
    TRY(config_u32(root, "decoder_sparse_step", 0, MAX_SIZE, &keys->sparse_step));
    TRY(config_u32(root, "intermediate_size", 1, MAX_SIZE, &keys->dense_d_ff));
    TRY(config_experts(root, "num_experts", "num_local_experts", &keys->experts, &keys->top_k));
    TRY(config_need_u32(root, "moe_intermediate_size", NULL, 1, MAX_SIZE, &keys->expert_d_ff));
    bool normalise = false;
    TRY(config_bool(root, "norm_topk_prob", &normalise));
    keys->router = config_router(ROUTER_SOFTMAX, normalise);
    return OK;
}

/* Leaves moe false in the layers of "mlp_only_layers" and in those that the step skips. */
static Status mark_moe_layers(const JsonAt *root, const LayerKeys *keys, ModelConfig *config)
{
    JsonAt at;
    for (uint32_t i = 0; i < config->n_layers; i++)
        config->layers[i].moe = keys->sparse_step != 0 && (i + 1) % keys->sparse_step == 0;
    if (!json_given(root, "mlp_only_layers", &at))
        return OK;
    if (!cJSON_IsArray(at.node))
        return json_fail(&at, "must be an array");
    size_t index = 0;
    for (const cJSON *node = at.node->child; node != NULL; node = node->next) {
        JsonAt item = json_item(&at, node, index++);
        uint32_t layer = 0;
        TRY(json_u32(&item, 0, config->n_layers - 1, &layer));
        config->layers[layer].moe = false;
    }
    return OK;
}

static Status fill_layer(const JsonAt *root, const LayerKeys *keys, const Window *window,
                         uint32_t number, ModelConfig *config)
{
    LayerConfig *layer = &config->layers[number];
    bool given = false;
    layer->attention = keys->attention;
    TRY(config_layer_window(root, number, window->size, &layer->attention.window, &given));
    if (!given && number >= window->first_layer)
        layer->attention.window = window->size;
    if (!layer->moe && keys->dense_d_ff == 0)
        return json_fail(root, "the key \"intermediate_size\" is missing, and layer %u is dense",
                         number);
    layer->ffn = config_ffn(config->d_model, layer->moe ? keys->expert_d_ff : keys->dense_d_ff,
                            true, keys->activation);
    if (!layer->moe)
        return OK;
    layer->experts = keys->experts;
    layer->top_k = keys->top_k;
    layer->router = keys->router;
    layer->shared_experts = keys->shared_d_ff > 0;
    layer->shared_gate = keys->shared_d_ff > 0;
    layer->shared = config_ffn(config->d_model, keys->shared_d_ff, true, keys->activation);
    return OK;
}

static Status read_layers(const JsonAt *root, const LayerKeys *keys, const Window *window,
                          ModelConfig *config)
{
    TRY(mark_moe_layers(root, keys, config));
    for (uint32_t i = 0; i < config->n_layers; i++)
        TRY(fill_layer(root, keys, window, i, config));
    return OK;
}

/* "sliding_window" counts only with "use_sliding_window". */
static Status read_window(const JsonAt *root, Window *window)
{
    bool use = false;
    TRY(config_bool(root, "use_sliding_window", &use));
    if (!use)
        return OK;
    return config_need_u32(root, "sliding_window", NULL, 1, MAX_SIZE, &window->size);
}

static Status qwen3_read_config(const JsonAt *root, ModelConfig *config)
{
    LayerKeys keys = {0};
    Window window = {0};
    bool bias = false;
    TRY(config_decoder(root, config));
    TRY(read_layer_keys(root, &keys));
    TRY(config_attention(root, config, &keys.attention));
    TRY(config_rope(root, 10000, keys.attention.key_dim, config, &keys.attention.rotary_dims));
    TRY(config_bool(root, "attention_bias", &bias));
    keys.attention.qkv_bias = bias;
    keys.attention.o_bias = bias;
    keys.attention.head_norm = true;
    TRY(read_window(root, &window));
    return read_layers(root, &keys, &window, config);
}

static Status qwen2_read_config(const JsonAt *root, ModelConfig *config)
{
    LayerKeys keys = {0};
    Window window = {.first_layer = 28};
    TRY(config_decoder(root, config));
    TRY(read_layer_keys(root, &keys));
    TRY(config_attention(root, config, &keys.attention));
    TRY(config_rope(root, 10000, keys.attention.key_dim, config, &keys.attention.rotary_dims));
    keys.attention.qkv_bias = true;
    TRY(config_bool(root, "qkv_bias", &keys.attention.qkv_bias));
    TRY(config_need_u32(root, "shared_expert_intermediate_size", NULL, 1, MAX_SIZE,
                        &keys.shared_d_ff));
    TRY(config_u32(root, "max_window_layers", 0, MAX_SIZE, &window.first_layer));
    TRY(read_window(root, &window));
    return read_layers(root, &keys, &window, config);
}

static const TensorRule QWEN3_LAYER[] = {
    RULES_LAYER_NORMS,
    RULES_SELF_ATTENTION,
    RULES_SELF_OUTPUT,
    {"self_attn.q_norm.weight", NULL, IN_LAYER(attention.q_norm), NULL, {SIZE_HEAD}},
    {"self_attn.k_norm.weight", NULL, IN_LAYER(attention.k_norm), NULL, {SIZE_HEAD}},
    {"mlp.gate.weight", NULL, IN_LAYER(router), when_moe, {SIZE_EXPERTS, SIZE_MODEL}},
    {0},
};

static const TensorRule QWEN2_LAYER[] = {
    RULES_LAYER_NORMS,
    RULES_SELF_ATTENTION,
    RULES_SELF_OUTPUT,
    {"mlp.gate.weight", NULL, IN_LAYER(router), when_moe, {SIZE_EXPERTS, SIZE_MODEL}},
    {"mlp.shared_expert_gate.weight",
     NULL,
     IN_LAYER(shared_gate),
     when_moe,
     {SIZE_ONE, SIZE_MODEL}},
    {0},
};

#define QWEN_STACK(rules)                                                                          \
    {                                                                                              \
        .layer_prefix = "model.layers.%u.", .layer = (rules), .moe_name = "mlp",                   \
        .dense_prefix = "mlp.", .expert_prefix = "mlp.experts.%u.",                                \
        .shared_prefix = "mlp.shared_expert.", .stacked = {                                        \
            "mlp.experts.gate_up_proj",                                                            \
            "mlp.experts.down_proj",                                                               \
            NULL,                                                                                  \
            NULL,                                                                                  \
            false                                                                                  \
        }                                                                                          \
    }

const Architecture ARCH_QWEN3_MOE = {
    .model_type = "qwen3_moe",
    .layer_keys = {"num_hidden_layers"},
    .read_config = qwen3_read_config,
    .model = RULES_DECODER_MODEL,
    .ffn = RULES_GATED_FFN,
    .decoder = QWEN_STACK(QWEN3_LAYER),
    .ignored = IGNORED_BUFFERS,
};

const Architecture ARCH_QWEN2_MOE = {
    .model_type = "qwen2_moe",
    .layer_keys = {"num_hidden_layers"},
    .read_config = qwen2_read_config,
    .model = RULES_DECODER_MODEL,
    .ffn = RULES_GATED_FFN,
    .decoder = QWEN_STACK(QWEN2_LAYER),
    .ignored = IGNORED_BUFFERS,
};
