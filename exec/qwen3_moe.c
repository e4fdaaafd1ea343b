#include "exec/qwen3_moe.h"

#include <string.h>

#include "base/memory.h"
#include "traces/trace.h"

enum { MAX_SIZE = 1 << 24 };

/* The keys from which the layers follow. */
typedef struct {
    uint32_t dense_d_ff; /* 0: not given */
    uint32_t expert_d_ff;
    uint32_t experts;
    uint32_t top_k;
    uint32_t sparse_step; /* layer i is MoE when i + 1 is a multiple of it, 0: never */
    bool norm_top_k;
} LayerKeys;

/* False too when the key is there but null. */
static bool find_set(const JsonAt *parent, const char *key, JsonAt *at)
{
    return json_find(parent, key, at) && !json_is_null(at);
}

static Status need_u32(const JsonAt *root, const char *key, uint32_t least, uint32_t most,
                       uint32_t *value)
{
    JsonAt at;
    TRY(json_need(root, key, &at));
    return json_u32(&at, least, most, value);
}

static Status optional_u32(const JsonAt *root, const char *key, uint32_t least, uint32_t most,
                           uint32_t *value)
{
    JsonAt at;
    return find_set(root, key, &at) ? json_u32(&at, least, most, value) : OK;
}

static Status optional_bool(const JsonAt *root, const char *key, bool *value)
{
    JsonAt at;
    return find_set(root, key, &at) ? json_bool(&at, value) : OK;
}

static Status unsupported(const JsonAt *at, const char *why)
{
    json_fail(at, "%s", why);
    return fail(ERR_UNSUPPORTED, "%s", error_message());
}

static Status read_sizes(const JsonAt *root, ModelConfig *config)
{
    TRY(need_u32(root, "vocab_size", 1, MAX_SIZE, &config->vocabulary));
    TRY(need_u32(root, "hidden_size", 1, MAX_SIZE, &config->d_model));
    TRY(need_u32(root, "num_hidden_layers", 1, TRACE_MAX_LAYERS, &config->n_layers));
    TRY(need_u32(root, "num_attention_heads", 1, MAX_SIZE, &config->n_heads));
    config->n_kv_heads = config->n_heads;
    TRY(optional_u32(root, "num_key_value_heads", 1, MAX_SIZE, &config->n_kv_heads));
    config->head_dim = config->d_model / config->n_heads;
    TRY(optional_u32(root, "head_dim", 1, MAX_SIZE, &config->head_dim));
    TRY(need_u32(root, "max_position_embeddings", 1, MAX_SIZE, &config->max_positions));
    if (config->n_heads % config->n_kv_heads != 0)
        return json_fail(root, "num_attention_heads: %u is no multiple of num_key_value_heads, %u",
                         config->n_heads, config->n_kv_heads);
    if (config->head_dim == 0 || config->head_dim % 2 != 0)
        return json_fail(root, "head_dim: %u, rotary embeddings need an even one",
                         config->head_dim);
    if ((uint64_t)config->n_heads * config->head_dim > MAX_SIZE)
        return json_fail(root, "num_attention_heads: %u heads of %u are more than %d",
                         config->n_heads, config->head_dim, MAX_SIZE);
    return OK;
}

/* Only the plain rotary embedding: DESCRIPTION's type, under either of its names, is "default". */
static Status check_rope_type(const JsonAt *description)
{
    static const char *const KEYS[] = {"rope_type", "type"};
    if (!cJSON_IsObject(description->node))
        return json_fail(description, "must be an object or null");
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
        JsonAt at;
        const char *type = NULL;
        if (!find_set(description, KEYS[i], &at))
            continue;
        TRY(json_text(&at, &type));
        if (strcmp(type, "default") != 0)
            return unsupported(&at, "only the rope type \"default\" is supported");
    }
    return OK;
}

/* partial_rotary_factor turns only a part of each head. */
static Status check_rope_part(const JsonAt *parent)
{
    JsonAt at;
    double factor = 1;
    if (find_set(parent, "partial_rotary_factor", &at))
        TRY(json_f64(&at, 0, 1, &factor));
    return factor == 1 ? OK : unsupported(&at, "only 1 is supported");
}

/* "rope_theta" and "rope_scaling", or both in "rope_parameters". */
static Status read_rope(const JsonAt *root, ModelConfig *config)
{
    JsonAt at;
    JsonAt parameters;
    double theta = 0;
    const JsonAt *owner = root;
    if (find_set(root, "rope_scaling", &at))
        TRY(check_rope_type(&at));
    if (find_set(root, "rope_parameters", &parameters)) {
        TRY(check_rope_type(&parameters));
        TRY(check_rope_part(&parameters));
        if (json_find(&parameters, "rope_theta", &at))
            owner = &parameters;
    }
    TRY(check_rope_part(root));
    TRY(json_need(owner, "rope_theta", &at));
    TRY(json_f64(&at, 1, 1e15, &theta));
    config->rope_theta = (float)theta;
    return OK;
}

