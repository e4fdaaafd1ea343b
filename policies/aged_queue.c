#include "policies/aged_queue.h"

#include <math.h>

enum { SLOTS_A_VICTIM = 8, MOST_WANTED = 38, REACH_STRIDE = 16 };

#define INLINE static inline __attribute__((always_inline))

INLINE int32_t most_of(const uint32_t *restrict last, const float *restrict rate, size_t n,
                       uint32_t now)
{
    int32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t bits = aged_bits(aged_score(last[i], rate[i], now));
        most = bits > most ? bits : most;
    }
    return most;
}

INLINE AgedMost search_all(const uint32_t *restrict last, const float *restrict rate, size_t n,
                           uint32_t now)
{
    AgedMost found = {0};
    n = n / AGED_STRIDE * AGED_STRIDE;
    int32_t most = most_of(last, rate, n, now);
    int32_t n_close = 0;
    int32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t is_one =
            -(int32_t)(aged_bits(aged_score(last[i], rate[i], now)) >= most - AGED_CLOSE);
        n_close -= is_one;
        at |= is_one & (int32_t)i;
    }
    memcpy(&found.most, &most, sizeof most);
    found.n_close = (uint32_t)n_close;
    found.at = (uint32_t)at;
    return found;
}

static AgedMost all_plainly(const uint32_t *last, const float *rate, size_t n, uint32_t now)
{
    return search_all(last, rate, n, now);
}

static AgedNearest near_plainly(const uint32_t *last, const float *rate, uint64_t who, uint32_t now)
{
    AgedNearest found = {0};
    int32_t bits[AGED_NEAR];
    int32_t most = 0;
    for (size_t i = 0; i < AGED_NEAR; i++)
        bits[i] = -(int32_t)(who >> i & 1) & aged_bits(aged_score(last[i], rate[i], now));
    for (size_t i = 0; i < AGED_NEAR; i++)
        most = bits[i] > most ? bits[i] : most;
    for (size_t i = 0; i < AGED_NEAR; i++)
        found.close |= (uint64_t)(bits[i] >= most - AGED_CLOSE) << i;
    memcpy(&found.most, &most, sizeof most);
    return found;
}

/* Most strides have none. */
static uint32_t reach_plainly(const uint32_t *last, const float *rate, size_t n, uint32_t now,
                              float least, uint32_t *found)
{
    uint32_t n_found = 0;
    for (size_t i = 0; i < n; i += REACH_STRIDE) {
        if (most_of(last + i, rate + i, REACH_STRIDE, now) < aged_bits(least))
            continue;
        for (size_t j = i; j < i + REACH_STRIDE; j++) {
            found[n_found] = (uint32_t)j;
            n_found += aged_score(last[j], rate[j], now) >= least;
        }
    }
    return n_found;
}

#define SEARCH(name)                                                                               \
    {                                                                                              \
        all_##name, near_##name, reach_##name                                                      \
    }

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,bmi")))

AVX2 static AgedMost all_avx2(const uint32_t *last, const float *rate, size_t n, uint32_t now)
{
    return search_all(last, rate, n, now);
}

AVX2 static inline __m256i scores_of_8(const uint32_t *last, const float *rate, __m256i now)
{
    __m256i age = _mm256_sub_epi32(now, _mm256_loadu_si256((const void *)last));
    return _mm256_castps_si256(_mm256_mul_ps(_mm256_cvtepi32_ps(age), _mm256_loadu_ps(rate)));
}

/* The greatest of 8, 8 times. */
AVX2 static inline __m256i spread_most_of_8(__m256i of)
{
    of = _mm256_max_epi32(of, _mm256_permute2x128_si256(of, of, 1));
    of = _mm256_max_epi32(of, _mm256_shuffle_epi32(of, 0x4E));
    return _mm256_max_epi32(of, _mm256_shuffle_epi32(of, 0xB1));
}

