#include "exec/gating.h"

#include <string.h>

void gating_limit(uint32_t capacity, uint32_t tokens, uint32_t top_k, uint32_t n_experts,
                  uint32_t *counts, uint16_t *experts, float *weights)
{
    memset(counts, 0, n_experts * sizeof *counts);
    for (uint32_t slot = 0; slot < top_k; slot++)
        for (size_t token = 0; token < tokens; token++) {
            size_t row = token * top_k + slot;
            if (experts[row] == EXPERT_DROPPED || counts[experts[row]]++ < capacity)
                continue;
            experts[row] = EXPERT_DROPPED;
            if (weights != NULL)
                weights[row] = 0;
        }
}

void gating_group(const uint16_t *experts, uint32_t tokens, uint32_t top_k, uint32_t n_experts,
                  uint32_t *first, uint32_t *rows)
{
    uint32_t assignments = tokens * top_k;
    memset(first, 0, ((size_t)n_experts + 1) * sizeof *first);
    for (uint32_t i = 0; i < assignments; i++)
        if (experts[i] != EXPERT_DROPPED)
            first[experts[i] + 1]++;
    for (uint32_t e = 0; e < n_experts; e++)
        first[e + 1] += first[e];
    for (uint32_t i = 0; i < assignments; i++)
        if (experts[i] != EXPERT_DROPPED)
            rows[first[experts[i]]++] = i;
    /* Placing moved each start to the next expert's: move them back. */
    memmove(first + 1, first, n_experts * sizeof *first);
    first[0] = 0;
}

uint32_t gating_active(const uint32_t *first, uint32_t n_experts, uint16_t *active)
{
    uint32_t n = 0;
    for (uint32_t e = 0; e < n_experts; e++)
        if (first[e + 1] > first[e])
            active[n++] = (uint16_t)e;
    return n;
}
