#include "policies/lifo.h"

static const EvictionRules RULES = {.admit = lifo_admit,
                                    .victim = lifo_victim,
                                    .victim_outside = lifo_victim_outside,
                                    .end = lifo_end,
                                    .inactive_first_in_serial = true};

DEFINE_EVENTS(inactive_first, RULES)

/* Last in, first out, but an expert that this event does not need goes first; among those too the
 * latest loaded. Huang et al. 2023 (Towards MoE Deployment), section V: experts run in ascending
 * id, so the lookups of a layer are a cyclic scan of its active set, and what was loaded last is
 * needed again latest. Under order batch it decides as lifo does. */
const EvictionPolicy EVICT_LIFO_INACTIVE_FIRST = {
    .name = "lifo-inactive-first", EVENTS(inactive_first), .n_rings = 1};
