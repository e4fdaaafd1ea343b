/* Switch Transformers: T5's two stacks (RMS norms, relative position biases, unscaled attention,
 * two-matrix FFNs) with top-1 routing.
 *
 * expert_capacity drops nothing: transformers 5.17 counts an expert's tokens over an axis of
 * length 1, so its limit never bites. A plan's static gating imposes one. */
#include <math.h>

#include "exec/arch/config.h"
#include "exec/arch/rules.h"

typedef struct {
    uint32_t layers;
    uint32_t sparse_step; /* layer i is MoE when i is 1 modulo it, all when it is 1, none when 0 */
} StackKeys;

/* The step follows from the number of sparse layers where it is not given. */
static Status read_stack(const JsonAt *root, bool encoder, uint32_t layers, StackKeys *keys)
{
    uint32_t sparse_layers = 3;
    keys->layers = layers;
    TRY(config_u32(root, encoder ? "num_sparse_encoder_layers" : "num_sparse_decoder_layers", 0,
                   MAX_SIZE, &sparse_layers));
    keys->sparse_step = sparse_layers > 0 ? layers / sparse_layers : layers;
    return config_u32(root, encoder ? "encoder_sparse_step" : "decoder_sparse_step", 0, MAX_SIZE,
                      &keys->sparse_step);
}

static Status read_model(const JsonAt *root, ModelConfig *config)
{
    config_defaults(config);
    config->tied_head = true;
    config->pad = 0;
    config->max_positions = MAX_SIZE; /* distances are clipped, so that any length goes */
    config->relative_buckets = 32;
    config->relative_max_distance = 128;
    TRY(config_not_quantised(root));
    TRY(config_need_u32(root, "vocab_size", NULL, 1, MAX_SIZE, &config->vocabulary));
    TRY(config_need_u32(root, "d_model", "hidden_size", 1, MAX_SIZE, &config->d_model));
    TRY(config_f32(root, "layer_norm_epsilon", 0, 1, &config->norm_eps));
    TRY(config_u32(root, "relative_attention_num_buckets", 4, 1 << 16, &config->relative_buckets));
    TRY(config_u32(root, "relative_attention_max_distance", 1, MAX_SIZE,
                   &config->relative_max_distance));
    if (config->relative_max_distance <= config->relative_buckets / 2)
        return json_fail(root,
                         "relative_attention_max_distance: %u, wanted more than half of %u "
                         "buckets",
                         config->relative_max_distance, config->relative_buckets);
    TRY(config_bool(root, "tie_word_embeddings", &config->tied_head));
    config->head_scale = config->tied_head ? 1.0f / sqrtf((float)config->d_model) : 1;
    TRY(config_tokens(root, config));
    if (config->decoder_start == TOKEN_UNKNOWN)
        config->decoder_start = config->pad;
    return OK;
}

static Status read_attention(const JsonAt *root, AttentionConfig *attention)
{
    TRY(config_need_u32(root, "num_heads", "num_attention_heads", 1, MAX_SIZE,
                        &attention->n_heads));
    TRY(config_need_u32(root, "d_kv", NULL, 1, MAX_SIZE, &attention->key_dim));
    attention->n_kv_heads = attention->n_heads;
    attention->value_dim = attention->key_dim;
    attention->scale = 1;
    attention->relative_bias = true;
    return config_check_attention(root, attention);
}

static Status fill_layer(const JsonAt *root, const StackKeys *keys, uint32_t number,
                         const ModelConfig *config, LayerConfig *layer)
{
    Activation activation;
    uint32_t d_ff = 0;
    uint32_t step = keys->sparse_step;
    TRY(read_attention(root, &layer->attention));
    TRY(config_need_u32(root, "d_ff", NULL, 1, MAX_SIZE, &d_ff));
    TRY(config_activation(root, "dense_act_fn", "relu", &activation));
    layer->ffn = config_ffn(config->d_model, d_ff, false, activation);
    layer->cross = layer->stack == STACK_DECODER;
    layer->moe = step > 0 && (step == 1 || number % step == 1);
    if (!layer->moe)
        return OK;
    layer->top_k = 1;
    layer->router = config_router(ROUTER_SOFTMAX, false);
    TRY(config_bool(root, "router_bias", &layer->router.bias));
    return config_need_u32(root, "num_experts", NULL, 1, TRACE_MAX_EXPERTS, &layer->experts);
}

static Status read_config(const JsonAt *root, ModelConfig *config)
{
    StackKeys keys[2];
    uint32_t encoder_layers = 0;
    TRY(read_model(root, config));
    TRY(config_need_u32(root, "num_layers", "num_hidden_layers", 1, TRACE_MAX_LAYERS,
                        &encoder_layers));
    uint32_t decoder_layers = encoder_layers;
    TRY(config_u32(root, "num_decoder_layers", 1, TRACE_MAX_LAYERS, &decoder_layers));
    TRY(read_stack(root, true, encoder_layers, &keys[STACK_ENCODER]));
    TRY(read_stack(root, false, decoder_layers, &keys[STACK_DECODER]));
    config->n_encoder_layers = encoder_layers;
    config->n_layers = encoder_layers + decoder_layers;
    TRY(config_layers(root, config));
    for (uint32_t i = 0; i < config->n_layers; i++) {
        LayerConfig *layer = &config->layers[i];
        uint32_t first = layer->stack == STACK_ENCODER ? 0 : encoder_layers;
        TRY(fill_layer(root, &keys[layer->stack], i - first, config, layer));
    }
    return OK;
}

