/* Prefetching: what is loaded ahead of its lookup, and what becomes of it. Inside policies/ only.
 *
 * The contract, in simulator and executor alike. After the lookups of an event of layer L of a step
 * are decided, layer L + distance of the same step is predicted (none beyond the last layer of the
 * step's stack). Of its predicted experts, best first, those not resident are loaded as far as
 * max_inflight allows: an expert is in flight from its prefetch until the event of its layer begins
 * or it is evicted. A prefetch takes a free slot, else that of a victim that the eviction policy
 * picks, like any admission; but never that of an expert that this event needs, that this event
 * predicts, or that is in flight; where nobody else is left, prefetching stops until the next
 * event. Under evict static none but the hot set is loaded, and nobody goes. To the policy a
 * prefetch is an admission. The first lookup that finds a prefetched expert is a hit. Decisions
 * depend on routing alone: a load that is still under way at its lookup is waited for, and is a hit
 * all the same. */
#ifndef POLICIES_PREFETCH_H
#define POLICIES_PREFETCH_H

#include "policies/buffer.h"

typedef struct Prefetch Prefetch;

/* PLAN's predictor is not none. */
Status prefetch_new(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                    Prefetch **prefetch);
void prefetch_free(Prefetch *prefetch);
void prefetch_reset(Prefetch *prefetch, uint64_t seed);
/* True when events must bring what comes. */
bool prefetch_needs_coming(const Prefetch *prefetch);
/* Most loads of one event. */
uint32_t prefetch_most(const Prefetch *prefetch);

/* What is wanted of one layer. */
typedef struct {
    uint32_t layer_index;
    uint32_t n;
    const uint16_t *experts; /* [n] predicted, best first */
    uint32_t most;           /* loads */
} PrefetchWish;

/* An expert in flight. */
typedef struct {
    uint16_t layer_index;
    uint16_t expert;
} PrefetchInFlight;

/* The lookups of EVENT are decided, by ACTIONS. Counts what they made of prefetches and predictions
 * in COUNTS[n_layers], learns, and predicts. False when the step has no such layer. */
bool prefetch_ask(Prefetch *prefetch, const BufferEvent *event, const BufferAction *actions,
                  uint32_t n_actions, BufferCounts *counts, PrefetchWish *wish);
/* Those in flight, nearest layer first; [*n]. */
const PrefetchInFlight *prefetch_in_flight(const Prefetch *prefetch, uint32_t *n);
/* What was done about the wish: evictions and prefetches. */
void prefetch_done(Prefetch *prefetch, const BufferAction *actions, uint32_t n_actions,
                   BufferCounts *counts);

#endif
