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
    uint32_t first = event->first_object;
    uint32_t n_misses = scope_split(experts, event->n, scope->resident + first, scope->event,
                                    scope->mark + first, scope->misses);
    for (uint32_t i = 0; i < event->n && rules->look_up != NULL; i++)
        rules->look_up(scope, first + experts[i], scope->resident[first + experts[i]]);
    if (rules->look_up == NULL && rules->hit != NULL) {
        uint16_t *hits =
            scope->misses + event->n; /* found first: a branch on each would cost more */
        uint32_t n_hits = 0;
        for (uint32_t i = 0; i < event->n; i++) {
            hits[n_hits] = experts[i];
            n_hits += scope->resident[first + experts[i]];
        }
        for (uint32_t i = 0; i < n_hits; i++)
            rules->hit(scope, first + hits[i]);
    }
    if (event->hit != NULL)
        scope_write_hits(event, scope->misses, n_misses);
    scope->outside = scope->n_residents - (event->n - n_misses);
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

/* A pass over the layers ends where they do not ascend. */
ALWAYS_INLINE void note_layer(Scope *scope, uint32_t layer_index)
{
    uint32_t layer = scope->object_layer != NULL ? layer_index : 0;
    scope->step += layer <= scope->layer || scope->step == 0;
    scope->layer = layer;
}

/* The event of SPAN, with nothing counted yet. */
ALWAYS_INLINE ScopeEvent event_of(const ScopeEvent *events, const BufferRun *run, BufferSpan span)
{
    const ScopeEvent *of = &events[span.layer_index];
    return (ScopeEvent){
        .experts = run->experts + span.first,
        .n = span.n,
        .first_object = of->first_object,
        .weight = of->weight,
        .actions = of->actions,
        .hit = run->hit != NULL ? run->hit + span.first : NULL,
        .next_use = run->next_use != NULL ? run->next_use + span.first : NULL,
        .n_experts = of->n_experts,
        .scores = of->scores,
        .touches = run->touches != NULL ? run->touches + span.first : NULL,
        .layer_objects = of->layer_objects,
        .layer_index = span.layer_index,
        .n_actions = of->n_actions,
    };
}

ALWAYS_INLINE void add_event(ScopeEvent *of, const ScopeEvent *event, uint32_t hits)
{
    of->hits += hits;
    of->lookups += event->n;
    of->loads += event->loads;
    of->evictions += event->evictions;
    of->evicted_newest += event->evicted_newest;
    of->evicted_young += event->evicted_young;
    of->bypasses += event->bypasses;
    of->n_actions = event->n_actions;
}

/* Nobody wants the actions, and all weigh the same. */
ALWAYS_INLINE bool is_quiet(const Scope *scope, const ScopeEvent *events, const BufferRun *run)
{
    return scope->layer_weight == NULL && run->n_spans > 0 &&
           events[run->spans[0].layer_index].actions == NULL;
}

/* Defines NAME, which decides runs of events with DECIDE, uint32_t (Scope *, ScopeEvent *), which
 * returns an event's hits. It is compiled twice: a quiet run has a copy of the scope that no
 * pointer leads to, so that its numbers can stay in registers from one event to the next. */
#define DEFINE_RUN(name, decide)                                                                   \
    __attribute__((flatten)) static void name(Scope *scope, ScopeEvent *events,                    \
                                              const BufferRun *run)                                \
    {                                                                                              \
        if (is_quiet(scope, events, run)) {                                                        \
            Scope own = *scope;                                                                    \
            own.layer_weight = NULL;                                                               \
            for (uint32_t i = 0; i < run->n_spans; i++) {                                          \
                ScopeEvent event = event_of(events, run, run->spans[i]);                           \
                event.actions = NULL;                                                              \
                event.weight = 1;                                                                  \
                note_layer(&own, event.layer_index);                                               \
                uint32_t hits = decide(&own, &event);                                              \
                add_event(&events[event.layer_index], &event, hits);                               \
            }                                                                                      \
            *scope = own;                                                                          \
            return;                                                                                \
        }                                                                                          \
        for (uint32_t i = 0; i < run->n_spans; i++) {                                              \
            ScopeEvent event = event_of(events, run, run->spans[i]);                               \
            note_layer(scope, event.layer_index);                                                  \
            uint32_t hits = decide(scope, &event);                                                 \
            add_event(&events[event.layer_index], &event, hits);                                   \
        }                                                                                          \
    }

/* Defines how a policy decides an event in each order, and how it prefetches, from its constant
 * RULES. */
#define DEFINE_DECISIONS(prefix, RULES)                                                            \
    ALWAYS_INLINE uint32_t prefix##_serial_event(Scope *scope, ScopeEvent *event)                  \
    {                                                                                              \
        return serial_event(&RULES, scope, event);                                                 \
    }                                                                                              \
    ALWAYS_INLINE uint32_t prefix##_batch_event(Scope *scope, ScopeEvent *event)                   \
    {                                                                                              \
        return batch_event(&RULES, scope, event);                                                  \
    }                                                                                              \
    ALWAYS_INLINE uint32_t prefix##_staged_event(Scope *scope, ScopeEvent *event)                  \
    {                                                                                              \
        return staged_event(&RULES, scope, event);                                                 \
    }                                                                                              \
    static void prefix##_prefetch(Scope *scope, ScopeEvent *event)                                 \
    {                                                                                              \
        prefetch_event(&RULES, scope, event);                                                      \
    }

/* The same, and runs of them for all orders. */
#define DEFINE_EVENTS(prefix, RULES)                                                               \
    DEFINE_DECISIONS(prefix, RULES)                                                                \
    DEFINE_RUN(prefix##_serial, prefix##_serial_event)                                             \
    DEFINE_RUN(prefix##_batch, prefix##_batch_event)                                               \
    DEFINE_RUN(prefix##_staged, prefix##_staged_event)

/* Their place in the policy's row. */
#define EVENTS(prefix)                                                                             \
    .run = {[ORDER_SERIAL] = prefix##_serial,                                                      \
            [ORDER_BATCH] = prefix##_batch,                                                        \
            [ORDER_STAGED] = prefix##_staged},                                                     \
    .prefetch = prefix##_prefetch

#endif
