#include "policies/event_loop.h"
#include "policies/recency.h"
#include "policies/turns.h"
#include "policies/wide.h"

static void lru_touch(Scope *scope, uint32_t object)
{
    recency_push(scope, &scope->rings[0], object);
}

static uint32_t lru_victim(Scope *scope)
{
    uint32_t object = recency_oldest(scope, &scope->rings[0]);
    recency_remove(scope, object);
    return object;
}

static uint32_t lru_victim_outside(Scope *scope)
{
    uint32_t object = recency_oldest_outside(scope, &scope->rings[0]);
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

/* VICTIM has been passed over by the ring's old end. */
ALWAYS_INLINE void replace(Scope *scope, ScopeEvent *event, uint32_t victim, uint32_t object)
{
    recency_remove(scope, victim);
    scope_replace(scope, event, victim, object);
}

/* True when it can: all weigh the same, and the ring has room. */
static bool has_room_for(Scope *scope, const ScopeEvent *event)
{
    Ring *ring = &scope->rings[0];
    if (scope->layer_weight != NULL || event->n > scope->n_slots)
        return false;
    if (ring_size(ring) + event->n > ring->mask)
        recency_clean(scope, ring);
    return true; /* it has room for four times the slots */
}

ALWAYS_INLINE uint32_t quick_batch_event(Scope *scope, ScopeEvent *event)
{
    if (!has_room_for(scope, event))
        return lru_batch_event(scope, event);
    Ring *ring = &scope->rings[0];
    uint32_t first = event->first_object;
    uint32_t n_misses = recency_move_hits(event->experts, event->n, first, scope->resident + first,
                                          scope->position + first, ring->objects, ring->mask,
                                          ring->head, scope->misses);
    ring->head += event->n - n_misses;
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
            replace(scope, event, recency_walk_next(scope, ring, &walk), object);
        scope->newest = object;
    }
    ring->tail = recency_walk_end(ring, &walk);
    recency_append_misses(event->experts, scope->misses, n_misses, first, scope->position + first,
                          ring->objects, ring->mask, ring->head);
    ring->head += n_misses;
    return event->n - n_misses;
}

/* As long as no member of A is older than the last that must go, the lookups find what is there at
 * the start, and the victims are the oldest of the others. Else nothing has changed, and it returns
 * false. */
ALWAYS_INLINE bool decide_at_once(Scope *scope, ScopeEvent *event, uint32_t *n_misses)
{
    Ring *ring = &scope->rings[0];
    uint32_t first = event->first_object;
    uint32_t *position = scope->position + first;
    uint32_t before[TURNS_MOST];
    uint32_t nearest;
    *n_misses = recency_append_all(event->experts, event->n, first, scope->resident + first,
                                   position, ring, scope->misses, before, &nearest);
    RecencyWalk walk = recency_walk(ring);
    for (uint32_t i = 0; i < *n_misses; i++)
        scope->aside[i] = recency_walk_next(scope, ring, &walk);
    uint32_t end = recency_walk_end(ring, &walk);
    if (*n_misses > 0 && nearest < end - ring->tail) {
        for (uint32_t i = 0; i < event->n; i++)
            position[event->experts[i]] = before[i];
        return false;
    }
    for (uint32_t i = 0; i < *n_misses; i++) {
        uint32_t object = first + event->experts[scope->misses[i]];
        replace(scope, event, scope->aside[i], object);
        scope->newest = object;
    }
    ring->tail = end;
    ring->head += event->n;
    if (event->hit != NULL)
        scope_write_hits(event, scope->misses, *n_misses);
    return true;
}

/* Those of A whose turn has been are no longer where they were at the start: all of A moves at the
 * end, and until then they are passed over. */
ALWAYS_INLINE uint32_t quick_serial_event(Scope *scope, ScopeEvent *event)
{
    if (!turns_can(scope, event) || !has_room_for(scope, event))
        return lru_serial_event(scope, event);
    uint32_t n_misses;
    if (event->actions == NULL && decide_at_once(scope, event, &n_misses))
        return event->n - n_misses;
    Turns turns = turns_begin(scope, event);
    Ring *ring = &scope->rings[0];
    RecencyWalk walk = recency_walk(ring);
    uint32_t reported = 0;
    for (uint64_t left = turns.missed; left != 0;) {
        uint32_t at = (uint32_t)__builtin_ctzll(left);
        uint32_t object = turns_object(event, at);
        uint32_t victim;
        do
            victim = recency_walk_next(scope, ring, &walk);
        while (turns_of(scope, &turns, victim) < at);
        uint64_t evicted = turns_evicted(scope, event, &turns, victim, at);
        turns_report_hits(scope, event, &turns, reported, at);
        reported = at + 1;
        turns.missed |= evicted;
        left = (left & (left - 1)) | evicted;
        replace(scope, event, victim, object);
        scope->newest = object;
    }
    turns_report_hits(scope, event, &turns, reported, event->n);
    ring->tail = recency_walk_end(ring, &walk);
    recency_append(event->experts, event->n, event->first_object,
                   scope->position + event->first_object, ring->objects, ring->mask, ring->head);
    ring->head += event->n;
    return turns_end(event, &turns, (uint32_t)event->loads);
}

DEFINE_RUN(quick_batch, quick_batch_event)
DEFINE_RUN(lru_staged, lru_staged_event)
DEFINE_RUN(lru_serial, quick_serial_event)

static void run_serial(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    wide_run(scope, events, run, wide_lru_serial, lru_serial);
}

static void run_batch(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    wide_run(scope, events, run, wide_lru_batch, quick_batch);
}

/* Least recently used: the one whose last lookup is longest ago. */
const EvictionPolicy EVICT_LRU = {
    .name = "lru",
    .run = {[ORDER_SERIAL] = run_serial, [ORDER_BATCH] = run_batch, [ORDER_STAGED] = lru_staged},
    .prefetch = lru_prefetch,
    .needs_positions = true,
    .needs_turns = true,
    .n_rings = 1};
