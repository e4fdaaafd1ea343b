/* What lfu-aged keeps of its residents. Inside policies/ only. */
#ifndef POLICIES_AGED_QUEUE_H
#define POLICIES_AGED_QUEUE_H

#include <stddef.h>
#include <stdint.h>

enum { AGED_TURNS = 256, AGED_STRIDE = 16, AGED_NEAR = 64 };

/* Of an object, side by side, since each of them is wanted with the others. */
typedef struct {
    uint32_t last;  /* time of the last lookup */
    uint32_t count; /* lookups */
    uint32_t place; /* where it is near, or none */
    uint32_t next;  /* who waits behind it, or NOBODY */
} AgedUse;

/* Residents are near, or wait. The first N of the arrays by place are near; from there to the next
 * multiple of AGED_STRIDE rates are 0. Whoever is not near has the place NONE, which nobody reads.
 */
typedef struct {
    uint32_t *last;   /* [room] time of the last lookup */
    float *rate;      /* [room] 1 / lookups */
    float *score;     /* [room] what the last search found */
    uint32_t *object; /* [room] */
    uint32_t none;    /* a place */
    AgedUse *uses;    /* [n_objects] */
    uint32_t n;
    uint32_t near;  /* as many as are wanted at most */
    uint32_t most;  /* where more are near, the threshold goes up */
    uint32_t *head; /* [AGED_TURNS] the first who waits for each turn of time, or NOBODY */
    uint32_t turn;  /* has come */
    uint32_t shift; /* a turn has 2^shift lookups */
    double threshold;
    double share; /* how far below the most the threshold goes */
} AgedQueue;

/* Places for N residents. */
static inline size_t aged_room(size_t n)
{
    return (n + AGED_STRIDE - 1) / AGED_STRIDE * AGED_STRIDE + AGED_STRIDE;
}

/* Empties it for a scope of so many SLOTS: the threshold is 0, a round of the wheel a few times as
 * many lookups as there are slots. */
void aged_reset(AgedQueue *aged, uint32_t slots);

/* Scores of SCORE[n], LAST and RATE alike, n a multiple of AGED_STRIDE: (NOW - LAST) * RATE, of
 * which the greatest is returned. NOW is at most 2^31 - 1 later than any LAST with a rate. */
float aged_scores(const uint32_t *last, const float *rate, uint32_t n, uint32_t now, float *score);
/* How many of SCORE[n] are at least LIMIT, and in *AT the place of that one if it is alone. */
uint32_t aged_count(const float *score, uint32_t n, float limit, uint32_t *at);

#endif
