/* What lfu-aged keeps of its residents. Inside policies/ only. */
#ifndef POLICIES_AGED_QUEUE_H
#define POLICIES_AGED_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    AGED_STRIDE = 32,
    AGED_NEAR = 64,                 /* so many can be near: a bit of a word each */
    AGED_CLOSE = 16,                /* scores as close as this may be in the other order */
    AGED_LAST_TIME = INT32_MAX - 1, /* ages have 31 bits */
};

typedef struct {
    uint32_t count; /* lookups */
    uint32_t slot;  /* while it is resident */
} AgedUse;

/* What a search of all found. */
typedef struct {
    float most;       /* the greatest score */
    uint32_t n_close; /* so many are close to it */
    uint32_t at;      /* the place of that one if it is alone */
} AgedMost;

/* What a search of those near found. */
typedef struct {
    uint64_t close; /* a bit for each that is close to the most */
    float most;     /* the greatest score */
} AgedNearest;

/* How this machine searches. Scores are those of NOW, of places of LAST and RATE. */
typedef struct {
    /* The first N, a multiple of AGED_STRIDE. */
    AgedMost (*all)(const uint32_t *last, const float *rate, size_t n, uint32_t now);
    /* Those of AGED_NEAR that have a bit in WHO. */
    AgedNearest (*near)(const uint32_t *last, const float *rate, uint64_t who, uint32_t now);
    /* Writes which of the first N have a score of LEAST or more to FOUND[N + AGED_STRIDE]; returns
     * how many. */
    uint32_t (*reach)(const uint32_t *last, const float *rate, size_t n, uint32_t now, float least,
                      uint32_t *found);
} AgedSearch;

/* Residents by slot, and a copy of those that are near: whoever reaches the threshold before the
 * horizon. The last place of either is of nobody, is written to, and is not searched. */
typedef struct {
    AgedUse *uses;   /* [n_objects] */
    uint32_t *last;  /* [n + 1] time of the last lookup */
    float *rate;     /* [n + 1] 1 / lookups; 0: nobody is there, or he is set aside */
    uint16_t *index; /* [n + 1] where it is near, or AGED_NEAR */
    uint32_t *found; /* [n + AGED_STRIDE] */
    uint32_t n;      /* slots, rounded up to AGED_STRIDE */

    uint32_t *near_last;   /* [AGED_NEAR + 1] */
    float *near_rate;      /* the same */
    uint32_t *near_slot;   /* the same */
    uint32_t *near_object; /* the same */
    uint64_t near;         /* a bit for each that is there */
    float threshold;
    uint32_t horizon;

    uint32_t ahead;    /* lookups of the event that time does not count yet */
    uint32_t wanted;   /* victims from one filling to the next; 0: all are searched */
    uint32_t taken;    /* victims since the last */
    uint32_t since;    /* its time */
    float gap;         /* lookups from one victim to the next, of late */
    float share;       /* how far below the most the threshold is, as a part of it */
    AgedSearch search; /* constant */
} AgedQueue;

/* N slots, rounded up. */
static inline size_t aged_room(size_t n)
{
    return (n + AGED_STRIDE - 1) / AGED_STRIDE * AGED_STRIDE;
}

/* Empties it for a scope of so many OBJECTS and SLOTS. */
void aged_reset(AgedQueue *aged, uint32_t objects, uint32_t slots);

/* The score of a place: (NOW - LAST) * RATE. NOW is at most 2^31 - 1 later than any LAST with a
 * rate. */
static inline float aged_score(uint32_t last, float rate, uint32_t now)
{
    return (float)(int32_t)(now - last) * rate;
}

/* Floats that are not negative have the order of their bits, and compilers compare integers
 * several at a time. */
static inline int32_t aged_bits(float score)
{
    int32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits;
}

/* The least that is close to MOST, a score and not 0: AGED_CLOSE units in the last place, which are
 * 2^-20 of it or more, where a score's four roundings are 2^-22. */
static inline float aged_limit(float most)
{
    int32_t bits = aged_bits(most) - AGED_CLOSE;
    memcpy(&most, &bits, sizeof most);
    return most;
}

#endif
