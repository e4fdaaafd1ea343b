#include "policies/turns.h"

/* The hand stands between the oldest of the ring and the newest. */
static void clock_hit(Scope *scope, uint32_t object)
{
    scope->flag[object] = 1;
}

static void clock_look_up(Scope *scope, uint32_t object, bool hit)
{
    (void)hit;
    scope->flag[object] = 1;
}

static void clock_admit(Scope *scope, uint32_t object)
{
    scope->flag[object] = 0;
    ring_push(&scope->rings[0], object);
}

static uint32_t clock_victim(Scope *scope)
{
    for (;;) {
        uint32_t object = ring_pop_oldest(&scope->rings[0]);
        if (!scope->flag[object])
            return object;
        scope->flag[object] = 0;
        ring_push(&scope->rings[0], object);
    }
}

/* The hand passes members of A over: they keep their bit. */
static uint32_t clock_victim_outside(Scope *scope)
{
    for (;;) {
        uint32_t object = ring_pop_oldest(&scope->rings[0]);
        bool is_active = scope_is_active(scope, object);
        if (!(scope->flag[object] | is_active))
            return object;
        scope->flag[object] &= is_active;
        ring_push(&scope->rings[0], object);
    }
}

static const EvictionRules RULES = {.hit = clock_hit,
                                    .look_up = clock_look_up,
                                    .admit = clock_admit,
                                    .victim = clock_victim,
                                    .victim_outside = clock_victim_outside};

DEFINE_DECISIONS(clock, RULES)

ALWAYS_INLINE uint32_t victim_at(Scope *scope, const Turns *turns, uint32_t at, uint64_t *visited)
{
    for (;;) {
        uint32_t object = ring_pop_oldest(&scope->rings[0]);
        if (!turns_clear_visited(scope, turns, object, at, visited))
            return object;
        ring_push(&scope->rings[0], object);
    }
}

static const TurnsRules TURNS = {
    .decide = clock_serial_event, .victim = victim_at, .admit = clock_admit, .visits = true};

DEFINE_RUNS_BY_TURNS(clock, TURNS)

/* Second chance, one bit. Corbato 1968 (A paging experiment with the Multics system): the hand
 * clears the bit of those looked up since it passed, and takes the first without. A newcomer has
 * none. */
const EvictionPolicy EVICT_CLOCK = {
    .name = "clock", EVENTS(clock), .needs_flags = true, .needs_turns = true, .n_rings = 1};
