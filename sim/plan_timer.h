/* Replays of plans with their time: what a sweep with a hardware profile runs for each. Read-only
 * while it is used, so that threads may share it. */
#ifndef SIM_PLAN_TIMER_H
#define SIM_PLAN_TIMER_H

#include "sim/timed_serve.h"

typedef struct {
    const Hardware *hardware;
    const char *model; /* as in a trace's run.model */
    /* Of the whole trace: its steps, for plans that take them as they are, ... */
    const TraceFeatures *features;
    uint64_t first; /* step of FEATURES that is the first of the trace that is replayed */
    /* ... and its tokens, for those of continuous batching. NULL: there are none. */
    const RebatchTokens *tokens;
    bool forced; /* routing is laid on the model */
} PlanTimer;

/* What tells HARDWARE from another profile, and for people its device: TEXT[bytes]. */
void plan_timer_name(const Hardware *hardware, char *text, size_t bytes);

/* replay_run() of PLAN, with result->time. TIMER NULL: without. */
Status plan_timer_run(const PlanTimer *timer, const PackedTrace *trace, const Plan *plan,
                      const ReplayFuture *future, ReplayResult *result);

#endif
