#include "traces/layers.h"

#include <inttypes.h>

static Status check_layer(const char *file, const TraceLayer *layer, const TraceLayer *before,
                          Status status)
{
    if (before != NULL && layer->layer <= before->layer)
        return fail(status, "%s: layer %u: stands after layer %u, numbers must ascend", file,
                    layer->layer, before->layer);
    if (before != NULL && layer->stack == STACK_ENCODER && before->stack == STACK_DECODER)
        return fail(status, "%s: layer %u: encoder layers must come before decoder layers", file,
                    layer->layer);
    if (layer->experts < 1 || layer->experts > TRACE_MAX_EXPERTS)
        return fail(status, "%s: layer %u: experts: %u, allowed is 1 to %d", file, layer->layer,
                    layer->experts, TRACE_MAX_EXPERTS);
    uint32_t most = layer->experts < TRACE_MAX_TOP_K ? layer->experts : TRACE_MAX_TOP_K;
    if (layer->top_k < 1 || layer->top_k > most)
        return fail(status, "%s: layer %u: top_k: %u, allowed is 1 to %u", file, layer->layer,
                    layer->top_k, most);
    if (layer->expert_bytes > TRACE_MAX_EXPERT_BYTES)
        return fail(status, "%s: layer %u: expert_bytes: %" PRIu64 ", allowed is 0 to %" PRIu64,
                    file, layer->layer, layer->expert_bytes, TRACE_MAX_EXPERT_BYTES);
    return OK;
}

Status layers_check(const char *file, const TraceLayer *layers, uint32_t n_layers, Status status)
{
    if (n_layers < 1 || n_layers > TRACE_MAX_LAYERS)
        return fail(status, "%s: %u MoE layers, allowed is 1 to %d", file, n_layers,
                    TRACE_MAX_LAYERS);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n_layers; i++) {
        TRY(check_layer(file, &layers[i], i > 0 ? &layers[i - 1] : NULL, status));
        bytes += layers[i].experts * layers[i].expert_bytes;
        if (bytes > TRACE_MAX_MODEL_BYTES)
            return fail(status,
                        "%s: layer %u: expert_bytes: all experts up to here take more than "
                        "%" PRIu64 " bytes",
                        file, layers[i].layer, TRACE_MAX_MODEL_BYTES);
    }
    return OK;
}

StackSpan layers_span(const TraceLayer *layers, uint32_t n_layers, Stack stack)
{
    StackSpan span = {0};
    for (uint32_t i = 0; i < n_layers; i++) {
        if (layers[i].stack != stack)
            continue;
        if (span.count++ == 0)
            span.first = i;
        span.top_k += layers[i].top_k;
    }
    return span;
}

StackSpan layers_ahead(const TraceLayer *layers, StackSpan span, uint32_t distance)
{
    for (; distance > 0 && span.count > 0; distance--) {
        span.top_k -= layers[span.first++].top_k;
        span.count--;
    }
    return span;
}

uint32_t layers_max_experts(const TraceLayer *layers, uint32_t n_layers)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < n_layers; i++)
        most = layers[i].experts > most ? layers[i].experts : most;
    return most;
}

size_t layers_id_bytes(const TraceLayer *layers, uint32_t n_layers)
{
    return layers_max_experts(layers, n_layers) <= UINT8_MAX ? 1 : 2;
}

void layers_widen_ids(const uint8_t *ids, size_t count, uint16_t *experts)
{
    for (size_t i = 0; i < count; i++)
        experts[i] = ids[i] == UINT8_MAX ? EXPERT_DROPPED : ids[i];
}

/* The largest id + 1 of COUNT; EXPERT_DROPPED counts as 0. One branch-free pass, so that it
 * vectorises. */
static uint32_t largest_of_words(const uint16_t *experts, size_t count)
{
    uint16_t most = 0;
    for (size_t i = 0; i < count; i++) {
        uint16_t next = (uint16_t)(experts[i] + 1u);
        most = next > most ? next : most;
    }
    return most;
}

/* The same of ids of a byte; a pass over all of a trace, which wants the widest vectors. */
static inline __attribute__((always_inline)) uint32_t largest_of_bytes(const uint8_t *experts,
                                                                       size_t count)
{
    uint8_t most = 0;
    for (size_t i = 0; i < count; i++) {
        uint8_t next = (uint8_t)(experts[i] + 1u);
        most = next > most ? next : most;
    }
    return most;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint32_t largest_wide(const uint8_t *experts, size_t count)
{
    return largest_of_bytes(experts, count);
}
#endif

/* Of ids that have ID_BYTES, 1 or 2, each. */
static uint32_t largest_plus_one(const void *experts, size_t id_bytes, size_t count)
{
    if (id_bytes == 2)
        return largest_of_words(experts, count);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        return largest_wide(experts, count);
#endif
    return largest_of_bytes(experts, count);
}

static uint32_t least_experts(const TraceLayer *layers, StackSpan span)
{
    uint32_t least = TRACE_MAX_EXPERTS;
    for (uint32_t i = 0; i < span.count; i++)
        least = layers[span.first + i].experts < least ? layers[span.first + i].experts : least;
    return least;
}

static Status check_ids(const char *file, const TraceLayer *layers, StackSpan span, uint32_t step,
                        uint32_t tokens, const void *experts, size_t id_bytes, Status status)
{
    const char *ids = experts;
    if (largest_plus_one(ids, id_bytes, (size_t)tokens * span.top_k) <= least_experts(layers, span))
        return OK;
    for (uint32_t i = 0; i < span.count; i++) {
        const TraceLayer *layer = &layers[span.first + i];
        size_t count = (size_t)tokens * layer->top_k;
        uint32_t next = largest_plus_one(ids, id_bytes, count);
        if (next > layer->experts)
            return fail(status, "%s: step %u: layer %u: expert %u, the model has %u", file, step,
                        layer->layer, next - 1, layer->experts);
        ids += count * id_bytes;
    }
    return OK;
}

Status layers_check_experts(const char *file, const TraceLayer *layers, StackSpan span,
                            uint32_t step, uint32_t tokens, const uint16_t *experts, Status status)
{
    return check_ids(file, layers, span, step, tokens, experts, sizeof *experts, status);
}

Status layers_check_bytes(const char *file, const TraceLayer *layers, StackSpan span, uint32_t step,
                          uint32_t tokens, const uint8_t *experts, Status status)
{
    return check_ids(file, layers, span, step, tokens, experts, sizeof *experts, status);
}
