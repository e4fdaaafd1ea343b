#include "policies/wide.h"

#if defined(__x86_64__)
#include "policies/wide_hand.h"

/* The queue in load order, in two rings cut where the hand stands, as in policies/evict_sieve.c. */
enum { AHEAD, PASSED };

/* Lays the queue out from its oldest on. The newest is at the place before the next, and the hand
 * before or at it. */
static void lay_out(Scope *scope)
{
    Places *places = &scope->places;
    uint32_t passed = ring_size(&scope->rings[PASSED]);
    hand_clear(scope);
    for (uint32_t i = 0; i < scope->n_slots; i++)
        hand_place(scope, ring_pop_oldest(&scope->rings[i < passed ? PASSED : AHEAD]), i);
    places_set_next(places, scope->n_slots);
    places->hand = passed < scope->n_slots ? passed : 0;
}

/* The objects of a word's places, those TAKEN, go to the places from TO on. */
WIDE_INLINE void move_down(Places *places, uint32_t word, uint64_t taken, uint32_t to)
{
    for (uint32_t at = 0; at < 64; at += WIDE_WINDOW) {
        __mmask16 some = (__mmask16)(taken >> at);
        __m512i objects = _mm512_loadu_si512(places->object + word * 64 + at);
        _mm512_storeu_si512(places->object + to, _mm512_maskz_compress_epi32(some, objects));
        to += wide_bits(some);
    }
}

/* Gives free places back. */
WIDE static void close_up(Scope *scope)
{
    Places *places = &scope->places;
    uint32_t to = 0;
    uint32_t before = 0; /* taken places before the hand */
    for (uint32_t word = 0; word < places->n_words; word++) {
        uint64_t taken = places->taken[word];
        uint64_t visited = _pext_u64(places->visited[word], taken);
        uint32_t ahead = places->hand - word * 64;
        before += wide_bits_64(word < places->hand / 64    ? taken
                               : word == places->hand / 64 ? _bzhi_u64(taken, ahead)
                                                           : 0);
        places->taken[word] = places->visited[word] = 0;
        move_down(places, word, taken, to);
        places->visited[to / 64] |= visited << to % 64;
        places->visited[to / 64 + 1] |= visited >> 1 >> (63 - to % 64);
        to += wide_bits_64(taken);
    }
    for (uint32_t i = 0; i < to; i++)
        scope->position[places->object[i]] = i;
    for (uint32_t i = 0; i < to; i += 64)
        places->taken[i / 64] = _bzhi_u64(UINT64_MAX, to - i < 64 ? to - i : 64);
    places->object[places->room] = scope->n_objects;
    places->hand = before;
    places_set_next(places, to);
}

static void take_back(Scope *scope)
{
    const Places *places = &scope->places;
    close_up(scope);
    for (uint32_t at = 0; at < places->next; at++) {
        uint32_t object = places->object[at];
        ring_push(&scope->rings[at < places->hand ? PASSED : AHEAD], object);
        scope->flag[object] = (uint16_t)places_bit(places->visited, at);
    }
}

/* Those of the places TAKEN, from the hand on, whose objects carry this event's mark. */
static uint64_t marked(const Scope *scope, uint64_t taken)
{
    const uint32_t *objects = scope->places.object + scope->places.hand;
    uint64_t found = 0;
    for (; taken != 0; taken &= taken - 1) {
        uint32_t i = (uint32_t)__builtin_ctzll(taken);
        found |= (uint64_t)scope_is_active(scope, objects[i]) << i;
    }
    return found;
}

/* Frees the place of the next victim, behind which the hand then is. Batch: of those without a
 * mark.
 */
static uint32_t find_victim(Scope *scope, bool serial)
{
    Places *places = &scope->places;
    uint64_t may_go = 0;
    while (may_go == 0) {
        places->hand = places->hand < places->next ? places->hand : 0;
        uint32_t left = places->next - places->hand;
        uint64_t all = left < 64 ? (UINT64_C(1) << left) - 1 : UINT64_MAX;
        uint64_t taken = places_window(places, places->taken) & all;
        uint64_t visited = places_window(places, places->visited) & all;
        uint64_t kept = serial ? 0 : marked(scope, taken);
        may_go = taken & ~(visited | kept);
        uint64_t passed = may_go != 0 ? (may_go & (0 - may_go)) - 1 : all;
        places_change(places, places->visited, visited & passed & ~kept);
        places->hand += may_go != 0 ? (uint32_t)__builtin_ctzll(may_go) : left < 64 ? left : 64;
    }
    uint32_t victim = places->hand;
    places_clear_bit(places->taken, victim);
    places->hand = victim + 1 < places->next ? victim + 1 : 0;
    return victim;
}

static void push(Scope *scope, uint32_t object)
{
    Places *places = &scope->places;
    uint32_t at = places->next;
    places_set_next(places, at + 1);
    places_set_bit(places->taken, at);
    places->object[at] = object;
    scope->position[object] = at;
}

