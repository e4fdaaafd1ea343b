/* Serial events without a branch on each lookup: all are looked up against the start first, and
 * what the event itself changes is put right. Inside policies/ only.
 *
 * A member of A that misses at the start misses when its turn comes, for nobody is loaded but for a
 * lookup. One that hits at the start misses if it was evicted before its turn; so whoever is
 * evicted is asked for its turn. Lookups are bits of one word: events of more than TURNS_MOST
 * experts, and scopes that are not full, are left to the rules. */
#ifndef POLICIES_TURNS_H
#define POLICIES_TURNS_H

#include "base/numbers.h"
#include "policies/event_loop.h"

enum { TURNS_MOST = 63, TURNS_APART = 64 };

typedef struct {
    uint32_t base;            /* turn of the first lookup */
    uint64_t missed;          /* a bit a lookup */
    const ScopeEvent *sought; /* where members of A are sought; NULL: turns are noted */
} Turns;

/* True when an event can be decided so: every load takes one victim. */
ALWAYS_INLINE bool turns_can(const Scope *scope, const ScopeEvent *event)
{
    return scope->n_free == 0 && scope->layer_weight == NULL && event->n <= TURNS_MOST &&
           event->n > 0;
}

/* The turn of an event's first lookup. */
ALWAYS_INLINE uint32_t turns_next(Scope *scope)
{
    if (scope->turns > UINT32_MAX - 2 * TURNS_APART) {
        memset(scope->turn, 0, scope->n_objects * sizeof *scope->turn);
        scope->turns = 0;
    }
    return scope->turns += TURNS_APART;
}

/* Looks all up against the start. */
ALWAYS_INLINE Turns turns_begin(Scope *scope, const ScopeEvent *event)
{
    turns_next(scope);
    return (Turns){.base = scope->turns,
                   .missed = scope_look_at(event->experts, event->n,
                                           scope->resident + event->first_object, scope->turns,
                                           scope->turn + event->first_object)};
}

/* The same for policies that ask for few turns: they are not noted, which takes the memory of a
 * number an object, but sought. */
ALWAYS_INLINE Turns turns_begin_seeking(const Scope *scope, const ScopeEvent *event)
{
    const bool *resident = scope->resident + event->first_object;
    Turns turns = {.sought = event};
    for (uint32_t i = 0; i < event->n; i++)
        turns.missed |= (uint64_t)!resident[event->experts[i]] << i;
    return turns;
}

/* Under scope device nearly all are of another layer. */
ALWAYS_INLINE uint32_t turns_seek(const ScopeEvent *event, uint32_t object)
{
    uint32_t expert = object - event->first_object;
    if (__builtin_expect(expert >= event->n_experts, 1))
        return event->n;
    uint32_t turn = 0;
    while (turn < event->n && event->experts[turn] != expert)
        turn++;
    return turn;
}

/* The turn of OBJECT in the event; event->n or more when it is no member of A. */
ALWAYS_INLINE uint32_t turns_of(const Scope *scope, const Turns *turns, uint32_t object)
{
    return turns->sought == NULL ? scope->turn[object] - turns->base
                                 : turns_seek(turns->sought, object);
}

/* VICTIM was evicted at turn AT: it misses if its own is still to come. */
ALWAYS_INLINE uint64_t turns_evicted(const Scope *scope, const ScopeEvent *event,
                                     const Turns *turns, uint32_t victim, uint32_t at)
{
    uint32_t turn = turns_of(scope, turns, victim);
    return (uint64_t)(turn < event->n && turn > at) << (turn % TURNS_APART);
}

ALWAYS_INLINE uint32_t turns_object(const ScopeEvent *event, uint32_t at)
{
    return event->first_object + event->experts[at];
}

/* Bits of the lookups that hit as far as is known. */
ALWAYS_INLINE uint64_t turns_hits(const ScopeEvent *event, const Turns *turns)
{
    return ~turns->missed & ((UINT64_C(1) << event->n) - 1);
}

/* True when a hit of OBJECT is among PENDING and its turn is before AT; then it no longer is. */
ALWAYS_INLINE bool turns_take_hit(const Scope *scope, const Turns *turns, uint32_t object,
                                  uint32_t at, uint64_t *pending)
{
    uint32_t turn = turns_of(scope, turns, object);
    uint64_t bit = (uint64_t)(turn < at) << (turn % TURNS_APART) & *pending;
    *pending ^= bit;
    return bit != 0;
}

/* For policies with a visited bit, which a hit sets when its turn comes: true when OBJECT's is set
 * at turn AT; then it is cleared. */
