/* What every layer would load with any number of slots of its own, under one policy. */
#ifndef SIM_LAYER_CURVES_H
#define SIM_LAYER_CURVES_H

#include "sim/train.h"

typedef struct {
    uint32_t n_layers;
    uint64_t **loads; /* [n_layers][experts + 1] by slots: misses and prefetches, from the fewest
                         slots on that the plan allows; below: 0 */
} LayerCurves;

/* The fewest slots that PLAN allows a layer: what its own lists (buffer.hot, buffer.initial) need,
 * and one but under order staged, which needs none for an event. */
uint32_t layer_least_slots(const Plan *plan, const TraceLayer *layer);
/* buffer.budget as a table: SLOTS [layers of TRACE]. Released with plan_table_release(). */
Status layer_slots_table(const PackedTrace *trace, const uint32_t *slots, PlanTable **table);

/* Of the training part under PLAN's eviction, order, hot set, initial residents and prefetching,
 * whose table has been learnt. A replay in which all layers have as many slots gives one point of
 * all curves: what is decided in one layer does not depend on the slots of another, but where
 * prefetches of several layers are in flight at once (distance above 1) and max_inflight holds some
 * back. Stack policies under order serial without prefetching take one pass for all points, the
 * others one replay for each. Freed with layer_curves_free(). */
Status layer_curves_measure(Training *training, const Plan *plan, LayerCurves *curves);
void layer_curves_free(LayerCurves *curves);

/* LOADS[n_layers]: what they load in a replay of the training part under PLAN, after it has learnt
 * what is left to learn. */
Status layer_loads(Training *training, const Plan *plan, uint64_t *loads);

#endif
