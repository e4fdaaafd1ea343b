#include "traces/f16.h"

#include <string.h>

#include "traces/trace.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t f16_from_f32(float value)
{
    const uint32_t infinity = 0x7F800000u;
    const uint32_t overflow = 0x47800000u; /* 2^16: from here on infinity */
    const uint32_t normal = 0x38800000u;   /* 2^-14: below, the half is subnormal */
    uint32_t bits = bits_of(value);
    uint32_t sign = bits >> 16 & 0x8000u;
    bits &= 0x7FFFFFFFu;
    /* Adding 0.5 puts the last bit of a subnormal half (2^-24) in the last bit of the sum, so the
     * addition itself rounds to nearest even. */
    uint32_t small = bits_of(float_of(bits) + 0.5f) - 0x3F000000u;
    /* Rebias the exponent by 15 - 127 and round: half of the last kept bit, less one when even. */
    uint32_t large = (bits - 0x38000000u + 0xFFFu + (bits >> 13 & 1u)) >> 13;
    uint32_t half = bits < normal ? small : large;
    if (bits >= overflow)
        half = bits > infinity ? 0x7E00u | (bits >> 13 & 0x3FFu) : 0x7C00u;
    return (uint16_t)(sign | half);
}

float f32_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t bits = (uint32_t)(half & 0x7FFFu) << 13;
    if (bits >= 0x0F800000u) /* infinity, or NaN, which becomes quiet */
        return float_of(sign | bits | 0x7F800000u | (bits > 0x0F800000u ? 0x400000u : 0));
    return float_of(sign | bits_of(float_of(bits) * 0x1p112f));
}

#if defined(__x86_64__)
/* Both return how many values they did: the largest multiple of 8. */
__attribute__((target("avx,f16c"))) static size_t encode_f16c(const float *values, size_t count,
                                                              uint16_t *halves)
{
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        __m128i eight = _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(halves + i), eight);
    }
    return i;
}

__attribute__((target("avx,f16c"))) static size_t decode_f16c(const unsigned char *halves,
                                                              size_t count, float *values)
{
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        __m128i eight = _mm_loadu_si128((const __m128i *)(const void *)(halves + 2 * i));
        _mm256_storeu_ps(values + i, _mm256_cvtph_ps(eight));
    }
    return i;
}

/* Every processor with AVX2 has F16C, and both compilers can ask for AVX2. */
static int has_f16c(void)
{
    return __builtin_cpu_supports("avx2");
}
#endif

void f16_encode(const float *values, size_t count, uint16_t *halves)
{
    size_t i = 0;
#if defined(__x86_64__)
    if (has_f16c())
        i = encode_f16c(values, count, halves);
#endif
    for (; i < count; i++)
        halves[i] = f16_from_f32(values[i]);
}

void f16_decode(const void *halves, size_t count, float *values)
{
    const unsigned char *bytes = halves;
    size_t i = 0;
#if defined(__x86_64__)
    if (has_f16c())
        i = decode_f16c(bytes, count, values);
#endif
    for (; i < count; i++) {
        uint16_t half;
        memcpy(&half, bytes + 2 * i, sizeof half);
        values[i] = f32_from_f16(half);
    }
}
