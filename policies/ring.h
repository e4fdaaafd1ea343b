/* Objects in an order: a queue or a stack over one array. Inside policies/ only.
 *
 * Positions count up from the oldest to the newest for ever; the array repeats after a power of
 * two. Nothing here is checked: a ring has room for all residents of its scope. */
#ifndef POLICIES_RING_H
#define POLICIES_RING_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint32_t *objects;
    uint32_t mask; /* positions of the array less one */
    uint32_t tail; /* position of the oldest */
    uint32_t head; /* ... behind the newest */
} Ring;

/* The room of a ring for so many objects. The part that is not in use is what an order that is
 * cleaned up seldom may leave behind (policies/recency.h). */
static inline uint32_t ring_room(uint32_t objects)
{
    uint32_t room = 64;
    while (room < 4 * (uint64_t)objects && room < UINT32_C(1) << 31)
        room *= 2;
    return room;
}

static inline uint32_t ring_size(const Ring *ring)
{
    return ring->head - ring->tail;
}

static inline bool ring_is_empty(const Ring *ring)
{
    return ring->head == ring->tail;
}

static inline void ring_push(Ring *ring, uint32_t object)
{
    ring->objects[ring->head++ & ring->mask] = object;
}

/* Puts OBJECT at the old end. */
static inline void ring_push_oldest(Ring *ring, uint32_t object)
{
    ring->objects[--ring->tail & ring->mask] = object;
}

static inline uint32_t ring_pop_oldest(Ring *ring)
{
    return ring->objects[ring->tail++ & ring->mask];
}

static inline uint32_t ring_pop_newest(Ring *ring)
{
    return ring->objects[--ring->head & ring->mask];
}

#endif