/* A bit for each of 8 that is greater than LIMIT. */
AVX2 static inline uint64_t which_exceed(__m256i of, __m256i limit)
{
    return (uint64_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(of, limit)));
}

AVX2 static AgedNearest near_avx2(const uint32_t *last, const float *rate, uint64_t who,
                                  uint32_t now)
{
    const __m256i now_8 = _mm256_set1_epi32((int32_t)now);
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i score[AGED_NEAR / 8];
    __m256i most = _mm256_setzero_si256();
    for (size_t i = 0; i < AGED_NEAR / 8; i++) {
        __m256i bits = _mm256_and_si256(_mm256_set1_epi32((int32_t)(who >> 8 * i & 0xFF)), bit);
        score[i] = _mm256_and_si256(scores_of_8(last + 8 * i, rate + 8 * i, now_8),
                                    _mm256_cmpeq_epi32(bits, bit));
        most = _mm256_max_epi32(most, score[i]);
    }
    most = spread_most_of_8(most);
    AgedNearest found = {.most = _mm256_cvtss_f32(_mm256_castsi256_ps(most))};
    const __m256i limit = _mm256_sub_epi32(most, _mm256_set1_epi32(AGED_CLOSE + 1));
    for (size_t i = 0; i < AGED_NEAR / 8; i++)
        found.close |= which_exceed(score[i], limit) << 8 * i;
    return found;
}

AVX2 static uint32_t reach_avx2(const uint32_t *last, const float *rate, size_t n, uint32_t now,
                                float least, uint32_t *found)
{
    const __m256i now_8 = _mm256_set1_epi32((int32_t)now);
    const __m256i limit = _mm256_set1_epi32(aged_bits(least) - 1);
    uint32_t n_found = 0;
    for (size_t i = 0; i < n; i += AGED_STRIDE) {
        uint64_t reach = 0;
        for (size_t j = 0; j < AGED_STRIDE; j += 8)
            reach |= which_exceed(scores_of_8(last + i + j, rate + i + j, now_8), limit) << j;
        for (; reach != 0; reach &= reach - 1)
            found[n_found++] = (uint32_t)i + (uint32_t)__builtin_ctzll(reach);
    }
    return n_found;
}

#define AVX512 __attribute__((target("avx512f,popcnt,bmi")))

AVX512 static inline __m512i scores_of_16(const uint32_t *last, const float *rate, __m512i now)
{
    __m512i age = _mm512_sub_epi32(now, _mm512_loadu_si512(last));
    return _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(age), _mm512_loadu_ps(rate)));
}

/* The greatest of 16, 16 times: what is compared with it next is in a vector too. */
AVX512 static inline __m512i spread_most(__m512i of)
{
    of = _mm512_max_epi32(of, _mm512_shuffle_i64x2(of, of, 0x4E));
    of = _mm512_max_epi32(of, _mm512_shuffle_i64x2(of, of, 0xB1));
    of = _mm512_max_epi32(of, _mm512_shuffle_epi32(of, _MM_PERM_BADC));
    return _mm512_max_epi32(of, _mm512_shuffle_epi32(of, _MM_PERM_CDAB));
}

AVX512 static inline float first_of_16(__m512i scores)
{
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm512_castsi512_si128(scores)));
}

AVX512 static AgedMost all_avx512(const uint32_t *last, const float *rate, size_t n, uint32_t now)
{
    const __m512i now_16 = _mm512_set1_epi32((int32_t)now);
    __m512i most = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += AGED_STRIDE)
        for (size_t j = i; j < i + AGED_STRIDE; j += 16)
            most = _mm512_max_epi32(most, scores_of_16(last + j, rate + j, now_16));
    most = spread_most(most);
    AgedMost found = {.most = first_of_16(most)};
    const __m512i least = _mm512_sub_epi32(most, _mm512_set1_epi32(AGED_CLOSE));
    for (size_t i = 0; i < n; i += AGED_STRIDE) {
        uint64_t close = 0;
        for (size_t j = 0; j < AGED_STRIDE; j += 16)
            close |= (uint64_t)_mm512_cmpge_epi32_mask(
                         scores_of_16(last + i + j, rate + i + j, now_16), least)
                     << j;
        found.n_close += (uint32_t)__builtin_popcountll(close);
        found.at = close != 0 ? (uint32_t)i + (uint32_t)__builtin_ctzll(close) : found.at;
    }
    return found;
}

