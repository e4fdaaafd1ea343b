#include "policies/wide.h"

#if defined(__x86_64__)
#include "policies/wide_hand.h"

/* The ring is laid out as seats that nobody leaves but a victim, whose seat the newcomer takes:
 * behind the hand, which goes on from there, is the new end of the ring. */
static void sit_down(Scope *scope)
{
    Places *places = &scope->places;
    hand_clear(scope);
    places_set_next(places, scope->n_slots);
    places->hand = 0;
    for (uint32_t i = 0; i < places->next; i++)
        hand_place(scope, ring_pop_oldest(&scope->rings[0]), i);
}

static void get_up(Scope *scope)
{
    const Places *places = &scope->places;
    uint32_t at = places->hand;
    for (uint32_t i = 0; i < places->next; i++, at++) {
        at = at < places->next ? at : 0;
        uint32_t object = places->object[at];
        ring_push(&scope->rings[0], object);
        scope->flag[object] = (uint16_t)places_bit(places->visited, at);
    }
}

/* The seat of the next victim, behind which the hand then is. */
static uint32_t turn_hand(Places *places)
{
    for (;;) {
        uint32_t at = places->hand < places->next ? places->hand : 0;
        places->hand = at + 1;
        if (!places_bit(places->visited, at))
            return at;
        places_clear_bit(places->visited, at);
    }
}

/* What the window has no room for. */
static void decide_one_by_one(Scope *scope, ScopeEvent *counts, BufferSpan span,
                              const uint16_t *experts, uint8_t *hit)
{
    Places *places = &scope->places;
    uint64_t loads = counts->loads;
    for (uint32_t i = 0; i < span.n; i++) {
        uint32_t object = counts->first_object + experts[i];
        bool found = scope->position[object] != NOBODY;
        if (hit != NULL)
            hit[i] = found;
        if (found) {
            places_set_bit(places->visited, scope->position[object]);
            continue;
        }
        uint32_t at = turn_hand(places);
        wide_replace(scope, counts, places->object[at], object);
        places->object[at] = object;
        scope->position[object] = at;
    }
    places_go_on(places, 0);
    counts->lookups += span.n;
    counts->hits += span.n - (counts->loads - loads);
}

/* NEWCOMERS take the seats AT of VICTIMS; N, or nobody. */
WIDE_INLINE void take_seats(Scope *scope, uint32_t n, __m256i newcomers, __m256i at)
{
    _Alignas(32) uint32_t in[WIDE_LANES];
    _Alignas(32) uint32_t seat[WIDE_LANES];
    uint32_t i = 0;
    wide_store(in, newcomers);
    wide_store(seat, at);
    do
        for (uint32_t end = i + WIDE_GROUP; i < end; i++) {
            scope->places.object[seat[i]] = in[i];
            scope->position[in[i]] = seat[i];
        }
    while (i < n);
}

WIDE_INLINE void decide(Scope *scope, ScopeEvent *counts, BufferSpan span, const uint16_t *experts,
                        uint8_t *hit, bool few_late)
{
    Places *places = &scope->places;
    WideEvent event = wide_look_up(scope, experts, span.n, counts->first_object, scope->position);
    HandMove move = hand_move(places, &event, true, few_late);
    if (RARELY(!move.fits)) {
        decide_one_by_one(scope, counts, span, experts, hit);
        return;
    }
    __m256i at = hand_places(places, move.victims, event.n_misses);
    __m256i out = wide_gather(places->object, at);
    __m256i in = wide_pick(scope, event.objects, event.misses);
    places_change(places, places->visited, move.visited);
    places_go_on(places, move.passed);
    if (places->n_words > 1)
        hand_visit(places, &event, move.outside);
    wide_set_keys(scope->position, event.n_misses, out, NOBODY);
    take_seats(scope, event.n_misses, in, at);
    wide_exchange(scope, counts, &event, in, out);
    wide_write_hits(&event, hit);
}

WIDE_INLINE uint32_t decide_run(Scope *scope, ScopeEvent *events, const BufferRun *run,
                                uint32_t from, bool few_late)
{
    if (!wide_can(scope, run->spans[from]))
        return from;
    sit_down(scope);
    for (; from < run->n_spans && wide_can(scope, run->spans[from]); from++) {
        BufferSpan span = run->spans[from];
        decide(scope, &events[span.layer_index], span, run->experts + span.first,
               run->hit != NULL ? run->hit + span.first : NULL, few_late);
    }
    get_up(scope);
    return from;
}

/* In the few slots of a layer many are late. */
WIDE uint32_t wide_clock_serial(Scope *scope, ScopeEvent *events, const BufferRun *run,
                                uint32_t from)
{
    if (scope->object_layer != NULL)
        return decide_run(scope, events, run, from, true);
    return decide_run(scope, events, run, from, false);
}

#else
WIDE_NONE(wide_clock_serial)
#endif
