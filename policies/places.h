/* Objects in an order of places, and a hand that goes over them and round: what wide runs make of
 * the rings of clock and sieve. Inside policies/ only. */
#ifndef POLICIES_PLACES_H
#define POLICIES_PLACES_H

#include <stdint.h>

/* A bit for each place says whether it is taken, and whether who is there was visited: not where it
 * is free. Places repeat after the words that are in use. */
typedef struct {
    uint32_t *object;  /* [room + 16] who is at each; at room is nobody */
    uint64_t *taken;   /* [room / 64 + 8] */
    uint64_t *visited; /* [room / 64 + 8] */
    uint32_t room;     /* a multiple of 64 */
    uint32_t next;     /* no place from there on is taken */
    uint32_t n_words;  /* with places before next */
    uint32_t hand;     /* the place that is looked at next, or next */
} Places;

/* So many that free places are seldom closed up, and that few objects have few words. */
static inline uint32_t places_room(uint32_t objects)
{
    return ((objects <= 64 ? 2 : 4) * objects + 63) / 64 * 64;
}

static inline void places_set_next(Places *places, uint32_t next)
{
    places->next = next;
    places->n_words = (next + 63) / 64;
}

static inline uint32_t places_next_word(const Places *places, uint32_t word)
{
    return word + 1 < places->n_words ? word + 1 : 0;
}

/* BITS of the 64 places from the hand on. */
static inline uint64_t places_window(const Places *places, const uint64_t *bits)
{
    uint32_t word = places->hand / 64;
    uint32_t shift = places->hand % 64;
    return bits[word] >> shift | bits[places_next_word(places, word)] << 1 << (63 - shift);
}

/* Changes BITS of theirs where CHANGES has one. */
static inline void places_change(const Places *places, uint64_t *bits, uint64_t changes)
{
    uint32_t word = places->hand / 64;
    uint32_t shift = places->hand % 64;
    bits[word] ^= changes << shift;
    bits[places_next_word(places, word)] ^= changes >> 1 >> (63 - shift);
}

/* The hand goes N places on, at most 64. */
static inline void places_go_on(Places *places, uint32_t n)
{
    uint32_t all = places->n_words * 64;
    places->hand += n;
    places->hand -= places->hand >= all ? all : 0;
}

static inline uint64_t places_bit(const uint64_t *bits, uint32_t at)
{
    return bits[at / 64] >> at % 64 & 1;
}

static inline void places_set_bit(uint64_t *bits, uint32_t at)
{
    bits[at / 64] |= UINT64_C(1) << at % 64;
}

static inline void places_clear_bit(uint64_t *bits, uint32_t at)
{
    bits[at / 64] &= ~(UINT64_C(1) << at % 64);
}

#endif
