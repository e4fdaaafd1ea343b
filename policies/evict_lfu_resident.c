#include "policies/lfu.h"

/* Those looked up once come before all others, the oldest first: they need no heap, but wait in a
 * ring. Who was looked up since goes to the heap when its turn has come. */
static void resident_admit(Scope *scope, uint32_t object)
{
    scope->count[object] = 0;
    lfu_hit(scope, object);
    ring_push(&scope->rings[0], object);
}

/* The next of the ring, or NOBODY. */
static uint32_t take_newcomer(Scope *scope)
{
    while (!ring_is_empty(&scope->rings[0])) {
        uint32_t object = ring_pop_oldest(&scope->rings[0]);
        if (scope->count[object] == 1)
            return object;
        lfu_put(scope, object);
    }
    return NOBODY;
}

static uint32_t take_least(Scope *scope)
{
    uint32_t object = take_newcomer(scope);
    return object != NOBODY ? object : lfu_take_top(scope);
}

/* Those set aside were the oldest. */
static void put_oldest(Scope *scope, uint32_t object)
{
    if (scope->count[object] == 1)
        ring_push_oldest(&scope->rings[0], object);
    else
        lfu_put(scope, object);
}

static void resident_end(Scope *scope)
{
    scope_put_back(scope, put_oldest);
}

static uint32_t resident_victim(Scope *scope)
{
    resident_end(scope);
    return take_least(scope);
}

static uint32_t resident_victim_outside(Scope *scope)
{
    return scope_take_outside(scope, take_least);
}

static const EvictionRules RULES = {.hit = lfu_hit,
                                    .look_up = lfu_look_up,
                                    .admit = resident_admit,
                                    .victim = resident_victim,
                                    .victim_outside = resident_victim_outside,
                                    .end = resident_end};

DEFINE_EVENTS(lfu_resident, RULES)

/* LFU in the cache: fewest lookups since it was loaded; ties go to the older last lookup. Einziger
 * et al. 2017 (TinyLFU) call it in-memory LFU. On layer-ordered lookups it freezes: a newcomer has
 * one lookup and goes first. */
const EvictionPolicy EVICT_LFU_RESIDENT = {.name = "lfu-resident",
                                           EVENTS(lfu_resident),
                                           .needs_heap = true,
                                           .needs_counts = true,
                                           .n_rings = 1};
