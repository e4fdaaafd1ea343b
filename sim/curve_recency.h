/* Depths in an order of last use: how many objects were used since an object was. For sim/curve.c.
 *
 * Every use has a position, from old to new; one bit says whether it is the last use of its object.
 * The depth of an object is the number of bits above its own: Bennett and Kruskal 1975 (LRU stack
 * processing). Theirs is a tree; here counts of the bits below stand beside each word and each
 * group of words, and a use corrects those above the bit it clears, many at a time and without a
 * branch. When the positions run out, the last uses move down to the lowest. */
#ifndef SIM_CURVE_RECENCY_H
#define SIM_CURVE_RECENCY_H

#include "base/memory.h"

#define RECENCY_NEW UINT32_MAX

typedef struct {
    uint64_t *bits;     /* [n_words] */
    uint16_t *below;    /* [n_words] bits in the words before, of the same group */
    uint32_t *groups;   /* [n_groups] bits in the groups before; both up to the word of head */
    uint32_t *objects;  /* [64 * n_words] whose use a position is */
    uint32_t *position; /* [n_objects], or RECENCY_NEW */
    uint32_t n_words;   /* of 64 positions */
    uint32_t n_groups;
    uint32_t n_objects;
    uint32_t head; /* the next position */
    uint32_t used; /* objects that have one */
} RecencyDepths;

/* Reserves room in ARENA, or takes it when ARENA has a base, which also forgets all uses. */
void recency_depths_lay_out(RecencyDepths *depths, uint32_t n_objects, Arena *arena);

/* Uses OBJECT. Returns its depth before, from 0, or RECENCY_NEW at its first use. */
uint32_t recency_depths_use(RecencyDepths *depths, uint32_t object);

#endif
