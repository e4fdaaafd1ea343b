/* Replays a packed trace under a plan: the offline half of the loop. */
#ifndef SIM_REPLAY_H
#define SIM_REPLAY_H

#include "policies/buffer.h"
#include "sim/replay_result.h"
#include "traces/packed_future.h"

/* The futures of one trace, shared by the replays of a sweep; built on first need. Zero-initialise.
 * Not thread-safe: call replay_prepare() for every plan before sharing between threads. */
typedef struct {
    PackedFuture *serial;
    PackedFuture *batch;         /* and staged */
    const TraceSignals *signals; /* of the trace, for plans that need them; the caller's */
    uint64_t signals_skipped;    /* events of SIGNALS before the first of the trace, a part of it */
} ReplayFuture;

/* Builds what PLAN needs of FUTURE and is not there yet. Fails with ERR_MEMORY. */
Status replay_prepare(const PackedTrace *trace, const Plan *plan, ReplayFuture *future);
void replay_future_free(ReplayFuture *future);

/* Called with the actions of each event, in order. A failure stops the replay and is returned. */
typedef Status (*ReplayObserver)(void *argument, const PackedEvent *event,
                                 const BufferAction *actions, uint32_t n_actions);

/* The same with what hit alone, HIT[n_active], of events that may have been decided long before:
 * for observers that need no more. */
typedef Status (*HitObserver)(void *argument, const PackedEvent *event, const uint8_t *hit);

/* Replays TRACE under PLAN. FUTURE must have been prepared for PLAN; ERR_INPUT when it lacks
 * signals that PLAN needs. OBSERVER may be NULL, which is the fast path. RESULT is freed with
 * replay_result_free(). */
Status replay_run(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                  ReplayObserver observer, void *argument, ReplayResult *result);

/* The same for an observer of hits; buffer_takes_runs() holds for PLAN's buffer. */
Status replay_run_hits(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                       HitObserver observer, void *argument, ReplayResult *result);

/* The same over a trace that grows: opened, gone on with after steps were added, and closed. */
typedef struct Replay Replay;
Status replay_open(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                   ReplayObserver observer, void *argument, Replay **replay);
/* Replays what was added since. */
Status replay_go_on(Replay *replay);
/* Writes the result, unless NULL, to be freed with replay_result_free(); frees REPLAY (NULL:
 * nothing). */
void replay_close(Replay *replay, ReplayResult *result);

#endif
