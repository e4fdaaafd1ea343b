#include "policies/clock_word.h"
#include "policies/turns.h"
#include "policies/wide.h"

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

ALWAYS_INLINE uint32_t victim_at(Scope *scope, const Turns *turns, uint32_t at, uint64_t *pending)
{
    for (;;) {
        uint32_t object = ring_pop_oldest(&scope->rings[0]);
        if (!turns_clear_visited(scope, turns, object, at, pending))
            return object;
        ring_push(&scope->rings[0], object);
    }
}

static const TurnsRules TURNS = {
    .decide = clock_serial_event, .victim = victim_at, .admit = clock_admit, .note = turns_visit};

DEFINE_RUNS_BY_TURNS(clock, TURNS)

/* Runs shorter than this are not worth laying the ring out anew. */
enum { LONG_RUN = 8 };

/* Decides RUN in one word where that goes, and else by the ring, with PLAIN. */
ALWAYS_INLINE void run_either(Scope *scope, ScopeEvent *events, const BufferRun *run, bool serial,
                              EvictionRun plain)
{
    for (uint32_t from = 0; from < run->n_spans;) {
        uint32_t left = run->n_spans - from;
        uint32_t next = left >= LONG_RUN ? clock_word_run(scope, events, run, from, serial) : from;
        BufferRun rest = *run;
        rest.spans += next;
        rest.n_spans = next == from ? left : next < run->n_spans;
        plain(scope, events, &rest);
        from = next + rest.n_spans;
    }
}

static void narrow_serial(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    run_either(scope, events, run, true, clock_serial);
}

static void run_serial(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    wide_run(scope, events, run, wide_clock_serial, narrow_serial);
}

static void run_batch(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    run_either(scope, events, run, false, clock_batch);
}

/* Second chance, one bit. Corbato 1968 (A paging experiment with the Multics system): the hand
 * clears the bit of those looked up since it passed, and takes the first without. A newcomer has
 * none. */
const EvictionPolicy EVICT_CLOCK = {
    .name = "clock",
    .run = {[ORDER_SERIAL] = run_serial, [ORDER_BATCH] = run_batch, [ORDER_STAGED] = clock_staged},
    .prefetch = clock_prefetch,
    .needs_flags = true,
    .needs_turns = true,
    .needs_positions = true,
    .needs_places = true,
    .n_rings = 1};
