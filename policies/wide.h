/* Runs of small events that nobody watches, with all of A in one vector (AVX-512). Inside policies/
 * only.
 *
 * What an event costs is what the processor guesses wrong: which lookups hit, and how many. Here
 * hardly anything branches on either: lookups are lanes, what is found is a mask, victims are
 * picked out of windows of neighbours in the policy's order, and misses are exchanged in groups of
 * four, the last of which is filled up with nobody: the object n_objects, which has entries of its
 * own in what is by object, and a slot of its own behind the last.
 *
 * A policy's wide run decides what its plain one decides, in the cases that make up nearly all of a
 * replay, and leaves the others to it. */
#ifndef POLICIES_WIDE_H
#define POLICIES_WIDE_H

#include "policies/event_loop.h"

/* Most lookups of an event, and fewest slots of a scope. */
enum { WIDE_LANES = 8, WIDE_SLOTS = 32 };

enum { WIDE_WORD_OBJECTS = 256, WIDE_WORD_PLACES = 64 };

/* Decides the events of RUN, which is quiet, from number FROM on for as long as it can; returns the
 * number of the first that is left, which may be all. */
typedef uint32_t (*WideRun)(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from);

/* True when this machine has what wide runs need. */
bool wide_is_supported(void);

uint32_t wide_lru_serial(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from);
uint32_t wide_lru_batch(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from);
uint32_t wide_mru_serial(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from);
uint32_t wide_mru_batch(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from);
uint32_t wide_clock_serial(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from);
uint32_t wide_sieve_serial(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from);
uint32_t wide_sieve_batch(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from);
uint32_t wide_sieve_word_serial(Scope *scope, ScopeEvent *events, const BufferRun *run,
                                uint32_t from);
uint32_t wide_sieve_word_batch(Scope *scope, ScopeEvent *events, const BufferRun *run,
                               uint32_t from);
uint32_t wide_lifo_batch(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from);

/* True when wide_sieve_word_serial() and _batch() can do SCOPE: a layer whose experts are numbered
 * within a byte, with as many slots as a word has bits. */
ALWAYS_INLINE bool wide_fits_word(const Scope *scope)
{
    return scope->object_layer == NULL && scope->n_objects <= WIDE_WORD_OBJECTS &&
           scope->n_slots <= WIDE_WORD_PLACES;
}

/* Defines a wide run for machines of another kind. */
#define WIDE_NONE(name)                                                                            \
    uint32_t name(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from)           \
    {                                                                                              \
        (void)scope;                                                                               \
        (void)events;                                                                              \
        (void)run;                                                                                 \
        return from;                                                                               \
    }

/* True when WIDE can decide SPAN: every miss takes one victim, and A has a lane each. */
ALWAYS_INLINE bool wide_can(const Scope *scope, BufferSpan span)
{
    return scope->n_free == 0 && span.n <= WIDE_LANES;
}

/* Who is resident, as scope->position says: wide runs leave it to their end. */
void wide_settle(Scope *scope);

/* OBJECT takes VICTIM's slot, in the middle of a wide run. */
ALWAYS_INLINE void wide_replace(Scope *scope, ScopeEvent *counts, uint32_t victim, uint32_t object)
{
    counts->loads++;
    counts->evictions++;
    counts->evicted_newest += victim == scope->newest;
    counts->evicted_young += scope_is_young(scope, victim);
    scope->slot[object] = scope->slot[victim];
    scope->loaded_at[object] = ++scope->n_loaded;
    scope->newest = object;
    scope->position[victim] = NOBODY;
}

/* Decides RUN by WIDE where that goes, and else by PLAIN. */
ALWAYS_INLINE void wide_run(Scope *scope, ScopeEvent *events, const BufferRun *run, WideRun wide,
                            EvictionRun plain)
{
    BufferRun one = *run;
    uint32_t from = 0;
    uint32_t next;
    if (!scope->is_wide || !is_quiet(scope, events, run) || scope->n_slots < WIDE_SLOTS) {
        plain(scope, events, run);
        return;
    }
    for (; from < run->n_spans; from = next + 1) {
        next = wide(scope, events, run, from);
        if (next > from)
            wide_settle(scope);
        one.spans = run->spans + next;
        one.n_spans = next < run->n_spans;
        plain(scope, events, &one);
    }
}

#endif
