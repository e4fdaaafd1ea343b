#include "policies/event_loop.h"

static void clock_hit(Scope *scope, uint32_t object)
{
    scope->flag[object] = 1;
}

static void clock_admit(Scope *scope, uint32_t object)
{
    scope->flag[object] = 0;
    list_add_newest(scope, object);
}

static uint32_t clock_victim(Scope *scope)
{
    for (;;) {
        uint32_t object = list_take_oldest(scope);
        if (!scope->flag[object])
            return object;
        scope->flag[object] = 0;
        list_add_newest(scope, object);
    }
}

/* The hand passes members of A over: they keep their bit. */
static uint32_t clock_victim_outside(Scope *scope)
{
    for (;;) {
        uint32_t object = list_take_oldest(scope);
        bool is_active = scope_is_active(scope, object);
        if (!scope->flag[object] && !is_active)
            return object;
        scope->flag[object] = scope->flag[object] && is_active;
        list_add_newest(scope, object);
    }
}

static const EvictionRules RULES = {.hit = clock_hit,
                                    .admit = clock_admit,
                                    .victim = clock_victim,
                                    .victim_outside = clock_victim_outside};

DEFINE_EVENTS(clock, RULES)

/* Second chance, one bit. Corbato 1968 (A paging experiment with the Multics system): the hand
 * clears the bit of those looked up since it passed, and takes the first without. A newcomer has
 * none. */
const EvictionPolicy EVICT_CLOCK = {.name = "clock", EVENTS(clock), .needs_flags = true};
