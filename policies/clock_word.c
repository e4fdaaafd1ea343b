/* The ring is laid out as seats that nobody leaves but a victim, whose seat the newcomer takes:
 * behind the hand, which goes on from there, is the new end of the ring. So the visited bits are a
 * word, and the hand finds the next without one by counting zeros. */
#include "policies/clock_word.h"

#include "policies/turns.h"

enum { MOST_SEATS = 64, NO_SEAT = MOST_SEATS };

typedef struct {
    uint32_t n;
    uint32_t hand;
    uint64_t all;
    uint64_t visited;
    uint32_t object[MOST_SEATS];
    uint16_t *seat; /* [n_objects] of the scope, or NO_SEAT */
} Clock;

static void sit_down(Scope *scope, Clock *clock)
{
    Ring *ring = &scope->rings[0];
    *clock = (Clock){.n = scope->n_slots, .seat = scope->list};
    clock->all = UINT64_MAX >> (MOST_SEATS - clock->n);
    for (uint32_t i = 0; i < scope->n_objects; i++)
        clock->seat[i] = NO_SEAT;
    for (uint32_t i = 0; i < clock->n; i++) {
        uint32_t object = ring_pop_oldest(ring);
        clock->object[i] = object;
        clock->seat[object] = (uint16_t)i;
        clock->visited |= (uint64_t)(scope->flag[object] != 0) << i;
    }
}

static void get_up(Scope *scope, const Clock *clock)
{
    for (uint32_t i = 0; i < clock->n; i++) {
        uint32_t at = (clock->hand + i) % clock->n;
        ring_push(&scope->rings[0], clock->object[at]);
        scope->flag[clock->object[at]] = clock->visited >> at & 1;
    }
}

/* The seats from the hand on as a word, and back. */
ALWAYS_INLINE uint64_t from_hand(const Clock *clock, uint64_t seats)
{
    return (seats >> clock->hand | seats << 1 << (clock->n - 1 - clock->hand)) & clock->all;
}

ALWAYS_INLINE uint64_t to_seats(const Clock *clock, uint64_t from_hand)
{
    return (from_hand << clock->hand | from_hand >> 1 >> (clock->n - 1 - clock->hand)) & clock->all;
}

/* Moves the hand to the first without a visited bit but the ACTIVE, whose bits stay, and behind it.
 * Returns his seat. */
ALWAYS_INLINE uint32_t turn_hand(Clock *clock, uint64_t active)
{
    uint64_t may_go = ~(clock->visited | active) & clock->all;
    if (may_go == 0) {
        clock->visited &= active;
        may_go = ~active & clock->all;
    }
    uint32_t passed = (uint32_t)__builtin_ctzll(from_hand(clock, may_go));
    clock->visited &= ~to_seats(clock, (UINT64_C(1) << passed) - 1) | active;
    uint32_t at = clock->hand + passed;
    at -= at >= clock->n ? clock->n : 0;
    clock->hand = at + 1 < clock->n ? at + 1 : 0;
    return at;
}

/* OBJECT takes the seat AT and the slot of him who has it. */
ALWAYS_INLINE void take_seat(Scope *scope, ScopeEvent *event, Clock *clock, uint32_t at,
                             uint32_t object)
{
    uint32_t victim = clock->object[at];
    scope_replace(scope, event, victim, object);
    scope->newest = object;
    clock->seat[victim] = NO_SEAT;
    clock->seat[object] = (uint16_t)at;
    clock->object[at] = object;
}

ALWAYS_INLINE uint32_t decide_batch(Scope *scope, ScopeEvent *event, Clock *clock)
{
    const uint16_t *seat = clock->seat + event->first_object;
    uint16_t *misses = scope->misses;
    uint64_t active = 0;
    uint32_t n_misses = 0;
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t at = seat[event->experts[i]];
        misses[n_misses] = (uint16_t)i;
        n_misses += at == NO_SEAT;
        active |= (uint64_t)(at != NO_SEAT) << (at % MOST_SEATS);
    }
    clock->visited |= active;
    if (event->hit != NULL)
        scope_write_hits(event, misses, n_misses);
    for (uint32_t i = 0; i < n_misses; i++) {
        uint32_t at = turn_hand(clock, active);
        take_seat(scope, event, clock, at, event->first_object + event->experts[misses[i]]);
        active |= UINT64_C(1) << at;
    }
    return event->n - n_misses;
}

/* Looks all up against the start, by who has a seat. BEFORE[n + 1]: the seats of the hits before
 * each turn. */
ALWAYS_INLINE Turns look_at_seats(Scope *scope, const ScopeEvent *event, const Clock *clock,
                                  uint64_t *before)
{
    const uint16_t *seat = clock->seat + event->first_object;
    uint32_t *turn = scope->turn + event->first_object;
    Turns turns = {.base = turns_next(scope)};
    uint64_t hits = 0;
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t expert = event->experts[i];
        uint32_t at = seat[expert];
        before[i] = hits;
        hits |= (uint64_t)(at != NO_SEAT) << (at % MOST_SEATS);
        turns.missed |= (uint64_t)(at == NO_SEAT) << i;
        turn[expert] = turns.base + i;
    }
    before[event->n] = hits;
    return turns;
}

ALWAYS_INLINE uint32_t decide_serial(Scope *scope, ScopeEvent *event, Clock *clock)
{
    uint64_t before[TURNS_MOST + 1];
    uint64_t come = 0; /* hits whose turn has been, or who were evicted before it */
    Turns turns = look_at_seats(scope, event, clock, before);
    for (uint64_t left = turns.missed; left != 0;) {
        uint32_t turn = (uint32_t)__builtin_ctzll(left);
        clock->visited |= before[turn] & ~come;
        come |= before[turn];
        uint32_t at = turn_hand(clock, 0);
        uint64_t evicted = turns_evicted(scope, event, &turns, clock->object[at], turn);
        come |= UINT64_C(1) << at; /* a hit there was, or is gone */
        turns.missed |= evicted;
        left = (left & (left - 1)) | evicted;
        take_seat(scope, event, clock, at, turns_object(event, turn));
    }
    clock->visited |= before[event->n] & ~come;
    return turns_end(event, &turns, (uint32_t)event->loads);
}

static bool can_sit(const Scope *scope, const ScopeEvent *events, const BufferRun *run)
{
    return is_quiet(scope, events, run) && scope->n_free == 0 && scope->n_slots <= MOST_SEATS;
}

uint32_t clock_word_run(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from,
                        bool serial)
{
    Clock clock;
    if (!can_sit(scope, events, run))
        return from;
    Scope own = *scope;
    own.layer_weight = NULL;
    uint32_t most = own.n_slots < TURNS_MOST ? own.n_slots : TURNS_MOST;
    sit_down(scope, &clock);
    own.rings[0] = scope->rings[0];
    for (; from < run->n_spans && run->spans[from].n <= most && run->spans[from].n > 0; from++) {
        ScopeEvent event = event_of(events, run, run->spans[from]);
        event.actions = NULL;
        event.weight = 1;
        uint32_t hits =
            serial ? decide_serial(&own, &event, &clock) : decide_batch(&own, &event, &clock);
        add_event(&events[event.layer_index], &event, hits);
    }
    *scope = own;
    get_up(scope, &clock);
    return from;
}
