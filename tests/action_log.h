/* A replay's decisions, kept. */
#ifndef TESTS_ACTION_LOG_H
#define TESTS_ACTION_LOG_H

#include <stdlib.h>
#include <string.h>

#include "sim/replay.h"

/* The actions of a replay, one after the other. */
typedef struct {
    BufferAction *actions;
    size_t n;
} Log;

/* A ReplayObserver of a Log, which the test frees. */
static inline Status log_append(void *argument, const PackedEvent *event,
                                const BufferAction *actions, uint32_t n_actions)
{
    Log *log = argument;
    (void)event;
    log->actions = realloc(log->actions, (log->n + n_actions + 1) * sizeof *actions);
    memcpy(log->actions + log->n, actions, n_actions * sizeof *actions);
    log->n += n_actions;
    return OK;
}

/* Replays TRACE; the test frees what it did. */
static inline Log run_logged(const PackedTrace *trace, const Plan *plan, ReplayResult *result)
{
    Log log = {0};
    ReplayFuture future = {0};
    assert_ok(replay_prepare(trace, plan, &future));
    assert_ok(replay_run(trace, plan, &future, log_append, &log, result));
    replay_future_free(&future);
    return log;
}

/* It did WANTED[n]. */
static inline void assert_same_actions(const Log *log, const BufferAction *wanted, size_t n)
{
    for (size_t i = 0; i < log->n && i < n; i++) {
        const BufferAction *is = &log->actions[i];
        const BufferAction *must = &wanted[i];
        if (is->kind != must->kind || is->layer_index != must->layer_index ||
            is->expert != must->expert || is->slot != must->slot)
            fail_msg("action %zu: %s of %u/%u in %u, wanted %s of %u/%u in %u", i,
                     residency_kind_name(is->kind), is->layer_index, is->expert, is->slot,
                     residency_kind_name(must->kind), must->layer_index, must->expert, must->slot);
    }
    assert_int_equal(log->n, n);
}

/* What BUFFER has counted of all its layers. */
static inline BufferCounts counts_of_all(const ExpertBuffer *buffer, uint32_t n_layers)
{
    BufferCounts total = {0};
    for (uint32_t i = 0; i < n_layers; i++) {
        const BufferCounts counts = buffer_counts(buffer, i);
        buffer_counts_add(&total, &counts);
    }
    return total;
}

#endif
