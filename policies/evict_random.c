#include "base/splitmix64.h"
#include "policies/event_loop.h"

/* A slot from the upper half by multiplication. */
static uint32_t draw_slot(Scope *scope)
{
    return (uint32_t)((splitmix64_next(&scope->random) >> 32) * scope->n_slots >> 32);
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
