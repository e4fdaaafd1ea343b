#include "policies/event_loop.h"

/* True when no resident is needed later than NEXT_USE. */
static bool is_worth_less(const Scope *scope, uint32_t next_use)
{
    return farthest_use(&scope->farthest) <= next_use;
}

static void evict_last(Scope *scope, ScopeEvent *event)
{
    uint32_t victim = farthest_object(&scope->farthest);
    farthest_remove(&scope->farthest, victim);
    scope_evict(scope, event, victim);
}

ALWAYS_INLINE void serial_miss(Scope *scope, ScopeEvent *event, uint32_t object, uint32_t next_use,
                               bool may_bypass)
{
    while (!scope_has_room(scope, event)) {
        if (may_bypass && is_worth_less(scope, next_use)) {
            scope_pass_by(scope, event, object);
            return;
        }
        evict_last(scope, event);
    }
    scope_load(scope, event, object);
    scope->newest = object;
    farthest_put(&scope->farthest, object, next_use);
}

ALWAYS_INLINE uint32_t serial(Scope *scope, ScopeEvent *event, bool may_bypass)
{
    uint32_t hits = 0;
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        bool hit = scope_holds(scope, object);
        if (event->hit != NULL)
            event->hit[i] = hit;
        hits += hit;
        if (!hit) {
            serial_miss(scope, event, object, event->next_use[i], may_bypass);
            continue;
        }
        farthest_put(&scope->farthest, object, event->next_use[i]);
        if (event->actions != NULL)
            scope_report(scope, event, RESIDENCY_HIT, object, scope->slot[object]);
    }
    return hits;
}

/* Brings what is known of the members of A up to date: those that hit, and those of the first
 * N_DONE misses that were kept. Then every resident is a candidate. */
static void release(Scope *scope, const ScopeEvent *event, uint32_t n_misses, uint32_t n_done)
{
    uint32_t miss = 0;
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        bool missed = miss < n_misses && scope->misses[miss] == i;
        if (!missed || (miss < n_done && scope_holds(scope, object)))
            farthest_put(&scope->farthest, object, event->next_use[i]);
        miss += missed;
    }
}

/* What is outside A in the middle of an event. */
typedef struct {
    uint32_t outside;
    uint32_t n_misses;
    bool released; /* members of A compete */
} Contest;

/* Makes room for the miss number I. Returns false when it is better passed by. While an event runs,
 * members of A do not compete: those that hit keep their old time, which is now, the nearest of
 * all, and those loaded have none yet. So who is needed last is the best victim outside A, until
 * nobody is outside; then A is released. */
ALWAYS_INLINE bool make_room(Scope *scope, ScopeEvent *event, Contest *contest, uint32_t i,
                             bool may_bypass)
{
    while (!scope_has_room(scope, event)) {
        if (contest->outside == 0 && !contest->released) {
            release(scope, event, contest->n_misses, i);
            contest->released = true;
        }
        if (may_bypass && is_worth_less(scope, event->next_use[scope->misses[i]]))
            return false;
        evict_last(scope, event);
        contest->outside -= !contest->released;
    }
    return true;
}

ALWAYS_INLINE void batch_misses(Scope *scope, ScopeEvent *event, uint32_t n_misses, bool may_bypass)
{
    Contest contest = {.outside = scope->n_residents - (event->n - n_misses), .n_misses = n_misses};
    for (uint32_t i = 0; i < n_misses; i++) {
        uint32_t at = scope->misses[i];
        uint32_t object = event->first_object + event->experts[at];
        if (!make_room(scope, event, &contest, i, may_bypass)) {
            scope_pass_by(scope, event, object);
            continue;
        }
        scope_load(scope, event, object);
        scope->newest = object;
        if (contest.released)
            farthest_put(&scope->farthest, object, event->next_use[at]);
    }
    if (!contest.released)
        release(scope, event, n_misses, n_misses);
}

ALWAYS_INLINE uint32_t batch(Scope *scope, ScopeEvent *event, bool may_bypass)
{
    uint32_t n_misses = find_misses(scope, event);
    if (event->actions != NULL)
        scope_report_hits(scope, event);
    batch_misses(scope, event, n_misses, may_bypass);
    return event->n - n_misses;
}

/* Nothing is passed by under order staged: what was loaded stays for its event. */
ALWAYS_INLINE uint32_t staged_events(Scope *scope, ScopeEvent *event)
{
    uint32_t n_misses = stage(scope, event);
    uint32_t outside = scope->n_residents - event->n;
    for (; scope->used > scope->budget && outside > 0; outside--)
        evict_last(scope, event);
    release(scope, event, n_misses, n_misses);
    scope->newest = newest_of(scope, event);
    return event->n - n_misses;
}

ALWAYS_INLINE uint32_t belady_serial_event(Scope *scope, ScopeEvent *event)
{
    return serial(scope, event, true);
}

ALWAYS_INLINE uint32_t belady_batch_event(Scope *scope, ScopeEvent *event)
{
    return batch(scope, event, true);
}

ALWAYS_INLINE uint32_t admit_serial_event(Scope *scope, ScopeEvent *event)
{
    return serial(scope, event, false);
}

ALWAYS_INLINE uint32_t admit_batch_event(Scope *scope, ScopeEvent *event)
{
    return batch(scope, event, false);
}

DEFINE_RUN(belady_serial, belady_serial_event)
DEFINE_RUN(belady_batch, belady_batch_event)
DEFINE_RUN(admit_serial, admit_serial_event)
DEFINE_RUN(admit_batch, admit_batch_event)
DEFINE_RUN(staged, staged_events)

/* The offline optimum. Belady 1966 (A study of replacement algorithms for virtual-storage
 * computers): the resident needed farthest in the future goes, ties to the lower layer, then the
 * lower id. An expert that no resident is needed later than is not kept at all: it passes through
 * the staging slot, and nobody is evicted for it. Under order serial the rest of the same event is
 * future too; under order staged nothing is passed by, and it is belady-admit. */
const EvictionPolicy EVICT_BELADY = {
    .name = "belady",
    .run = {[ORDER_SERIAL] = belady_serial, [ORDER_BATCH] = belady_batch, [ORDER_STAGED] = staged},
    .needs_future = true,
    .may_bypass = true,
    .needs_farthest = true};

/* The same for a cache that must keep what it loads. */
const EvictionPolicy EVICT_BELADY_ADMIT = {
    .name = "belady-admit",
    .run = {[ORDER_SERIAL] = admit_serial, [ORDER_BATCH] = admit_batch, [ORDER_STAGED] = staged},
    .needs_future = true,
    .needs_farthest = true};
