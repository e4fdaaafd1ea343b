#include "policies/eviction.h"

/* Farthest next use first, then the lower object: the heap has its smallest key on top. */
static uint64_t key_of(uint32_t next_use, uint32_t object)
{
    return (uint64_t)(UINT32_MAX - next_use) << 32 | object;
}

static uint32_t next_use_of(uint64_t key)
{
    return UINT32_MAX - (uint32_t)(key >> 32);
}

static void hold(Scope *scope, ScopeEvent *event, uint32_t object)
{
    event->loads++;
    if (event->actions != NULL)
        scope_report(event, RESIDENCY_LOAD, object, scope->nodes[object].slot);
}

/* True when no resident on the heap is needed later than NEXT_USE. */
static bool is_worth_less(const Scope *scope, uint32_t next_use)
{
    return next_use_of(scope->heap.entries[0].key) <= next_use;
}

static void pass_by(const Scope *scope, ScopeEvent *event, uint32_t object)
{
    event->loads++;
    event->bypasses++;
    if (event->actions != NULL)
        scope_report(event, RESIDENCY_BYPASS, object, scope->n_slots);
}

static void replace_top(Scope *scope, ScopeEvent *event, uint32_t object)
{
    uint32_t victim = scope->heap.entries[0].object;
    heap_pop(&scope->heap);
    scope_replace(scope, event, victim, object);
    hold(scope, event, object);
}

ALWAYS_INLINE void serial_miss(Scope *scope, ScopeEvent *event, uint32_t object, uint32_t next_use,
                               bool may_bypass)
{
    if (scope->n_used < scope->n_slots) {
        scope_fill(scope, object);
        hold(scope, event, object);
    } else if (may_bypass && is_worth_less(scope, next_use)) {
        pass_by(scope, event, object);
        return;
    } else {
        replace_top(scope, event, object);
    }
    heap_push(&scope->heap, object, key_of(next_use, object));
}

ALWAYS_INLINE uint32_t serial(Scope *scope, ScopeEvent *event, bool may_bypass)
{
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        bool hit = scope_holds(scope, object);
        if (event->hit != NULL)
            event->hit[i] = hit;
        if (!hit) {
            serial_miss(scope, event, object, event->next_use[i], may_bypass);
            continue;
        }
        heap_lessen(&scope->heap, object, key_of(event->next_use[i], object));
        if (event->actions != NULL)
            scope_report(event, RESIDENCY_HIT, object, scope->nodes[object].slot);
    }
    return event->n - event->loads;
}

/* Brings the heap up to date for the members of A: those that hit, and those of the first N_DONE
 * misses that were kept. Then every resident is a candidate. */
static void release(Scope *scope, const ScopeEvent *event, uint32_t n_misses, uint32_t n_done)
{
    uint32_t miss = 0;
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        uint64_t key = key_of(event->next_use[i], object);
        if (miss == n_misses || scope->misses[miss] != i)
            heap_lessen(&scope->heap, object, key);
        else if (miss++ < n_done && scope_holds(scope, object))
            heap_push(&scope->heap, object, key);
    }
}

/* Order batch. While an event runs, members of A do not compete: those that hit keep their old key,
 * which is now, the nearest of all, and those loaded are not yet on the heap. So the top is the
 * best victim outside A, until nobody is outside; then A is released. */
ALWAYS_INLINE void batch_misses(Scope *scope, ScopeEvent *event, uint32_t n_misses, bool may_bypass)
{
    uint32_t outside = scope->n_used - (event->n - n_misses);
    bool released = false;
    for (uint32_t i = 0; i < n_misses; i++) {
        uint32_t at = scope->misses[i];
        uint32_t object = event->first_object + event->experts[at];
        bool is_full = scope->n_used == scope->n_slots;
        if (is_full && outside == 0 && !released) {
            release(scope, event, n_misses, i);
            released = true;
        }
        if (!is_full) {
            scope_fill(scope, object);
            hold(scope, event, object);
        } else if (may_bypass && is_worth_less(scope, event->next_use[at])) {
            pass_by(scope, event, object);
            continue;
        } else {
            replace_top(scope, event, object);
            outside -= !released;
        }
        if (released)
            heap_push(&scope->heap, object, key_of(event->next_use[at], object));
    }
    if (!released)
        release(scope, event, n_misses, n_misses);
}

ALWAYS_INLINE uint32_t batch(Scope *scope, ScopeEvent *event, bool may_bypass)
{
    uint32_t n_misses = 0;
    for (uint32_t i = 0; i < event->n; i++) {
        bool hit = scope_holds(scope, event->first_object + event->experts[i]);
        if (event->hit != NULL)
            event->hit[i] = hit;
        scope->misses[n_misses] = (uint16_t)i;
        n_misses += !hit;
    }
    if (event->actions != NULL)
        scope_report_hits(scope, event);
    batch_misses(scope, event, n_misses, may_bypass);
    return event->n - n_misses;
}

static uint32_t belady_serial(Scope *scope, ScopeEvent *event)
{
    return serial(scope, event, true);
}

static uint32_t belady_batch(Scope *scope, ScopeEvent *event)
{
    return batch(scope, event, true);
}

static uint32_t admit_serial(Scope *scope, ScopeEvent *event)
{
    return serial(scope, event, false);
}

static uint32_t admit_batch(Scope *scope, ScopeEvent *event)
{
    return batch(scope, event, false);
}

/* The offline optimum. Belady 1966 (A study of replacement algorithms for virtual-storage
 * computers): the resident needed farthest in the future goes, ties to the lower layer, then the
 * lower id. An expert that no resident is needed later than is not kept at all: it passes through
 * the staging slot, and nobody is evicted for it. Under order serial the rest of the same event is
 * future too. */
const EvictionPolicy EVICT_BELADY = {.name = "belady",
                                     .serial = belady_serial,
                                     .batch = belady_batch,
                                     .needs_future = true,
                                     .may_bypass = true,
                                     .needs_heap = true,
                                     .needs_where = true};

/* The same for a cache that must keep what it loads. */
const EvictionPolicy EVICT_BELADY_ADMIT = {.name = "belady-admit",
                                           .serial = admit_serial,
                                           .batch = admit_batch,
                                           .needs_future = true,
                                           .needs_heap = true,
                                           .needs_where = true};
