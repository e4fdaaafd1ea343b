/* What a forward pass works in, laid out once. */
#include "exec/forward.h"
#include "exec/forward_parts.h"
#include "base/layout.h"

/* The widest rows over the layers. */
typedef struct {
    size_t projected;
    size_t q_rank;
    size_t queries;
    size_t absorbed;
    size_t mixed_latents;
    size_t mixed;
    size_t ffn_hidden;
    size_t ffn_inside;
} Widths;

static void widen(size_t *width, size_t by)
{
    *width = by > *width ? by : *width;
}

static void widen_by_ffn(Widths *widths, const FfnShape *ffn)
{
    widen(&widths->ffn_hidden, ffn_first_rows(ffn));
    widen(&widths->ffn_inside, ffn->d_ff);
}

static Widths widest(const ModelConfig *config)
{
    Widths widths = {0};
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const LayerConfig *layer = &config->layers[i];
        const AttentionConfig *a = &layer->attention;
        size_t queries = (size_t)a->n_heads * a->key_dim;
        size_t kv = (size_t)a->n_kv_heads * (a->key_dim + a->value_dim);
        widen(&widths.mixed, (size_t)a->n_heads * a->value_dim);
        widen_by_ffn(&widths, layer->moe ? &layer->shared : &layer->ffn);
        if (layer->cross || a->kv_rank > 0)
            widen(&widths.queries, queries);
        if (a->kv_rank == 0) {
            widen(&widths.projected, queries + kv);
            continue;
        }
        widen(&widths.projected, a->kv_rank + a->rotary_dims);
        widen(&widths.q_rank, a->q_rank);
        widen(&widths.absorbed, (size_t)a->n_heads * (a->kv_rank + a->rotary_dims));
        widen(&widths.mixed_latents, (size_t)a->n_heads * a->kv_rank);
    }
    return widths;
}

/* Sums over the MoE layers of a stack, for the stack where they are larger. */
typedef struct {
    size_t top_k;
    size_t experts;
} MoeSums;

static MoeSums moe_sums(const ModelConfig *config)
{
    MoeSums most = {0};
    for (size_t stack = 0; stack < 2; stack++) {
        MoeSums sums = {0};
        uint32_t first;
        uint32_t end;
        model_stack(config, (Stack)stack, &first, &end);
        for (uint32_t i = first; i < end; i++) {
            sums.top_k += config->layers[i].moe ? config->layers[i].top_k : 0;
            sums.experts += config->layers[i].moe ? config->layers[i].experts : 0;
        }
        widen(&most.top_k, sums.top_k);
        widen(&most.experts, sums.experts);
    }
    return most;
}

/* Elements of a cache row, of keys or latents and of values. */
static size_t key_width(const AttentionConfig *attention)
{
    return attention->kv_rank > 0 ? attention->kv_rank + attention->rotary_dims
                                  : (size_t)attention->n_kv_heads * attention->key_dim;
}

static size_t value_width(const AttentionConfig *attention)
{
    return attention->kv_rank > 0 ? 0 : (size_t)attention->n_kv_heads * attention->value_dim;
}

/* Elements of a cache row, summed over the layers [first, end). */
static void sum_widths(const ModelConfig *config, uint32_t first, uint32_t end, size_t *keys,
                       size_t *values)
{
    *keys = 0;
    *values = 0;
    for (uint32_t i = first; i < end; i++) {
        *keys += key_width(&config->layers[i].attention);
        *values += value_width(&config->layers[i].attention);
    }
}

void forward_lay_out_cache(Forward *forward, Arena *arena)
{
    const ModelConfig *config = forward->config;
    Activations *at = &forward->at;
    size_t rows = times(forward->max_requests, forward->max_length);
    size_t bytes = forward->sizes.cache;
    size_t keys;
    size_t values;
    sum_widths(config, config->n_encoder_layers, config->n_layers, &keys, &values);
    at->keys = lay_out(arena, times(rows, keys), bytes);
    at->values = lay_out(arena, times(rows, values), bytes);
    if (!model_is_encoder_decoder(config))
        return;
    at->cross_keys = lay_out(arena, times(rows, keys), bytes);
    at->cross_values = lay_out(arena, times(rows, values), bytes);
    sum_widths(config, 0, 1, &keys, &values);
    at->encoder_keys = lay_out(arena, times(rows, keys), bytes);
    at->encoder_values = lay_out(arena, times(rows, values), bytes);
}

