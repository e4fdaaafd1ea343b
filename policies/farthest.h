/* Residents by when they are needed next: who is needed last? Inside policies/ only.
 *
 * A tree with sixteen children a node: each knows the largest number below it. Numbers of residents
 * only grow, at each lookup, and few of them are the largest of their sixteen: so a lookup writes
 * one number, and only who looks for the last goes through the tree, sixteen numbers a level. */
#ifndef POLICIES_FARTHEST_H
#define POLICIES_FARTHEST_H

#include <stdint.h>
#include <string.h>

enum { FARTHEST_CHILDREN = 16, FARTHEST_LEVELS = 8 };

typedef struct {
    uint32_t *levels[FARTHEST_LEVELS]; /* 0: by object, when it is needed, or 0; the others: the
                                          largest of sixteen below; the last has sixteen at most */
    uint32_t n_levels;
} Farthest;

/* The numbers of LEVEL, filled up to a multiple of sixteen. */
static inline size_t farthest_room(size_t objects, uint32_t level)
{
    for (; level > 0; level--)
        objects = (objects + FARTHEST_CHILDREN - 1) / FARTHEST_CHILDREN;
    return (objects + FARTHEST_CHILDREN - 1) / FARTHEST_CHILDREN * FARTHEST_CHILDREN;
}

static inline uint32_t farthest_levels(size_t objects)
{
    uint32_t n = 1;
    while (farthest_room(objects, n - 1) > FARTHEST_CHILDREN)
        n++;
    return n;
}

static inline void farthest_reset(Farthest *farthest, size_t objects)
{
    for (uint32_t i = 0; i < farthest->n_levels; i++)
        memset(farthest->levels[i], 0, farthest_room(objects, i) * sizeof *farthest->levels[i]);
}

/* OBJECT, a resident, is needed next at NEXT_USE, above 0 and not before what it had. */
static inline void farthest_put(Farthest *farthest, uint32_t object, uint32_t next_use)
{
    farthest->levels[0][object] = next_use;
    for (uint32_t i = 1; i < farthest->n_levels; i++) {
        object /= FARTHEST_CHILDREN;
        if (farthest->levels[i][object] >= next_use)
            return;
        farthest->levels[i][object] = next_use;
    }
}

/* The first of the largest of sixteen numbers, and its place. */
static inline uint64_t farthest_of(const uint32_t *numbers)
{
    uint64_t best[2] = {0, 0};
    for (uint32_t i = 0; i < FARTHEST_CHILDREN; i++) {
        uint64_t own = (uint64_t)numbers[i] << 32 | (FARTHEST_CHILDREN - 1 - i);
        best[i % 2] = own > best[i % 2] ? own : best[i % 2];
    }
    return best[0] > best[1] ? best[0] : best[1];
}

/* When who is needed last is needed; 0 where nobody is resident. */
static inline uint32_t farthest_use(const Farthest *farthest)
{
    return (uint32_t)(farthest_of(farthest->levels[farthest->n_levels - 1]) >> 32);
}

/* Who that is, the lowest of several. */
static inline uint32_t farthest_object(const Farthest *farthest)
{
    uint32_t at = 0;
    for (uint32_t i = farthest->n_levels; i-- > 0;) {
        uint64_t best = farthest_of(farthest->levels[i] + (size_t)at * FARTHEST_CHILDREN);
        at = at * FARTHEST_CHILDREN + FARTHEST_CHILDREN - 1 - (uint32_t)(best & UINT32_MAX);
    }
    return at;
}

static inline void farthest_remove(Farthest *farthest, uint32_t object)
{
    farthest->levels[0][object] = 0;
    for (uint32_t i = 1; i < farthest->n_levels; i++) {
        object /= FARTHEST_CHILDREN;
        const uint32_t *below = farthest->levels[i - 1] + (size_t)object * FARTHEST_CHILDREN;
        farthest->levels[i][object] = (uint32_t)(farthest_of(below) >> 32);
    }
}

#endif
