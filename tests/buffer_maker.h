/* Plans with a buffer, and replays of them. */
#ifndef TESTS_BUFFER_MAKER_H
#define TESTS_BUFFER_MAKER_H

#include "tests/reference_buffer.h"

#include <stdio.h>

#include "sim/replay.h"
#include "tests/action_log.h"

/* Makes the plan of one case. */
static inline Plan make_plan(const char *evict, ReplayOrder order, BufferScopeKind scope,
                             uint32_t slots)
{
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.order = order;
    plan.buffer.scope = scope;
    plan.buffer.slots = slots;
    plan.seed = 77;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", evict);
    return plan;
}

static inline Log run_logged(const PackedTrace *trace, const Plan *plan, ReplayResult *result)
{
    Log log = {0};
    ReplayFuture future = {0};
    assert_ok(replay_prepare(trace, plan, &future));
    assert_ok(replay_run(trace, plan, &future, log_append, &log, result));
    replay_future_free(&future);
    return log;
}

#endif
