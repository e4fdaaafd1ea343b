/* The attention blocks: of a layer's own tokens, latent, and over the encoder's output. */
#include "exec/forward_parts.h"

/* Self attention of an encoder sees all of its span, in a cache that lives for the layer only. */
static CacheLayer own_cache(const Step *step, uint32_t layer)
{
    const Forward *f = step->forward;
    return step->input->stack == STACK_ENCODER ? forward_encoder_cache(f, layer)
                                               : forward_cache(f, layer);
}

static AttendLayer attend_layer(const Step *step, uint32_t layer)
{
    const Forward *f = step->forward;
    const AttentionConfig *config = &f->config->layers[layer].attention;
    Stack stack = step->input->stack;
    return (AttendLayer){.n_heads = config->n_heads,
                         .n_kv_heads = config->n_kv_heads,
                         .key_dim = config->key_dim,
                         .value_dim = config->value_dim,
                         .scale = config->scale,
                         .causal = stack == STACK_DECODER,
                         .window = config->window,
                         .sinks = f->weights.layers[layer].sinks,
                         .relative_bias = f->weights.relative_bias[stack],
                         .cache = own_cache(step, layer),
                         .query_stride =
                             (size_t)config->n_heads * config->key_dim +
                             (size_t)config->n_kv_heads * (config->key_dim + config->value_dim)};
}

static Status plain_attention(const Step *step, uint32_t layer)
{
    const Forward *f = step->forward;
    const AttentionConfig *config = &f->config->layers[layer].attention;
    const LayerWeights *weights = &f->weights.layers[layer];
    const AppendLayer append = {.n_heads = config->n_heads,
                                .n_kv_heads = config->n_kv_heads,
                                .key_dim = config->key_dim,
                                .value_dim = config->value_dim,
                                .q_norm = weights->q_norm,
                                .k_norm = weights->k_norm,
                                .row_norm = config->row_norm,
                                .norm_eps = config->norm_eps,
                                .clip = config->clip,
                                .rotary = config->rotary,
                                .rotary_dims = config->rotary_dims,
                                .cosine = step->rotary->cosine,
                                .sine = step->rotary->sine,
                                .cache = own_cache(step, layer)};
    const AttendLayer attend = attend_layer(step, layer);
    TRY(f->backend->norm_linear(f->device, &weights->input_norm, f->at.hidden, &weights->qkv,
                                step->input->tokens, f->at.normed, f->at.projected));
    TRY(f->backend->append(f->device, &append, &step->spans, f->at.projected));
    TRY(forward_stamp(step, layer, OP_ATTENTION_PROJECT));
    TRY(f->backend->attend_mixed(f->device, &attend, &step->spans, f->at.projected, f->at.mixed));
    TRY(forward_stamp(step, layer, OP_ATTENTION));
    return f->backend->linear_mixed(f->device, f->at.mixed, &weights->o, step->input->tokens,
                                    f->at.hidden);
}

/* Queries of latent attention into at.queries, through their low rank where there is one. */
static Status latent_queries(const Step *step, const LayerWeights *weights, uint32_t q_rank)
{
    const Forward *f = step->forward;
    uint32_t tokens = step->input->tokens;
    const float *in = f->at.normed;
    if (q_rank > 0) {
        float *normed = f->at.low_rank + (size_t)tokens * q_rank;
        TRY(f->backend->linear(f->device, in, &weights->latent.q_a, tokens, false, f->at.low_rank));
        TRY(f->backend->norm(f->device, &weights->latent.q_a_norm, f->at.low_rank, NULL, tokens,
                             q_rank, normed));
        in = normed;
    }
    return f->backend->linear(f->device, in, &weights->qkv, tokens, false, f->at.queries);
}

/* Per head: the nope part of the query -> the latent's space. */
static Status absorb_queries(const Step *step, const AttentionConfig *config, const void *weights)
{
    const Forward *f = step->forward;
    size_t wide = config->kv_rank + config->rotary_dims;
    const HeadMatrices absorb = {.weights = weights,
                                 .heads = config->n_heads,
                                 .rows = config->kv_rank,
                                 .columns = config->key_dim - config->rotary_dims,
                                 .in_token = (size_t)config->n_heads * config->key_dim,
                                 .in_head = config->key_dim,
                                 .out_token = config->n_heads * wide,
                                 .out_head = wide};
    return f->backend->linear_heads(f->device, &absorb, f->at.queries, step->input->tokens,
                                    f->at.absorbed);
}

/* Per head: mixed latents -> values. */
static Status expand_values(const Step *step, const AttentionConfig *config, const void *weights)
{
    const Forward *f = step->forward;
    const HeadMatrices expand = {.weights = weights,
                                 .heads = config->n_heads,
                                 .rows = config->value_dim,
                                 .columns = config->kv_rank,
                                 .in_token = (size_t)config->n_heads * config->kv_rank,
                                 .in_head = config->kv_rank,
                                 .out_token = (size_t)config->n_heads * config->value_dim,
                                 .out_head = config->value_dim};
    return f->backend->linear_heads(f->device, &expand, f->at.mixed_latents, step->input->tokens,
                                    f->at.mixed);
}

