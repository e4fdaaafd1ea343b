/* From routing to work: capacity (static gating) and the rows of each expert (both gatings). Plain
 * host code over plain arrays. */
#ifndef EXEC_GATING_H
#define EXEC_GATING_H

#include "policies/plan.h"

/* The rows of one layer's routing, by expert. Row token * top_k + slot belongs to (token, slot). */
typedef struct {
    uint16_t *active; /* [n_active] experts with a row, ascending; room for all */
    uint32_t n_active;
    uint32_t *first; /* [experts + 1] expert e has rows[first[e]] to rows[first[e + 1] - 1] */
    uint32_t *rows;  /* [n_rows] token order within an expert; room for tokens * top_k */
    uint32_t n_rows;
} ExpertRows;

/* Rows per expert under PLAN's static gating for a step of TOKENS; 0: no limit (dynamic). */
uint32_t gating_capacity(const Plan *plan, uint32_t tokens);

/* Drops what is over CAPACITY: experts become EXPERT_DROPPED and weights (unless NULL) 0; the other
 * weights stay as they are. Places are given to all tokens' first choices in token order, then to
 * the second choices, and so on (GShard: Lepikhin et al. 2020, algorithm 1). COUNTS is scratch
 * [n_experts]. */
void gating_limit(uint32_t capacity, uint32_t tokens, uint32_t top_k, uint32_t n_experts,
                  uint32_t *counts, uint16_t *experts, float *weights);

/* Sorts the rows of EXPERTS [tokens][top_k] by expert, keeping token order; dropped ones are left
 * out. */
void gating_group(const uint16_t *experts, uint32_t tokens, uint32_t top_k, uint32_t n_experts,
                  ExpertRows *rows);

#endif
