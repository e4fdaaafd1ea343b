#include "traces/tally_tokens.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <stdbool.h>

enum {
    EXPERTS = 128, /* bits of a set */
    PLANES = 7,    /* binary digits of a count */
    LANES = 8,     /* tokens of a vector: a lane has the ids of one, or half of its set */
    LANE_IDS = 8,
    BLOCK = 8, /* vectors that are added up at a time */
    LANE_PLANES = 5
};

#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi2,avx512vpopcntdq,popcnt")))
#define WIDE_INLINE WIDE static inline __attribute__((always_inline))

typedef __m512i Lanes;

static bool is_wide(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi2") &&
           __builtin_cpu_supports("avx512vpopcntdq");
}

/* Binary digit I of counts. In each lane of LOW are those of the first 64 experts over the tokens
 * that the lane has had, in HIGH of the others. */
typedef struct {
    Lanes low[PLANES];
    Lanes high[PLANES];
} Counts;

typedef struct {
    const uint8_t *at; /* [tokens][top_k] */
    size_t tokens;
    uint32_t top_k;
} Ids;

/* The ids of at most eight tokens, a lane each, filled up with ids of no expert. */
WIDE_INLINE Lanes load_tokens(const uint8_t *ids, size_t tokens, uint32_t top_k)
{
    const Lanes nobody = _mm512_set1_epi8(-1);
    if (tokens >= LANES && top_k == LANE_IDS)
        return _mm512_loadu_si512(ids);
    uint64_t each = (UINT64_MAX >> (64 - top_k)) * UINT64_C(0x0101010101010101);
    uint64_t mask = tokens >= LANES ? each : each & ((UINT64_C(1) << LANE_IDS * tokens) - 1);
    return _mm512_mask_expandloadu_epi8(nobody, mask, ids);
}

/* Byte K of each lane. */
WIDE_INLINE Lanes byte_of(Lanes lanes, long long k)
{
    const long long rest = (long long)0x8080808080808000;
    const __m128i pick = _mm_set_epi64x(rest | (k + 8), rest | k);
    return _mm512_shuffle_epi8(lanes, _mm512_broadcast_i32x4(pick));
}

/* Adds ids K and K + 1 of each lane to its set: those that are below 64, a shift by more leaves
 * nothing. */
WIDE_INLINE Lanes add_ids(Lanes sets, Lanes ids, int k)
{
    const Lanes one = _mm512_set1_epi64(1);
    const Lanes first = _mm512_sllv_epi64(one, byte_of(ids, k));
    const Lanes second = _mm512_sllv_epi64(one, byte_of(ids, k + 1));
    return _mm512_ternarylogic_epi64(sets, first, second, 0xFE);
}

WIDE_INLINE Lanes sets_of(Lanes ids)
{
    Lanes sets = _mm512_setzero_si512();
    for (int k = 0; k < LANE_IDS; k += 2)
        sets = add_ids(sets, ids, k);
    return sets;
}

/* Adds A and B to *SUM; returns what is carried. */
WIDE_INLINE Lanes add_two(Lanes *sum, Lanes a, Lanes b)
{
    const Lanes carry = _mm512_ternarylogic_epi64(*sum, a, b, 0xE8);
    *sum = _mm512_ternarylogic_epi64(*sum, a, b, 0x96);
    return carry;
}

/* Adds CARRY to PLANE from FIRST on, of LANE_PLANES. */
WIDE_INLINE void ripple(Lanes *plane, int first, Lanes carry)
{
    for (int i = first; i < LANE_PLANES; i++) {
        const Lanes next = _mm512_and_si512(plane[i], carry);
        plane[i] = _mm512_xor_si512(plane[i], carry);
        carry = next;
    }
}

/* The sets of vector I of IDS, which are of LEFT tokens, whose bit 0 is expert FROM. */
WIDE_INLINE Lanes take(const Ids *ids, int i, int from)
{
    size_t first = (size_t)i * LANES;
    size_t left = first < ids->tokens ? ids->tokens - first : 0;
    const Lanes own = load_tokens(ids->at + first * ids->top_k, left, ids->top_k);
    return sets_of(from != 0 ? _mm512_sub_epi8(own, _mm512_set1_epi8((char)from)) : own);
}

WIDE_INLINE Lanes add_pair(Lanes *plane, const Ids *ids, int i, int from)
{
    const Lanes first = take(ids, i, from);
    return add_two(&plane[0], first, take(ids, i + 1, from));
}

WIDE_INLINE Lanes add_four(Lanes *plane, const Ids *ids, int i, int from)
{
    const Lanes twos = add_pair(plane, ids, i, from);
    return add_two(&plane[1], twos, add_pair(plane, ids, i + 2, from));
}

WIDE_INLINE void add_block(Lanes *plane, const Ids *ids, int from)
{
    const Lanes fours = add_four(plane, ids, 0, from);
    ripple(plane, 3, add_two(&plane[2], fours, add_four(plane, ids, 4, from)));
}

/* Adds to N planes those of OTHER; returns how many there are then: one more, but PLANES at most.
 */
