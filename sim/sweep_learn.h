/* The plans of a study, with what they learn from the training part of a trace. Those that know the
 * future (bounds) know it here too: they learn from the test part itself. */
#ifndef SIM_SWEEP_LEARN_H
#define SIM_SWEEP_LEARN_H

#include "sim/parts.h"
#include "sim/study.h"
#include "traces/packed.h"
#include "traces/signals.h"

/* *PLANS[study->n_plans] have nothing left to learn; they share the tables of STUDY. SIGNALS of the
 * whole of TRACE, or NULL, are what plans with budget optimal need to be replayed. Freed with
 * sweep_forget(). */
Status sweep_learn(const PackedTrace *trace, const TraceSignals *signals, const TraceParts *parts,
                   const Study *study, Plan **plans);
/* Accepts NULL. */
void sweep_forget(Plan *plans, size_t n_plans);
/* The same for one plan, which is freed with plan_free(). */
Status learn_plan(const PackedTrace *trace, const TraceSignals *signals, const TraceParts *parts,
                  const Plan *plan, Plan *learnt);

#endif
