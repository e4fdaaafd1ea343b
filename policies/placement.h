/* Where the experts of each layer live: expert -> ranks.
 *
 * The tokens of an expert that several ranks hold are spread evenly over them. Every method but
 * `given` has floor or ceil((experts + replicas) / ranks) experts of a layer on each rank.
 *
 *   contiguous   expert e of E on rank floor(e * ranks / E): blocks, as engines do by default
 *   round-robin  on rank e mod ranks
 *   random       a permutation of each layer's experts, drawn from the plan's seed, in such blocks
 *   greedy, anticorrelated, anticorrelated-scaled, replicate
 *                learnt from a trace: policies/placement_balance.h
 *   given        the user's own map */
#ifndef POLICIES_PLACEMENT_H
#define POLICIES_PLACEMENT_H

#include "policies/plan.h"

enum {
    PLACEMENT_MAX_RANKS = 256, /* a trace keeps a token's rank in one byte */
    PLACEMENT_MAX_REPLICAS = TRACE_MAX_EXPERTS * (PLACEMENT_MAX_RANKS - 1),
};

/* By PlacementMethod, NULL-terminated. */
extern const char *const PLACEMENT_METHOD_NAMES[PLACEMENT_METHODS + 1];

/* True when the map is learnt from a trace: sim/place.h. */
bool placement_learns(PlacementMethod method);

/* AT is the plan's "placement". A map that is not there, of a method that learns, is to be learnt.
 * Fails with ERR_PLAN when the method does not go with the map, or when the map leaves an expert
 * out, names a rank that is not there or one twice, or has other replicas than the plan says. */
Status placement_check_plan(const JsonAt *at, Plan *plan);
/* For what runs one rank: fails with ERR_PLAN where PLAN has more. */
Status placement_check_one_rank(const Plan *plan);

/* The ranks of every expert of LAYERS under PLAN, by layer: its map, or the one that follows from
 * its method. Fails with ERR_PLAN when the map is to be learnt, or is of other layers or numbers
 * of experts, or a layer has fewer experts than there are ranks. *MAP is released with
 * plan_table_release(). */
Status placement_map(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                     const PlanTable **map);

/* The same for several threads with one plan: *MAP is PLAN's, or that which follows, which is then
 * *MADE as well, to be released; else *MADE is NULL. */
Status placement_map_view(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                          const PlanTable **map, const PlanTable **made);

/* One layer's placement as it is made. */
typedef struct {
    uint32_t experts;
    uint32_t ranks;
    bool *is_on; /* [experts][ranks] */
} LayerPlacement;

/* Makes a map out of what FILL says of each of LAYERS (all false before). Fails with ERR_PLAN when
 * a layer has fewer experts than RANKS, and as FILL does. */
Status placement_table(const TraceLayer *layers, uint32_t n_layers, uint32_t ranks,
                       Status (*fill)(void *argument, uint32_t layer_index,
                                      LayerPlacement *placement),
                       void *argument, const PlanTable **map);

#endif
