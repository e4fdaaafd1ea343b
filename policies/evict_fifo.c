#include "policies/turns.h"

static void put_oldest(Scope *scope, uint32_t object)
{
    ring_push_oldest(&scope->rings[0], object);
}

static uint32_t take_oldest(Scope *scope)
{
    return ring_pop_oldest(&scope->rings[0]);
}

/* Members of A that were passed over are the oldest again. */
static void fifo_end(Scope *scope)
{
    scope_put_back(scope, put_oldest);
}

static uint32_t fifo_victim(Scope *scope)
{
    fifo_end(scope);
    return take_oldest(scope);
}

static uint32_t fifo_victim_outside(Scope *scope)
{
    return scope_take_outside(scope, take_oldest);
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
    return take_oldest(scope);
}

static const TurnsRules TURNS = {
    .decide = fifo_serial_event, .victim = victim_at, .admit = fifo_admit};

DEFINE_RUNS_BY_TURNS(fifo, TURNS)

/* First in, first out: the earliest loaded goes, however often it was used since. */
const EvictionPolicy EVICT_FIFO = {.name = "fifo", EVENTS(fifo), .needs_turns = true, .n_rings = 1};
