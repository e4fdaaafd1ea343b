#include "policies/event_loop.h"

static uint32_t lifo_victim(Scope *scope)
{
    return list_take_newest(scope);
}

static uint32_t lifo_victim_outside(Scope *scope)
{
    return list_take_newest_outside(scope);
}

static void lifo_admit(Scope *scope, uint32_t object)
{
    list_add_newest(scope, object);
}

static const EvictionRules RULES = {
    .admit = lifo_admit, .victim = lifo_victim, .victim_outside = lifo_victim_outside};

DEFINE_EVENTS(lifo, RULES)

/* Last in, first out: the latest loaded goes. */
const EvictionPolicy EVICT_LIFO = {.name = "lifo", EVENTS(lifo)};
