/* How the layers of a model share one budget of slots. */
#ifndef SIM_BUDGET_H
#define SIM_BUDGET_H

#include "base/status.h"

#include <stdint.h>

typedef struct {
    uint32_t n_layers;
    const uint32_t *experts; /* [n_layers] a layer has no use for more slots */
    const uint64_t *weight;  /* [n_layers] what a slot takes of the budget */
    uint64_t budget;
    const uint32_t *least; /* [n_layers] a layer has no fewer; the budget has room for them */
} BudgetShares;

/* In proportion to SHARE[n_layers], by highest averages (D'Hondt): one slot after the other to the
 * layer with the most share for each slot it would then have, as long as one fits; ties go to the
 * lower layer. */
void budget_in_proportion(const BudgetShares *shares, const double *share, uint32_t *slots);

/* The shares with the least sum of COST[layer][slots of it]; COST[layer] is [experts + 1], of any
 * shape. Exact by dynamic programming over the layers and the budget in units of what all weights
 * have in common; where that makes more than BUDGET_UNITS units, weights are rounded up to a
 * budget'th of those, and the claim is for the rounded ones. Slots that save nothing are given out
 * one by one as long as one fits and costs nothing, to the layer with the fewest. Time: layers x
 * units x experts. */
enum { BUDGET_UNITS = 1 << 17 };
Status budget_optimal(const BudgetShares *shares, const uint64_t *const *cost, uint32_t *slots);

#endif
