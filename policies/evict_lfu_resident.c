#include "policies/lfu.h"

static void resident_admit(Scope *scope, uint32_t object)
{
    scope->count[object] = 0;
    lfu_admit(scope, object);
}

static const EvictionRules RULES = {.hit = lfu_hit,
                                    .look_up = lfu_look_up,
                                    .admit = resident_admit,
                                    .victim = lfu_victim,
                                    .victim_outside = lfu_victim_outside,
                                    .end = lfu_end};

DEFINE_EVENTS(lfu_resident, RULES)

/* LFU in the cache: fewest lookups since it was loaded; ties go to the older last lookup. Einziger
 * et al. 2017 (TinyLFU) call it in-memory LFU. On layer-ordered lookups it freezes: a newcomer has
 * one lookup and goes first. */
const EvictionPolicy EVICT_LFU_RESIDENT = {
    .name = "lfu-resident", EVENTS(lfu_resident), .needs_heap = true, .needs_counts = true};
