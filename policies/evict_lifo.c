#include "policies/lifo.h"

static const EvictionRules RULES = {.admit = lifo_admit,
                                    .victim = lifo_victim,
                                    .victim_outside = lifo_victim_outside,
                                    .end = lifo_end};

DEFINE_EVENTS(lifo, RULES)

/* Last in, first out: the latest loaded goes. */
const EvictionPolicy EVICT_LIFO = {.name = "lifo", EVENTS(lifo), .n_rings = 1};
