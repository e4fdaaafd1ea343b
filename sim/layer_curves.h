/* What every layer would miss with any number of slots of its own, under one policy. */
#ifndef SIM_LAYER_CURVES_H
#define SIM_LAYER_CURVES_H

#include "sim/train.h"

typedef struct {
    uint32_t n_layers;
    uint64_t **misses; /* [n_layers][experts + 1] by slots; 0 slots: all lookups */
} LayerCurves;

/* Of the training part under PLAN's eviction, order, hot set and initial residents, without
 * prefetching: layers then do not see each other, and a replay in which each has as many slots
 * gives one point of all curves. Stack policies under order serial take one pass for all points,
 * the others one replay for each. Freed with layer_curves_free(). */
Status layer_curves_measure(Training *training, const Plan *plan, LayerCurves *curves);
void layer_curves_free(LayerCurves *curves);

#endif
