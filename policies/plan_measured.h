/* What plans take from a hardware profile: the costs by which compute.mode "split" divides misses.
 */
#ifndef POLICIES_PLAN_MEASURED_H
#define POLICIES_PLAN_MEASURED_H

#include "policies/hardware.h"
#include "policies/plan.h"

/* Puts what HARDWARE says of MODEL (a trace's run.model) in the place of what PLAN leaves to be
 * measured; does nothing where there is nothing. An expert on the host costs what one more of its
 * rows makes a call longer (table host/experts), an event what one call takes besides, with what
 * the host needs to queue the hits before it and what fetching its results takes; a load what
 * copy/h2d says of its slot's bytes, or copy/together what one more makes it longer, and at least
 * what the plan's link takes for it. Fails with ERR_INPUT where the profile lacks the model, a
 * layer, or a table. */
Status plan_measure_on(Plan *plan, const Hardware *hardware, const char *model,
                       const TraceLayer *layers, uint32_t n_layers);

#endif
