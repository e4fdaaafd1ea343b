/* The rotary part of config.json, in the forms of transformers 4 ("rope_theta", "rope_scaling")
 * and 5 ("rope_parameters"). */
#include <string.h>

#include "exec/arch/config.h"

static const struct {
    const char *name;
    RopeType type;
} TYPES[] = {
    {"default", ROPE_DEFAULT}, {"linear", ROPE_LINEAR},     {"llama3", ROPE_LLAMA3},
    {"yarn", ROPE_YARN},       {"longrope", ROPE_LONGROPE}, {"su", ROPE_LONGROPE},
    {"dynamic", ROPE_DYNAMIC},
};

/* DESCRIPTION's type, under either of its names; ROPE_DEFAULT when it has none. */
static Status read_type(const JsonAt *description, RopeType *type)
{
    JsonAt at;
    const char *name = NULL;
    if (!json_given(description, "rope_type", &at) && !json_given(description, "type", &at))
        return OK;
    TRY(json_text(&at, &name));
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (strcmp(TYPES[i].name, name) == 0) {
            *type = TYPES[i].type;
            return OK;
        }
    json_fail(&at,
              "\"%.64s\" is not supported, supported are default, linear, dynamic, llama3, yarn, "
              "longrope",
              name);
    return fail(ERR_UNSUPPORTED, "%s", error_message());
}

/* An array of one divisor per pair of dimensions. */
static Status read_factors(const JsonAt *description, const char *key, uint32_t pairs,
                           float *factors)
{
    JsonAt at;
    TRY(json_need(description, key, &at));
    if (!cJSON_IsArray(at.node) || (uint32_t)cJSON_GetArraySize(at.node) != pairs)
        return json_fail(&at, "must be an array of %u numbers", pairs);
    uint32_t i = 0;
    for (const cJSON *node = at.node->child; node != NULL; node = node->next, i++) {
        JsonAt item = json_item(&at, node, i);
        double value = 0;
        TRY(json_f64(&item, 1e-6, 1e9, &value));
        factors[i] = (float)value;
    }
    return OK;
}

static Status read_longrope(const JsonAt *description, uint32_t pairs, RopeConfig *rope)
{
    if (pairs > MAX_ROPE_PAIRS)
        return json_fail(description, "%u rotary pairs, at most %d are supported", pairs,
                         MAX_ROPE_PAIRS);
    TRY(read_factors(description, "short_factor", pairs, rope->short_factor));
    TRY(read_factors(description, "long_factor", pairs, rope->long_factor));
    TRY(config_f64(description, "short_mscale", 0, 1e3, &rope->short_mscale));
    return config_f64(description, "long_mscale", 0, 1e3, &rope->long_mscale);
}

static Status need_f64(const JsonAt *description, const char *key, double *value)
{
    JsonAt at;
    TRY(json_need(description, key, &at));
    return json_f64(&at, 1e-6, 1e9, value);
}

/* The keys of DESCRIPTION's type. */
static Status read_scaling(const JsonAt *root, const JsonAt *description, uint32_t pairs,
                           RopeConfig *rope)
{
    uint32_t *original = &rope->original_positions;
    TRY(config_u32(root, "original_max_position_embeddings", 1, MAX_SIZE, original));
    TRY(config_u32(description, "original_max_position_embeddings", 1, MAX_SIZE, original));
    TRY(config_f64(description, "factor", 1e-6, 1e9, &rope->factor));
    TRY(config_f64(description, "attention_factor", 0, 1e3, &rope->attention_factor));
    TRY(config_f64(description, "mscale", 0, 1e3, &rope->mscale));
    TRY(config_f64(description, "mscale_all_dim", 0, 1e3, &rope->mscale_all_dim));
    TRY(config_f64(description, "beta_fast", 1e-6, 1e6, &rope->beta_fast));
    TRY(config_f64(description, "beta_slow", 1e-6, 1e6, &rope->beta_slow));
    TRY(config_bool(description, "truncate", &rope->truncate));
    if (rope->factor == 0)
        rope->factor = (double)rope->max_positions / *original;
    if (rope->type == ROPE_LINEAR)
        return need_f64(description, "factor", &rope->factor);
    if (rope->type == ROPE_LONGROPE)
        return read_longrope(description, pairs, rope);
    if (rope->type != ROPE_LLAMA3)
        return OK;
    TRY(need_f64(description, "factor", &rope->factor));
    TRY(need_f64(description, "low_freq_factor", &rope->low_frequency_factor));
    return need_f64(description, "high_freq_factor", &rope->high_frequency_factor);
}

static Status check_object(const JsonAt *at)
{
    return cJSON_IsObject(at->node) ? OK : json_fail(at, "must be an object or null");
}

Status config_rope(const JsonAt *root, double theta, uint32_t dims, ModelConfig *config,
                   uint32_t *rotary_dims)
{
    RopeConfig *rope = &config->rope;
    JsonAt scaling;
    double part = 1;
    *rope = (RopeConfig){.beta_fast = 32,
                         .beta_slow = 1,
                         .truncate = true,
                         .original_positions = config->max_positions,
                         .max_positions = config->max_positions};
    bool scaled =
        json_given(root, "rope_parameters", &scaling) || json_given(root, "rope_scaling", &scaling);
    if (scaled) {
        TRY(check_object(&scaling));
        TRY(config_f64(&scaling, "partial_rotary_factor", 1e-6, 1, &part));
        TRY(read_type(&scaling, &rope->type));
    }
    TRY(config_f64(root, "partial_rotary_factor", 1e-6, 1, &part));
    TRY(config_f64(root, "rope_theta", 1, 1e15, &theta));
    if (scaled)
        TRY(config_f64(&scaling, "rope_theta", 1, 1e15, &theta));
    rope->theta = (float)theta;
    *rotary_dims = (uint32_t)(dims * part);
    if (*rotary_dims == 0 || *rotary_dims % 2 != 0)
        return json_fail(root,
                         "head_dim: rotary embeddings of %u of %u dimensions, wanted an even "
                         "number",
                         *rotary_dims, dims);
    return scaled ? read_scaling(root, &scaling, *rotary_dims / 2, rope) : OK;
}
