#include "policies/lfu.h"

static const EvictionRules RULES = {.hit = lfu_hit,
                                    .look_up = lfu_look_up,
                                    .admit = lfu_admit,
                                    .victim = lfu_victim,
                                    .victim_outside = lfu_victim_outside,
                                    .end = lfu_end};

DEFINE_EVENTS(lfu, RULES)

/* Least frequently used: fewest lookups since the start of the trace, kept across evictions; ties
 * go to the older last lookup. */
const EvictionPolicy EVICT_LFU = {
    .name = "lfu", EVENTS(lfu), .needs_heap = true, .needs_counts = true};
