/* What placements learn of a trace: mean shares of experts, and how they go together. */
#ifndef SIM_PLACE_STATISTICS_H
#define SIM_PLACE_STATISTICS_H

#include "policies/placement_balance.h"
#include "traces/packed.h"

typedef struct {
    LayerLoad *layers; /* [n_layers] */
    double *load;      /* [experts of all layers] */
    double *correlation;
} PlaceStatistics;

/* Over the events of TRACE: the mean share of each expert in its layer's events, and where
 * CORRELATED Pearson's correlation of the shares of any two, 0 for experts whose share never
 * changes. An event without a computed assignment does not count. */
Status place_statistics(const PackedTrace *trace, bool correlated, PlaceStatistics *statistics);
void place_statistics_free(PlaceStatistics *statistics);

#endif
