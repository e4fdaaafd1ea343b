/* Laying pieces out in an arena by one function that runs twice: first, while the arena has no
 * memory, to add up the sizes, then to take the pieces. */
#ifndef BASE_LAYOUT_H
#define BASE_LAYOUT_H

#include "base/memory.h"

/* SIZE_MAX when it does not fit, which no arena has room for. */
static inline size_t times(size_t a, size_t b)
{
    size_t product;
    return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}

/* The next piece of ARENA, or NULL while sizes are added up. */
static inline void *lay_out(Arena *arena, size_t count, size_t size)
{
    if (arena->base != NULL)
        return arena_take(arena, count, size);
    arena_reserve(arena, count, size);
    return NULL;
}

#endif
