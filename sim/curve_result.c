#include "sim/curve.h"

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* What LAYER has of the slots, so that it evicts the rest of what it loads. */
static uint64_t distinct(const MissCurve *curve, uint32_t layer)
{
    return curve->lookups[layer] - curve->hits[((size_t)layer + 1) * curve->n_sizes - 1];
}

static ReplayLayer layer_result(const MissCurve *curve, uint32_t layer, uint32_t size,
                                const TraceLayer *shape)
{
    size_t at = (size_t)layer * curve->n_sizes + size - 1;
    uint64_t misses = curve->lookups[layer] - curve->hits[at];
    return (ReplayLayer){.counts = {.hits = curve->hits[at],
                                    .misses = misses,
                                    .loads = misses,
                                    .bypasses = REPLAY_UNKNOWN,
                                    .evictions = REPLAY_UNKNOWN,
                                    .evicted_newest = REPLAY_UNKNOWN,
                                    .evicted_young = REPLAY_UNKNOWN,
                                    .bytes_loaded = misses * shape->expert_bytes},
                         .assignments = curve->assignments[layer],
                         .assignment_hits = curve->assignment_hits[at]};
}

/* Every load but those that fill the slots takes one; a policy that may bypass does not say. */
static uint64_t count_evictions(const MissCurve *curve, const Plan *plan, uint32_t size,
                                const ReplayLayer *total, bool bypasses)
{
    uint64_t filled = 0;
    uint64_t all = 0;
    for (uint32_t i = 0; i < curve->n_layers; i++) {
        filled += least(size, distinct(curve, i));
        all += distinct(curve, i);
    }
    if (plan->buffer.scope == SCOPE_DEVICE)
        filled = least(size, all);
    return bypasses ? REPLAY_UNKNOWN : total->counts.misses - filled;
}

static void fill(const MissCurve *curve, const PackedTrace *trace, const Plan *plan,
                 const ExpertBuffer *buffer, ReplayResult *result)
{
    uint32_t size = (uint32_t)least(plan->buffer.slots, curve->n_sizes);
    bool bypasses = buffer_uses_staging(buffer);
    for (uint32_t i = 0; i < curve->n_layers; i++)
        result->layers[i] = layer_result(curve, i, size, &trace->layers[i]);
    replay_result_add_up(result);
    result->total.counts.evictions = count_evictions(curve, plan, size, &result->total, bypasses);
    result->total.counts.bypasses = bypasses ? REPLAY_UNKNOWN : 0;
    result->total.counts.evicted_newest = REPLAY_UNKNOWN;
    result->total.counts.evicted_young = REPLAY_UNKNOWN;
    result->memory_bytes = buffer_memory_bytes(buffer);
    result->replay_ns = REPLAY_UNKNOWN;
}

Status curve_result(const MissCurve *curve, const PackedTrace *trace, const Plan *plan,
                    ReplayResult *result)
{
    ExpertBuffer *buffer;
    *result = (ReplayResult){0};
    TRY(buffer_new(plan, trace->layers, trace->n_layers, &buffer));
    Status status = replay_result_new(curve->n_layers, result);
    if (status == OK)
        fill(curve, trace, plan, buffer, result);
    buffer_free(buffer);
    return status;
}
