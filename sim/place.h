/* Places experts on ranks by one part of a trace, and scores a placement on another.
 *
 * Metrics of Huang et al. 2023, section VI, over the events of a layer: a rank's share is that of
 * the event's assignments which it computes, so that perfect balance is 1 / ranks. The tokens of an
 * expert on several ranks count as spread evenly over them. */
#ifndef SIM_PLACE_H
#define SIM_PLACE_H

#include "policies/placement.h"
#include "traces/packed.h"

/* Learns PLAN's map from TRACE, the training part, by its method, ranks and replicas, and puts it
 * into the plan; a method that learns nothing has none. Fails with ERR_PLAN where the ranks are
 * more than the experts of a layer, or the replicas more than the ranks have room for. */
Status place_learn(const PackedTrace *trace, Plan *plan);

typedef struct {
    uint64_t events;
    uint64_t assignments;
    double max_load;     /* the largest share of a rank in any event: memory */
    double avg_max_load; /* mean over events of the largest share: waiting for the slowest */
    double imbalance;    /* assignments of the fullest rank, summed over events, over those of a
                            mean rank: 1 is perfect, the number of ranks the worst */
} PlaceLayer;

typedef struct {
    PlaceLayer total;   /* over all events; max_load is the worst of all layers */
    PlaceLayer *layers; /* [n_layers] */
    uint32_t n_layers;
} PlaceScore;

/* Scores MAP (placement_map()) over RANKS on TRACE. Freed with place_score_free(). */
Status place_score(const PackedTrace *trace, const PlanTable *map, uint32_t ranks,
                   PlaceScore *score);
void place_score_free(PlaceScore *score);

#endif
