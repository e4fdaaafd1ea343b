#include "policies/event_loop.h"
#include "policies/recency.h"
#include "policies/turns.h"
#include "policies/wide.h"

static void mru_touch(Scope *scope, uint32_t object)
{
    recency_push(scope, &scope->rings[0], object);
}

static uint32_t mru_victim(Scope *scope)
{
    uint32_t object = recency_newest(scope, &scope->rings[0]);
    recency_remove(scope, object);
    return object;
}

static uint32_t mru_victim_outside(Scope *scope)
{
    uint32_t object = recency_newest_outside(scope, &scope->rings[0]);
    recency_remove(scope, object);
    return object;
}

static const EvictionRules RULES = {.hit = mru_touch,
                                    .admit = mru_touch,
                                    .victim = mru_victim,
                                    .victim_outside = mru_victim_outside};

DEFINE_DECISIONS(mru, RULES)

static const EvictionRules RULES_MARKING = {.hit = NULL};

/* Room in the ring for all of A. */
ALWAYS_INLINE void make_room(Scope *scope, const ScopeEvent *event)
{
    Ring *ring = &scope->rings[0];
    if (ring_size(ring) + event->n > ring->mask)
        recency_clean(scope, ring);
}

/* The actions of an event that begins with BEFORE as the one looked up last. */
ALWAYS_INLINE void report_all(const Scope *scope, ScopeEvent *event, const Turns *turns,
                              uint32_t before)
{
    uint32_t slot = scope->slot[before];
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = turns_object(event, i);
        bool missed = turns->missed >> i & 1;
        slot = missed ? slot : scope->slot[object];
        if (missed)
            scope_report(scope, event, RESIDENCY_EVICT, before, slot);
        scope_report(scope, event, missed ? RESIDENCY_LOAD : RESIDENCY_HIT, object, slot);
        before = object;
    }
}

/* Of each run of misses the last takes the slot of the lookup before the run, who goes; those in
 * between come and go. */
ALWAYS_INLINE void settle_runs(Scope *scope, ScopeEvent *event, uint64_t missed, uint32_t before)
{
    while (missed != 0) {
        uint32_t from = (uint32_t)__builtin_ctzll(missed);
        uint32_t length = (uint32_t)__builtin_ctzll(~(missed >> from));
        uint32_t source = from > 0 ? turns_object(event, from - 1) : before;
        uint32_t last = turns_object(event, from + length - 1);
        uint32_t slot = scope->slot[source];
        event->evicted_young += length - !scope_is_young(scope, source);
        scope->n_loaded += length;
        scope->loaded_at[last] = scope->n_loaded;
        scope->resident[source] = false;
        recency_remove(scope, source);
        scope->resident[last] = true;
        scope->slot[last] = slot;
        scope->slot_object[slot] = last;
        missed &= missed + (UINT64_C(1) << from);
    }
}

/* Those that no miss follows move to the new end. */
ALWAYS_INLINE void move_stayers(Scope *scope, const ScopeEvent *event, uint64_t missed)
{
    Ring *ring = &scope->rings[0];
    uint64_t all = (UINT64_C(1) << event->n) - 1;
    for (uint64_t left = all & ~(missed >> 1); left != 0; left &= left - 1) {
        uint32_t object = turns_object(event, (uint32_t)__builtin_ctzll(left));
        scope->position[object] = ring->head & ring->mask;
        ring_push(ring, object);
    }
}

/* As the rules decide: a miss takes the slot of the lookup before it, the first that of the newest
 * resident, so a member of A stays unless the next one misses. */
ALWAYS_INLINE uint32_t quick_serial_event(Scope *scope, ScopeEvent *event)
{
    if (!turns_can(scope, event) || event->n > scope->n_slots)
        return mru_serial_event(scope, event);
    make_room(scope, event);
    Turns turns = turns_begin(scope, event);
    uint32_t before = recency_newest(scope, &scope->rings[0]);
    if (turns.missed & 1)
        turns.missed |= turns_evicted(scope, event, &turns, before, 0);
    if (event->actions != NULL)
        report_all(scope, event, &turns, before);
    settle_runs(scope, event, turns.missed, before);
    move_stayers(scope, event, turns.missed);
    if (turns.missed != 0) {
        uint32_t first = (uint32_t)__builtin_ctzll(turns.missed);
        uint32_t victim = first > 0 ? turns_object(event, first - 1) : before;
        event->loads += bits_count(turns.missed);
        event->evictions += event->loads;
        event->evicted_newest +=
            bits_count(turns.missed & turns.missed << 1) + (victim == scope->newest);
        scope->newest = turns_object(event, 63 - (uint32_t)__builtin_clzll(turns.missed));
    }
    return turns_end(event, &turns, (uint32_t)event->loads);
}

