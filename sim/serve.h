/* Requests of a trace served in simulated time: they arrive, policies/scheduler.h composes the
 * steps, a cost says how long each takes. */
#ifndef SIM_SERVE_H
#define SIM_SERVE_H

#include "policies/latency.h"
#include "policies/rebatch.h"

/* Sets *DURATION_NS to how long STEP takes when it begins at START_NS, until its tokens are known
 * and the next one can begin. A failure ends the run. */
typedef Status (*ServeStep)(void *argument, const TraceStep *step, uint64_t start_ns,
                            uint64_t *duration_ns);

/* Serves all requests of REBATCH, which was opened for their arrivals; GOALS, or NULL, are what the
 * report counts. Fails as COST and
 * rebatch_step_at(), and with ERR_INPUT when the clock runs over. */
Status serve_run(Rebatch *rebatch, ServeStep cost, void *argument, const ServiceGoals *goals,
                 ServingReport *report);

#endif
