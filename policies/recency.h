/* Rings whose objects move to the new end when they are looked up. Inside policies/ only.
 *
 * Moving writes the object behind the newest and its position there; what it leaves behind is stale
 * (its position is another), and is passed over by who comes from an end. When a ring is full, the
 * stale are dropped from all of it: it has room for four times the residents, so that each push
 * pays for a few. A policy has one such ring. */
#ifndef POLICIES_RECENCY_H
#define POLICIES_RECENCY_H

#include "policies/scope.h"

enum { RECENCY_STRIDE = 8 };

/* True when the object at position AT is not stale. */
ALWAYS_INLINE bool recency_is_at(const Scope *scope, const Ring *ring, uint32_t at)
{
    return scope->position[ring->objects[at & ring->mask]] == (at & ring->mask);
}

/* Drops the stale: the others move up to the new end. */
static inline void recency_clean(Scope *scope, Ring *ring)
{
    uint32_t to = ring->head;
    for (uint32_t at = ring->head; at != ring->tail;) {
        if (!recency_is_at(scope, ring, --at))
            continue;
        uint32_t object = ring->objects[at & ring->mask];
        ring->objects[--to & ring->mask] = object;
        scope->position[object] = to & ring->mask;
    }
    ring->tail = to;
}

ALWAYS_INLINE void recency_push(Scope *scope, Ring *ring, uint32_t object)
{
    if (ring_size(ring) > ring->mask)
        recency_clean(scope, ring);
    scope->position[object] = ring->head & ring->mask;
    ring_push(ring, object);
}

/* Steps of whole events, as functions of their own, so that their loops have the registers to
 * themselves. EXPERTS[n] and what is by expert are of one layer, whose expert 0 is the object
 * FIRST; OBJECTS is the array of a ring with MASK, HEAD its head. */

/* Writes the positions in A of the misses to MISSES and moves the hits to the new end, where there
 * is room. Returns the number of misses. POSITION of those is not of use then. */
uint32_t recency_move_hits(const uint16_t *experts, uint32_t n, uint32_t first,
                           const bool *resident, uint32_t *position, uint32_t *objects,
                           uint32_t mask, uint32_t head, uint16_t *misses);
/* Moves all to the new end. */
void recency_append(const uint16_t *experts, uint32_t n, uint32_t first, uint32_t *position,
                    uint32_t *objects, uint32_t mask, uint32_t head);
/* Moves all to the new end, and writes the positions in A of the misses to MISSES and where each
 * was before to BEFORE[n]. Returns the misses, and in *NEAREST how far from TAIL the oldest of the
 * hits was. */
uint32_t recency_append_all(const uint16_t *experts, uint32_t n, uint32_t first,
                            const bool *resident, uint32_t *position, const Ring *ring,
                            uint16_t *misses, uint32_t *before, uint32_t *nearest);
/* Moves those at the positions MISSES[n] of EXPERTS to the new end. */
void recency_append_misses(const uint16_t *experts, const uint16_t *misses, uint32_t n,
                           uint32_t first, uint32_t *position, uint32_t *objects, uint32_t mask,
                           uint32_t head);
/* A bit for each of the RECENCY_STRIDE positions from AT on that is not stale; POSITION is by
 * object. */
uint32_t recency_live(const uint32_t *objects, const uint32_t *position, uint32_t mask,
                      uint32_t at);

/* The oldest or newest, of which there is one; the stale at that end are gone then. */

ALWAYS_INLINE uint32_t recency_oldest(const Scope *scope, Ring *ring)
{
    while (!recency_is_at(scope, ring, ring->tail))
        ring->tail++;
    return ring->objects[ring->tail & ring->mask];
}

ALWAYS_INLINE uint32_t recency_newest(const Scope *scope, Ring *ring)
{
    while (!recency_is_at(scope, ring, ring->head - 1))
        ring->head--;
    return ring->objects[(ring->head - 1) & ring->mask];
}

/* The oldest or newest without a mark, or NOBODY. */

ALWAYS_INLINE uint32_t recency_oldest_outside(const Scope *scope, const Ring *ring)
{
    for (uint32_t at = ring->tail; at != ring->head; at++) {
        uint32_t object = ring->objects[at & ring->mask];
        if (!scope_is_active(scope, object) && recency_is_at(scope, ring, at))
            return object;
    }
    return NOBODY;
}

ALWAYS_INLINE uint32_t recency_newest_outside(const Scope *scope, const Ring *ring)
{
    for (uint32_t at = ring->head; at != ring->tail; at--) {
        uint32_t object = ring->objects[(at - 1) & ring->mask];
        if (!scope_is_active(scope, object) && recency_is_at(scope, ring, at - 1))
            return object;
    }
    return NOBODY;
}

/* Goes from the oldest to newer ones, eight positions at a time: whether they are stale is found
 * for all eight without a branch. Nothing may move while a walk goes on, and it must find whom it
 * asks for. */
typedef struct {
    uint32_t at;   /* position of the first of the eight */
    uint32_t bits; /* of those not stale, and not walked over */
} RecencyWalk;

ALWAYS_INLINE RecencyWalk recency_walk(const Ring *ring)
{
    return (RecencyWalk){.at = ring->tail - RECENCY_STRIDE};
}

ALWAYS_INLINE uint32_t recency_walk_next(const Scope *scope, const Ring *ring, RecencyWalk *walk)
{
    while (walk->bits == 0) {
        walk->at += RECENCY_STRIDE;
        walk->bits = recency_live(ring->objects, scope->position, ring->mask, walk->at);
    }
    uint32_t bit = (uint32_t)__builtin_ctz(walk->bits);
    walk->bits &= walk->bits - 1;
    return ring->objects[(walk->at + bit) & ring->mask];
}

/* Where the ring begins without those walked over. */
ALWAYS_INLINE uint32_t recency_walk_end(const Ring *ring, const RecencyWalk *walk)
{
    uint32_t left = walk->bits != 0 ? (uint32_t)__builtin_ctz(walk->bits) : RECENCY_STRIDE;
    uint32_t end = walk->at + left;
    return end - ring->tail < ring_size(ring) ? end : ring->head;
}

/* Takes OBJECT out of wherever it is. */
ALWAYS_INLINE void recency_remove(Scope *scope, uint32_t object)
{
    scope->position[object] = NOBODY;
}

#endif