/* Goes back from the new end over members of A and what is stale: all that is passed is free to be
 * written again, for the members of A come back to the new end. */
typedef struct {
    uint32_t at;   /* position of the first of those in BITS */
    uint32_t bits; /* of those outside A, not walked over */
} WalkBack;

/* As recency_live(), but of those without the mark of EVENT. */
ALWAYS_INLINE uint32_t live_outside(const uint32_t *objects, const uint32_t *position,
                                    uint32_t ring_mask, uint32_t at, const uint16_t *mark,
                                    uint16_t event)
{
    uint32_t bits = 0;
    for (uint32_t i = 0; i < RECENCY_STRIDE; i++) {
        uint32_t object = objects[(at + i) & ring_mask];
        bool is_there = position[object] == ((at + i) & ring_mask);
        bool is_outside = mark[object] != event;
        bits |= (uint32_t)(is_there & is_outside) << i;
    }
    return bits;
}

ALWAYS_INLINE uint32_t walk_back(const Scope *scope, const Ring *ring, WalkBack *walk)
{
    while (walk->bits == 0) {
        walk->at -= RECENCY_STRIDE;
        walk->bits = live_outside(ring->objects, scope->position, ring->mask, walk->at, scope->mark,
                                  scope->event);
    }
    uint32_t bit = 31 - (uint32_t)__builtin_clz(walk->bits);
    walk->bits ^= UINT32_C(1) << bit;
    return walk->at + bit;
}

/* As the rules decide. */
ALWAYS_INLINE uint32_t quick_batch_event(Scope *scope, ScopeEvent *event)
{
    if (scope->n_free > 0 || scope->layer_weight != NULL || event->n > scope->n_slots)
        return mru_batch_event(scope, event);
    scope_begin_event(scope);
    make_room(scope, event);
    Ring *ring = &scope->rings[0];
    WalkBack walk = {.at = ring->head};
    uint32_t end = ring->head;
    uint32_t n_misses = split(&RULES_MARKING, scope, event);
    if (event->actions != NULL)
        scope_report_hits(scope, event);
    for (uint32_t i = 0; i < n_misses; i++) {
        end = walk_back(scope, ring, &walk);
        scope->aside[i] = ring->objects[end & ring->mask];
    }
    uint32_t first = event->first_object;
    recency_move_hits(event->experts, event->n, first, scope->resident + first,
                      scope->position + first, ring->objects, ring->mask, end, scope->misses);
    ring->head = end + event->n - n_misses;
    for (uint32_t i = 0; i < n_misses; i++) {
        uint32_t object = first + event->experts[scope->misses[i]];
        recency_remove(scope, scope->aside[i]);
        scope_replace(scope, event, scope->aside[i], object);
        scope->newest = object;
        scope->position[object] = ring->head & ring->mask;
        ring_push(ring, object);
    }
    return event->n - n_misses;
}

DEFINE_RUN(mru_serial, quick_serial_event)
DEFINE_RUN(mru_batch, quick_batch_event)
DEFINE_RUN(mru_staged, mru_staged_event)

static void run_serial(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    wide_run(scope, events, run, wide_mru_serial, mru_serial);
}

static void run_batch(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    wide_run(scope, events, run, wide_mru_batch, mru_batch);
}

/* Most recently used: the one looked up last. */
const EvictionPolicy EVICT_MRU = {
    .name = "mru",
    .run = {[ORDER_SERIAL] = run_serial, [ORDER_BATCH] = run_batch, [ORDER_STAGED] = mru_staged},
    .prefetch = mru_prefetch,
    .needs_positions = true,
    .needs_turns = true,
    .n_rings = 1};
