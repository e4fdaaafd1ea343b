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
    LANE_PLANES = 5,
    FEW_PLANES = 2,
    NOBODY = -1
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

/* Sets of experts, a lane each: LOW of the first 64, HIGH of the others. */
typedef struct {
    Lanes low;
    Lanes high;
} Sets;

/* Of an event: binary digits of how many tokens of a lane asked each expert, and of all its ids how
 * many are below 64 and which bits there are. */
typedef struct {
    Sets plane[LANE_PLANES];
    uint32_t below;
    Lanes seen;
} Counts;

typedef struct {
    const uint8_t *at; /* [tokens][top_k] */
    size_t tokens;
    uint32_t top_k;
} Ids;

/* Which bytes of the lanes of at most eight tokens are ids. */
WIDE_INLINE __mmask64 id_mask(size_t tokens, uint32_t top_k)
{
    uint64_t each = (UINT64_MAX >> (64 - top_k)) * UINT64_C(0x0101010101010101);
    return tokens >= LANES ? each : each & ((UINT64_C(1) << LANE_IDS * tokens) - 1);
}

/* Byte K of each lane. */
WIDE_INLINE Lanes byte_of(Lanes lanes, long long k)
{
    const long long rest = (long long)0x8080808080808000;
    const __m128i pick = _mm_set_epi64x(rest | (k + 8), rest | k);
    return _mm512_shuffle_epi8(lanes, _mm512_broadcast_i32x4(pick));
}

/* Of different ids, each below 128 or NOBODY. A shift by 64 or more leaves nothing, and a rotation
 * goes round: what all of them set but the low ones do not are the high ones. */
WIDE_INLINE Sets sets_of(Lanes ids)
{
    const Lanes one = _mm512_set1_epi64(1);
    Lanes low = _mm512_setzero_si512();
    Lanes all = low;
    for (int k = 0; k < LANE_IDS; k += 2) {
        const Lanes a = byte_of(ids, k);
        const Lanes b = byte_of(ids, k + 1);
        low = _mm512_ternarylogic_epi64(low, _mm512_sllv_epi64(one, a), _mm512_sllv_epi64(one, b),
                                        0xFE);
        all = _mm512_ternarylogic_epi64(all, _mm512_rolv_epi64(one, a), _mm512_rolv_epi64(one, b),
                                        0x96);
    }
    return (Sets){low, _mm512_xor_si512(low, all)};
}

/* Notes what IDS, a lane each for at most eight tokens, are. */
WIDE_INLINE void note(Counts *counts, Lanes ids, Lanes seen)
{
    const Lanes half = _mm512_set1_epi8(EXPERTS / 2);
    counts->seen = _mm512_or_si512(counts->seen, seen);
    counts->below += (uint32_t)__builtin_popcountll(_mm512_cmplt_epu8_mask(ids, half));
}

/* The sets of a vector that begins at AT, of which LEFT tokens are left. Lanes are filled up with
 * NOBODY, which rotates to the last bit: where that stands in a set an odd number of times it is
 * taken out. */
WIDE_INLINE Sets take_part(Counts *counts, const uint8_t *at, size_t left, uint32_t top_k)
{
    __mmask64 mask = id_mask(left, top_k);
    __mmask8 odd = top_k % 2 == 0 ? 0 : left >= LANES ? UINT8_MAX : (__mmask8)((1u << left) - 1);
    const Lanes own = _mm512_mask_expandloadu_epi8(_mm512_set1_epi8(NOBODY), mask, at);
    note(counts, own, _mm512_maskz_mov_epi8(mask, own));
    Sets sets = sets_of(own);
    sets.high = _mm512_xor_si512(sets.high, _mm512_maskz_set1_epi64(odd, INT64_MIN));
    return sets;
}

/* The sets of vector I of IDS, which are ARE_FULL: eight of each token, and enough tokens. */
WIDE_INLINE Sets take(Counts *counts, const Ids *ids, size_t i, bool are_full)
{
    size_t first = i * LANES;
    const uint8_t *at = ids->at + first * ids->top_k;
    if (!are_full)
        return take_part(counts, at, first < ids->tokens ? ids->tokens - first : 0, ids->top_k);
    const Lanes own = _mm512_loadu_si512(at);
    note(counts, own, own);
    return sets_of(own);
}

/* Adds A and B to *SUM; returns what is carried. */
WIDE_INLINE Lanes add_two(Lanes *sum, Lanes a, Lanes b)
{
    const Lanes carry = _mm512_ternarylogic_epi64(*sum, a, b, 0xE8);
    *sum = _mm512_ternarylogic_epi64(*sum, a, b, 0x96);
    return carry;
}

