/* The hand of clock and sieve for wide runs: it clears the bits of those visited, and takes the
 * first without. Inside policies/ only.
 *
 * All that most events do happens in the window of 64 places ahead of the hand. Serial: who hits is
 * visited when the hand comes to him if his turn was before, which is when no more misses come
 * before it than there are victims before his place. Whose turn is later goes if he was not
 * visited, and else is visited after the hand has passed. Batch: all of A are visited first, and
 * keep their bit. */
#ifndef POLICIES_WIDE_HAND_H
#define POLICIES_WIDE_HAND_H

#include "policies/wide_lanes.h"

/* What an event does in the window. */
typedef struct {
    bool fits;        /* it does all there; else nothing else holds */
    uint64_t victims; /* a bit each */
    uint64_t visited; /* those whose bits change */
    uint32_t passed;  /* so many places */
    uint32_t outside; /* those of A that hit, but not in the window: a bit each */
} HandMove;

/* Nobody has a place. */
static inline void hand_clear(Scope *scope)
{
    Places *places = &scope->places;
    memset(scope->position, 0xFF, (scope->n_objects + 1) * sizeof *scope->position);
    memset(places->visited, 0, places->room / 64 * sizeof *places->visited);
    memset(places->taken, 0, places->room / 64 * sizeof *places->taken);
    places->object[places->room] = scope->n_objects;
}

/* OBJECT, whose flag says whether it was visited, takes the place AT. */
static inline void hand_place(Scope *scope, uint32_t object, uint32_t at)
{
    Places *places = &scope->places;
    places->object[at] = object;
    scope->position[object] = at;
    places_set_bit(places->taken, at);
    places->visited[at / 64] |= (uint64_t)(scope->flag[object] != 0) << at % 64;
}

WIDE_INLINE uint64_t hand_any(__m512i bits)
{
    return (uint64_t)_mm512_reduce_or_epi64(bits);
}

/* Who of A hits, a lane each: its bit in the window. */
WIDE_INLINE __m512i hand_own(const Places *places, const WideEvent *event)
{
    __m256i hand = wide_all(places->hand);
    __m256i ahead = _mm256_sub_epi32(event->keys, hand);
    __mmask8 is_behind = _mm256_cmplt_epu32_mask(event->keys, hand);
    ahead = _mm256_mask_add_epi32(ahead, is_behind, ahead, wide_all(places->n_words * 64));
    return _mm512_maskz_sllv_epi64((__mmask8)event->hits, _mm512_set1_epi64(1),
                                   _mm512_cvtepu32_epi64(ahead));
}

/* Those of A that hit and are late: the hand comes to them before their turn. */
WIDE_INLINE uint32_t hand_late(const WideEvent *event, __m512i own, uint64_t may_go)
{
    __m512i below = _mm512_sub_epi64(own, _mm512_set1_epi64(1));
    __m512i victims = _mm512_and_si512(below, _mm512_set1_epi64((long long)may_go));
    __m512i misses = _mm512_cvtepu32_epi64(wide_before(event->misses));
    return _mm512_cmpgt_epi64_mask(misses, _mm512_popcnt_epi64(victims)) & event->hits;
}

/* Of WHO, who are late and not visited, the first that the hand comes to goes, and misses. Those
 * behind him are judged anew. */
WIDE_INLINE void hand_take(WideEvent *event, uint32_t who, __m512i *own)
{
    uint64_t bits = hand_any(_mm512_maskz_mov_epi64((__mmask8)who, *own));
    uint32_t first =
        _mm512_test_epi64_mask(*own, _mm512_set1_epi64((long long)(bits & (0 - bits))));
    event->hits &= ~first;
    event->misses |= first;
    event->n_misses++;
    *own = _mm512_maskz_mov_epi64((__mmask8)event->hits, *own);
}

/* FEW_LATE: an event of which anybody is late does not fit, so that nothing waits for who that is.
 */
WIDE_INLINE HandMove hand_move(const Places *places, WideEvent *event, bool serial, bool few_late)
{
    HandMove move = {0};
    __m512i own = hand_own(places, event);
    uint64_t visited = places_window(places, places->visited);
    uint64_t free = places_window(places, places->taken) & ~visited;
    uint32_t late = serial ? hand_late(event, own, free & ~hand_any(own)) : 0;
    bool fits = !few_late || late == 0;
    if (few_late)
        late = 0;
    __m512i not_visited = _mm512_set1_epi64((long long)~visited);
    uint32_t who;
    while (serial && RARELY((who = late & _mm512_test_epi64_mask(own, not_visited)) != 0)) {
        hand_take(event, who, &own);
        late = hand_late(event, own, free & ~hand_any(own));
    }
    uint64_t any = hand_any(own);
    move.victims = _pdep_u64((UINT64_C(1) << event->n_misses) - 1, free & ~any);
    move.passed = 64 - (uint32_t)_lzcnt_u64(move.victims);
    uint64_t passed = _bzhi_u64(UINT64_MAX, move.passed);
    uint64_t stays = serial ? hand_any(_mm512_maskz_mov_epi64((__mmask8)late, own)) : any;
    move.visited = (((visited | any) & ~passed) | stays) ^ visited;
    move.fits = fits && wide_bits_64(move.victims) == event->n_misses;
    move.outside = event->hits & ~_mm512_test_epi64_mask(own, own);
    return move;
}

/* Visits those of A with a bit in WHO; the others have a word each behind the places. */
WIDE_INLINE void hand_visit(const Places *places, const WideEvent *event, uint32_t who)
{
    _Alignas(32) uint32_t word[WIDE_LANES];
    _Alignas(64) uint64_t bit[WIDE_LANES];
    __m512i shifts = _mm512_cvtepu32_epi64(_mm256_and_si256(event->keys, wide_all(63)));
    wide_store(
        word, _mm256_mask_srli_epi32(wide_count(places->room / 64), (__mmask8)who, event->keys, 6));
    _mm512_storeu_si512(bit, _mm512_maskz_sllv_epi64((__mmask8)who, _mm512_set1_epi64(1), shifts));
    for (uint32_t i = 0; i < WIDE_LANES; i++)
        places->visited[word[i]] |= bit[i];
}

/* The places of the window's BITS, at most eight, the others that of nobody. */
WIDE_INLINE __m256i hand_places(const Places *places, uint64_t bits, uint32_t n)
{
    const __m512i up = _mm512_set_epi8(
        63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41,
        40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18,
        17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m128i ahead = _mm512_castsi512_si128(_mm512_maskz_compress_epi8(bits, up));
    __m256i at = _mm256_add_epi32(_mm256_cvtepu8_epi32(ahead), wide_all(places->hand));
    __m256i all = wide_all(places->n_words * 64);
    at = _mm256_mask_sub_epi32(at, _mm256_cmpge_epu32_mask(at, all), at, all);
    return _mm256_mask_mov_epi32(wide_all(places->room), (__mmask8)((1u << n) - 1), at);
}

#endif
