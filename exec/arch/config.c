#include "exec/arch/config.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

Status config_need_u32(const JsonAt *root, const char *key, const char *other, uint32_t least,
                       uint32_t most, uint32_t *value)
{
    JsonAt at;
    if (!json_given(root, key, &at) && (other == NULL || !json_given(root, other, &at)))
        TRY(json_need(root, key, &at));
    return json_u32(&at, least, most, value);
}

Status config_u32(const JsonAt *root, const char *key, uint32_t least, uint32_t most,
                  uint32_t *value)
{
    JsonAt at;
    return json_given(root, key, &at) ? json_u32(&at, least, most, value) : OK;
}

Status config_f64(const JsonAt *root, const char *key, double least, double most, double *value)
{
    JsonAt at;
    return json_given(root, key, &at) ? json_f64(&at, least, most, value) : OK;
}

Status config_f32(const JsonAt *root, const char *key, double least, double most, float *value)
{
    double wide = *value;
    TRY(config_f64(root, key, least, most, &wide));
    *value = (float)wide;
    return OK;
}

Status config_bool(const JsonAt *root, const char *key, bool *value)
{
    JsonAt at;
    return json_given(root, key, &at) ? json_bool(&at, value) : OK;
}

Status config_unsupported(const JsonAt *at, const char *why)
{
    json_fail(at, "%s", why);
    return fail(ERR_UNSUPPORTED, "%s", error_message());
}

void config_defaults(ModelConfig *config)
{
    config->norm = NORM_RMS;
    config->norm_eps = 1e-6f;
    config->embedding_scale = 1;
    config->head_scale = 1;
    config->pad = TOKEN_UNKNOWN;
    config->decoder_start = TOKEN_UNKNOWN;
}

/* Blocks of MXFP4 or FP8 are named as such; others by their method. */
Status config_not_quantised(const JsonAt *root)
{
    JsonAt at;
    JsonAt method;
    const char *name = NULL;
    if (!json_given(root, "quantization_config", &at))
        return OK;
    if (!json_given(&at, "quant_method", &method) || json_text(&method, &name) != OK)
        return config_unsupported(&at, "quantised weights are not supported");
    json_fail(&method, "quantised weights are not supported, these are \"%.32s\"", name);
    return fail(ERR_UNSUPPORTED, "%s", error_message());
}

static Status read_eos(const JsonAt *root, ModelConfig *config)
{
    JsonAt at;
    if (!json_given(root, "eos_token_id", &at))
        return OK;
    if (!cJSON_IsArray(at.node)) {
        config->n_eos = 1;
        return json_u32(&at, 0, UINT32_MAX - 1, &config->eos[0]);
    }
    for (const cJSON *node = at.node->child; node != NULL; node = node->next) {
        if (config->n_eos == MAX_EOS)
            return json_fail(&at, "more than %d end tokens", MAX_EOS);
        JsonAt item = json_item(&at, node, config->n_eos);
        TRY(json_u32(&item, 0, UINT32_MAX - 1, &config->eos[config->n_eos++]));
    }
    return OK;
}

Status config_tokens(const JsonAt *root, ModelConfig *config)
{
    TRY(config_u32(root, "pad_token_id", 0, UINT32_MAX - 1, &config->pad));
    TRY(config_u32(root, "decoder_start_token_id", 0, UINT32_MAX - 1, &config->decoder_start));
    return read_eos(root, config);
}

Status config_layers(const JsonAt *root, ModelConfig *config)
{
    if (config->n_layers > TRACE_MAX_LAYERS)
        return json_fail(root, "%u layers, allowed are %d", config->n_layers, TRACE_MAX_LAYERS);
    TRY(mem_new(&config->layers, config->n_layers, sizeof *config->layers, root->file));
    for (uint32_t i = 0; i < config->n_layers; i++)
        config->layers[i].stack = i < config->n_encoder_layers ? STACK_ENCODER : STACK_DECODER;
    return OK;
}

Status config_decoder(const JsonAt *root, ModelConfig *config)
{
    config_defaults(config);
    TRY(config_not_quantised(root));
    TRY(config_need_u32(root, "vocab_size", NULL, 1, MAX_SIZE, &config->vocabulary));
    TRY(config_need_u32(root, "hidden_size", NULL, 1, MAX_SIZE, &config->d_model));
    TRY(config_need_u32(root, "num_hidden_layers", NULL, 1, TRACE_MAX_LAYERS, &config->n_layers));
    TRY(config_need_u32(root, "max_position_embeddings", NULL, 1, MAX_SIZE,
                        &config->max_positions));
    JsonAt at;
    TRY(json_need(root, "rms_norm_eps", &at));
    TRY(config_f32(root, "rms_norm_eps", 0, 1, &config->norm_eps));
    TRY(config_bool(root, "tie_word_embeddings", &config->tied_head));
    TRY(config_tokens(root, config));
    return config_layers(root, config);
}

