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
