#include "policies/event_loop.h"

static uint32_t inactive_first_victim(Scope *scope)
{
    return list_take_newest(scope);
}

static uint32_t inactive_first_victim_outside(Scope *scope)
{
    return list_take_newest_outside(scope);
}

static void inactive_first_admit(Scope *scope, uint32_t object)
{
    list_add_newest(scope, object);
}

static const EvictionRules RULES = {.admit = inactive_first_admit,
                                    .victim = inactive_first_victim,
                                    .victim_outside = inactive_first_victim_outside,
                                    .inactive_first_in_serial = true};

DEFINE_EVENTS(inactive_first, RULES)

/* Last in, first out, but an expert that this event does not need goes first; among those too the
 * latest loaded. Huang et al. 2023 (Towards MoE Deployment), section V: experts run in ascending
 * id, so the lookups of a layer are a cyclic scan of its active set, and what was loaded last is
 * needed again latest. Under order batch it decides as lifo does. */
const EvictionPolicy EVICT_LIFO_INACTIVE_FIRST = {.name = "lifo-inactive-first",
                                                  EVENTS(inactive_first)};
