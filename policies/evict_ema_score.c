#include "policies/event_loop.h"

/* Averages are kept in multiples of 2^-38: a score, in multiples of 2^-24, with so many more bits;
 * the product with a share of 2^16 fits in 64. */
enum { FRACTION_BITS = 14, SHARE_BITS = 16 };

/* Every expert of the layer gets its newest score, needed or not, resident or not. */
static void ema_begin(Scope *scope, const ScopeEvent *event)
{
    uint64_t *value = scope->value + event->first_object;
    uint64_t newest = scope->alpha;
    uint64_t rest = (UINT64_C(1) << SHARE_BITS) - newest;
    for (uint32_t e = 0; e < event->n_experts; e++) {
        uint64_t score = (uint64_t)event->scores[e] << FRACTION_BITS;
        value[e] = (newest * score + rest * value[e]) >> SHARE_BITS;
    }
}

static void ema_admit(Scope *scope, uint32_t object)
{
    (void)scope;
    (void)object;
}

/* Averages of whole layers change at every event, so there is no order to keep: every slot is
 * looked at. */
ALWAYS_INLINE uint32_t least_scored(const Scope *scope, bool outside)
{
    uint32_t least = NOBODY;
    for (uint32_t slot = 0; slot < scope->n_slots; slot++) {
        uint32_t object = scope->slot_object[slot];
        if (object == NOBODY || (outside && scope_is_active(scope, object)))
            continue;
        if (least == NOBODY || scope->value[object] < scope->value[least] ||
            (scope->value[object] == scope->value[least] && object < least))
            least = object;
    }
    return least;
}

static uint32_t ema_victim(Scope *scope)
{
    return least_scored(scope, false);
}

static uint32_t ema_victim_outside(Scope *scope)
{
    return least_scored(scope, true);
}

static const EvictionRules RULES = {.begin = ema_begin,
                                    .admit = ema_admit,
                                    .victim = ema_victim,
                                    .victim_outside = ema_victim_outside};

DEFINE_EVENTS(ema, RULES)

/* The least moving average of the router's scores, S = alpha s + (1 - alpha) S, ties to the lower
 * object: the MRS cache of HybriMoE (Zhong et al. 2025), which evicts by it with alpha 0.5. There
 * only the 2 k largest scores of a token count; here all do, and those of a step of several tokens
 * are their mean. An event's scores are in before its lookups. */
const EvictionPolicy EVICT_EMA_SCORE = {
    .name = "ema-score", EVENTS(ema), .needs_scores = true, .needs_values = true};
