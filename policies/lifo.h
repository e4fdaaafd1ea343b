/* A stack of residents in load order: what lifo and lifo-inactive-first share. Inside policies/
 * only. The position of a resident is 0, that of others NOBODY: it says the same as scope->resident
 * in a form that wide runs can read. */
#ifndef POLICIES_LIFO_H
#define POLICIES_LIFO_H

#include "policies/event_loop.h"
#include "policies/wide.h"

static inline void lifo_push(Scope *scope, uint32_t object)
{
    ring_push(&scope->rings[0], object);
}

static inline uint32_t lifo_pop(Scope *scope)
{
    return ring_pop_newest(&scope->rings[0]);
}

/* The members of A that were passed over come back, then those admitted since: they are newer. */
static inline void lifo_end(Scope *scope)
{
    const uint32_t *newer = scope->aside + scope->n_slots;
    scope_put_back(scope, lifo_push);
    for (uint32_t i = 0; i < scope->n_newer; i++)
        lifo_push(scope, newer[i]);
    scope->n_newer = 0;
}

static inline void lifo_admit(Scope *scope, uint32_t object)
{
    scope->position[object] = 0;
    if (scope->n_aside > 0)
        scope->aside[scope->n_slots + scope->n_newer++] = object;
    else
        lifo_push(scope, object);
}

static inline uint32_t lifo_victim(Scope *scope)
{
    lifo_end(scope);
    uint32_t object = lifo_pop(scope);
    scope->position[object] = NOBODY;
    return object;
}

static inline uint32_t lifo_victim_outside(Scope *scope)
{
    uint32_t object = scope_take_outside(scope, lifo_pop);
    scope->position[object] = NOBODY;
    return object;
}

#endif
