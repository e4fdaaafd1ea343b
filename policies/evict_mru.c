#include "policies/event_loop.h"
#include "policies/recency.h"

static void mru_touch(Scope *scope, uint32_t object)
{
    recency_push(scope, &scope->rings[0], 0, object);
}

static uint32_t mru_victim(Scope *scope)
{
    uint32_t object = recency_newest(scope, &scope->rings[0], 0);
    recency_remove(scope, object);
    return object;
}

static uint32_t mru_victim_outside(Scope *scope)
{
    uint32_t object = recency_newest_outside(scope, &scope->rings[0], 0);
    recency_remove(scope, object);
    return object;
}

static const EvictionRules RULES = {.hit = mru_touch,
                                    .admit = mru_touch,
                                    .victim = mru_victim,
                                    .victim_outside = mru_victim_outside};

DEFINE_EVENTS(mru, RULES)

/* Most recently used: the one looked up last. */
const EvictionPolicy EVICT_MRU = {
    .name = "mru", EVENTS(mru), .needs_positions = true, .n_rings = 1};
