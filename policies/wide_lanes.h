/* What wide runs (policies/wide.h) are made of. Only for their files. */
#ifndef POLICIES_WIDE_LANES_H
#define POLICIES_WIDE_LANES_H

#include <immintrin.h>

#include "policies/wide.h"

#define WIDE                                                                                       \
    __attribute__((                                                                                \
        target("avx512f,avx512vl,avx512bw,avx512vpopcntdq,avx512vbmi2,bmi,bmi2,lzcnt,popcnt")))
#define WIDE_INLINE WIDE static inline __attribute__((always_inline))
#define RARELY(condition) __builtin_expect(condition, 0)

enum { WIDE_WINDOW = 16, WIDE_GROUP = 4 };

/* An event's lookups: lane and bit I are the I-th of A, lanes beyond are nobody. */
typedef struct {
    __m256i objects;
    __m256i keys; /* of each, as in wide_look_up() */
    uint32_t n;
    uint32_t hits;
    uint32_t misses;
    uint32_t n_misses;
} WideEvent;

WIDE_INLINE __m256i wide_all(uint32_t value)
{
    return _mm256_set1_epi32((int)value);
}

WIDE_INLINE __m256i wide_gather(const uint32_t *from, __m256i at)
{
    return _mm256_i32gather_epi32((const int *)from, at, sizeof *from);
}

WIDE_INLINE __m512i wide_gather_16(const uint32_t *from, __m512i at)
{
    return _mm512_i32gather_epi32(at, from, sizeof *from);
}

WIDE_INLINE void wide_store(uint32_t *to, __m256i lanes)
{
    _mm256_storeu_si256((__m256i *)(void *)to, lanes);
}

WIDE_INLINE uint32_t wide_bits(uint32_t bits)
{
    return (uint32_t)__builtin_popcount(bits);
}

WIDE_INLINE uint32_t wide_bits_64(uint64_t bits)
{
    return (uint32_t)__builtin_popcountll(bits);
}

/* FROM, FROM + 1 and so on. */

