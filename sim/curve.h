/* Miss-ratio curves: what every size of a buffer would miss, in one pass over the trace.
 *
 * Exact for the stack policies under order serial with experts that weigh the same. Mattson et al.
 * 1970 (Evaluation techniques for storage hierarchies): where victims go by a priority that does
 * not depend on the size, a larger cache holds all that a smaller one holds, so that one stack has
 * the contents of every size as its prefixes, and a lookup hits from the depth of its expert on.
 * lru and mru rank by last lookup, lfu by lookups since the start and last lookup, belady-admit by
 * next use. belady keeps this too: the newcomer competes like a resident, and loses ties. A pass
 * costs the depth of each lookup, but for lru, whose depths are counted (sim/curve_recency.h). */
#ifndef SIM_CURVE_H
#define SIM_CURVE_H

#include "sim/replay.h"

typedef struct {
    uint32_t n_layers;
    uint32_t n_sizes;          /* sizes 1 to n_sizes: the experts of the largest scope */
    uint64_t *hits;            /* [n_layers][n_sizes] of each layer's lookups */
    uint64_t *assignment_hits; /* the same */
    uint64_t *lookups;         /* [n_layers] */
    uint64_t *assignments;     /* [n_layers] */
    uint64_t pass_ns;          /* wall time of the pass */
} MissCurve;

/* True when curve_run() can answer for PLAN; its budget does not matter. It has one rank. */
bool curve_is_exact(const Plan *plan);

/* FUTURE must have been prepared for PLAN (replay_prepare). Fails with ERR_UNSUPPORTED unless
 * curve_is_exact(), with ERR_INPUT above 2^32 - 2 lookups. CURVE is freed with curve_free(). */
Status curve_run(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                 MissCurve *curve);
void curve_free(MissCurve *curve);

/* Fills RESULT with what replay_run() would count under PLAN, one of the sizes of CURVE. What a
 * curve does not know is REPLAY_UNKNOWN: evictions of newcomers, evictions and bypasses of belady,
 * evictions by layer, counts by phase, the time. Freed with replay_result_free(). */
Status curve_result(const MissCurve *curve, const PackedTrace *trace, const Plan *plan,
                    ReplayResult *result);

/* Misses of all layers with SIZE slots per scope. */
uint64_t curve_misses(const MissCurve *curve, uint32_t size);
/* The smallest size at which anything hits, 0 when nothing ever does. For lru this is the cliff:
 * on lookups ordered by layer, fewer slots are worth nothing. */
uint32_t curve_first_hit(const MissCurve *curve);

#endif
