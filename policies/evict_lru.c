#include "policies/event_loop.h"
#include "policies/recency.h"

static void lru_touch(Scope *scope, uint32_t object)
{
    recency_push(scope, &scope->rings[0], 0, object);
}

static uint32_t lru_victim(Scope *scope)
{
    uint32_t object = recency_oldest(scope, &scope->rings[0], 0);
    recency_remove(scope, object);
    return object;
}

static uint32_t lru_victim_outside(Scope *scope)
{
    uint32_t object = recency_oldest_outside(scope, &scope->rings[0], 0);
    recency_remove(scope, object);
    return object;
}

/* Under order batch the members of A among the residents have all been touched when the first
 * victim is wanted, so the oldest is outside A while anyone is. */
static const EvictionRules RULES = {.hit = lru_touch,
                                    .admit = lru_touch,
                                    .victim = lru_victim,
                                    .victim_outside = lru_victim_outside,
                                    .is_oldest_outside = true};

DEFINE_DECISIONS(lru, RULES)

/* What follows decides as the rules do, with the moves of an event at once and hardly a branch that
 * depends on what is found. */

/* True when it can: all weigh the same, and the ring has room. */
static bool has_room_for(Scope *scope, const ScopeEvent *event)
{
    Ring *ring = &scope->rings[0];
    if (scope->layer_weight != NULL || event->n > scope->n_slots)
        return false;
    if (ring_size(ring) + event->n > ring->mask)
        recency_clean(scope, ring, 0);
    return true; /* it has room for four times the slots */
}

static void report_hits(const Scope *scope, ScopeEvent *event, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        uint32_t object = event->first_object + event->experts[i];
        scope_report(scope, event, RESIDENCY_HIT, object, scope->slot[object]);
    }
}

/* Writes the positions in A of the misses to scope->misses and moves the hits to the new end.
 * Returns the number of misses. */
static uint32_t move_hits(Scope *scope, const ScopeEvent *event)
{
    Ring ring = scope->rings[0];
    uint16_t *misses = scope->misses;
    uint32_t n_misses = 0;
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        uint32_t at = ring.head & ring.mask;
        bool hit = scope_holds(scope, object);
        misses[n_misses] = (uint16_t)i;
        n_misses += !hit;
        ring.objects[at] = object;
        scope->position[object] = at; /* a miss has none; it gets one with its load */
        ring.head += hit;
    }
    scope->rings[0].head = ring.head;
    return n_misses;
}

ALWAYS_INLINE uint32_t quick_batch_event(Scope *scope, ScopeEvent *event)
{
    if (!has_room_for(scope, event))
        return lru_batch_event(scope, event);
    Ring *ring = &scope->rings[0];
    uint32_t n_misses = move_hits(scope, event);
    RecencyWalk walk = recency_walk(ring);
    if (event->hit != NULL)
        scope_write_hits(event, scope->misses, n_misses);
    if (event->actions != NULL)
        scope_report_hits(scope, event);
    for (uint32_t i = 0; i < n_misses; i++) {
        uint32_t object = event->first_object + event->experts[scope->misses[i]];
        if (scope_has_room(scope, event))
            scope_load(scope, event, object);
        else
            scope_replace(scope, event, recency_walk_next(scope, ring, &walk), object);
        scope->newest = object;
    }
    ring->tail = recency_walk_end(ring, &walk);
    for (uint32_t i = 0; i < n_misses; i++)
        lru_touch(scope, event->first_object + event->experts[scope->misses[i]]);
    return event->n - n_misses;
}

/* Writes the positions in A of the misses to scope->misses. Returns their number, and in *NEAREST
 * how far from the old end the oldest of the hits is. */
static uint32_t look_at_all(const Scope *scope, const ScopeEvent *event, uint32_t *nearest)
{
    const Ring *ring = &scope->rings[0];
    uint32_t n_misses = 0;
    *nearest = UINT32_MAX;
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        bool hit = scope_holds(scope, object);
        uint32_t age = (scope->position[object] - ring->tail) & ring->mask;
        scope->misses[n_misses] = (uint16_t)i;
        n_misses += !hit;
        *nearest = hit && age < *nearest ? age : *nearest;
    }
    return n_misses;
}

/* As long as no member of A is among the oldest that must go, all lookups find what is there at the
 * start, and the victims are the oldest at the start. Otherwise the lookups go one by one. */
ALWAYS_INLINE uint32_t quick_serial_event(Scope *scope, ScopeEvent *event)
{
    if (!has_room_for(scope, event))
        return lru_serial_event(scope, event);
    Ring *ring = &scope->rings[0];
    uint32_t nearest;
    uint32_t n_misses = look_at_all(scope, event, &nearest);
    uint64_t room = scope->budget - scope->used;
    uint32_t n_victims = n_misses > room ? (uint32_t)(n_misses - room) : 0;
    RecencyWalk walk = recency_walk(ring);
    if (n_victims > scope->n_residents)
        return lru_serial_event(scope, event);
    for (uint32_t i = 0; i < n_victims; i++)
        scope->aside[i] = recency_walk_next(scope, ring, &walk);
    if (nearest < recency_walk_end(ring, &walk) - ring->tail)
        return lru_serial_event(scope, event);
    ring->tail = recency_walk_end(ring, &walk);
    for (uint32_t i = 0; i < event->n; i++)
        lru_touch(scope, event->first_object + event->experts[i]);
    if (event->hit != NULL)
        scope_write_hits(event, scope->misses, n_misses);
    uint32_t reported = 0;
    for (uint32_t i = 0; i < n_misses; i++) {
        uint32_t at = scope->misses[i];
        uint32_t object = event->first_object + event->experts[at];
        if (event->actions != NULL)
            report_hits(scope, event, reported, at);
        reported = at + 1;
        if (i < room)
            scope_load(scope, event, object);
        else
            scope_replace(scope, event, scope->aside[i - room], object);
        scope->newest = object;
    }
    if (event->actions != NULL)
        report_hits(scope, event, reported, event->n);
    return event->n - n_misses;
}

DEFINE_RUN(quick_batch, quick_batch_event)
DEFINE_RUN(lru_staged, lru_staged_event)
DEFINE_RUN(quick_serial, quick_serial_event)

/* Least recently used: the one whose last lookup is longest ago. */
const EvictionPolicy EVICT_LRU = {
    .name = "lru",
    .run =
        {[ORDER_SERIAL] = quick_serial, [ORDER_BATCH] = quick_batch, [ORDER_STAGED] = lru_staged},
    .prefetch = lru_prefetch,
    .needs_positions = true,
    .n_rings = 1};
