#include "policies/turns.h"
#include "policies/wide.h"

/* The queue in load order, cut where the hand stands. When the hand has passed everybody, the two
 * change places. */
enum { AHEAD, PASSED };

static void sieve_hit(Scope *scope, uint32_t object)
{
    scope->flag[object] = 1;
}

static void sieve_look_up(Scope *scope, uint32_t object, bool hit)
{
    (void)hit;
    scope->flag[object] = 1;
}

static void sieve_admit(Scope *scope, uint32_t object)
{
    scope->flag[object] = 0;
    ring_push(&scope->rings[AHEAD], object);
}

static void begin_again(Scope *scope)
{
    Ring passed = scope->rings[PASSED];
    scope->rings[PASSED] = scope->rings[AHEAD];
    scope->rings[AHEAD] = passed;
}

/* The hand goes from the oldest to the newest and begins again; nobody moves. */
ALWAYS_INLINE uint32_t sieve(Scope *scope, bool outside)
{
    for (;;) {
        if (ring_is_empty(&scope->rings[AHEAD]))
            begin_again(scope);
        uint32_t object = ring_pop_oldest(&scope->rings[AHEAD]);
        bool is_passed_over = outside && scope_is_active(scope, object);
        if (!(is_passed_over | scope->flag[object])) {
            if (ring_is_empty(&scope->rings[AHEAD]))
                begin_again(scope);
            return object;
        }
        scope->flag[object] &= is_passed_over;
        ring_push(&scope->rings[PASSED], object);
    }
}

static uint32_t sieve_victim(Scope *scope)
{
    return sieve(scope, false);
}

static uint32_t sieve_victim_outside(Scope *scope)
{
    return sieve(scope, true);
}

static const EvictionRules RULES = {.hit = sieve_hit,
                                    .look_up = sieve_look_up,
                                    .admit = sieve_admit,
                                    .victim = sieve_victim,
                                    .victim_outside = sieve_victim_outside};

DEFINE_DECISIONS(sieve, RULES)

ALWAYS_INLINE uint32_t victim_at(Scope *scope, const Turns *turns, uint32_t at, uint64_t *pending)
{
    for (;;) {
        if (ring_is_empty(&scope->rings[AHEAD]))
            begin_again(scope);
        uint32_t object = ring_pop_oldest(&scope->rings[AHEAD]);
        if (turns_clear_visited(scope, turns, object, at, pending)) {
            ring_push(&scope->rings[PASSED], object);
            continue;
        }
        if (ring_is_empty(&scope->rings[AHEAD]))
            begin_again(scope);
        return object;
    }
}

static const TurnsRules TURNS = {
    .decide = sieve_serial_event, .victim = victim_at, .admit = sieve_admit, .note = turns_visit};

DEFINE_RUNS_BY_TURNS(sieve, TURNS)

/* In the few slots of a layer the hand comes to who is late too often for a window. */
static void run_serial(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    if (wide_fits_word(scope))
        wide_run(scope, events, run, wide_sieve_word_serial, sieve_serial);
    else if (scope->object_layer != NULL)
        wide_run(scope, events, run, wide_sieve_serial, sieve_serial);
    else
        sieve_serial(scope, events, run);
}

static void run_batch(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    if (wide_fits_word(scope))
        wide_run(scope, events, run, wide_sieve_word_batch, sieve_batch);
    else
        wide_run(scope, events, run, wide_sieve_batch, sieve_batch);
}

/* SIEVE. Zhang et al. 2024 (NSDI): a queue in load order with one visited bit, and a hand that
 * clears bits and takes the first without. The hand passes members of A over: they keep their bit.
 * On layer-ordered lookups it freezes: the hand trails the head and takes each newcomer. */
const EvictionPolicy EVICT_SIEVE = {
    .name = "sieve",
    .run = {[ORDER_SERIAL] = run_serial, [ORDER_BATCH] = run_batch, [ORDER_STAGED] = sieve_staged},
    .prefetch = sieve_prefetch,
    .needs_flags = true,
    .needs_turns = true,
    .needs_positions = true,
    .needs_places = true,
    .n_rings = 2};
