/* Queries, keys and values into the form attention wants: norm, clip, rotary embedding, cache. */
#include "exec/cpu/cpu.h"

#include <string.h>

uint32_t cpu_number_blocks(Device *device, const Spans *spans)
{
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < spans->n; i++) {
        device->span_block[i] = blocks;
        blocks += divide_up(spans->device[i].tokens, QUERY_ROWS);
    }
    return blocks;
}

const Span *cpu_find_span(const Device *device, const Spans *spans, uint32_t block, uint32_t *first)
{
    uint32_t low = 0;
    uint32_t high = spans->n;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (device->span_block[middle] <= block)
            low = middle;
        else
            high = middle;
    }
    *first = (block - device->span_block[low]) * QUERY_ROWS;
    return &spans->device[low];
}

static void turn(float *a, float *b, float cosine, float sine)
{
    float turned = *a * cosine - *b * sine;
    *b = *b * cosine + *a * sine;
    *a = turned;
}

/* Turns DIMS floats of VALUES by the angles of a position. */
static void rotate(RotaryKind kind, uint32_t dims, const float *cosine, const float *sine,
                   float *values)
{
    uint32_t half = dims / 2;
    if (kind == ROTARY_HALVES)
        for (uint32_t i = 0; i < half; i++)
            turn(&values[i], &values[half + i], cosine[i], sine[i]);
    else if (kind == ROTARY_INTERLEAVED)
        for (size_t i = 0; i < half; i++)
            turn(&values[2 * i], &values[2 * i + 1], cosine[i], sine[i]);
}

static void clip(float limit, size_t n, float *values)
{
    for (size_t i = 0; limit > 0 && i < n; i++)
        values[i] = values[i] > limit ? limit : values[i] < -limit ? -limit : values[i];
}

typedef struct {
    const Device *device;
    const AppendLayer *layer;
    const Spans *spans;
    float *qkv;
} AppendTask;

/* Norms, clips and rotates N_HEADS heads that lie together. */
static void prepare_heads(const AppendLayer *layer, const float *weights, uint32_t n_heads,
                          uint32_t position, float *heads)
{
    size_t dim = layer->key_dim;
    Norm norm = {.kind = NORM_RMS, .eps = layer->norm_eps, .weight = weights};
    if (weights != NULL && layer->row_norm)
        cpu_norm_row(&norm, heads, (uint32_t)(n_heads * dim), heads);
    for (uint32_t h = 0; weights != NULL && !layer->row_norm && h < n_heads; h++)
        cpu_norm_row(&norm, heads + h * dim, (uint32_t)dim, heads + h * dim);
    clip(layer->clip, n_heads * dim, heads);
    if (layer->rotary == ROTARY_NONE)
        return;
    size_t angle = (size_t)position * (layer->rotary_dims / 2);
    for (uint32_t h = 0; h < n_heads; h++)
        rotate(layer->rotary, layer->rotary_dims, layer->cosine + angle, layer->sine + angle,
               heads + h * dim);
}

static void append_token(const AppendLayer *layer, uint32_t kv_slot, uint32_t position, float *qkv)
{
    size_t q = (size_t)layer->n_heads * layer->key_dim;
    size_t k = (size_t)layer->n_kv_heads * layer->key_dim;
    size_t v = (size_t)layer->n_kv_heads * layer->value_dim;
    size_t row = (size_t)kv_slot * layer->cache.positions + position;
    prepare_heads(layer, layer->q_norm, layer->n_heads, position, qkv);
    prepare_heads(layer, layer->k_norm, layer->n_kv_heads, position, qkv + q);
    clip(layer->clip, v, qkv + q + k);
    memcpy((float *)layer->cache.keys + row * layer->cache.key_stride, qkv + q, k * sizeof *qkv);
    memcpy((float *)layer->cache.values + row * layer->cache.value_stride, qkv + q + k,
           v * sizeof *qkv);
}

static void append_block(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const AppendTask *task = argument;
    const AppendLayer *layer = task->layer;
    size_t stride = (size_t)layer->n_heads * layer->key_dim +
                    (size_t)layer->n_kv_heads * (layer->key_dim + layer->value_dim);
    uint32_t first;
    const Span *span = cpu_find_span(task->device, task->spans, (uint32_t)item, &first);
    uint32_t end = least(first + QUERY_ROWS, span->tokens);
    for (uint32_t i = first; i < end; i++)
        append_token(layer, span->kv_slot, span->position + i,
                     task->qkv + (span->first_token + i) * stride);
}

Status cpu_append(Device *device, const AppendLayer *layer, const Spans *spans, float *qkv)
{
    AppendTask task = {device, layer, spans, qkv};
    thread_pool_run(device->pool, cpu_number_blocks(device, spans), append_block, &task);
    return OK;
}

typedef struct {
    const Device *device;
    const LatentLayer *layer;
    const Spans *spans;
    const float *kv;
    const float *queries;
    float *absorbed;
} LatentTask;

static void append_latent_token(const LatentTask *task, const Span *span, uint32_t i)
{
    const LatentLayer *layer = task->layer;
    size_t rank = layer->kv_rank;
    size_t rotary = layer->rotary_dims;
    size_t token = span->first_token + i;
    size_t position = span->position + i;
    const float *cosine = layer->cosine + position * (rotary / 2);
    const float *sine = layer->sine + position * (rotary / 2);
    const float *kv = task->kv + token * (rank + rotary);
    size_t row = (size_t)span->kv_slot * layer->cache.positions + position;
    float *key = (float *)layer->cache.keys + row * layer->cache.key_stride;
    cpu_norm_row(&layer->latent_norm, kv, (uint32_t)rank, key);
    memcpy(key + rank, kv + rank, rotary * sizeof *key);
    rotate(layer->rotary, (uint32_t)rotary, cosine, sine, key + rank);
    for (size_t h = 0; h < layer->n_heads; h++) {
        size_t head = token * layer->n_heads + h;
        float *to = task->absorbed + head * (rank + rotary) + rank;
        memcpy(to, task->queries + head * (layer->nope_dim + rotary) + layer->nope_dim,
               rotary * sizeof *to);
        rotate(layer->rotary, (uint32_t)rotary, cosine, sine, to);
    }
}

static void append_latent_block(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const LatentTask *task = argument;
    uint32_t first;
    const Span *span = cpu_find_span(task->device, task->spans, (uint32_t)item, &first);
    uint32_t end = least(first + QUERY_ROWS, span->tokens);
    for (uint32_t i = first; i < end; i++)
        append_latent_token(task, span, i);
}

Status cpu_append_latent(Device *device, const LatentLayer *layer, const Spans *spans,
                         const float *kv, const float *queries, float *absorbed)
{
    LatentTask task = {device, layer, spans, kv, queries, absorbed};
    thread_pool_run(device->pool, cpu_number_blocks(device, spans), append_latent_block, &task);
    return OK;
}