static Status read_eos(const JsonAt *root, ModelConfig *config)
{
    JsonAt at;
    if (!find_set(root, "eos_token_id", &at))
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

static Status check_layer_types(const JsonAt *root)
{
    JsonAt at;
    if (!find_set(root, "layer_types", &at))
        return OK;
    if (!cJSON_IsArray(at.node))
        return json_fail(&at, "must be an array");
    size_t index = 0;
    for (const cJSON *node = at.node->child; node != NULL; node = node->next) {
        JsonAt item = json_item(&at, node, index++);
        const char *type = NULL;
        TRY(json_text(&item, &type));
        if (strcmp(type, "full_attention") != 0)
            return unsupported(&item, "only \"full_attention\" is supported");
    }
    return OK;
}

static Status check_features(const JsonAt *root)
{
    JsonAt at;
    const char *activation = NULL;
    bool window = false;
    TRY(json_need(root, "hidden_act", &at));
    TRY(json_text(&at, &activation));
    if (strcmp(activation, "silu") != 0)
        return unsupported(&at, "only \"silu\" is supported");
    TRY(optional_bool(root, "use_sliding_window", &window));
    if (window) {
        json_find(root, "use_sliding_window", &at);
        return unsupported(&at, "a sliding window is not supported");
    }
    if (find_set(root, "quantization_config", &at))
        return unsupported(&at, "quantised weights are not supported");
    return check_layer_types(root);
}

static Status read_layer_keys(const JsonAt *root, LayerKeys *keys)
{
    *keys = (LayerKeys){.sparse_step = 1};
    TRY(optional_u32(root, "decoder_sparse_step", 0, MAX_SIZE, &keys->sparse_step));
    TRY(optional_u32(root, "intermediate_size", 1, MAX_SIZE, &keys->dense_d_ff));
    TRY(need_u32(root, "num_experts", 1, TRACE_MAX_EXPERTS, &keys->experts));
    TRY(need_u32(root, "moe_intermediate_size", 1, MAX_SIZE, &keys->expert_d_ff));
    uint32_t most = keys->experts < TRACE_MAX_TOP_K ? keys->experts : TRACE_MAX_TOP_K;
    TRY(need_u32(root, "num_experts_per_tok", 1, most, &keys->top_k));
    return optional_bool(root, "norm_topk_prob", &keys->norm_top_k);
}

/* Leaves moe false in the layers of "mlp_only_layers" and in those that the step skips. */
static Status mark_moe_layers(const JsonAt *root, const LayerKeys *keys, ModelConfig *config)
{
    JsonAt at;
    for (uint32_t i = 0; i < config->n_layers; i++)
        config->layers[i].moe = keys->sparse_step != 0 && (i + 1) % keys->sparse_step == 0;
    if (!find_set(root, "mlp_only_layers", &at))
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

static Status read_layers(const JsonAt *root, ModelConfig *config)
{
    LayerKeys keys;
    TRY(read_layer_keys(root, &keys));
    TRY(mem_new(&config->layers, config->n_layers, sizeof *config->layers, root->file));
    TRY(mark_moe_layers(root, &keys, config));
    for (uint32_t i = 0; i < config->n_layers; i++) {
        LayerConfig *layer = &config->layers[i];
        if (layer->moe) {
            *layer =
                (LayerConfig){true, keys.experts, keys.top_k, keys.norm_top_k, keys.expert_d_ff};
        } else if (keys.dense_d_ff == 0) {
            return json_fail(root,
                             "the key \"intermediate_size\" is missing, and layer %u is dense", i);
        } else {
            layer->d_ff = keys.dense_d_ff;
        }
    }
    return OK;
}

Status qwen3_moe_read_config(const JsonAt *root, ModelConfig *config)
{
    JsonAt at;
    double norm_eps = 0;
    TRY(check_features(root));
    TRY(read_sizes(root, config));
    TRY(json_need(root, "rms_norm_eps", &at));
    TRY(json_f64(&at, 0, 1, &norm_eps));
    config->norm_eps = (float)norm_eps;
    TRY(read_rope(root, config));
    TRY(optional_bool(root, "tie_word_embeddings", &config->tied_head));
    TRY(optional_bool(root, "attention_bias", &config->attention_bias));
    TRY(read_eos(root, config));
    return read_layers(root, config);
}
