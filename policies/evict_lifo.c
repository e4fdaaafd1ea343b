#include "policies/lifo.h"
#include "policies/turns.h"

static const EvictionRules RULES = {.admit = lifo_admit,
                                    .victim = lifo_victim,
                                    .victim_outside = lifo_victim_outside,
                                    .end = lifo_end};

DEFINE_DECISIONS(lifo, RULES)

/* Every miss takes the slot of the one before it, the first that of the newest resident. */
ALWAYS_INLINE void report_all(const Scope *scope, ScopeEvent *event, const Turns *turns,
                              uint32_t newest)
{
    uint32_t slot = scope->slot[newest];
    for (uint32_t i = 0; i < event->n; i++) {
        uint32_t object = turns_object(event, i);
        if (turns->missed >> i & 1) {
            scope_report(scope, event, RESIDENCY_EVICT, newest, slot);
            scope_report(scope, event, RESIDENCY_LOAD, object, slot);
            newest = object;
        } else {
            scope_report(scope, event, RESIDENCY_HIT, object, scope->slot[object]);
        }
    }
}

/* As the rules decide: of all misses the last stays, and nobody but the newest goes for it. */
ALWAYS_INLINE uint32_t quick_serial_event(Scope *scope, ScopeEvent *event)
{
    if (!turns_can(scope, event))
        return lifo_serial_event(scope, event);
    Turns turns = turns_begin(scope, event);
    Ring *ring = &scope->rings[0];
    uint32_t newest = ring->objects[(ring->head - 1) & ring->mask];
    if (turns.missed != 0)
        turns.missed |=
            turns_evicted(scope, event, &turns, newest, (uint32_t)__builtin_ctzll(turns.missed));
    if (event->actions != NULL)
        report_all(scope, event, &turns, newest);
    uint32_t misses = 0;
    if (turns.missed != 0) {
        uint32_t last = turns_object(event, 63 - (uint32_t)__builtin_clzll(turns.missed));
        misses = bits_count(turns.missed);
        uint32_t slot = scope->slot[newest];
        event->loads += misses;
        event->evictions += misses;
        event->evicted_newest += misses - (newest != scope->newest);
        event->evicted_young += misses - !scope_is_young(scope, newest);
        scope->n_loaded += misses;
        scope->loaded_at[last] = scope->n_loaded;
        scope->resident[newest] = false;
        scope->resident[last] = true;
        scope->position[newest] = NOBODY;
        scope->position[last] = 0;
        scope->slot[last] = slot;
        scope->slot_object[slot] = last;
        scope->newest = last;
        ring->objects[(ring->head - 1) & ring->mask] = last;
    }
    return turns_end(event, &turns, misses);
}

DEFINE_RUN(lifo_serial, quick_serial_event)
DEFINE_RUN(lifo_batch, lifo_batch_event)
DEFINE_RUN(lifo_staged, lifo_staged_event)

static void run_batch(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    wide_run(scope, events, run, wide_lifo_batch, lifo_batch);
}

/* Last in, first out: the latest loaded goes. */
const EvictionPolicy EVICT_LIFO = {
    .name = "lifo",
    .run = {[ORDER_SERIAL] = lifo_serial, [ORDER_BATCH] = run_batch, [ORDER_STAGED] = lifo_staged},
    .prefetch = lifo_prefetch,
    .needs_positions = true,
    .needs_turns = true,
    .n_rings = 1};
