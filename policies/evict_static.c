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

ALWAYS_INLINE uint32_t static_serial_event(Scope *scope, ScopeEvent *event)
{
    uint32_t hits = 0;
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        bool hit = scope_holds(scope, object);
        if (event->hit != NULL)
            event->hit[i] = hit;
        hits += hit;
        if (!hit)
            miss(scope, event, object);
        else if (event->actions != NULL)
            scope_report(scope, event, RESIDENCY_HIT, object, scope->slot[object]);
    }
    return hits;
}

ALWAYS_INLINE uint32_t static_batch_event(Scope *scope, ScopeEvent *event)
{
    uint32_t n_misses = find_misses(scope, event);
    if (event->actions != NULL)
        scope_report_hits(scope, event);
    for (uint32_t i = 0; i < n_misses; i++)
        miss(scope, event, event->first_object + event->experts[scope->misses[i]]);
    return event->n - n_misses;
}

/* The ring has the residents that are not of the hot set, oldest load first. */
static void evict_down_to_budget(Scope *scope, ScopeEvent *event)
{
    Ring *ring = &scope->rings[0];
    while (scope->used > scope->budget && !ring_is_empty(ring)) {
        uint32_t object = ring_pop_oldest(ring);
        if (scope_is_active(scope, object))
            scope->aside[scope->n_aside++] = object;
        else
            scope_evict(scope, event, object);
    }
    while (scope->n_aside > 0)
        ring_push_oldest(ring, scope->aside[--scope->n_aside]);
}

ALWAYS_INLINE uint32_t static_staged_event(Scope *scope, ScopeEvent *event)
{
    scope_begin_event(scope);
    uint32_t n_misses = stage(scope, event);
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[event->touches[i]];
        if (scope->missed[event->touches[i]] && !is_hot(scope, object))
            ring_push(&scope->rings[0], object);
    }
    scope_mark(scope, event);
    evict_down_to_budget(scope, event);
    scope->newest = newest_of(scope, event);
    return event->n - n_misses;
}

DEFINE_RUN(static_serial, static_serial_event)
DEFINE_RUN(static_batch, static_batch_event)
DEFINE_RUN(static_staged, static_staged_event)

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
                                     .run = {[ORDER_SERIAL] = static_serial,
                                             [ORDER_BATCH] = static_batch,
                                             [ORDER_STAGED] = static_staged},
                                     .prefetch = static_prefetch,
                                     .needs_hot = true,
                                     .may_bypass = true,
                                     .needs_flags = true,
                                     .n_rings = 1};
