/* From routing to work: what a capacity drops, and the rows of each expert. Plain host code over
 * plain arrays, and what a backend's limit() and group() must equal. */
#ifndef EXEC_GATING_H
#define EXEC_GATING_H

#include "policies/capacity.h"

/* Drops what is over CAPACITY: experts become EXPERT_DROPPED and weights (unless NULL) 0; the other
 * weights stay as they are. Places are given to all tokens' first choices in token order, then to
 * the second choices, and so on (GShard: Lepikhin et al. 2020, algorithm 1). COUNTS is scratch
 * [n_experts]. */
void gating_limit(uint32_t capacity, uint32_t tokens, uint32_t top_k, uint32_t n_experts,
                  uint32_t *counts, uint16_t *experts, float *weights);

/* Sorts the rows of EXPERTS [tokens][top_k] by expert, keeping token order; dropped ones are left
 * out. Row token * top_k + slot belongs to (token, slot). Expert e has ROWS [tokens * top_k] from
 * first[e] to first[e + 1] - 1; FIRST is [n_experts + 1]. */
void gating_group(const uint16_t *experts, uint32_t tokens, uint32_t top_k, uint32_t n_experts,
                  uint32_t *first, uint32_t *rows);

/* The experts that have a row, ascending, into ACTIVE [n_experts]; returns how many. */
uint32_t gating_active(const uint32_t *first, uint32_t n_experts, uint16_t *active);

#endif
