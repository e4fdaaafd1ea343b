#include "sim/replay_result.h"

static Status add_ratio(cJSON *json, const char *key, uint64_t part, uint64_t whole)
{
    return whole > 0 ? json_add_f64(json, key, (double)part / (double)whole)
                     : json_add_null(json, key);
}

/* The numbers that a layer and the whole have alike. */
static Status add_counts(cJSON *json, const ReplayLayer *layer)
{
    const BufferCounts *counts = &layer->counts;
    uint64_t lookups = counts->hits + counts->misses;
    TRY(json_add_u64(json, "lookups", lookups));
    TRY(json_add_u64(json, "hits", counts->hits));
    TRY(json_add_u64(json, "misses", counts->misses));
    TRY(add_ratio(json, "miss_ratio", counts->misses, lookups));
    TRY(json_add_u64(json, "assignments", layer->assignments));
    TRY(json_add_u64(json, "assignment_hits", layer->assignment_hits));
    TRY(json_add_u64(json, "loads", counts->loads));
    TRY(json_add_u64(json, "bypasses", counts->bypasses));
    TRY(json_add_u64(json, "bytes_loaded", counts->bytes_loaded));
    TRY(json_add_u64(json, "host_computed", counts->host_computed));
    TRY(json_add_u64(json, "host_rows", counts->host_rows));
    TRY(json_add_u64(json, "evictions", counts->evictions));
    TRY(json_add_u64(json, "evicted_newest", counts->evicted_newest));
    TRY(add_ratio(json, "evicted_newest_share", counts->evicted_newest, counts->evictions));
    TRY(json_add_u64(json, "evicted_young", counts->evicted_young));
    return add_ratio(json, "evicted_young_share", counts->evicted_young, counts->evictions);
}

static Status add_prefetch(cJSON *json, const BufferCounts *counts)
{
    cJSON *object;
    TRY(json_add_object(json, "prefetch", &object));
    TRY(json_add_u64(object, "loads", counts->prefetches));
    TRY(json_add_u64(object, "bytes_loaded", counts->bytes_prefetched));
    TRY(json_add_u64(object, "useful", counts->prefetch_hits));
    TRY(json_add_u64(object, "wasted", counts->prefetches - counts->prefetch_hits));
    TRY(json_add_u64(object, "evicted_before_use", counts->prefetch_evicted));
    TRY(json_add_u64(object, "predictions", counts->predictions));
    TRY(json_add_u64(object, "predicted", counts->predicted));
    TRY(json_add_u64(object, "predicted_right", counts->predicted_right));
    TRY(add_ratio(object, "precision", counts->predicted_right, counts->predicted));
    TRY(add_ratio(object, "recall", counts->predicted_right, counts->predictable));
    return json_add_u64(object, "prediction_reads", counts->prediction_reads);
}

static Status add_layers(cJSON *json, const ReplayResult *result, const TraceLayer *layers)
{
    cJSON *list;
    TRY(json_add_array(json, "per_layer", &list));
    for (uint32_t i = 0; i < result->n_layers; i++) {
        cJSON *item = cJSON_CreateObject();
        TRY(json_push(list, item));
        TRY(json_add_u64(item, "layer", layers[i].layer));
        TRY(add_counts(item, &result->layers[i]));
        TRY(add_prefetch(item, &result->layers[i].counts));
    }
    return OK;
}

static Status add_phases(cJSON *json, const ReplayResult *result)
{
    cJSON *list;
    TRY(json_add_array(json, "per_phase", &list));
    for (int i = 0; i <= PHASE_MIXED; i++) {
        const ReplayPhase *phase = &result->phases[i];
        uint64_t lookups = phase->hits + phase->misses;
        if (lookups == 0)
            continue;
        cJSON *item = cJSON_CreateObject();
        TRY(json_push(list, item));
        TRY(json_add_text(item, "phase", phase_name((Phase)i)));
        TRY(json_add_u64(item, "lookups", lookups));
        TRY(json_add_u64(item, "hits", phase->hits));
        TRY(json_add_u64(item, "misses", phase->misses));
        TRY(add_ratio(item, "miss_ratio", phase->misses, lookups));
        TRY(json_add_u64(item, "assignments", phase->assignments));
        TRY(json_add_u64(item, "assignment_hits", phase->assignment_hits));
    }
    return OK;
}

static Status fill(cJSON *json, const ReplayResult *result, const TraceLayer *layers)
{
    TRY(add_counts(json, &result->total));
    TRY(add_prefetch(json, &result->total.counts));
    TRY(json_add_u64(json, "memory_bytes", result->memory_bytes));
    TRY(json_add_u64(json, "replay_ns", result->replay_ns));
    TRY(add_phases(json, result));
    return add_layers(json, result, layers);
}

Status replay_result_json(const ReplayResult *result, const TraceLayer *layers, cJSON **json)
{
    *json = cJSON_CreateObject();
    Status status = *json != NULL ? fill(*json, result, layers) : fail_memory("replay", 0);
    if (status != OK) {
        cJSON_Delete(*json);
        *json = NULL;
    }
    return status;
}
