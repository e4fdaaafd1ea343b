/* Placements that balance the ranks of a layer by what its experts did in a part of a trace.
 *
 * The load of an expert is its mean share of an event's assignments. Experts are placed in
 * descending load (ties: lower id), each on the rank with the least score that has room (ties:
 * lower rank); a rank has room for floor((E + replicas) / ranks) experts, the first (E + replicas)
 * mod ranks to fill up for one more.
 *
 *   greedy          score of a rank: the loads of its experts. Huang et al. 2023, section VI
 *                   (longest processing time first, with equal counts).
 *   anticorrelated  the same with each load plus half of Pearson's correlation with the expert that
 *                   is placed, over the events: the paper's formula as printed. A load is about 1 /
 *                   E and a correlation up to 1, so the correlations decide.
 *   anticorrelated-scaled
 *                   each load times (1 + half the correlation), so that both count.
 *   replicate       the replicas go one by one to the expert with the largest load per copy, at
 *                   most one copy a rank; then the copies are placed as by greedy, each with its
 *                   share of the load. DeepSeek's EPLB, global; where the only rank with room has
 *                   the expert already, the lightest expert of another rank makes place. */
#ifndef POLICIES_PLACEMENT_BALANCE_H
#define POLICIES_PLACEMENT_BALANCE_H

#include "policies/placement.h"

typedef struct {
    const double *load;        /* [experts] */
    const double *correlation; /* [experts][experts], for those that need it; 0 where undefined */
} LayerLoad;

bool placement_needs_correlation(PlacementMethod method);

/* Fills PLACEMENT by METHOD, one of those above. REPLICAS is at most experts * (ranks - 1), and 0
 * but for replicate. */
Status placement_balance(PlacementMethod method, const LayerLoad *load, uint32_t replicas,
                         LayerPlacement *placement);

#endif
