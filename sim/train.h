/* Learns from a part of a trace what plans leave to be learnt, and puts it into them as tables, so
 * that they say everything and run anywhere.
 *
 *   buffer.budget   skew: slots in proportion to the effective number of experts of each layer
 *                   (train_budget.c), by highest averages. optimal: those that load the fewest
 *                   bytes, on demand and ahead, over the training part under the plan's eviction,
 *                   order and prefetching (sim/budget.h, sim/layer_curves.h); where sizes of
 *                   experts are not known, the fewest experts. Together the layers take no more
 *                   than they would with an equal share; each has what its own lists in the plan
 *                   need, and one slot at least, but under order staged, optimal or with a budget
 *                   in bytes
 *   buffer.hot, buffer.initial
 *                   hottest: of each scope the experts that most events needed, as many as fit its
 *                   budget, hottest first; ties go to the lower layer, then the lower id
 *   prefetch.table  trained: frequency, the events that needed each expert; transition, for each
 *                   expert those that followed it most at the plan's distance in the same step, and
 *                   in what share of its events, in 2^-10
 *   placement.map   by the placement's method (sim/place.h)
 */
#ifndef SIM_TRAIN_H
#define SIM_TRAIN_H

#include "policies/plan.h"
#include "sim/replay.h"

typedef struct Training Training;

/* Counts over TRACE, the training part, which must outlive it, and SIGNALS, which are of a longer
 * trace that begins with SKIPPED other events; NULL where no plan that learns from replays needs
 * any. */
Status training_new(const PackedTrace *trace, const TraceSignals *signals, uint64_t skipped,
                    Training **training);
/* Accepts NULL. */
void training_free(Training *training);
const PackedTrace *training_trace(const Training *training);
/* What a replay of it under PLAN has to be given; TRAINING keeps it. */
Status training_future(Training *training, const Plan *plan, const ReplayFuture **future);
/* [experts] events of the layer at index LAYER that needed each. */
const uint64_t *training_events(const Training *training, uint32_t layer);
/* The same plan with nothing left to learn; freed with plan_free(). Not thread-safe: what several
 * plans share is learnt once. */
Status training_plan(Training *training, const Plan *plan, Plan *learnt);

#endif