/* The first layer of each stack holds the biases of all. */
static bool when_first(const ModelConfig *config, const LayerConfig *layer, const FfnShape *ffn)
{
    (void)ffn;
    return layer == config->layers || layer == config->layers + config->n_encoder_layers;
}

static const TensorRule MODEL[] = {
    {"shared.weight", NULL, IN_MODEL(embedding), NULL, {SIZE_VOCABULARY, SIZE_MODEL}},
    {"encoder.final_layer_norm.weight", NULL, IN_MODEL(encoder_norm.weight), NULL, {SIZE_MODEL}},
    {"decoder.final_layer_norm.weight", NULL, IN_MODEL(final_norm.weight), NULL, {SIZE_MODEL}},
    {"lm_head.weight", NULL, IN_MODEL(head), when_untied, {SIZE_VOCABULARY, SIZE_MODEL}},
    {0},
};

#define SELF_ATTENTION                                                                             \
    {"layer.0.layer_norm.weight", NULL, IN_LAYER(input_norm.weight), NULL, {SIZE_MODEL}},          \
        {"layer.0.SelfAttention.q.weight",                                                         \
         NULL,                                                                                     \
         IN_LAYER(attention.q),                                                                    \
         NULL,                                                                                     \
         {SIZE_QUERIES, SIZE_MODEL}},                                                              \
        {"layer.0.SelfAttention.k.weight",                                                         \
         NULL,                                                                                     \
         IN_LAYER(attention.k),                                                                    \
         NULL,                                                                                     \
         {SIZE_KEYS, SIZE_MODEL}},                                                                 \
        {"layer.0.SelfAttention.v.weight",                                                         \
         NULL,                                                                                     \
         IN_LAYER(attention.v),                                                                    \
         NULL,                                                                                     \
         {SIZE_VALUES, SIZE_MODEL}},                                                               \
        {"layer.0.SelfAttention.o.weight",                                                         \
         NULL,                                                                                     \
         IN_LAYER(attention.o),                                                                    \
         NULL,                                                                                     \
         {SIZE_MODEL, SIZE_MIXED}},                                                                \
    {                                                                                              \
        "layer.0.SelfAttention.relative_attention_bias.weight", NULL,                              \
            IN_LAYER(attention.relative_bias), when_first,                                         \
        {                                                                                          \
            SIZE_BUCKETS, SIZE_HEADS                                                               \
        }                                                                                          \
    }

/* The FFN is the last of a block's layers. */
#define FFN_LAYER(layer)                                                                           \
    {layer "layer_norm.weight", NULL, IN_LAYER(ffn_norm.weight), NULL, {SIZE_MODEL}},              \
        {layer "mlp.router.classifier.weight",                                                     \
         NULL,                                                                                     \
         IN_LAYER(router),                                                                         \
         when_moe,                                                                                 \
         {SIZE_EXPERTS, SIZE_MODEL}},                                                              \
    {                                                                                              \
        layer "mlp.router.classifier.bias", NULL, IN_LAYER(router_bias), when_router_bias,         \
        {                                                                                          \
            SIZE_EXPERTS                                                                           \
        }                                                                                          \
    }

static const TensorRule ENCODER_LAYER[] = {
    SELF_ATTENTION,
    FFN_LAYER("layer.1."),
    {0},
};

static const TensorRule DECODER_LAYER[] = {
    SELF_ATTENTION,
    {"layer.1.layer_norm.weight", NULL, IN_LAYER(cross_norm.weight), NULL, {SIZE_MODEL}},
    {"layer.1.EncDecAttention.q.weight", NULL, IN_LAYER(cross.q), NULL, {SIZE_QUERIES, SIZE_MODEL}},
    {"layer.1.EncDecAttention.k.weight", NULL, IN_LAYER(cross.k), NULL, {SIZE_KEYS, SIZE_MODEL}},
    {"layer.1.EncDecAttention.v.weight", NULL, IN_LAYER(cross.v), NULL, {SIZE_VALUES, SIZE_MODEL}},
    {"layer.1.EncDecAttention.o.weight", NULL, IN_LAYER(cross.o), NULL, {SIZE_MODEL, SIZE_MIXED}},
    FFN_LAYER("layer.2."),
    {0},
};

static const TensorRule FFN[] = {
    {"wi.weight", NULL, IN_FFN(up), NULL, {SIZE_FF, SIZE_MODEL}},
    {"wo.weight", NULL, IN_FFN(down), NULL, {SIZE_MODEL, SIZE_FF}},
    {0},
};

/* Old files hold an unused bias of the decoder's attention over the encoder, too. */
static const char *const IGNORED[] = {
    "encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", "lm_head.weight",
    NULL};

const Architecture ARCH_SWITCH_TRANSFORMERS = {
    .model_type = "switch_transformers",
    .layer_keys = {"num_layers", "num_hidden_layers", "num_decoder_layers"},
    .read_config = read_config,
    .model = MODEL,
    .ffn = FFN,
    .decoder = {.layer_prefix = "decoder.block.%u.",
                .layer = DECODER_LAYER,
                .moe_name = "layer.2.mlp",
                .dense_prefix = "layer.2.mlp.",
                .expert_prefix = "layer.2.mlp.experts.expert_%u."},
    .encoder = {.layer_prefix = "encoder.block.%u.",
                .layer = ENCODER_LAYER,
                .moe_name = "layer.1.mlp",
                .dense_prefix = "layer.1.mlp.",
                .expert_prefix = "layer.1.mlp.experts.expert_%u."},
    .ignored = IGNORED,
};
