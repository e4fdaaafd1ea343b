/* Counts which experts one event needs, without sorting. */
#ifndef TRACES_ACTIVE_H
#define TRACES_ACTIVE_H

#include "traces/trace.h"

/* Sized once for the largest layer. */
typedef struct {
    uint32_t *counts;  /* [experts] all zero between calls */
    uint64_t *seen;    /* [experts / 64 + 1] one bit per expert, all zero between calls */
    uint16_t *active;  /* [experts] result: ascending ids */
    uint32_t *tokens;  /* [experts] result: assignments of each */
    uint16_t *touches; /* [experts] room for last_touches() */
    uint16_t *place;   /* [experts] its scratch */
    size_t bytes;      /* heap bytes held */
} ActiveSet;

Status active_set_new(ActiveSet *set, uint32_t max_experts);
void active_set_free(ActiveSet *set);

/* Counts EXPERTS[ids], each below EXPERTS_OF_LAYER or EXPERT_DROPPED. Returns the number of active
 * experts. O(ids + experts / 64 + active). */
uint32_t active_set_count(ActiveSet *set, const uint16_t *experts, size_t ids,
                          uint32_t experts_of_layer);

/* The order of last touches, as engines with a staging area see them: token by token, router order,
 * a repeated expert only renews its touch. Of the N_ACTIVE experts in ACTIVE that EXPERTS[ids]
 * holds, TOUCHES[0] is the position in ACTIVE of the one whose last touch is longest ago. PLACE is
 * scratch [experts of the layer]. */
void last_touches(const uint16_t *experts, size_t ids, const uint16_t *active, uint32_t n_active,
                  uint16_t *place, uint16_t *touches);

#endif
