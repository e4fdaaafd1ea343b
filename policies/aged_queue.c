#include "policies/aged_queue.h"

#include <string.h>

enum { SLOTS_A_TURN = 64, SLOTS_A_NEAR = 24 };

/* Floats that are not negative have the order of their bits, and compilers compare integers
 * several at a time. */
static int32_t bits_of(float score)
{
    int32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits;
}

static inline __attribute__((always_inline)) AgedMost
find(const uint32_t *restrict last, const float *restrict rate, size_t n, uint32_t now)
{
    AgedMost found = {0};
    int32_t most = 0;
    int32_t n_close = 0;
    int32_t at = 0;
    for (size_t i = 0; i < n / AGED_STRIDE * AGED_STRIDE; i++) {
        int32_t bits = bits_of(aged_score(last[i], rate[i], now));
        most = bits > most ? bits : most;
    }
    memcpy(&found.most, &most, sizeof most);
    int32_t least = bits_of(found.most * AGED_CLOSE);
    for (size_t i = 0; i < n / AGED_STRIDE * AGED_STRIDE; i++) {
        int32_t is_one = -(int32_t)(bits_of(aged_score(last[i], rate[i], now)) >= least);
        n_close -= is_one;
        at |= is_one & (int32_t)i;
    }
    found.n_close = (uint32_t)n_close;
    found.at = (uint32_t)at;
    return found;
}

static AgedMost find_plainly(const uint32_t *last, const float *rate, size_t n, uint32_t now)
{
    return find(last, rate, n, now);
}

#if defined(__x86_64__)
#include <immintrin.h>

/* The same for processors that compare more at a time. */
__attribute__((target("avx2"))) static AgedMost find_avx2(const uint32_t *last, const float *rate,
                                                          size_t n, uint32_t now)
{
    return find(last, rate, n, now);
}

#define AVX512 __attribute__((target("avx512f,popcnt,bmi")))

AVX512 static inline __m512i scores_of_16(const uint32_t *last, const float *rate, __m512i now)
{
    __m512i age = _mm512_and_si512(_mm512_sub_epi32(now, _mm512_loadu_si512(last)),
                                   _mm512_set1_epi32(INT32_MAX));
    return _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(age), _mm512_loadu_ps(rate)));
}

AVX512 static AgedMost find_avx512(const uint32_t *last, const float *rate, size_t n, uint32_t now)
{
    AgedMost found = {0};
    const __m512i now_16 = _mm512_set1_epi32((int32_t)now);
    __m512i most = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += AGED_STRIDE)
        for (size_t j = i; j < i + AGED_STRIDE; j += 16)
            most = _mm512_max_epi32(most, scores_of_16(last + j, rate + j, now_16));
    int32_t bits = _mm512_reduce_max_epi32(most);
    memcpy(&found.most, &bits, sizeof bits);
    const __m512i least = _mm512_set1_epi32(bits_of(found.most * AGED_CLOSE));
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
#endif

static AgedFind find_of_machine(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("popcnt") &&
        __builtin_cpu_supports("bmi"))
        return find_avx512;
    if (__builtin_cpu_supports("avx2"))
        return find_avx2;
#endif
    return find_plainly;
}

void aged_reset(AgedQueue *aged, uint32_t slots)
{
    aged->find = find_of_machine();
    aged->n = 0;
    aged->near = slots / SLOTS_A_NEAR > AGED_NEAR ? slots / SLOTS_A_NEAR : AGED_NEAR;
    aged->most = aged->near;
    aged->turn = 0;
    aged->threshold = 0;
    aged->share = 0x1p-5;
    aged->shift = 0;
    while ((uint64_t)SLOTS_A_TURN << aged->shift < slots)
        aged->shift++;
}
