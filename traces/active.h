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
    uint16_t *touches; /* [experts + 1] result of active_set_order(): as of last_touches() */
    uint16_t *place;   /* [experts] its scratch */
    uint64_t *last;    /* [experts] the same */
    size_t bytes;      /* heap bytes held */
} ActiveSet;

Status active_set_new(ActiveSet *set, uint32_t max_experts);
void active_set_free(ActiveSet *set);

/* Counts EXPERTS[ids], each below EXPERTS_OF_LAYER or EXPERT_DROPPED. Returns the number of active
 * experts. O(ids + experts / 64 + active). */
uint32_t active_set_count(ActiveSet *set, const uint16_t *experts, size_t ids,
                          uint32_t experts_of_layer);

/* The same, and the order of last touches where they are WANTED. */
uint32_t active_set_order(ActiveSet *set, const uint16_t *experts, size_t ids,
                          uint32_t experts_of_layer, bool wanted);

/* What a token needs of each of N_LAYERS layers, of TOP_K experts each: sorted into ACTIVE, and the
 * order of touches in TOUCHES, both (or NULL) [n_layers][top_k]. False, with nothing said, where
 * TOP_K is above ACTIVE_TOKEN_TOP_K, an expert is dropped or asked twice, or ids are above
 * ACTIVE_TOKEN_EXPERT. */
enum { ACTIVE_TOKEN_TOP_K = 8, ACTIVE_TOKEN_EXPERT = 4087 };
bool active_of_token(const uint16_t *experts, uint32_t n_layers, uint32_t top_k, uint16_t *active,
                     uint8_t *touches);

/* Whether in each of N_LAYERS layers a token's TOP_K ids of a byte are different ones, none of them
 * UINT8_MAX. */
bool active_is_distinct(const uint8_t *experts, uint32_t n_layers, uint32_t top_k);

/* The order of last touches, as engines with a staging area see them: token by token, router order,
 * a repeated expert only renews its touch. Of the N_ACTIVE experts in ACTIVE that EXPERTS[ids]
 * holds, TOUCHES[0] is the position in ACTIVE of the one whose last touch is longest ago. PLACE is
 * scratch [experts of the layer]. */
void last_touches(const uint16_t *experts, size_t ids, const uint16_t *active, uint32_t n_active,
                  uint16_t *place, uint16_t *touches);

#endif
