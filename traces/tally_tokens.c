#include "traces/tally_tokens.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum {
    EXPERTS = 128, /* bits of a set */
    PLANES = 7,    /* binary digits of a count */
    BLOCK = 8      /* tokens that are added up at a time */
};

#define WIDE __attribute__((target("avx512f,avx512vl,avx512vpopcntdq")))
#define WIDE_INLINE WIDE static inline __attribute__((always_inline))

typedef uint64_t Set __attribute__((vector_size(EXPERTS / 8)));

#define LOW(i)                                                                                     \
    {                                                                                              \
        UINT64_C(1) << (i), 0                                                                      \
    }
#define HIGH(i)                                                                                    \
    {                                                                                              \
        0, UINT64_C(1) << (i)                                                                      \
    }
#define FOUR_OF(HALF, i) HALF(i), HALF((i) + 1), HALF((i) + 2), HALF((i) + 3)
#define SIXTEEN_OF(HALF, i)                                                                        \
    FOUR_OF(HALF, i), FOUR_OF(HALF, (i) + 4), FOUR_OF(HALF, (i) + 8), FOUR_OF(HALF, (i) + 12)
#define ALL_OF(HALF)                                                                               \
    SIXTEEN_OF(HALF, 0), SIXTEEN_OF(HALF, 16), SIXTEEN_OF(HALF, 32), SIXTEEN_OF(HALF, 48)

/* The set of each id alone; of those that are no expert it is empty. */
static const Set set_of[UINT8_MAX + 1] = {ALL_OF(LOW), ALL_OF(HIGH)};

static bool is_wide(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vpopcntdq");
}

/* Binary digit I of the counts of all experts. */
typedef struct {
    Set plane[PLANES];
} Counts;

WIDE_INLINE Set take_eight(const uint8_t **ids)
{
    const uint8_t *id = *ids;
    *ids += 8;
    return ((set_of[id[0]] | set_of[id[1]]) | (set_of[id[2]] | set_of[id[3]])) |
           ((set_of[id[4]] | set_of[id[5]]) | (set_of[id[6]] | set_of[id[7]]));
}

/* Any number of ids. */
WIDE_INLINE Set take_some(const uint8_t **ids, uint32_t top_k)
{
    Set set = {0};
    for (uint32_t k = 0; k < top_k; k++)
        set |= set_of[*(*ids)++];
    return set;
}

WIDE_INLINE Set take_token(const uint8_t **ids, uint32_t top_k)
{
    return top_k == 8 ? take_eight(ids) : take_some(ids, top_k);
}

/* Adds A and B to *SUM; returns what is carried. */
WIDE_INLINE Set add_two(Set *sum, Set a, Set b)
{
    Set differ = *sum ^ a;
    Set carry = (*sum & a) | (differ & b);
    *sum = differ ^ b;
    return carry;
}

/* Adds CARRY to the planes from FIRST on. */
WIDE_INLINE void ripple(Counts *counts, int first, Set carry)
{
    for (int i = first; i < PLANES; i++) {
        Set next = counts->plane[i] & carry;
        counts->plane[i] ^= carry;
        carry = next;
    }
}

/* Two tokens more; returns what is carried to plane 1. */
WIDE_INLINE Set add_tokens(Counts *counts, const uint8_t **ids, uint32_t top_k)
{
    Set first = take_token(ids, top_k);
    return add_two(&counts->plane[0], first, take_token(ids, top_k));
}

WIDE_INLINE Set add_four(Counts *counts, const uint8_t **ids, uint32_t top_k)
{
    Set twos = add_tokens(counts, ids, top_k);
    return add_two(&counts->plane[1], twos, add_tokens(counts, ids, top_k));
}

WIDE_INLINE void add_block(Counts *counts, const uint8_t **ids, uint32_t top_k)
{
    Set fours = add_four(counts, ids, top_k);
    Set eights = add_two(&counts->plane[2], fours, add_four(counts, ids, top_k));
    ripple(counts, 3, eights);
}

WIDE_INLINE Set ones_of(Set set)
{
    return (Set)_mm_popcnt_epi64((__m128i)set);
}

static uint32_t both(Set set)
{
    return (uint32_t)(set[0] + set[1]);
}

/* Counts are sums of powers of two, N_PLANES of them at the most, and squares of such sums. */
WIDE_INLINE TallySum add_up(const Counts *counts, int n_planes)
{
    Set any = {0};
    Set assignments = {0};
    Set squares = {0};
    for (int i = 0; i < n_planes; i++) {
        Set ones = ones_of(counts->plane[i]);
        any |= counts->plane[i];
        assignments += ones << i;
        squares += ones << 2 * i;
        for (int j = 0; j < i; j++)
            squares += ones_of(counts->plane[i] & counts->plane[j]) << (i + j + 1);
    }
    return (TallySum){
        .active = both(ones_of(any)), .assignments = both(assignments), .squares = both(squares)};
}

WIDE_INLINE TallySum sum_tokens(const uint8_t *ids, size_t tokens, uint32_t top_k)
{
    Counts counts = {0};
    size_t left = tokens;
    for (; left >= BLOCK; left -= BLOCK)
        add_block(&counts, &ids, top_k);
    for (; left > 0; left--)
        ripple(&counts, 0, take_token(&ids, top_k));
    return tokens < 32 ? add_up(&counts, 5) : add_up(&counts, PLANES);
}

WIDE static TallySum sum_eights(const uint8_t *ids, size_t tokens)
{
    return sum_tokens(ids, tokens, 8);
}

WIDE static TallySum sum_any(const uint8_t *ids, size_t tokens, uint32_t top_k)
{
    return sum_tokens(ids, tokens, top_k);
}

TallySum tally_by_tokens(const uint8_t *ids, size_t tokens, uint32_t top_k, uint32_t experts)
{
    if (experts > EXPERTS || tokens >= 1 << PLANES || !is_wide())
        return (TallySum){0};
    return top_k == 8 ? sum_eights(ids, tokens) : sum_any(ids, tokens, top_k);
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
