#include "policies/lfu.h"

static void aged_admit(Scope *scope, uint32_t object)
{
    lfu_hit(scope, object);
}

/* True when LEFT's lookups over age are fewer than RIGHT's; products of 32-bit numbers are exact.
 */
static bool is_less_used(const Scope *scope, uint32_t left, uint32_t right)
{
    uint64_t left_age = (uint64_t)scope->time - scope->last[left] + 1;
    uint64_t right_age = (uint64_t)scope->time - scope->last[right] + 1;
    uint64_t a = scope->count[left] * right_age;
    uint64_t b = scope->count[right] * left_age;
    return a != b ? a < b : left < right;
}

/* Ages grow all the time, so there is no order to keep: every slot is looked at. */
ALWAYS_INLINE uint32_t least_used(const Scope *scope, bool outside)
{
    uint32_t least = NOBODY;
    for (uint32_t slot = 0; slot < scope->n_slots; slot++) {
        uint32_t object = scope->slot_object[slot];
        if (object == NOBODY || (outside && scope_is_active(scope, object)))
            continue;
        if (least == NOBODY || is_less_used(scope, object, least))
            least = object;
    }
    return least;
}

static uint32_t aged_victim(Scope *scope)
{
    return least_used(scope, false);
}

static uint32_t aged_victim_outside(Scope *scope)
{
    return least_used(scope, true);
}

static const EvictionRules RULES = {.hit = lfu_hit,
                                    .admit = aged_admit,
                                    .victim = aged_victim,
                                    .victim_outside = aged_victim_outside};

DEFINE_EVENTS(lfu_aged, RULES)

/* Frequency over age: fewest lookups since the start of the trace, divided by the lookups of the
 * scope since its own last one (and that one); ties to the lower object. Engines for expert
 * offloading call it LFRU; among causal policies it did best in replays with all of an event's
 * lookups against its start. */
const EvictionPolicy EVICT_LFU_AGED = {.name = "lfu-aged", EVENTS(lfu_aged), .needs_counts = true};
