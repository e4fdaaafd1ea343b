/* Causal attention over the KV cache, split over (query block, head). */
#include "exec/cpu/cpu.h"
#include "exec/cpu/exponential.h"

#include <math.h>

typedef struct {
    const Device *device;
    const AttentionLayer *layer;
    const Span *spans;
    uint32_t n_spans;
    float *qkv;
    float *out;
} AttentionTask;

size_t cpu_attention_scratch(const DeviceOptions *options)
{
    return (size_t)QUERY_ROWS * options->max_length;
}

static size_t qkv_stride(const AttentionLayer *layer)
{
    return (size_t)(layer->n_heads + 2 * layer->n_kv_heads) * layer->head_dim;
}

/* The cache row of POSITION in KV_SLOT, in keys or values. */
static size_t cache_offset(const AttentionTask *task, uint32_t kv_slot, uint32_t position)
{
    size_t width = (size_t)task->layer->n_kv_heads * task->layer->head_dim;
    return ((size_t)kv_slot * task->device->max_length + position) * width;
}

/* out = norm and rotation of IN [head_dim]; they may be the same. */
static void rotate_head(const AttentionLayer *layer, const float *in, const float *norm,
                        uint32_t position, float *out)
{
    uint32_t half = layer->head_dim / 2;
    const float *cosine = layer->cosine + (size_t)position * half;
    const float *sine = layer->sine + (size_t)position * half;
    float scale = cpu_rms_scale(in, layer->head_dim, layer->norm_eps);
    for (uint32_t i = 0; i < half; i++) {
        float a = in[i] * scale * norm[i];
        float b = in[half + i] * scale * norm[half + i];
        out[i] = a * cosine[i] - b * sine[i];
        out[half + i] = b * cosine[i] + a * sine[i];
    }
}

static void append_token(const AttentionTask *task, const Span *span, uint32_t i)
{
    const AttentionLayer *layer = task->layer;
    size_t dim = layer->head_dim;
    float *queries = task->qkv + (span->first_token + i) * qkv_stride(layer);
    const float *keys = queries + layer->n_heads * dim;
    const float *values = keys + layer->n_kv_heads * dim;
    uint32_t position = span->position + i;
    size_t at = cache_offset(task, span->kv_slot, position);
    for (uint32_t h = 0; h < layer->n_heads; h++)
        rotate_head(layer, queries + h * dim, layer->q_norm, position, queries + h * dim);
    for (uint32_t h = 0; h < layer->n_kv_heads; h++)
        rotate_head(layer, keys + h * dim, layer->k_norm, position, layer->keys + at + h * dim);
    memcpy(layer->values + at, values, layer->n_kv_heads * dim * sizeof(float));
}

/* The span of query block BLOCK. */
static const Span *find_span(const AttentionTask *task, uint32_t block)
{
    const uint32_t *first = task->device->span_block;
    uint32_t low = 0;
    uint32_t high = task->n_spans;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (first[middle] <= block)
            low = middle;
        else
            high = middle;
    }
    return &task->spans[low];
}

/* Numbers the query blocks of all spans; returns how many there are. */
static uint32_t number_blocks(Device *device, const Span *spans, uint32_t n_spans)
{
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < n_spans; i++) {
        device->span_block[i] = blocks;
        blocks += divide_up(spans[i].tokens, QUERY_ROWS);
    }
    return blocks;
}

static void append_block(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const AttentionTask *task = argument;
    const Span *span = find_span(task, (uint32_t)item);
    uint32_t block = (uint32_t)item - task->device->span_block[span - task->spans];
    uint32_t first = block * QUERY_ROWS;
    uint32_t end = least(first + QUERY_ROWS, span->tokens);
    for (uint32_t i = first; i < end; i++)
        append_token(task, span, i);
}

Status cpu_append(Device *device, const AttentionLayer *layer, const Span *spans, uint32_t n_spans,
                  float *qkv)
{
    AttentionTask task = {device, layer, spans, n_spans, qkv, NULL};
    thread_pool_run(device->pool, number_blocks(device, spans, n_spans), append_block, &task);
    return OK;
}

/* Queries [first, first + rows) of SPAN, one head: softmax(q k^T / sqrt(d)) v. The block's rows see
 * different numbers of keys; what a row must not see gets probability 0. */
static void attend_rows(const AttentionTask *task, const Span *span, uint32_t first, uint32_t rows,
                        uint32_t head, float *scores)
{
    const AttentionLayer *layer = task->layer;
    size_t dim = layer->head_dim;
    size_t cache_stride = layer->n_kv_heads * dim;
    uint32_t kv_head = head / (layer->n_heads / layer->n_kv_heads);
    size_t cache = cache_offset(task, span->kv_slot, 0) + kv_head * dim;
    uint32_t keys = span->position + first + rows;
    size_t token = span->first_token + first;
    cpu_multiply_transposed(rows, keys, (uint32_t)dim, 1.0f / sqrtf((float)dim),
                            task->qkv + token * qkv_stride(layer) + head * dim, qkv_stride(layer),
                            layer->keys + cache, cache_stride, 0, scores, keys);
    for (uint32_t i = 0; i < rows; i++) {
        float *row = scores + (size_t)i * keys;
        uint32_t seen = span->position + first + i + 1;
        softmax(row, seen);
        memset(row + seen, 0, (keys - seen) * sizeof *row);
    }
    cpu_multiply(rows, (uint32_t)dim, keys, scores, keys, layer->values + cache, cache_stride, 0,
                 task->out + (token * layer->n_heads + head) * dim, layer->n_heads * dim);
}

static void attend_block(void *argument, size_t item, size_t worker)
{
    const AttentionTask *task = argument;
    uint32_t head = (uint32_t)(item % task->layer->n_heads);
    uint32_t number = (uint32_t)(item / task->layer->n_heads);
    const Span *span = find_span(task, number);
    uint32_t first = (number - task->device->span_block[span - task->spans]) * QUERY_ROWS;
    attend_rows(task, span, first, least(QUERY_ROWS, span->tokens - first), head,
                cpu_scratch(task->device, worker));
}

Status cpu_attend(Device *device, const AttentionLayer *layer, const Span *spans, uint32_t n_spans,
                  const float *qkv, float *out)
{
    /* The queries are only read here; append() shares the task's type and writes them. */
    AttentionTask task = {device, layer, spans, n_spans, (float *)qkv, out};
    size_t blocks = number_blocks(device, spans, n_spans);
    thread_pool_run(device->pool, blocks * layer->n_heads, attend_block, &task);
    return OK;
}
