/* A replay with its time: the decisions of sim/replay.h, played by sim/timing.h. */
#ifndef SIM_TIMED_REPLAY_H
#define SIM_TIMED_REPLAY_H

#include "sim/replay.h"
#include "sim/timing.h"

/* Called after each step; a failure stops the replay and is returned. */
typedef Status (*StepObserver)(void *argument, const StepFeatures *features, const StepTime *step);

/* Replays TRACE, whose step I has the features FEATURES->steps[FIRST + I], under TIMING's plan, and
 * plays it. OBSERVER may be NULL. RESULT as replay_run()'s. */
Status timed_replay(const PackedTrace *trace, const ReplayFuture *future, Timing *timing,
                    const TraceFeatures *features, uint64_t first, const Plan *plan,
                    StepObserver observer, void *argument, ReplayResult *result);

/* One event of a replay, played; ROWS has room for the experts of any layer. */
Status timing_packed_event(Timing *timing, const PackedEvent *event, const BufferAction *actions,
                           uint32_t n_actions, uint32_t *rows);

/* What TIMING has played so far, of a plan that wants MEMORY. */
PlanTime timing_plan_time(const Timing *timing, const TimingMemory *memory);

/* How often costs were found how, of all tables, and of which operations some were missing or
 * extrapolated: the object "costs" of JSON. */
Status timing_costs_json(cJSON *json, const TimingTotals *totals);
/* Of `simulate --json`: "time", with the keys total_ns, tokens_per_s, exposed_load_ns, peak_bytes
 * and what they are made of. Freed with cJSON_Delete. */
Status timing_json(const Timing *timing, const TimingMemory *memory, cJSON **json);

#endif
