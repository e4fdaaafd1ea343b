#include "policies/lifo.h"

static const EvictionRules RULES = {.admit = lifo_admit,
                                    .victim = lifo_victim,
                                    .victim_outside = lifo_victim_outside,
                                    .end = lifo_end,
                                    .inactive_first_in_serial = true};

DEFINE_DECISIONS(inactive_first, RULES)

/* Nobody of A goes where its members all have room: then the order of the lookups shows in the
 * actions alone. */
ALWAYS_INLINE uint32_t serial_as_batch(Scope *scope, ScopeEvent *event)
{
    bool is_same = event->actions == NULL && scope->layer_weight == NULL;
    return is_same && event->n <= scope->n_slots ? inactive_first_batch_event(scope, event)
                                                 : inactive_first_serial_event(scope, event);
}

DEFINE_RUN(inactive_first_serial, serial_as_batch)
DEFINE_RUN(inactive_first_batch, inactive_first_batch_event)
DEFINE_RUN(inactive_first_staged, inactive_first_staged_event)

static void run_serial(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    wide_run(scope, events, run, wide_lifo_batch, inactive_first_serial);
}

static void run_batch(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    wide_run(scope, events, run, wide_lifo_batch, inactive_first_batch);
}

/* Last in, first out, but an expert that this event does not need goes first; among those too the
 * latest loaded. Huang et al. 2023 (Towards MoE Deployment), section V: experts run in ascending
 * id, so the lookups of a layer are a cyclic scan of its active set, and what was loaded last is
 * needed again latest. Under order batch it decides as lifo does. */
const EvictionPolicy EVICT_LIFO_INACTIVE_FIRST = {.name = "lifo-inactive-first",
                                                  .run = {[ORDER_SERIAL] = run_serial,
                                                          [ORDER_BATCH] = run_batch,
                                                          [ORDER_STAGED] = inactive_first_staged},
                                                  .prefetch = inactive_first_prefetch,
                                                  .needs_positions = true,
                                                  .n_rings = 1};
