/* Attention over a cache, split over (query block, head). */
#include "exec/cpu/cpu.h"
#include "exec/cpu/exponential.h"

typedef struct {
    const Device *device;
    const AttendLayer *layer;
    const Spans *spans;
    const float *queries;
    float *out;
} AttendTask;

size_t cpu_attention_scratch(const DeviceOptions *options)
{
    return (size_t)QUERY_ROWS * options->max_length;
}

/* Keys [first, end) of the cache. */
typedef struct {
    uint32_t first;
    uint32_t end;
} KeyRange;

/* What the query at POSITION sees of KEYS. */
static KeyRange seen_keys(const AttendLayer *layer, uint32_t keys, uint32_t position)
{
    KeyRange seen = {0, layer->causal ? position + 1 : keys};
    if (layer->window > 0 && position + 1 > layer->window)
        seen.first = position + 1 - layer->window;
    return seen;
}

static void add_bias(const AttendLayer *layer, uint32_t head, uint32_t position, KeyRange keys,
                     float *scores)
{
    size_t middle = layer->cache.positions - 1;
    const float *bias = layer->relative_bias + head * (2 * middle + 1) + middle;
    for (uint32_t key = keys.first; key < keys.end; key++)
        scores[key - keys.first] += bias[(ptrdiff_t)key - (ptrdiff_t)position];
}

/* Softmax with one more logit, SINK, whose share is left out. */
static void softmax_with_sink(float *values, uint32_t n, float sink)
{
    float most = sink;
    for (uint32_t i = 0; i < n; i++)
        most = values[i] > most ? values[i] : most;
    float sum = exponential(sink - most);
    for (uint32_t i = 0; i < n; i++) {
        values[i] = exponential(values[i] - most);
        sum += values[i];
    }
    for (uint32_t i = 0; i < n; i++)
        values[i] /= sum;
}

/* Scores of the block's keys ALL -> probabilities of those that the query sees, 0 for the rest. */
static void finish_row(const AttendLayer *layer, uint32_t head, uint32_t position, uint32_t keys,
                       KeyRange all, float *row)
{
    KeyRange seen = seen_keys(layer, keys, position);
    float *first = row + (seen.first - all.first);
    uint32_t n = seen.end - seen.first;
    if (layer->relative_bias != NULL)
        add_bias(layer, head, position, seen, first);
    if (layer->sinks != NULL)
        softmax_with_sink(first, n, layer->sinks[head]);
    else
        softmax(first, n);
    memset(row, 0, (seen.first - all.first) * sizeof *row);
    memset(first + n, 0, (all.end - seen.end) * sizeof *row);
}

/* Queries [first, first + rows) of SPAN, one head. The block's products cover all keys that one of
 * its queries sees. */
static void attend_rows(const AttendTask *task, const Span *span, uint32_t first, uint32_t rows,
                        uint32_t head, float *scores)
{
    const AttendLayer *layer = task->layer;
    const CacheLayer *cache = &layer->cache;
    uint32_t kv_head = head / (layer->n_heads / layer->n_kv_heads);
    uint32_t position = span->position + first;
    KeyRange all = {seen_keys(layer, span->keys, position).first,
                    seen_keys(layer, span->keys, position + rows - 1).end};
    uint32_t n = all.end - all.first;
    size_t token = span->first_token + first;
    size_t row = (size_t)span->kv_slot * cache->positions + all.first;
    const float *keys = cache->keys;
    const float *values = cache->values;
    cpu_multiply_transposed(
        rows, n, layer->key_dim, layer->scale,
        task->queries + token * layer->query_stride + (size_t)head * layer->key_dim,
        layer->query_stride, keys + row * cache->key_stride + (size_t)kv_head * layer->key_dim,
        cache->key_stride, 0, scores, n);
    for (uint32_t i = 0; i < rows; i++)
        finish_row(layer, head, position + i, span->keys, all, scores + (size_t)i * n);
    cpu_multiply(rows, layer->value_dim, n, scores, n,
                 values + row * cache->value_stride + (size_t)kv_head * layer->value_dim,
                 cache->value_stride, 0,
                 task->out + (token * layer->n_heads + head) * layer->value_dim,
                 (size_t)layer->n_heads * layer->value_dim);
}

static void attend_block(void *argument, size_t item, size_t worker)
{
    const AttendTask *task = argument;
    uint32_t head = (uint32_t)(item % task->layer->n_heads);
    uint32_t first;
    const Span *span =
        cpu_find_span(task->device, task->spans, (uint32_t)(item / task->layer->n_heads), &first);
    attend_rows(task, span, first, least(QUERY_ROWS, span->tokens - first), head,
                cpu_scratch(task->device, worker));
}

Status cpu_attend(Device *device, const AttendLayer *layer, const Spans *spans,
                  const float *queries, float *out)
{
    AttendTask task = {device, layer, spans, queries, out};
    size_t blocks = cpu_number_blocks(device, spans);
    thread_pool_run(device->pool, blocks * layer->n_heads, attend_block, &task);
    return OK;
}

Status cpu_attend_mixed(Device *device, const AttendLayer *layer, const Spans *spans,
                        const float *queries, void *mixed)
{
    return cpu_attend(device, layer, spans, queries, mixed);
}
