#include "traces/tally.h"
#include "traces/tally_tokens.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { BLOCK = 64 };

static void add(Tally *tally, const uint8_t *ids, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t eight; /* which part counts which of them is all one */
        memcpy(&eight, ids + i, sizeof eight);
        tally->counts[0][eight & 0xFF]++;
        tally->counts[1][eight >> 8 & 0xFF]++;
        tally->counts[2][eight >> 16 & 0xFF]++;
        tally->counts[3][eight >> 24 & 0xFF]++;
        tally->counts[0][eight >> 32 & 0xFF]++;
        tally->counts[1][eight >> 40 & 0xFF]++;
        tally->counts[2][eight >> 48 & 0xFF]++;
        tally->counts[3][eight >> 56]++;
    }
    for (; i < n; i++)
        tally->counts[i % TALLY_PARTS][ids[i]]++;
}

/* Takes those that were dropped out. */
static uint32_t take_dropped(Tally *tally)
{
    uint32_t dropped = 0;
    for (int part = 0; part < TALLY_PARTS; part++) {
        dropped += tally->counts[part][UINT8_MAX];
        tally->counts[part][UINT8_MAX] = 0;
    }
    return dropped;
}

/* Takes the counts of experts from FROM on, adds them up in SUM, and lists them unless ACTIVE is
 * NULL. */
static void take_block(Tally *tally, uint32_t from, uint16_t *active, uint8_t *counts,
                       TallySum *sum)
{
    for (uint32_t expert = from; expert < from + BLOCK; expert++) {
        uint32_t count = 0;
        for (int part = 0; part < TALLY_PARTS; part++) {
            count += tally->counts[part][expert];
            tally->counts[part][expert] = 0;
        }
        if (active != NULL) {
            active[sum->active] = (uint16_t)expert;
            counts[sum->active] = (uint8_t)count;
        }
        sum->active += count > 0;
        sum->squares += count * count;
        sum->is_large |= count >= TALLY_LARGE;
    }
}

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vbmi2,popcnt")))

static bool is_wide(void)
{
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi2") &&
           __builtin_cpu_supports("popcnt");
}

/* Lists the experts of SOME, from FROM on, which have COUNTS, behind N others. */
WIDE static inline void list_wide(uint32_t from, __mmask64 some, __m512i of_block, uint32_t n,
                                  uint16_t *active, uint8_t *counts)
{
    uint16_t ids[BLOCK];
    for (uint32_t i = 0; i < BLOCK; i++)
        ids[i] = (uint16_t)(from + i);
    _mm512_storeu_si512(counts + n, _mm512_maskz_compress_epi8(some, of_block));
    for (int half = 0; half < 2; half++) {
        __mmask32 own = (__mmask32)(some >> 32 * half);
        const __m512i named = _mm512_loadu_si512(ids + 32 * half);
        _mm512_storeu_si512(active + n, _mm512_maskz_compress_epi16(own, named));
        n += (uint32_t)__builtin_popcount(own);
    }
}

/* As take_block() for all EXPERTS. */
WIDE static void take_wide(Tally *tally, uint32_t experts, uint16_t *active, uint8_t *counts,
                           TallySum *sum)
{
    __m512i squares = _mm512_setzero_si512();
    __mmask64 large = 0;
    for (uint32_t from = 0; from < experts; from += BLOCK) {
        __m512i of_block = _mm512_setzero_si512();
        for (int part = 0; part < TALLY_PARTS; part++) {
            uint8_t *at = tally->counts[part] + from;
            of_block = _mm512_adds_epu8(of_block, _mm512_loadu_si512(at));
            _mm512_storeu_si512(at, _mm512_setzero_si512());
        }
        const __m512i pairs = _mm512_maddubs_epi16(of_block, of_block); /* exact of small ones */
        squares = _mm512_add_epi32(squares, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
        large |= _mm512_movepi8_mask(of_block);
        __mmask64 some = _mm512_test_epi8_mask(of_block, of_block);
        if (active != NULL)
            list_wide(from, some, of_block, sum->active, active, counts);
        sum->active += (uint32_t)__builtin_popcountll(some);
    }
    sum->squares = (uint32_t)_mm512_reduce_add_epi32(squares);
    sum->is_large = large != 0;
}
#endif

static TallySum take(Tally *tally, size_t n, uint32_t experts, uint16_t *active, uint8_t *counts)
{
    TallySum sum = {.assignments = (uint32_t)n - take_dropped(tally)};
#if defined(__x86_64__)
    if (is_wide()) {
        take_wide(tally, experts, active, counts, &sum);
        return sum;
    }
#endif
    for (uint32_t from = 0; from < experts; from += BLOCK)
        take_block(tally, from, active, counts, &sum);
    return sum;
}

void tally_sums(Tally *tally, const uint8_t *ids, size_t tokens, uint32_t top_k, uint32_t experts,
                uint32_t n, TallySum *sums)
{
    size_t each = tokens * top_k;
    bool summed = tally_by_tokens(ids, tokens, top_k, experts, n, sums);
    for (uint32_t i = 0; i < n; i++, ids += each) {
        if (summed && sums[i].assignments == each)
            continue;
        add(tally, ids, each);
        sums[i] = take(tally, each, experts, NULL, NULL);
    }
}

TallySum tally_list(Tally *tally, const uint8_t *ids, size_t n, uint32_t experts, uint16_t *active,
                    uint8_t *counts)
{
    add(tally, ids, n);
    return take(tally, n, experts, active, counts);
}
