#include "cli/bench_cost.h"

#include <math.h>

#include "exec/ffn_layout.h"

static double ffn_elements(const FfnShape *ffn)
{
    return (double)ffn->d_model * ((double)ffn_first_rows(ffn) + ffn->d_ff);
}

/* Of the projections around attention. */
static double projection_elements(const AttentionConfig *attention, double d)
{
    double heads = attention->n_heads;
    double output = d * heads * attention->value_dim;
    double queries = heads * attention->key_dim;
    if (attention->kv_rank == 0)
        return output + d * queries +
               d * attention->n_kv_heads * ((double)attention->key_dim + attention->value_dim);
    double nope = (double)attention->key_dim - attention->rotary_dims;
    double q = attention->q_rank > 0 ? attention->q_rank * (d + queries) : d * queries;
    return output + q + d * ((double)attention->kv_rank + attention->rotary_dims) +
           heads * attention->kv_rank * (nope + attention->value_dim);
}

/* Numbers that a key and its value take in the cache. */
static double cached_numbers(const AttentionConfig *attention)
{
    if (attention->kv_rank > 0)
        return (double)attention->kv_rank + attention->rotary_dims;
    return attention->n_kv_heads * ((double)attention->key_dim + attention->value_dim);
}

/* Operations for one query and one key, all heads. */
static double flops_per_key(const AttentionConfig *attention)
{
    double width = attention->kv_rank > 0 ? 2.0 * attention->kv_rank + attention->rotary_dims
                                          : (double)attention->key_dim + attention->value_dim;
    return 2 * attention->n_heads * width;
}

/* Keys that the queries of one request see, added up. */
static double seen_keys(const StepWork *work, uint32_t window)
{
    double sum = 0;
    if (work->stack == STACK_ENCODER)
        return (double)work->tokens * work->tokens;
    for (uint32_t i = 0; i < work->tokens; i++) {
        double keys = (double)work->context + i + 1;
        sum += window > 0 && keys > window ? window : keys;
    }
    return sum;
}

/* Experts that a layer of the step needs. */
static uint32_t count_active(const StepWork *work, const LayerConfig *layer,
                             const uint16_t *experts)
{
    unsigned char seen[TRACE_MAX_EXPERTS] = {0};
    size_t n = (size_t)work->requests * work->tokens * layer->top_k;
    uint32_t active = 0;
    for (size_t i = 0; i < n; i++) {
        if (experts[i] == EXPERT_DROPPED)
            continue;
        active += !seen[experts[i]];
        seen[experts[i]] = 1;
    }
    return active;
}

static void add_weights(StepCost *cost, const StepWork *work, double elements, double rows)
{
    cost->bytes += elements * work->element_bytes;
    cost->flops += 2 * elements * rows;
}

static void add_attention(StepCost *cost, const StepWork *work, const LayerConfig *layer, double d)
{
    const AttentionConfig *attention = &layer->attention;
    double rows = (double)work->requests * work->tokens;
    double keys = seen_keys(work, attention->window);
    double last = fmin((double)work->context + work->tokens,
                       attention->window > 0 ? attention->window : INFINITY);
    add_weights(cost, work, projection_elements(attention, d), rows);
    cost->flops += work->requests * keys * flops_per_key(attention);
    cost->bytes += work->requests * last * cached_numbers(attention) * work->element_bytes;
    if (!layer->cross)
        return;
    /* The source's keys and values are cached: two of the four projections are left. */
    add_weights(cost, work, projection_elements(attention, d) / 2, rows);
    cost->flops += rows * work->source * flops_per_key(attention);
    cost->bytes +=
        (double)work->requests * work->source * cached_numbers(attention) * work->element_bytes;
}

StepCost step_cost(const ModelConfig *config, StepWork *work)
{
    StepCost cost = {0};
    double rows = (double)work->requests * work->tokens;
    uint32_t first;
    uint32_t end;
    uint32_t n_moe = 0;
    size_t routed = 0;
    model_stack(config, work->stack, &first, &end);
    work->active_experts = 0;
    for (uint32_t i = first; i < end; i++) {
        const LayerConfig *layer = &config->layers[i];
        add_attention(&cost, work, layer, config->d_model);
        if (!layer->moe) {
            add_weights(&cost, work, ffn_elements(&layer->ffn), rows);
            continue;
        }
        uint32_t active = count_active(work, layer, work->experts + routed);
        add_weights(&cost, work, (double)layer->experts * config->d_model, rows);
        cost.bytes += active * ffn_elements(&layer->ffn) * work->element_bytes;
        cost.flops += 2 * rows * layer->top_k * ffn_elements(&layer->ffn);
        if (layer->shared.d_ff > 0)
            add_weights(&cost, work, ffn_elements(&layer->shared), rows);
        routed += (size_t)rows * layer->top_k;
        work->active_experts += active;
        n_moe++;
    }
    if (n_moe > 0)
        work->active_experts /= n_moe;
    if (work->logits > 0)
        add_weights(&cost, work, (double)config->vocabulary * config->d_model, work->logits);
    return cost;
}

double step_floor_ns(const StepCost *cost, const Ceilings *ceilings)
{
    return 1e9 * fmax(cost->bytes / ceilings->bytes_per_s, cost->flops / ceilings->flops_per_s);
}