ALWAYS_INLINE bool turns_clear_visited(Scope *scope, const Turns *turns, uint32_t object,
                                       uint32_t at, uint64_t *pending)
{
    bool is_visited =
        turns_take_hit(scope, turns, object, at, pending) | (scope->flag[object] != 0);
    scope->flag[object] = 0;
    return is_visited;
}

/* Their note(). */
ALWAYS_INLINE void turns_visit(Scope *scope, uint32_t object, bool hit)
{
    scope->flag[object] |= (uint16_t)hit;
}

/* Reports the hits from turn FROM to TO - 1, whose misses are known. */
ALWAYS_INLINE void turns_report_hits(const Scope *scope, ScopeEvent *event, const Turns *turns,
                                     uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to && event->actions != NULL; i++)
        if (!(turns->missed >> i & 1))
            scope_report(scope, event, RESIDENCY_HIT, turns_object(event, i),
                         scope->slot[turns_object(event, i)]);
}

/* Writes what each lookup found. Returns the hits, which N_MISSES leave. */
ALWAYS_INLINE uint32_t turns_end(const ScopeEvent *event, const Turns *turns, uint32_t n_misses)
{
    for (uint32_t i = 0; i < event->n && event->hit != NULL; i++)
        event->hit[i] = !(turns->missed >> i & 1);
    return event->n - n_misses;
}

/* What a policy does with turns. */
typedef struct {
    bool seeks;                                           /* turns are sought, not noted */
    uint32_t (*decide)(Scope *scope, ScopeEvent *event);  /* by the rules */
    void (*begin)(Scope *scope, const ScopeEvent *event); /* as among the rules, or NULL */
    void (*miss)(Scope *scope, uint32_t object);          /* as among the rules, or NULL */
    /* Leaves the order, at turn AT. PENDING are the hits that have not been noted: those of whom it
     * looks at have to be, with turns_take_hit(). */
    uint32_t (*victim)(Scope *scope, const Turns *turns, uint32_t at, uint64_t *pending);
    void (*admit)(Scope *scope, uint32_t object);
    /* What a hit changes of its object alone, and nothing does where it was none; NULL: nothing. */
    void (*note)(Scope *scope, uint32_t object, bool hit);
} TurnsRules;

/* As the rules decide. */
ALWAYS_INLINE uint32_t turns_event(const TurnsRules *rules, Scope *scope, ScopeEvent *event)
{
    if (!turns_can(scope, event))
        return rules->decide(scope, event);
    if (rules->begin != NULL)
        rules->begin(scope, event);
    Turns turns = rules->seeks ? turns_begin_seeking(scope, event) : turns_begin(scope, event);
    uint64_t pending = rules->note != NULL ? turns_hits(event, &turns) : 0;
    uint32_t reported = 0;
    for (uint64_t left = turns.missed; left != 0;) {
        uint32_t at = (uint32_t)__builtin_ctzll(left);
        uint32_t object = turns_object(event, at);
        if (rules->miss != NULL)
            rules->miss(scope, object);
        uint32_t victim = rules->victim(scope, &turns, at, &pending);
        uint64_t evicted = turns_evicted(scope, event, &turns, victim, at);
        turns_report_hits(scope, event, &turns, reported, at);
        reported = at + 1;
        left &= left - 1;
        if (__builtin_expect(evicted != 0, 0)) { /* a branch, so that the loop awaits no victim */
            turns.missed |= evicted;
            pending &= ~evicted;
            left |= evicted;
        }
        scope_replace(scope, event, victim, object);
        scope->newest = object;
        rules->admit(scope, object);
    }
    turns_report_hits(scope, event, &turns, reported, event->n);
    for (uint32_t i = 0; i < event->n && rules->note != NULL; i++)
        rules->note(scope, turns_object(event, i), pending >> i & 1);
    return turns_end(event, &turns, (uint32_t)event->loads);
}

/* Defines a policy's runs: serial ones by TURNS, a constant TurnsRules. */
#define DEFINE_RUNS_BY_TURNS(prefix, TURNS)                                                        \
    ALWAYS_INLINE uint32_t prefix##_turns_event(Scope *scope, ScopeEvent *event)                   \
    {                                                                                              \
        return turns_event(&TURNS, scope, event);                                                  \
    }                                                                                              \
    DEFINE_RUN(prefix##_serial, prefix##_turns_event)                                              \
    DEFINE_RUN(prefix##_batch, prefix##_batch_event)                                               \
    DEFINE_RUN(prefix##_staged, prefix##_staged_event)

#endif
