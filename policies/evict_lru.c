#include "policies/event_loop.h"

static void lru_hit(Scope *scope, uint32_t object)
{
    list_renew(scope, object);
}

static void lru_admit(Scope *scope, uint32_t object)
{
    list_add_newest(scope, object);
}

static uint32_t lru_victim(Scope *scope)
{
    return list_take_oldest(scope);
}

static uint32_t lru_victim_outside(Scope *scope)
{
    return list_take_oldest_outside(scope);
}

/* Under order batch the members of A among the residents have all been touched when the first
 * victim is wanted, so the oldest is outside A while anyone is. */
static const EvictionRules RULES = {.hit = lru_hit,
                                    .admit = lru_admit,
                                    .victim = lru_victim,
                                    .victim_outside = lru_victim_outside,
                                    .is_oldest_outside = true};

DEFINE_EVENTS(lru, RULES)

/* Least recently used: the one whose last lookup is longest ago. */
const EvictionPolicy EVICT_LRU = {.name = "lru", EVENTS(lru)};
