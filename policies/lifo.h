/* A stack of residents in load order: what lifo and lifo-inactive-first share. Inside policies/
 * only. The position of a resident is 0, that of others NOBODY: it says the same as scope->resident
 * in a form that wide runs can read. */
#ifndef POLICIES_LIFO_H
#define POLICIES_LIFO_H

#include "policies/event_loop.h"
#include "policies/wide.h"

/* The members of A that were passed over come back, then those admitted since: they are newer. */
static inline void lifo_end(Scope *scope)
{
    const uint32_t *newer = scope->aside + scope->n_slots;
    while (scope->n_aside > 0)
        ring_push(&scope->rings[0], scope->aside[--scope->n_aside]);
    for (uint32_t i = 0; i < scope->n_newer; i++)
        ring_push(&scope->rings[0], newer[i]);
    scope->n_newer = 0;
}

static inline void lifo_admit(Scope *scope, uint32_t object)
{
    scope->position[object] = 0;
    if (scope->n_aside > 0)
        scope->aside[scope->n_slots + scope->n_newer++] = object;
    else
        ring_push(&scope->rings[0], object);
}

static inline uint32_t lifo_victim(Scope *scope)
{
    lifo_end(scope);
    uint32_t object = ring_pop_newest(&scope->rings[0]);
    scope->position[object] = NOBODY;
    return object;
}

static inline uint32_t lifo_victim_outside(Scope *scope)
{
    for (;;) {
        uint32_t object = ring_pop_newest(&scope->rings[0]);
        if (!scope_is_active(scope, object)) {
            scope->position[object] = NOBODY;
            return object;
        }
        scope->aside[scope->n_aside++] = object;
    }
}

#endif
