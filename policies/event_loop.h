/* The replay orders serial, batch and staged as loops over the rules of a policy. Inside policies/
 * only.
 *
 * A policy hands in a constant EvictionRules; everything is inlined into its own functions, so that
 * a hit costs what the policy's hit rule costs. Choices that the orders leave open, made here
 * for every policy alike:
 *
 *   - free slots are given out from 0 up, later the one freed last first;
 *   - where sizes differ and the budget is in bytes, victims go until the newcomer fits;
 *   - batch: hits are touched in ascending id, then misses admitted in ascending id; a victim comes
 *     from the residents outside A while there are any, whatever the scope, then from all;
 *   - serial: a victim comes from all residents, members of A that have run or will run included.
 */
#ifndef POLICIES_EVENT_LOOP_H
#define POLICIES_EVENT_LOOP_H

#include "policies/eviction.h"

typedef struct {
    void (*begin)(Scope *scope, const ScopeEvent *event); /* before any lookup; may be NULL */
    void (*hit)(Scope *scope, uint32_t object); /* a lookup found it; NULL: the policy ignores it */
    /* The same for all of A, with what the lookup found, so that no branch depends on it; NULL: hit
     * does. What it writes of those that missed has no effect once they are admitted. */
    void (*look_up)(Scope *scope, uint32_t object, bool hit);
    void (*miss)(Scope *scope, uint32_t object); /* a lookup missed, nobody has gone yet; or NULL */
    void (*admit)(Scope *scope, uint32_t object); /* ... and it was loaded */
    uint32_t (*victim)(Scope *scope);             /* leaves the order; of all residents */
    uint32_t (*victim_outside)(Scope *scope);     /* of those without a mark, of which one exists */
    void (*end)(Scope *scope);                    /* of an event with victims; may be NULL */
    bool inactive_first_in_serial;                /* serial prefers victims outside A too */
    bool is_oldest_outside; /* victim() is outside A by itself while anyone is: no marks needed */
} EvictionRules;

ALWAYS_INLINE uint32_t choose_victim(const EvictionRules *rules, Scope *scope,
                                     const ScopeEvent *event, bool inactive_first)
{
    if (!inactive_first || rules->is_oldest_outside)
        return rules->victim(scope);
    if (!scope->marked)
        scope_mark(scope, event);
    if (scope->outside == 0)
        return rules->victim(scope);
    scope->outside--;
    return rules->victim_outside(scope);
}

/* Loads OBJECT, after as many victims as it takes: one at most where all weigh the same. */
ALWAYS_INLINE void admit(const EvictionRules *rules, Scope *scope, ScopeEvent *event,
                         uint32_t object, bool inactive_first)
{
    if (rules->miss != NULL)
        rules->miss(scope, object);
    while (scope->layer_weight != NULL && !scope_has_room(scope, event))
        scope_evict(scope, event, choose_victim(rules, scope, event, inactive_first));
    if (scope_has_room(scope, event))
        scope_load(scope, event, object);
    else
        scope_replace(scope, event, choose_victim(rules, scope, event, inactive_first), object);
    scope->newest = object;
    rules->admit(scope, object);
}

ALWAYS_INLINE uint32_t serial_event(const EvictionRules *rules, Scope *scope, ScopeEvent *event)
{
    uint32_t hits = 0;
    scope_begin_event(scope);
    if (rules->begin != NULL)
        rules->begin(scope, event);
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        bool hit = scope_holds(scope, object);
        if (event->hit != NULL)
            event->hit[i] = hit;
        if (!hit) {
            admit(rules, scope, event, object, rules->inactive_first_in_serial);
            continue;
        }
        hits++;
        if (rules->hit != NULL)
            rules->hit(scope, object);
        if (event->actions != NULL)
            scope_report(scope, event, RESIDENCY_HIT, object, scope->slot[object]);
    }
    if (rules->end != NULL)
        rules->end(scope);
    return hits;
}

/* The lookups of a batch: A is marked, hits are touched. Writes the positions of A that missed to
 * scope->misses; returns how many. Nothing branches on a hit where the policy does not. */
ALWAYS_INLINE uint32_t split(const EvictionRules *rules, Scope *scope, ScopeEvent *event)
{
    const uint16_t *experts = event->experts;
    uint16_t *restrict misses = scope->misses;
    uint16_t *restrict mark = scope->mark + event->first_object;
    const bool *resident = scope->resident + event->first_object;
    uint16_t number = scope->event;
    uint32_t n = event->n;
    uint32_t n_misses = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t expert = experts[i];
        bool hit = resident[expert];
        misses[n_misses] = (uint16_t)i;
        n_misses += !hit;
        if (!rules->is_oldest_outside)
            mark[expert] = number;
        if (rules->look_up != NULL)
            rules->look_up(scope, event->first_object + expert, hit);
        else if (rules->hit != NULL && hit)
            rules->hit(scope, event->first_object + expert);
    }
    if (event->hit != NULL)
        scope_write_hits(event, misses, n_misses);
    scope->outside = scope->n_residents - (n - n_misses);
    scope->marked = true;
    return n_misses;
}