WIDE_INLINE Sets add_sets(Sets *sum, Sets a, Sets b)
{
    const Lanes low = add_two(&sum->low, a.low, b.low);
    return (Sets){low, add_two(&sum->high, a.high, b.high)};
}

/* Adds CARRY to PLANE from FIRST on, of LANE_PLANES. */
WIDE_INLINE void ripple(Sets *plane, int first, Sets carry)
{
    const Sets none = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (int i = first; i < LANE_PLANES; i++)
        carry = add_sets(&plane[i], carry, none);
}

WIDE_INLINE Sets add_pair(Counts *counts, const Ids *ids, size_t i, bool are_full)
{
    const Sets first = take(counts, ids, i, are_full);
    return add_sets(&counts->plane[0], first, take(counts, ids, i + 1, are_full));
}

WIDE_INLINE Sets add_four(Counts *counts, const Ids *ids, size_t i, bool are_full)
{
    const Sets twos = add_pair(counts, ids, i, are_full);
    return add_sets(&counts->plane[1], twos, add_pair(counts, ids, i + 2, are_full));
}

WIDE_INLINE void add_block(Counts *counts, const Ids *ids, bool are_full)
{
    const Sets fours = add_four(counts, ids, 0, are_full);
    ripple(counts->plane, 3,
           add_sets(&counts->plane[2], fours, add_four(counts, ids, 4, are_full)));
}

WIDE_INLINE Counts no_counts(void)
{
    const Lanes none = _mm512_setzero_si512();
    const Sets sets = {none, none};
    return (Counts){.plane = {sets, sets, sets, sets, sets}, .below = 0, .seen = none};
}

WIDE_INLINE Counts count_many(Ids ids)
{
    Counts counts = no_counts();
    for (; ids.top_k == LANE_IDS && ids.tokens >= BLOCK * LANES; ids.tokens -= BLOCK * LANES) {
        add_block(&counts, &ids, true);
        ids.at += BLOCK * LANES * LANE_IDS;
    }
    while (ids.tokens > 0) {
        add_block(&counts, &ids, false);
        ids.tokens -= ids.tokens < BLOCK * LANES ? ids.tokens : BLOCK * LANES;
        ids.at += BLOCK * LANES * ids.top_k;
    }
    return counts;
}

