#include "policies/event_loop.h"

static uint32_t layer_of(const Scope *scope, uint32_t object)
{
    return scope->object_layer == NULL ? 0 : scope->object_layer[object];
}

static void stale_admit(Scope *scope, uint32_t object)
{
    scope->last[object] = scope->step;
    list_push(scope, scope->n_objects + layer_of(scope, object), object);
}

static void stale_hit(Scope *scope, uint32_t object)
{
    list_remove(scope, object);
    stale_admit(scope, object);
}

/* The oldest of the layer that comes round again latest: the present one, those before it from the
 * nearest back to the first, then those to come from the last back. NOBODY when there is none.
 * Within a layer those touched in this step are the newest. */
ALWAYS_INLINE uint32_t find(const Scope *scope, bool stale, bool outside)
{
    for (uint32_t i = 0; i < scope->n_layers; i++) {
        uint32_t layer = (scope->layer + scope->n_layers - i) % scope->n_layers;
        uint32_t sentinel = scope->n_objects + layer;
        uint32_t object = scope->nodes[sentinel].newer;
        while (outside && object != sentinel && scope_is_active(scope, object))
            object = scope->nodes[object].newer;
        if (object == sentinel)
            continue;
        if (!stale || scope->last[object] != scope->step)
            return object;
    }
    return NOBODY;
}

ALWAYS_INLINE uint32_t take(Scope *scope, bool outside)
{
    uint32_t object = find(scope, true, outside);
    if (object == NOBODY)
        object = find(scope, false, outside);
    list_remove(scope, object);
    return object;
}

static uint32_t stale_victim(Scope *scope)
{
    return take(scope, false);
}

static uint32_t stale_victim_outside(Scope *scope)
{
    return take(scope, true);
}

static const EvictionRules RULES = {.hit = stale_hit,
                                    .admit = stale_admit,
                                    .victim = stale_victim,
                                    .victim_outside = stale_victim_outside};

DEFINE_EVENTS(stale, RULES)

/* Least stale. SpecMD (2026, arXiv 2602.03921): what was not touched in the current pass over the
 * layers goes first. Several readings of it are in use; this is that one, with the order within
 * each class our own: the layer that comes round again latest, then the older last lookup. (Ordered
 * by last lookup alone it would be lru.) A step begins where the layer does not ascend. */
const EvictionPolicy EVICT_LEAST_STALE = {
    .name = "least-stale", EVENTS(stale), .needs_counts = true, .has_layer_lists = true};
