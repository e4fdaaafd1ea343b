/* Counts which experts one event needs, without sorting. */
#ifndef TRACES_ACTIVE_H
#define TRACES_ACTIVE_H

#include "traces/trace.h"

/* Sized once for the largest layer. */
typedef struct {
    uint32_t *counts; /* [experts] all zero between calls */
    uint64_t *seen;   /* [experts / 64 + 1] one bit per expert, all zero between calls */
    uint16_t *active; /* [experts] result: ascending ids */
    uint32_t *tokens; /* [experts] result: assignments of each */
    size_t bytes;     /* heap bytes held */
} ActiveSet;

Status active_set_new(ActiveSet *set, uint32_t max_experts);
void active_set_free(ActiveSet *set);

/* Counts EXPERTS[ids], each below EXPERTS_OF_LAYER or EXPERT_DROPPED. Returns the number of active
 * experts. O(ids + experts / 64 + active). */
uint32_t active_set_count(ActiveSet *set, const uint16_t *experts, size_t ids,
                          uint32_t experts_of_layer);

#endif
