#include "policies/turns.h"

/* Members of A that were passed over are the oldest again. */
static void fifo_end(Scope *scope)
{
    while (scope->n_aside > 0)
        ring_push_oldest(&scope->rings[0], scope->aside[--scope->n_aside]);
}

static uint32_t fifo_victim(Scope *scope)
{
    fifo_end(scope);
    return ring_pop_oldest(&scope->rings[0]);
}

static uint32_t fifo_victim_outside(Scope *scope)
{
    for (;;) {
        uint32_t object = ring_pop_oldest(&scope->rings[0]);
        if (!scope_is_active(scope, object))
            return object;
        scope->aside[scope->n_aside++] = object;
    }
}

static void fifo_admit(Scope *scope, uint32_t object)
{
    ring_push(&scope->rings[0], object);
}

static const EvictionRules RULES = {.admit = fifo_admit,
                                    .victim = fifo_victim,
                                    .victim_outside = fifo_victim_outside,
                                    .end = fifo_end};

DEFINE_DECISIONS(fifo, RULES)

static uint32_t victim_at(Scope *scope, const Turns *turns, uint32_t at, uint64_t *visited)
{
    (void)turns;
    (void)at;
    (void)visited;
    return ring_pop_oldest(&scope->rings[0]);
}

static const TurnsRules TURNS = {
    .decide = fifo_serial_event, .victim = victim_at, .admit = fifo_admit};

DEFINE_RUNS_BY_TURNS(fifo, TURNS)

/* First in, first out: the earliest loaded goes, however often it was used since. */
const EvictionPolicy EVICT_FIFO = {.name = "fifo", EVENTS(fifo), .needs_turns = true, .n_rings = 1};