static CacheLayer cache_at(const Forward *forward, uint32_t layer, uint32_t first, void *keys,
                           void *values)
{
    const AttentionConfig *attention = &forward->config->layers[layer].attention;
    size_t row_bytes =
        times(times(forward->max_requests, forward->max_length), forward->sizes.cache);
    size_t keys_before;
    size_t values_before;
    sum_widths(forward->config, first, layer, &keys_before, &values_before);
    CacheLayer cache = {.keys = (char *)keys + row_bytes * keys_before,
                        .values = (char *)values + row_bytes * values_before,
                        .key_stride = key_width(attention),
                        .value_stride = value_width(attention),
                        .positions = forward->max_length};
    if (attention->kv_rank > 0) {
        cache.values = cache.keys;
        cache.value_stride = cache.key_stride;
    }
    return cache;
}

CacheLayer forward_cache(const Forward *forward, uint32_t layer)
{
    return cache_at(forward, layer, forward->config->n_encoder_layers, forward->at.keys,
                    forward->at.values);
}

CacheLayer forward_cross_cache(const Forward *forward, uint32_t layer)
{
    return cache_at(forward, layer, forward->config->n_encoder_layers, forward->at.cross_keys,
                    forward->at.cross_values);
}

CacheLayer forward_encoder_cache(const Forward *forward, uint32_t layer)
{
    return cache_at(forward, layer, layer, forward->at.encoder_keys, forward->at.encoder_values);
}

static void lay_out_attention(Activations *at, const Widths *widths, size_t tokens, Arena *arena)
{
    at->projected = lay_out(arena, times(tokens, widths->projected), sizeof(float));
    at->low_rank = lay_out(arena, times(tokens, 2 * widths->q_rank), sizeof(float));
    at->queries = lay_out(arena, times(tokens, widths->queries), sizeof(float));
    at->absorbed = lay_out(arena, times(tokens, widths->absorbed), sizeof(float));
    at->mixed_latents = lay_out(arena, times(tokens, widths->mixed_latents), sizeof(float));
    at->mixed = lay_out(arena, times(tokens, widths->mixed), sizeof(float));
}

static void lay_out_routing(const Forward *forward, Activations *at, Arena *arena)
{
    const ModelConfig *config = forward->config;
    size_t tokens = forward->max_tokens;
    size_t routed = times(tokens, moe_sums(config).top_k);
    size_t rows = times(tokens, config->max_top_k);
    at->scores = lay_out(arena, times(tokens, config->max_experts), sizeof(float));
    at->experts = lay_out(arena, routed, sizeof *at->experts);
    at->route_weights = lay_out(arena, routed, sizeof(float));
    at->forced_experts = lay_out(arena, routed, sizeof *at->forced_experts);
    at->forced_weights = lay_out(arena, routed, sizeof(float));
    at->row_groups = lay_out(arena, times(config->n_moe_layers, (size_t)config->max_experts + 1),
                             sizeof *at->row_groups);
    at->group_rows = lay_out(arena, rows, sizeof *at->group_rows);
    at->found = lay_out(arena, (size_t)forward->max_logits + 1, sizeof *at->found);
    at->expert_out = lay_out(arena, forward->sizes.expert_out, 1);
}

