#include "policies/event_loop.h"

/* splitmix64 (Steele, Lea, Flood 2014); a slot from the upper half by multiplication. */
static uint32_t draw_slot(Scope *scope)
{
    uint64_t z = scope->random += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (uint32_t)((z >> 32) * scope->n_slots >> 32);
}

static void random_admit(Scope *scope, uint32_t object)
{
    (void)scope;
    (void)object;
}

static uint32_t random_victim(Scope *scope)
{
    uint32_t object = NOBODY;
    while (object == NOBODY)
        object = scope->slot_object[draw_slot(scope)];
    return object;
}

static uint32_t random_victim_outside(Scope *scope)
{
    uint32_t object = random_victim(scope);
    while (scope_is_active(scope, object))
        object = random_victim(scope);
    return object;
}

static const EvictionRules RULES = {
    .admit = random_admit, .victim = random_victim, .victim_outside = random_victim_outside};

DEFINE_EVENTS(random, RULES)

/* A slot drawn uniformly, and drawn again while it is empty or its expert may not go. The stream
 * of numbers depends on the plan's seed and the scope's number alone. */
const EvictionPolicy EVICT_RANDOM = {.name = "random", EVENTS(random)};
