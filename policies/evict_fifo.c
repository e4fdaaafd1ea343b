#include "policies/event_loop.h"

static uint32_t fifo_victim(Scope *scope)
{
    return list_take_oldest(scope);
}

static uint32_t fifo_victim_outside(Scope *scope)
{
    return list_take_oldest_outside(scope);
}

static void fifo_admit(Scope *scope, uint32_t object)
{
    list_add_newest(scope, object);
}

static const EvictionRules RULES = {
    .admit = fifo_admit, .victim = fifo_victim, .victim_outside = fifo_victim_outside};

DEFINE_EVENTS(fifo, RULES)

/* First in, first out: the earliest loaded goes, however often it was used since. */
const EvictionPolicy EVICT_FIFO = {.name = "fifo", EVENTS(fifo)};
