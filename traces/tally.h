/* How many of an event's ids each expert has, where ids take a byte: without a branch that depends
 * on them. Four counts of each expert take turns, so that none has to wait for the one before. */
#ifndef TRACES_TALLY_H
#define TRACES_TALLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TALLY_PARTS = 4,
    TALLY_IDS = TALLY_PARTS * UINT8_MAX, /* that are counted at once, at the most */
    TALLY_EVENTS = 4,                    /* that are summed up at once, at the most */
    TALLY_LARGE = 128,
    TALLY_ROOM = 64 /* that arrays need besides what is written to them */
};

/* All zero between calls. */
typedef struct {
    uint8_t counts[TALLY_PARTS][UINT8_MAX + 1]; /* by id; the last is that of dropped ones */
} Tally;

typedef struct {
    uint32_t active;      /* experts that have any */
    uint32_t assignments; /* ids that are not UINT8_MAX, which stands for a dropped one */
    uint32_t squares;     /* of each expert's, added up; unless IS_LARGE */
    bool is_large;        /* one of them has TALLY_LARGE or more */
} TallySum;

/* Counts the IDS[n][tokens][top_k] of N events, TALLY_EVENTS at the most: TALLY_IDS at the most of
 * each, all below EXPERTS, at most UINT8_MAX, or UINT8_MAX. */
void tally_sums(Tally *tally, const uint8_t *ids, size_t tokens, uint32_t top_k, uint32_t experts,
                uint32_t n, TallySum *sums);
/* The same of the IDS[n] of one, with the ascending experts in ACTIVE[active + TALLY_ROOM] and,
 * unless IS_LARGE, how many each has in COUNTS, of the same size. */
TallySum tally_list(Tally *tally, const uint8_t *ids, size_t n, uint32_t experts, uint16_t *active,
                    uint8_t *counts);

#endif
