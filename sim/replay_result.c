#include "sim/replay_result.h"

#include "base/memory.h"

Status replay_result_new(uint32_t n_layers, ReplayResult *result)
{
    *result = (ReplayResult){.n_layers = n_layers};
    return mem_new(&result->layers, n_layers, sizeof *result->layers, "replay");
}

void replay_result_add(ReplayResult *result, const ExpertBuffer *buffer)
{
    for (uint32_t i = 0; i < result->n_layers; i++) {
        const BufferCounts counts = buffer_counts(buffer, i);
        buffer_counts_add(&result->layers[i].counts, &counts);
    }
    result->memory_bytes += buffer_memory_bytes(buffer);
}

void replay_result_add_up(ReplayResult *result)
{
    for (uint32_t i = 0; i < result->n_layers; i++) {
        const ReplayLayer *layer = &result->layers[i];
        buffer_counts_add(&result->total.counts, &layer->counts);
        result->total.assignments += layer->assignments;
        result->total.assignment_hits += layer->assignment_hits;
    }
}

void replay_result_free(ReplayResult *result)
{
    mem_free(result->layers);
    *result = (ReplayResult){0};
}