static Status latent_append(const Step *step, uint32_t layer)
{
    const Forward *f = step->forward;
    const AttentionConfig *config = &f->config->layers[layer].attention;
    const LatentWeights *weights = &f->weights.layers[layer].latent;
    const LatentLayer latent = {.n_heads = config->n_heads,
                                .nope_dim = config->key_dim - config->rotary_dims,
                                .kv_rank = config->kv_rank,
                                .latent_norm = weights->kv_norm,
                                .rotary = config->rotary,
                                .rotary_dims = config->rotary_dims,
                                .cosine = step->rotary->cosine,
                                .sine = step->rotary->sine,
                                .cache = forward_cache(f, layer)};
    TRY(f->backend->linear(f->device, f->at.normed, &weights->kv_a, step->input->tokens, false,
                           f->at.projected));
    return f->backend->append_latent(f->device, &latent, &step->spans, f->at.projected,
                                     f->at.queries, f->at.absorbed);
}

/* One key head of [latent, rotated key] serves all query heads. */
static Status latent_attention(const Step *step, uint32_t layer)
{
    const Forward *f = step->forward;
    const AttentionConfig *config = &f->config->layers[layer].attention;
    const LayerWeights *weights = &f->weights.layers[layer];
    AttendLayer attend = attend_layer(step, layer);
    attend.n_kv_heads = 1;
    attend.key_dim = config->kv_rank + config->rotary_dims;
    attend.value_dim = config->kv_rank;
    attend.query_stride = (size_t)config->n_heads * attend.key_dim;
    TRY(f->backend->norm(f->device, &weights->input_norm, f->at.hidden, NULL, step->input->tokens,
                         f->config->d_model, f->at.normed));
    TRY(forward_stamp(step, layer, OP_ATTENTION_NORM));
    TRY(latent_queries(step, weights, config->q_rank));
    TRY(absorb_queries(step, config, weights->latent.absorb));
    TRY(latent_append(step, layer));
    TRY(forward_stamp(step, layer, OP_ATTENTION_PROJECT));
    TRY(f->backend->attend(f->device, &attend, &step->spans, f->at.absorbed, f->at.mixed_latents));
    TRY(expand_values(step, config, weights->latent.expand));
    TRY(forward_stamp(step, layer, OP_ATTENTION));
    return f->backend->linear(f->device, f->at.mixed, &weights->o, step->input->tokens, true,
                              f->at.hidden);
}

Status forward_attention(const Step *step, uint32_t layer)
{
    const Forward *f = step->forward;
    if (f->config->layers[layer].attention.kv_rank > 0)
        TRY(latent_attention(step, layer));
    else
        TRY(plain_attention(step, layer));
    return forward_stamp(step, layer, OP_ATTENTION_OUTPUT);
}

Status forward_cross_attention(const Step *step, uint32_t layer)
{
    const Forward *f = step->forward;
    const AttentionConfig *config = &f->config->layers[layer].attention;
    const CrossWeights *weights = &f->weights.layers[layer].cross;
    uint32_t tokens = step->input->tokens;
    const AttendLayer attend = {.n_heads = config->n_heads,
                                .n_kv_heads = config->n_kv_heads,
                                .key_dim = config->key_dim,
                                .value_dim = config->value_dim,
                                .scale = config->scale,
                                .cache = forward_cross_cache(f, layer),
                                .query_stride = (size_t)config->n_heads * config->key_dim};
    TRY(f->backend->norm(f->device, &weights->norm, f->at.hidden, NULL, tokens, f->config->d_model,
                         f->at.normed));
    TRY(f->backend->linear(f->device, f->at.normed, &weights->q, tokens, false, f->at.queries));
    TRY(f->backend->attend(f->device, &attend, &step->source_spans, f->at.queries, f->at.mixed));
    TRY(f->backend->linear(f->device, f->at.mixed, &weights->o, tokens, true, f->at.hidden));
    return forward_stamp(step, layer, OP_CROSS_ATTENTION);
}

Status forward_fill_cross_caches(const Step *step)
{
    const Forward *f = step->forward;
    const ModelConfig *config = f->config;
    for (uint32_t layer = config->n_encoder_layers; layer < config->n_layers; layer++) {
        const AttentionConfig *attention = &config->layers[layer].attention;
        const AppendLayer append = {.n_kv_heads = attention->n_kv_heads,
                                    .key_dim = attention->key_dim,
                                    .value_dim = attention->value_dim,
                                    .cache = forward_cross_cache(f, layer)};
        TRY(f->backend->linear(f->device, f->at.normed, &f->weights.layers[layer].cross.kv,
                               step->input->tokens, false, f->at.projected));
        TRY(f->backend->append(f->device, &append, &step->spans, f->at.projected));
        TRY(forward_stamp(step, layer, OP_CROSS_CACHE));
    }
    return OK;
}
