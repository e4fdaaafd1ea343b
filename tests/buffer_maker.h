/* Plans with a buffer. */
#ifndef TESTS_BUFFER_MAKER_H
#define TESTS_BUFFER_MAKER_H

#include "tests/reference_buffer.h"

#include <stdio.h>

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

#endif