WIDE_INLINE int add_planes(Lanes *plane, const Lanes *other, int n)
{
    Lanes carry = _mm512_setzero_si512();
    for (int i = 0; i < n; i++)
        carry = add_two(&plane[i], other[i], carry);
    if (n == PLANES)
        return n;
    plane[n] = carry;
    return n + 1;
}

/* Adds up the N planes of all lanes: PLANE then has those of the first experts in lane 0, of the
 * others in lane 4. Returns how many there are. */
WIDE_INLINE int add_lanes(const Counts *counts, int n, Lanes *plane)
{
    Lanes other[PLANES];
    for (int i = 0; i < n; i++) {
        plane[i] = _mm512_shuffle_i64x2(counts->low[i], counts->high[i], 0x44);
        other[i] = _mm512_shuffle_i64x2(counts->low[i], counts->high[i], 0xEE);
    }
    n = add_planes(plane, other, n);
    for (int i = 0; i < n; i++)
        other[i] = _mm512_shuffle_i64x2(plane[i], plane[i], 0xB1);
    n = add_planes(plane, other, n);
    for (int i = 0; i < n; i++)
        other[i] = _mm512_shuffle_epi32(plane[i], 0x4E);
    return add_planes(plane, other, n);
}

WIDE_INLINE uint32_t both(__m128i halves)
{
    return (uint32_t)(_mm_cvtsi128_si64(halves) + _mm_extract_epi64(halves, 1));
}

/* Counts are sums of N powers of two, and squares of such sums. */
WIDE_INLINE TallySum add_up(const Lanes *plane, int n)
{
    __m128i digit[PLANES];
    __m128i any = _mm_setzero_si128();
    __m128i assignments = any;
    __m128i squares = any;
    for (int i = 0; i < n; i++) {
        digit[i] = _mm_unpacklo_epi64(_mm512_castsi512_si128(plane[i]),
                                      _mm512_extracti32x4_epi32(plane[i], 2));
        const __m128i ones = _mm_popcnt_epi64(digit[i]);
        any = _mm_or_si128(any, digit[i]);
        assignments = _mm_add_epi64(assignments, _mm_slli_epi64(ones, i));
        squares = _mm_add_epi64(squares, _mm_slli_epi64(ones, 2 * i));
        for (int j = 0; j < i; j++) {
            const __m128i common = _mm_popcnt_epi64(_mm_and_si128(digit[i], digit[j]));
            squares = _mm_add_epi64(squares, _mm_slli_epi64(common, i + j + 1));
        }
    }
    return (TallySum){.active = both(_mm_popcnt_epi64(any)),
                      .assignments = both(assignments),
                      .squares = both(squares)};
}

WIDE_INLINE void sum_half(Ids ids, int from, Lanes *plane)
{
    for (int i = 0; i < LANE_PLANES; i++)
        plane[i] = _mm512_setzero_si512();
    while (ids.tokens > 0) {
        add_block(plane, &ids, from);
        ids.tokens -= ids.tokens < BLOCK * LANES ? ids.tokens : BLOCK * LANES;
        ids.at += BLOCK * LANES * ids.top_k;
    }
}

WIDE_INLINE TallySum sum_tokens(Ids ids)
{
    Counts counts;
    Lanes plane[PLANES];
    sum_half(ids, 0, counts.low);
    sum_half(ids, EXPERTS / 2, counts.high);
    return add_up(plane, add_lanes(&counts, LANE_PLANES, plane));
}

/* The same of two vectors at the most, whose counts have fewer digits. */
WIDE_INLINE TallySum sum_few(Ids ids)
{
    Counts counts = {.low = {_mm512_setzero_si512()}, .high = {_mm512_setzero_si512()}};
    Lanes plane[PLANES];
    counts.low[1] = add_pair(counts.low, &ids, 0, 0);
    counts.high[1] = add_pair(counts.high, &ids, 0, EXPERTS / 2);
    return add_up(plane, add_lanes(&counts, 2, plane));
}

WIDE_INLINE TallySum sum_of(Ids ids)
{
    return ids.tokens > 2 * LANES ? sum_tokens(ids) : sum_few(ids);
}

WIDE static TallySum sum_eights(const uint8_t *ids, size_t tokens)
{
    return sum_of((Ids){ids, tokens, LANE_IDS});
}

WIDE static TallySum sum_any(const uint8_t *ids, size_t tokens, uint32_t top_k)
{
    return sum_of((Ids){ids, tokens, top_k});
}

TallySum tally_by_tokens(const uint8_t *ids, size_t tokens, uint32_t top_k, uint32_t experts)
{
    if (experts > EXPERTS || top_k == 0 || top_k > LANE_IDS || tokens >= 1 << PLANES || !is_wide())
        return (TallySum){0};
    return top_k == LANE_IDS ? sum_eights(ids, tokens) : sum_any(ids, tokens, top_k);
}
#else
TallySum tally_by_tokens(const uint8_t *ids, size_t tokens, uint32_t top_k, uint32_t experts)
{
    (void)ids;
    (void)tokens;
    (void)top_k;
    (void)experts;
    return (TallySum){0};
}
#endif