/* Looks up those of A that are resident, or the others, or, serial, both in their turns. */
static void look_up_one_by_one(Scope *scope, ScopeEvent *counts, BufferSpan span,
                               const uint16_t *experts, uint8_t *hit, bool hits, bool misses)
{
    for (uint32_t i = 0; i < span.n; i++) {
        uint32_t object = counts->first_object + experts[i];
        bool found = scope->position[object] != NOBODY;
        if (hits && hit != NULL)
            hit[i] = found;
        if (hits && found)
            places_set_bit(scope->places.visited, scope->position[object]);
        if (found || !misses)
            continue;
        wide_replace(scope, counts, scope->places.object[find_victim(scope, hits)], object);
        push(scope, object);
    }
}

/* What the window has no room for. */
static void decide_one_by_one(Scope *scope, ScopeEvent *counts, BufferSpan span,
                              const uint16_t *experts, uint8_t *hit, bool serial)
{
    uint64_t loads = counts->loads;
    scope_begin_event(scope);
    for (uint32_t i = 0; i < span.n && !serial; i++)
        scope->mark[counts->first_object + experts[i]] = scope->event;
    if (!serial)
        look_up_one_by_one(scope, counts, span, experts, hit, true, false);
    look_up_one_by_one(scope, counts, span, experts, hit, serial, true);
    counts->lookups += span.n;
    counts->hits += span.n - (counts->loads - loads);
}

/* NEWCOMERS[n] become the newest. */
WIDE_INLINE void append(Scope *scope, uint32_t n, __m256i newcomers)
{
    Places *places = &scope->places;
    _Alignas(32) uint32_t in[WIDE_LANES];
    uint32_t i = 0;
    wide_store(in, newcomers);
    wide_store(places->object + places->next, newcomers);
    do
        for (uint32_t end = i + WIDE_GROUP; i < end; i++)
            scope->position[in[i]] = places->next + i;
    while (i < n);
    uint64_t bits = (UINT64_C(1) << n) - 1;
    places->taken[places->next / 64] |= bits << places->next % 64;
    places->taken[places->next / 64 + 1] |= bits >> 1 >> (63 - places->next % 64);
    places_set_next(places, places->next + n);
}

/* The hand goes N places on, to the next one at most, where newcomers will be, or round. */
WIDE_INLINE void go_on(Places *places, uint32_t n, bool begins)
{
    uint32_t hand = places->hand + n;
    uint32_t round = hand > places->next ? hand - places->n_words * 64 : hand;
    places->hand = begins ? 0 : round;
}

/* True when the hand does not come to newcomers of the same event, which serial may take. Those who
 * come to the newest, alone, begin again: *BEGINS. */
WIDE_INLINE bool keeps_off_newcomers(const Places *places, const HandMove *move, uint32_t n,
                                     bool serial, bool *begins)
{
    uint32_t left = places->next - places->hand;
    uint64_t older = left < 64 ? (UINT64_C(1) << left) - 1 : UINT64_MAX;
    *begins = n == 1 && left <= 64 && move->victims >> (left - 1) == 1;
    return !serial || (move->victims & ~older) == 0 || (move->victims & older) == 0;
}

WIDE_INLINE void decide(Scope *scope, ScopeEvent *counts, BufferSpan span, const uint16_t *experts,
                        uint8_t *hit, bool serial)
{
    Places *places = &scope->places;
    bool begins;
    WideEvent event = wide_look_up(scope, experts, span.n, counts->first_object, scope->position);
    HandMove move = hand_move(places, &event, serial, true);
    if (RARELY(!move.fits) ||
        RARELY(!keeps_off_newcomers(places, &move, event.n_misses, serial, &begins))) {
        decide_one_by_one(scope, counts, span, experts, hit, serial);
        return;
    }
    __m256i at = hand_places(places, move.victims, event.n_misses);
    __m256i out = wide_gather(places->object, at);
    __m256i in = wide_pick(scope, event.objects, event.misses);
    places_change(places, places->visited, move.visited);
    places_change(places, places->taken, move.victims);
    if (places->n_words > 1)
        hand_visit(places, &event, move.outside);
    go_on(places, move.passed, begins);
    wide_set_keys(scope->position, event.n_misses, out, NOBODY);
    append(scope, event.n_misses, in);
    wide_exchange(scope, counts, &event, in, out);
    wide_write_hits(&event, hit);
}

WIDE_INLINE uint32_t decide_run(Scope *scope, ScopeEvent *events, const BufferRun *run,
                                uint32_t from, bool serial)
{
    if (!wide_can(scope, run->spans[from]))
        return from;
    lay_out(scope);
    for (; from < run->n_spans && wide_can(scope, run->spans[from]); from++) {
        BufferSpan span = run->spans[from];
        if (RARELY(scope->places.next + WIDE_LANES > scope->places.room))
            close_up(scope);
        decide(scope, &events[span.layer_index], span, run->experts + span.first,
               run->hit != NULL ? run->hit + span.first : NULL, serial);
    }
    take_back(scope);
    return from;
}

WIDE uint32_t wide_sieve_serial(Scope *scope, ScopeEvent *events, const BufferRun *run,
                                uint32_t from)
{
    return decide_run(scope, events, run, from, true);
}

WIDE uint32_t wide_sieve_batch(Scope *scope, ScopeEvent *events, const BufferRun *run,
                               uint32_t from)
{
    return decide_run(scope, events, run, from, false);
}

#else
WIDE_NONE(wide_sieve_serial)
WIDE_NONE(wide_sieve_batch)
#endif