/* The same of two vectors at the most, whose counts have FEW_PLANES digits. */
WIDE_INLINE Counts count_few(Ids ids)
{
    Counts counts = no_counts();
    bool are_full = ids.top_k == LANE_IDS && ids.tokens == 2 * LANES;
    counts.plane[1] =
        are_full ? add_pair(&counts, &ids, 0, true) : add_pair(&counts, &ids, 0, false);
    return counts;
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

/* Pairs of lanes, low and high, each of which has a part of the counts. */
WIDE_INLINE int pair_up(const Counts *counts, int n, Lanes *plane)
{
    Lanes other[PLANES];
    for (int i = 0; i < n; i++) {
        const Sets *of = &counts->plane[i];
        plane[i] = _mm512_unpacklo_epi64(of->low, of->high);
        other[i] = _mm512_unpackhi_epi64(of->low, of->high);
    }
    return add_planes(plane, other, n);
}

/* Adds up the N planes of four events, [4][PLANES], by halves and then by quarters of vectors: in
 * PLANE, which is their first, each then has a pair of lanes. */
WIDE_INLINE int join(Lanes (*plane)[PLANES], int n)
{
    Lanes other[2][PLANES];
    int sum = n;
    for (int pair = 0; pair < 2; pair++) {
        for (int i = 0; i < n; i++) {
            const Lanes a = plane[2 * pair][i];
            const Lanes b = plane[2 * pair + 1][i];
            plane[pair][i] = _mm512_shuffle_i64x2(a, b, 0x44);
            other[pair][i] = _mm512_shuffle_i64x2(a, b, 0xEE);
        }
        sum = add_planes(plane[pair], other[pair], n);
    }
    for (int i = 0; i < sum; i++) {
        const Lanes a = plane[0][i];
        plane[0][i] = _mm512_shuffle_i64x2(a, plane[1][i], 0x88);
        other[0][i] = _mm512_shuffle_i64x2(a, plane[1][i], 0xDD);
    }
    return add_planes(plane[0], other[0], sum);
}

/* Of each lane. */
typedef struct {
    uint64_t active[LANES];
    uint64_t assignments[LANES];
    uint64_t squares[LANES];
} LaneSums;

/* Counts are sums of N powers of two, and squares of such sums. */
WIDE_INLINE void add_up(const Lanes *plane, int n, LaneSums *sums)
{
    Lanes any = _mm512_setzero_si512();
    Lanes assignments = any;
    Lanes squares = any;
    for (int i = 0; i < n; i++) {
        const Lanes ones = _mm512_popcnt_epi64(plane[i]);
        any = _mm512_or_si512(any, plane[i]);
        assignments = _mm512_add_epi64(assignments, _mm512_slli_epi64(ones, (unsigned)i));
        squares = _mm512_add_epi64(squares, _mm512_slli_epi64(ones, 2 * (unsigned)i));
        for (int j = 0; j < i; j++) {
            const Lanes common = _mm512_popcnt_epi64(_mm512_and_si512(plane[i], plane[j]));
            squares = _mm512_add_epi64(squares, _mm512_slli_epi64(common, (unsigned)(i + j + 1)));
        }
    }
    _mm512_storeu_si512(sums->active, _mm512_popcnt_epi64(any));
    _mm512_storeu_si512(sums->assignments, assignments);
    _mm512_storeu_si512(sums->squares, squares);
}

/* Few events have an expert that 32 tokens ask. */
WIDE_INLINE void add_up_all(const Lanes *plane, int n, LaneSums *sums)
{
    const Lanes large = n < PLANES ? plane[0] : _mm512_or_si512(plane[5], plane[6]);
    if (n == PLANES && _mm512_test_epi64_mask(large, large) == 0)
        add_up(plane, PLANES - 2, sums);
    else
        add_up(plane, n, sums);
}

/* What the pair of lanes of event I comes to, if its ids were as sets_of() wants them. */
WIDE_INLINE TallySum sum_of(const LaneSums *sums, const Counts *counts, int i)
{
    const int low = 2 * i;
    if (_mm512_movepi8_mask(counts->seen) != 0 || sums->assignments[low] != counts->below)
        return (TallySum){0};
    return (TallySum){.active = (uint32_t)(sums->active[low] + sums->active[low + 1]),
                      .assignments =
                          (uint32_t)(sums->assignments[low] + sums->assignments[low + 1]),
                      .squares = (uint32_t)(sums->squares[low] + sums->squares[low + 1])};
}

/* The first N of four events. */
WIDE_INLINE void sum_four(Ids ids, uint32_t n, bool are_few, TallySum *sums)
{
    Counts counts[TALLY_EVENTS];
    Lanes plane[TALLY_EVENTS][PLANES];
    LaneSums lanes;
    const int planes = are_few ? FEW_PLANES : LANE_PLANES;
    for (uint32_t i = 0; i < TALLY_EVENTS; i++) {
        if (i < n)
            counts[i] = are_few ? count_few(ids) : count_many(ids);
        else
            counts[i] = no_counts();
        pair_up(&counts[i], planes, plane[i]);
        ids.at += ids.tokens * ids.top_k;
    }
    add_up_all(plane[0], join(plane, planes + 1), &lanes);
    for (uint32_t i = 0; i < n; i++)
        sums[i] = sum_of(&lanes, &counts[i], (int)i);
}

WIDE_INLINE void sum_all(Ids ids, uint32_t n, TallySum *sums)
{
    if (ids.tokens > 2 * LANES)
        sum_four(ids, n, false, sums);
    else
        sum_four(ids, n, true, sums);
}

WIDE static void sum_eights(const uint8_t *ids, size_t tokens, uint32_t n, TallySum *sums)
{
    sum_all((Ids){ids, tokens, LANE_IDS}, n, sums);
}

WIDE static void sum_any(const uint8_t *ids, size_t tokens, uint32_t top_k, uint32_t n,
                         TallySum *sums)
{
    sum_all((Ids){ids, tokens, top_k}, n, sums);
}

bool tally_by_tokens(const uint8_t *ids, size_t tokens, uint32_t top_k, uint32_t experts,
                     uint32_t n, TallySum *sums)
{
    if (experts > EXPERTS || top_k == 0 || top_k > LANE_IDS || tokens >= 1 << PLANES || !is_wide())
        return false;
    if (top_k == LANE_IDS)
        sum_eights(ids, tokens, n, sums);
    else
        sum_any(ids, tokens, top_k, n, sums);
    return true;
}
#else
bool tally_by_tokens(const uint8_t *ids, size_t tokens, uint32_t top_k, uint32_t experts,
                     uint32_t n, TallySum *sums)
{
    (void)ids;
    (void)tokens;
    (void)top_k;
    (void)experts;
    (void)n;
    (void)sums;
    return false;
}
#endif
