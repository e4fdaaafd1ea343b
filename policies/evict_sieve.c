#include "policies/event_loop.h"

static void sieve_hit(Scope *scope, uint32_t object)
{
    scope->flag[object] = 1;
}

static void sieve_admit(Scope *scope, uint32_t object)
{
    scope->flag[object] = 0;
    list_add_newest(scope, object);
}

/* The hand goes from the oldest to the newest and begins again; nobody moves. */
ALWAYS_INLINE uint32_t sieve(Scope *scope, bool outside)
{
    uint32_t sentinel = scope->n_objects;
    uint32_t object = scope->hand == NOBODY ? list_oldest(scope) : scope->hand;
    for (;;) {
        bool is_passed_over = outside && scope_is_active(scope, object);
        if (!is_passed_over && !scope->flag[object])
            break;
        if (!is_passed_over)
            scope->flag[object] = 0;
        object = scope->nodes[object].newer;
        if (object == sentinel)
            object = list_oldest(scope);
    }
    uint32_t next = scope->nodes[object].newer;
    scope->hand = next == sentinel ? NOBODY : next;
    list_remove(scope, object);
    return object;
}

static uint32_t sieve_victim(Scope *scope)
{
    return sieve(scope, false);
}

static uint32_t sieve_victim_outside(Scope *scope)
{
    return sieve(scope, true);
}

static const EvictionRules RULES = {.hit = sieve_hit,
                                    .admit = sieve_admit,
                                    .victim = sieve_victim,
                                    .victim_outside = sieve_victim_outside};

DEFINE_EVENTS(sieve, RULES)

/* SIEVE. Zhang et al. 2024 (NSDI): a queue in load order with one visited bit, and a hand that
 * clears bits and takes the first without. The hand passes members of A over: they keep their bit.
 * On layer-ordered lookups it freezes: the hand trails the head and takes each newcomer. */
const EvictionPolicy EVICT_SIEVE = {.name = "sieve", EVENTS(sieve), .needs_flags = true};