void forward_lay_out_activations(Forward *forward, Arena *arena)
{
    const ModelConfig *config = forward->config;
    Activations *at = &forward->at;
    size_t tokens = forward->max_tokens;
    Widths widths = widest(config);
    at->ids = lay_out(arena, tokens, sizeof *at->ids);
    at->places = lay_out(arena, tokens, sizeof *at->places);
    at->picked = lay_out(arena, tokens, sizeof *at->picked);
    at->spans = lay_out(arena, tokens, sizeof *at->spans);
    at->source_spans = lay_out(arena, tokens, sizeof *at->source_spans);
    at->hidden = lay_out(arena, times(tokens, config->d_model), sizeof(float));
    at->normed = lay_out(arena, times(tokens, config->d_model), sizeof(float));
    lay_out_attention(at, &widths, tokens, arena);
    at->ffn_hidden = lay_out(arena, times(tokens, widths.ffn_hidden), sizeof(float));
    at->ffn_inside = lay_out(arena, times(tokens, widths.ffn_inside), sizeof(float));
    at->gates = lay_out(arena, tokens, sizeof(float));
    lay_out_routing(forward, at, arena);
    forward_lay_out_ahead(forward, times(tokens, moe_sums(config).top_k), arena);
    if (forward->max_logits > 0)
        at->logits = lay_out(arena, times(LOGIT_ROWS, config->vocabulary), sizeof(float));
}

static HostRouting lay_out_host_routing(Arena *arena, size_t entries)
{
    HostRouting routing;
    routing.experts = lay_out(arena, entries, sizeof *routing.experts);
    routing.weights = lay_out(arena, entries, sizeof *routing.weights);
    return routing;
}

void forward_lay_out_pinned(Forward *forward, Arena *arena)
{
    const ModelConfig *config = forward->config;
    ForwardHost *host = &forward->host;
    size_t tokens = forward->max_tokens;
    MoeSums sums = moe_sums(config);
    host->ids = lay_out(arena, tokens, sizeof *host->ids);
    host->places = lay_out(arena, tokens, sizeof *host->places);
    host->picked = lay_out(arena, tokens, sizeof *host->picked);
    host->spans = lay_out(arena, tokens, sizeof *host->spans);
    host->source_spans = lay_out(arena, tokens, sizeof *host->source_spans);
    size_t routed = times(tokens, sums.top_k);
    host->small = lay_out_host_routing(arena, routed < LARGE_ROUTING ? routed : LARGE_ROUTING);
    for (size_t i = 0; i < ROUTINGS_KEPT && routed >= LARGE_ROUTING; i++)
        host->large[i] = lay_out_host_routing(arena, routed);
    host->forced_experts = lay_out(arena, times(tokens, sums.top_k), sizeof *host->experts);
    host->forced_weights = lay_out(arena, times(tokens, sums.top_k), sizeof(float));
    host->scores = lay_out(arena, times(tokens, sums.experts), sizeof(float));
    host->logits = lay_out(arena, times(forward->max_logits, config->vocabulary), sizeof(float));
    forward_lay_out_ahead_pinned(forward, times(tokens, sums.top_k), arena);
    host->row_groups = lay_out(arena, times(config->n_moe_layers, (size_t)config->max_experts + 1),
                               sizeof *host->row_groups);
    host->found = lay_out(arena, (size_t)forward->max_logits + 1, sizeof *host->found);
}

static uint32_t max_operations(const ModelConfig *config)
{
    return config->n_layers * OPS + OPS;
}

/* One before what comes between two events, and before the first and behind the last. */
uint32_t forward_max_stamps(const ModelConfig *config)
{
    return max_operations(config) + config->n_moe_layers + 1;
}

void forward_lay_out_host(Forward *forward, Arena *arena)
{
    const ModelConfig *config = forward->config;
    Stamps *stamps = &forward->stamps;
    stamps->max = max_operations(config);
    stamps->max_stamps = forward_max_stamps(config);
    for (size_t i = 0; i < 4; i++) {
        OpList *list = &stamps->lists[i / 2][i % 2];
        list->layer = lay_out(arena, stamps->max, sizeof *list->layer);
        list->op = lay_out(arena, stamps->max, sizeof *list->op);
        list->end = lay_out(arena, stamps->max, sizeof *list->end);
    }
    stamps->ns = lay_out(arena, stamps->max_stamps, sizeof *stamps->ns);
    stamps->records = lay_out(arena, stamps->max, sizeof *stamps->records);
    forward->notes.ops = lay_out(arena, stamps->max, sizeof *forward->notes.ops);
    forward->notes.events = lay_out(arena, config->n_moe_layers, sizeof *forward->notes.events);
}