WIDE_INLINE __m256i wide_count(uint32_t from)
{
    return _mm256_add_epi32(wide_all(from), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

WIDE_INLINE __m512i wide_count_16(uint32_t from)
{
    const __m512i up = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_add_epi32(_mm512_set1_epi32((int)from), up);
}

/* How many bits of BITS are below each lane's own. */
WIDE_INLINE __m256i wide_before(uint32_t bits)
{
    const __m256i below = _mm256_setr_epi32(0, 1, 3, 7, 15, 31, 63, 127);
    return _mm256_popcnt_epi32(_mm256_and_si256(wide_all(bits), below));
}

/* The lanes of BITS in one. */
WIDE_INLINE uint32_t wide_any(__m256i bits)
{
    __m128i any = _mm_or_si128(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    any = _mm_or_si128(any, _mm_shuffle_epi32(any, 0x4E));
    any = _mm_or_si128(any, _mm_shuffle_epi32(any, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(any);
}

/* The N lowest of BITS. */
WIDE_INLINE uint32_t wide_lowest(uint32_t bits, uint32_t n)
{
    return _pdep_u32((UINT32_C(1) << n) - 1, bits);
}

/* Those of OBJECTS with a bit in MASK, then nobody. */

WIDE_INLINE __m256i wide_pick(const Scope *scope, __m256i objects, uint32_t mask)
{
    return _mm256_mask_compress_epi32(wide_all(scope->n_objects), (__mmask8)mask, objects);
}

WIDE_INLINE __m256i wide_pick_16(const Scope *scope, __m512i objects, uint32_t mask)
{
    __m512i nobody = _mm512_set1_epi32((int)scope->n_objects);
    return _mm512_castsi512_si256(_mm512_mask_compress_epi32(nobody, (__mmask16)mask, objects));
}

/* The keys of eight experts. One load each: gathered together they would wait for what the event
 * before has written. */
WIDE_INLINE __m256i wide_load_keys(const uint32_t *keys, const uint16_t *experts)
{
    return _mm256_setr_epi32((int)keys[experts[0]], (int)keys[experts[1]], (int)keys[experts[2]],
                             (int)keys[experts[3]], (int)keys[experts[4]], (int)keys[experts[5]],
                             (int)keys[experts[6]], (int)keys[experts[7]]);
}

/* Looks A up against the start: KEYS are by object, NOBODY where it is not resident. FIRST is the
 * object of expert 0. */
WIDE_INLINE WideEvent wide_look_up(const Scope *scope, const uint16_t *experts, uint32_t n,
                                   uint32_t first, const uint32_t *keys)
{
    WideEvent event = {.n = n};
    uint32_t lanes = (1u << n) - 1;
    __m128i ids = _mm_maskz_loadu_epi16((__mmask8)lanes, experts);
    event.objects = _mm256_mask_add_epi32(wide_all(scope->n_objects), (__mmask8)lanes,
                                          _mm256_cvtepu16_epi32(ids), wide_all(first));
    event.keys =
        n == WIDE_LANES ? wide_load_keys(keys + first, experts) : wide_gather(keys, event.objects);
    event.hits = _mm256_mask_cmpneq_epi32_mask((__mmask8)lanes, event.keys, wide_all(NOBODY));
    event.misses = lanes & ~event.hits;
    event.n_misses = wide_bits(event.misses);
    return event;
}

/* Those that hit, then those that missed. */
WIDE_INLINE __m256i wide_hits_first(const Scope *scope, const WideEvent *event, __m256i newcomers)
{
    __m256i hits = wide_pick(scope, event->objects, event->hits);
    return _mm256_mask_expand_epi32(hits, (__mmask8)(0xFFu << (event->n - event->n_misses)),
                                    newcomers);
}

/* Writes what each lookup found to HIT, unless NULL. */
WIDE_INLINE void wide_write_hits(const WideEvent *event, uint8_t *hit)
{
    uint32_t lanes = (1u << event->n) - 1;
    if (hit != NULL)
        _mm_mask_storeu_epi8(hit, (__mmask16)lanes,
                             _mm_maskz_set1_epi8((__mmask16)(lanes & ~event->misses), 1));
}

/* The N first of OBJECTS, and nobody, get KEY. */
WIDE_INLINE void wide_set_keys(uint32_t *keys, uint32_t n, __m256i objects, uint32_t key)
{
    _Alignas(32) uint32_t list[WIDE_LANES];
    uint32_t i = 0;
    wide_store(list, objects);
    do
        for (uint32_t end = i + WIDE_GROUP; i < end; i++)
            keys[list[i]] = key;
    while (i < n);
}

/* NEWCOMERS take the slots of VICTIMS; as many as misses, the other lanes are nobody. Adds the
 * event's lookups to COUNTS, those of its layer. Victims may have come with the event before: one
 * load each, as in wide_load_keys(). */
WIDE_INLINE void wide_exchange(Scope *scope, ScopeEvent *counts, const WideEvent *event,
                               __m256i newcomers, __m256i victims)
{
    _Alignas(32) uint32_t in[WIDE_LANES];
    _Alignas(32) uint32_t out[WIDE_LANES];
    uint32_t *slots = scope->slot;
    uint32_t *loaded_at = scope->loaded_at;
    uint32_t n_loaded = scope->n_loaded;
    uint32_t young = scope->young;
    uint32_t n = event->n_misses;
    uint32_t n_young = 0;
    uint32_t i = 0;
    __m256i newest = _mm256_mask_expand_epi32(wide_all(scope->newest), 0xFE, newcomers);
    wide_store(in, newcomers);
    wide_store(out, victims);
    do
        for (uint32_t end = i + WIDE_GROUP; i < end; i++) {
            n_young += (n_loaded + i - loaded_at[out[i]] < young) & (i < n);
            slots[in[i]] = slots[out[i]];
            loaded_at[in[i]] = n_loaded + i + 1;
        }
    while (i < n);
    counts->lookups += event->n;
    counts->hits += event->n - n;
    counts->loads += n;
    counts->evictions += n;
    counts->evicted_young += n_young;
    counts->evicted_newest += wide_bits(_mm256_cmpeq_epi32_mask(newest, victims) & ((1u << n) - 1));
    scope->newest = n != 0 ? in[n - 1] : scope->newest;
    scope->n_loaded += n;
}

#endif
