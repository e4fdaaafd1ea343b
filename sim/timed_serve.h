/* Continuous batching in simulated time: requests of a trace arrive, policies/scheduler.h composes
 * the steps, sim/replay.h decides about their experts, and sim/timing.h says how long each takes.
 */
#ifndef SIM_TIMED_SERVE_H
#define SIM_TIMED_SERVE_H

#include "sim/serve.h"
#include "sim/timed_replay.h"

typedef struct {
    PackedTrace trace;   /* the steps that were composed */
    ReplayResult result; /* of them, with its time */
    ServingReport serving;
    TimingMemory memory;
} ServedPlan;

/* Serves the requests of REBATCH, which was opened for their arrivals, under PLAN, which TIMING was
 * made for. GOALS and OBSERVER may be NULL. Fails with ERR_PLAN for plans whose decisions need the
 * future, or scores or predictions of the trace. On failure nothing is held. */
Status timed_serve(Rebatch *rebatch, const Plan *plan, Timing *timing, const ServiceGoals *goals,
                   StepObserver observer, void *argument, ServedPlan *served);
void served_plan_free(ServedPlan *served);

#endif
