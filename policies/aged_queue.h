/* What lfu-aged keeps of its residents. Inside policies/ only. */
#ifndef POLICIES_AGED_QUEUE_H
#define POLICIES_AGED_QUEUE_H

#include <stddef.h>
#include <stdint.h>

enum { AGED_TURNS = 256, AGED_STRIDE = 32, AGED_NEAR = 64, AGED_ONE = 256 };

/* Of the error of a score, which is three roundings. */
#define AGED_CLOSE (1.0F - 0x1p-20F)

/* Of an object, side by side, since each of them is wanted with the others. */
typedef struct {
    uint32_t last;  /* time of the last lookup */
    uint32_t count; /* lookups */
    uint32_t place; /* where it is near, or none */
    uint32_t next;  /* who waits behind it, or NOBODY */
} AgedUse;

/* What a search found. */
typedef struct {
    float most;       /* the greatest score */
    uint32_t n_close; /* so many are AGED_CLOSE times that or more */
    uint32_t at;      /* the place of that one if it is alone */
} AgedMost;

/* Searches the first N places of LAST and RATE, a multiple of AGED_STRIDE. */
typedef AgedMost (*AgedFind)(const uint32_t *last, const float *rate, size_t n, uint32_t now);

/* Residents are near, or wait. The first N of the arrays by place are near; from there to the next
 * multiple of AGED_STRIDE rates are 0. Whoever is not near has the place NONE, which nobody reads.
 */
typedef struct {
    uint32_t *last;   /* [room] time of the last lookup */
    float *rate;      /* [room] 1 / lookups */
    uint32_t *object; /* [room] */
    AgedFind find;    /* the way of this machine */
    uint32_t none;    /* a place */
    AgedUse *uses;    /* [n_objects] */
    uint32_t n;
    uint32_t near;      /* as many as are wanted at most */
    uint32_t most;      /* where more are near, the threshold goes up */
    uint32_t *head;     /* [AGED_TURNS] the first who waits for each turn of time, or NOBODY */
    uint32_t turn;      /* has come */
    uint32_t shift;     /* a turn has 2^shift lookups */
    uint32_t threshold; /* in parts of AGED_ONE */
    double share;       /* how far below the most the threshold goes */
} AgedQueue;

/* Places for N residents. */
static inline size_t aged_room(size_t n)
{
    return (n + AGED_STRIDE - 1) / AGED_STRIDE * AGED_STRIDE + AGED_STRIDE;
}

/* Empties it for a scope of so many SLOTS: the threshold is 0, a round of the wheel a few times as
 * many lookups as there are slots. */
void aged_reset(AgedQueue *aged, uint32_t slots);

/* The score of a place: (NOW - LAST) * RATE. NOW is at most 2^31 - 1 later than any LAST with a
 * rate. */
static inline float aged_score(uint32_t last, float rate, uint32_t now)
{
    return (float)(int32_t)((now - last) & INT32_MAX) * rate;
}

#endif
