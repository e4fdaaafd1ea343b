/* A trace of which a part is learnt from, and plans that have something to learn. */
#ifndef TESTS_TRAIN_MAKER_H
#define TESTS_TRAIN_MAKER_H

#include "tests/buffer_maker.h"
#include "tests/reference_prefetch.h"

static RefTrace trace; /* that a test has made */

static inline uint32_t n_steps(const RefTrace *of)
{
    return of->n_events / of->n_layers;
}

/* Events of the first STEPS steps that need the expert. */
static inline uint64_t count_events(uint32_t steps, uint32_t layer, uint32_t expert)
{
    uint64_t events = 0;
    for (uint32_t e = 0; e < steps * trace.n_layers; e++)
        for (uint32_t i = 0; i < trace.events[e].n; i++)
            events += trace.events[e].layer == layer && trace.events[e].experts[i] == expert;
    return events;
}

static inline Plan random_budget(uint64_t *state, const char *evict)
{
    BufferScopeKind scope = random_below(state, 2) ? SCOPE_DEVICE : SCOPE_LAYER;
    uint32_t slots = 1 + random_below(state, scope == SCOPE_DEVICE ? 40 : 12);
    Plan plan = make_plan(evict, (ReplayOrder)random_below(state, REPLAY_ORDERS), scope, slots);
    if (random_below(state, 2)) {
        plan.buffer.bytes = 200 * plan.buffer.slots + 300 + random_below(state, 200);
        plan.buffer.slots = 0;
    }
    return plan;
}

#endif