Status config_check_attention(const JsonAt *root, const AttentionConfig *attention)
{
    if (attention->n_heads % attention->n_kv_heads != 0)
        return json_fail(root, "num_attention_heads: %u is no multiple of num_key_value_heads, %u",
                         attention->n_heads, attention->n_kv_heads);
    if (attention->key_dim == 0 || attention->value_dim == 0)
        return json_fail(root, "head_dim: 0, a head needs at least 1");
    if (attention->rotary != ROTARY_NONE &&
        (attention->rotary_dims == 0 || attention->rotary_dims % 2 != 0))
        return json_fail(root, "head_dim: %u, rotary embeddings need an even one",
                         attention->rotary_dims);
    uint64_t widest =
        attention->key_dim > attention->value_dim ? attention->key_dim : attention->value_dim;
    if (attention->n_heads * widest > MAX_SIZE)
        return json_fail(root, "num_attention_heads: %u heads of %u are more than %d",
                         attention->n_heads, (uint32_t)widest, MAX_SIZE);
    return OK;
}

Status config_attention(const JsonAt *root, const ModelConfig *config, AttentionConfig *attention)
{
    TRY(config_need_u32(root, "num_attention_heads", NULL, 1, MAX_SIZE, &attention->n_heads));
    attention->n_kv_heads = attention->n_heads;
    TRY(config_u32(root, "num_key_value_heads", 1, MAX_SIZE, &attention->n_kv_heads));
    attention->key_dim = config->d_model / attention->n_heads;
    TRY(config_u32(root, "head_dim", 1, MAX_SIZE, &attention->key_dim));
    attention->value_dim = attention->key_dim;
    attention->norm_eps = config->norm_eps;
    attention->rotary = ROTARY_HALVES;
    attention->rotary_dims = attention->key_dim;
    TRY(config_check_attention(root, attention));
    attention->scale = 1.0f / sqrtf((float)attention->key_dim);
    return OK;
}

static const struct {
    const char *name;
    Activation activation;
} ACTIVATIONS[] = {
    {"silu", ACTIVATION_SILU},
    {"swish", ACTIVATION_SILU},
    {"gelu", ACTIVATION_GELU},
    {"gelu_new", ACTIVATION_GELU_TANH},
    {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH},
    {"gelu_fast", ACTIVATION_GELU_TANH},
    {"relu", ACTIVATION_RELU},
};

Status config_activation(const JsonAt *root, const char *key, const char *default_name,
                         Activation *activation)
{
    JsonAt at;
    const char *name = default_name;
    if (json_given(root, key, &at))
        TRY(json_text(&at, &name));
    else if (default_name == NULL)
        return json_need(root, key, &at);
    for (size_t i = 0; i < sizeof ACTIVATIONS / sizeof *ACTIVATIONS; i++)
        if (strcmp(ACTIVATIONS[i].name, name) == 0) {
            *activation = ACTIVATIONS[i].activation;
            return OK;
        }
    json_fail(&at,
              "\"%.64s\" is not supported, supported are silu, swish, gelu, gelu_new, "
              "gelu_pytorch_tanh, gelu_fast, relu",
              name);
    return fail(ERR_UNSUPPORTED, "%s", error_message());
}

Status config_layer_window(const JsonAt *root, uint32_t layer, uint32_t sliding_window,
                           uint32_t *window, bool *given)
{
    JsonAt at;
    *window = 0;
    *given = json_given(root, "layer_types", &at);
    if (!*given)
        return OK;
    const cJSON *node = cJSON_IsArray(at.node) ? cJSON_GetArrayItem(at.node, (int)layer) : NULL;
    if (node == NULL)
        return json_fail(&at, "must be an array with the type of each layer");
    JsonAt item = json_item(&at, node, layer);
    const char *type = NULL;
    TRY(json_text(&item, &type));
    if (strcmp(type, "full_attention") == 0)
        return OK;
    if (strcmp(type, "sliding_attention") != 0)
        return config_unsupported(
            &item, "only \"full_attention\" and \"sliding_attention\" are supported");
    if (sliding_window == 0)
        return json_fail(&item, "\"sliding_attention\", but \"sliding_window\" is not given");
    *window = sliding_window;
    return OK;
}

Status config_experts(const JsonAt *root, const char *key, const char *other, uint32_t *experts,
                      uint32_t *top_k)
{
    TRY(config_need_u32(root, key, other, 1, TRACE_MAX_EXPERTS, experts));
    uint32_t most = *experts < TRACE_MAX_TOP_K ? *experts : TRACE_MAX_TOP_K;
    return config_need_u32(root, "num_experts_per_tok", NULL, 1, most, top_k);
}

RouterConfig config_router(RouterKind kind, bool normalise)
{
    return (RouterConfig){.kind = kind,
                          .normalise = normalise,
                          .scale = 1,
                          .output_scale = 1,
                          .groups = 1,
                          .top_groups = 1,
                          .group_best = 1};
}

FfnShape config_ffn(uint32_t d_model, uint32_t d_ff, bool gated, Activation activation)
{
    return (FfnShape){.d_model = d_model, .d_ff = d_ff, .gated = gated, .activation = activation};
}
