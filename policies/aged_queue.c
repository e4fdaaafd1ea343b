#include "policies/aged_queue.h"

#include <stdbool.h>
#include <string.h>

enum { SLOTS_A_TURN = 64, SLOTS_A_NEAR = 24 };

void aged_reset(AgedQueue *aged, uint32_t slots)
{
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

/* Floats that are not negative have the order of their bits, and compilers compare integers
 * several at a time. */
static int32_t bits_of(float score)
{
    int32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits;
}

static inline __attribute__((always_inline)) float scores(const uint32_t *restrict last,
                                                          const float *restrict rate, size_t n,
                                                          uint32_t now, float *restrict score)
{
    int32_t most = 0;
    float greatest;
    for (size_t i = 0; i < n / AGED_STRIDE * AGED_STRIDE; i++) {
        score[i] = (float)(int32_t)((now - last[i]) & INT32_MAX) * rate[i];
        int32_t bits = bits_of(score[i]);
        most = bits > most ? bits : most;
    }
    memcpy(&greatest, &most, sizeof greatest);
    return greatest;
}

static inline __attribute__((always_inline)) uint32_t count(const float *restrict score, size_t n,
                                                            float limit, uint32_t *restrict at)
{
    int32_t least = bits_of(limit);
    int32_t found = 0;
    int32_t place = 0;
    for (size_t i = 0; i < n / AGED_STRIDE * AGED_STRIDE; i++) {
        int32_t is_one = -(int32_t)(bits_of(score[i]) >= least);
        found -= is_one;
        place |= is_one & (int32_t)i;
    }
    *at = (uint32_t)place;
    return (uint32_t)found;
}

#if defined(__x86_64__)
/* The same for processors that compare more at a time. */
#define DEFINE_FOR(name, features)                                                                 \
    __attribute__((target(features))) static float scores_##name(                                  \
        const uint32_t *last, const float *rate, size_t n, uint32_t now, float *score)             \
    {                                                                                              \
        return scores(last, rate, n, now, score);                                                  \
    }                                                                                              \
    __attribute__((target(features))) static uint32_t count_##name(const float *score, size_t n,   \
                                                                   float limit, uint32_t *at)      \
    {                                                                                              \
        return count(score, n, limit, at);                                                         \
    }

DEFINE_FOR(avx2, "avx2")
DEFINE_FOR(avx512, "avx512f,avx512dq,avx512bw")

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw");
}
#endif

float aged_scores(const uint32_t *last, const float *rate, uint32_t n, uint32_t now, float *score)
{
#if defined(__x86_64__)
    if (has_avx512())
        return scores_avx512(last, rate, n, now, score);
    if (has_avx2())
        return scores_avx2(last, rate, n, now, score);
#endif
    return scores(last, rate, n, now, score);
}

uint32_t aged_count(const float *score, uint32_t n, float limit, uint32_t *at)
{
#if defined(__x86_64__)
    if (has_avx512())
        return count_avx512(score, n, limit, at);
    if (has_avx2())
        return count_avx2(score, n, limit, at);
#endif
    return count(score, n, limit, at);
}
