#include "policies/event_loop.h"

static bool is_hot(const Scope *scope, uint32_t object)
{
    return scope->flag[object] != 0;
}

static void keep(Scope *scope, ScopeEvent *event, uint32_t object)
{
    scope_load(scope, event, object);
    scope->newest = object;
}

/* There is a slot for every one of the hot set. */
static void miss(Scope *scope, ScopeEvent *event, uint32_t object)
{
    if (is_hot(scope, object))
        keep(scope, event, object);
    else
        scope_pass_by(scope, event, object);
}

static uint32_t static_serial(Scope *scope, ScopeEvent *event)
{
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        bool hit = scope_holds(scope, object);
        if (event->hit != NULL)
            event->hit[i] = hit;
        if (!hit)
            miss(scope, event, object);
        else if (event->actions != NULL)
            scope_report(scope, event, RESIDENCY_HIT, object, scope->nodes[object].slot);
    }
    return event->n - event->loads;
}

static uint32_t static_batch(Scope *scope, ScopeEvent *event)
{
    uint32_t n_misses = find_misses(scope, event);
    if (event->actions != NULL)
        scope_report_hits(scope, event);
    for (uint32_t i = 0; i < n_misses; i++)
        miss(scope, event, event->first_object + event->experts[scope->misses[i]]);
    return event->n - n_misses;
}

/* Residents that are not of the hot set lie in the list, oldest load first. */
static uint32_t static_staged(Scope *scope, ScopeEvent *event)
{
    scope_begin_event(scope);
    uint32_t n_misses = stage(scope, event);
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[event->touches[i]];
        if (scope->missed[event->touches[i]] && !is_hot(scope, object))
            list_add_newest(scope, object);
    }
    scope_mark(scope, event);
    uint32_t sentinel = scope->n_objects;
    uint32_t object = list_oldest(scope);
    while (scope->used > scope->budget && object != sentinel) {
        uint32_t next = scope->nodes[object].newer;
        if (!scope_is_active(scope, object)) {
            list_remove(scope, object);
            scope_evict(scope, event, object);
        }
        object = next;
    }
    scope->newest = newest_of(scope, event);
    return event->n - n_misses;
}

static void static_prefetch(Scope *scope, ScopeEvent *event)
{
    for (uint32_t i = 0; i < event->n; i++)
        keep(scope, event, event->first_object + event->experts[i]);
}

/* A static placement: the hot set alone is kept, each from its first load on, and never evicted
 * (Fiddler, Kamahori et al. 2024, section 3.2, keeps the most popular experts of a calibration
 * run). All others pass through the staging slot, whether slots are free or not. Under order
 * staged, where nothing passes by, they are the only ones evicted, oldest load first; where the hot
 * set fills the budget, what an event holds besides goes beyond it. Prefetches load none but the
 * hot set. */
const EvictionPolicy EVICT_STATIC = {.name = "static",
                                     .event = {[ORDER_SERIAL] = static_serial,
                                               [ORDER_BATCH] = static_batch,
                                               [ORDER_STAGED] = static_staged},
                                     .prefetch = static_prefetch,
                                     .needs_hot = true,
                                     .may_bypass = true,
                                     .needs_flags = true};