/* One search waits for what the one before took out of WHO, and for nothing in memory. */
AVX512 static AgedNearest near_avx512(const uint32_t *last, const float *rate, uint64_t who,
                                      uint32_t now)
{
    const __m512i now_16 = _mm512_set1_epi32((int32_t)now);
    __m512i score[AGED_NEAR / 16];
    for (size_t i = 0; i < AGED_NEAR / 16; i++)
        score[i] = _mm512_maskz_mov_epi32((__mmask16)(who >> 16 * i),
                                          scores_of_16(last + 16 * i, rate + 16 * i, now_16));
    __m512i most = spread_most(_mm512_max_epi32(_mm512_max_epi32(score[0], score[1]),
                                                _mm512_max_epi32(score[2], score[3])));
    AgedNearest found = {.most = first_of_16(most)};
    const __m512i least = _mm512_sub_epi32(most, _mm512_set1_epi32(AGED_CLOSE));
    for (size_t i = 0; i < AGED_NEAR / 16; i++)
        found.close |= (uint64_t)_mm512_cmpge_epi32_mask(score[i], least) << 16 * i;
    return found;
}

AVX512 static uint32_t reach_avx512(const uint32_t *last, const float *rate, size_t n, uint32_t now,
                                    float least, uint32_t *found)
{
    const __m512i now_16 = _mm512_set1_epi32((int32_t)now);
    const __m512i least_16 = _mm512_set1_epi32(aged_bits(least));
    __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    uint32_t n_found = 0;
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 reach =
            _mm512_cmpge_epi32_mask(scores_of_16(last + i, rate + i, now_16), least_16);
        _mm512_storeu_si512(found + n_found, _mm512_maskz_compress_epi32(reach, place));
        n_found += (uint32_t)__builtin_popcount(reach);
        place = _mm512_add_epi32(place, _mm512_set1_epi32(16));
    }
    return n_found;
}
#endif

static AgedSearch search_of_machine(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("popcnt") &&
        __builtin_cpu_supports("bmi"))
        return (AgedSearch)SEARCH(avx512);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi"))
        return (AgedSearch)SEARCH(avx2);
#endif
    return (AgedSearch)SEARCH(plainly);
}

static uint32_t wanted_of(uint32_t slots)
{
    uint32_t wanted = slots / SLOTS_A_VICTIM;
    return slots <= AGED_NEAR ? 0 : wanted < MOST_WANTED ? wanted : MOST_WANTED;
}

void aged_reset(AgedQueue *aged, uint32_t objects, uint32_t slots)
{
    size_t n = aged->n = (uint32_t)aged_room(slots);
    memset(aged->uses, 0, objects * sizeof *aged->uses);
    memset(aged->last, 0, (n + 1) * sizeof *aged->last);
    memset(aged->rate, 0, (n + 1) * sizeof *aged->rate);
    for (size_t i = 0; i <= n; i++)
        aged->index[i] = AGED_NEAR;
    memset(aged->near_last, 0, (AGED_NEAR + 1) * sizeof *aged->near_last);
    memset(aged->near_rate, 0, (AGED_NEAR + 1) * sizeof *aged->near_rate);
    aged->near = 0;
    aged->threshold = INFINITY;
    aged->horizon = 0;
    aged->ahead = 0;
    aged->wanted = wanted_of(slots);
    aged->taken = 0;
    aged->since = 0;
    aged->gap = 4;
    aged->share = 0x1p-5F;
    aged->search = search_of_machine();
}
