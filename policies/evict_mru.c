#include "policies/event_loop.h"

static void mru_hit(Scope *scope, uint32_t object)
{
    list_renew(scope, object);
}

static void mru_admit(Scope *scope, uint32_t object)
{
    list_add_newest(scope, object);
}

static uint32_t mru_victim(Scope *scope)
{
    return list_take_newest(scope);
}

static uint32_t mru_victim_outside(Scope *scope)
{
    return list_take_newest_outside(scope);
}

static const EvictionRules RULES = {
    .hit = mru_hit, .admit = mru_admit, .victim = mru_victim, .victim_outside = mru_victim_outside};

DEFINE_EVENTS(mru, RULES)

/* Most recently used: the one looked up last. */
const EvictionPolicy EVICT_MRU = {.name = "mru", EVENTS(mru)};