ALWAYS_INLINE uint32_t batch_event(const EvictionRules *rules, Scope *scope, ScopeEvent *event)
{
    scope_begin_event(scope);
    if (rules->begin != NULL)
        rules->begin(scope, event);
    uint32_t n_misses = split(rules, scope, event);
    if (event->actions != NULL)
        scope_report_hits(scope, event);
    for (uint32_t i = 0; i < n_misses; i++)
        admit(rules, scope, event, event->first_object + event->experts[scope->misses[i]], true);
    if (rules->end != NULL && n_misses > 0)
        rules->end(scope);
    return event->n - n_misses;
}

/* Writes the positions of A that are not resident to scope->misses; returns how many. */
ALWAYS_INLINE uint32_t find_misses(Scope *scope, ScopeEvent *event)
{
    uint32_t n_misses = 0;
    for (uint32_t i = 0; i < event->n; i++) {
        bool hit = scope_holds(scope, event->first_object + event->experts[i]);
        if (event->hit != NULL)
            event->hit[i] = hit;
        scope->missed[i] = !hit;
        scope->misses[n_misses] = (uint16_t)i;
        n_misses += !hit;
    }
    return n_misses;
}

/* The lookups of a staged event: loads all that miss. Returns how many. */
ALWAYS_INLINE uint32_t stage(Scope *scope, ScopeEvent *event)
{
    uint32_t n_misses = find_misses(scope, event);
    if (event->actions != NULL)
        scope_report_hits(scope, event);
    for (uint32_t i = 0; i < n_misses; i++)
        scope_load(scope, event, event->first_object + event->experts[scope->misses[i]]);
    scope->peak = scope->used > scope->peak ? scope->used : scope->peak;
    return n_misses;
}

ALWAYS_INLINE void touch_staged(const EvictionRules *rules, Scope *scope, const ScopeEvent *event)
{
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t at = event->touches[i];
        uint32_t object = event->first_object + event->experts[at];
        if (scope->missed[at] && rules->miss != NULL)
            rules->miss(scope, object);
        if (scope->missed[at])
            rules->admit(scope, object);
        else if (rules->hit != NULL)
            rules->hit(scope, object);
    }
}

/* The newest of the events before is what evictions are compared with: this event's stay. */
ALWAYS_INLINE uint32_t newest_of(const Scope *scope, const ScopeEvent *event)
{
    for (uint32_t i = event->n; i-- > 0;)
        if (scope->missed[event->touches[i]])
            return event->first_object + event->experts[event->touches[i]];
    return scope->newest;
}

ALWAYS_INLINE uint32_t staged_event(const EvictionRules *rules, Scope *scope, ScopeEvent *event)
{
    scope_begin_event(scope);
    if (rules->begin != NULL)
        rules->begin(scope, event);
    uint32_t n_misses = stage(scope, event);
    touch_staged(rules, scope, event);
    scope->outside = scope->n_residents - event->n;
    if (scope->used > scope->budget && scope->outside > 0) {
        scope_mark(scope, event);
        while (scope->used > scope->budget && scope->outside > 0) {
            bool by_itself = rules->is_oldest_outside;
            scope->outside--;
            scope_evict(scope, event,
                        by_itself ? rules->victim(scope) : rules->victim_outside(scope));
        }
        if (rules->end != NULL)
            rules->end(scope);
    }
    scope->newest = newest_of(scope, event);
    return event->n - n_misses;
}

/* Prefetches: residents that must stay are marked, and as many others as it takes go. */
ALWAYS_INLINE void prefetch_event(const EvictionRules *rules, Scope *scope, ScopeEvent *event)
{
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = event->first_object + event->experts[i];
        if (scope->kept + event->weight > scope->budget)
            break;
        if (rules->miss != NULL)
            rules->miss(scope, object);
        while (!scope_has_room(scope, event)) {
            uint32_t victim = rules->victim_outside(scope);
            assert(!scope_is_active(scope, victim));
            scope_evict(scope, event, victim);
        }
        scope_load(scope, event, object);
        scope->kept += event->weight;
        scope->newest = object;
        rules->admit(scope, object);
    }
    if (rules->end != NULL)
        rules->end(scope);
}

/* Defines the event functions of a policy from its constant RULES. */
#define DEFINE_EVENTS(prefix, RULES)                                                               \
    static uint32_t prefix##_serial(Scope *scope, ScopeEvent *event)                               \
    {                                                                                              \
        return serial_event(&RULES, scope, event);                                                 \
    }                                                                                              \
    static uint32_t prefix##_batch(Scope *scope, ScopeEvent *event)                                \
    {                                                                                              \
        return batch_event(&RULES, scope, event);                                                  \
    }                                                                                              \
    static uint32_t prefix##_staged(Scope *scope, ScopeEvent *event)                               \
    {                                                                                              \
        return staged_event(&RULES, scope, event);                                                 \
    }                                                                                              \
    static void prefix##_prefetch(Scope *scope, ScopeEvent *event)                                 \
    {                                                                                              \
        prefetch_event(&RULES, scope, event);                                                      \
    }

/* Their place in the policy's row. */
#define EVENTS(prefix)                                                                             \
    .event = {[ORDER_SERIAL] = prefix##_serial,                                                    \
              [ORDER_BATCH] = prefix##_batch,                                                      \
              [ORDER_STAGED] = prefix##_staged},                                                   \
    .prefetch = prefix##_prefetch

#endif
