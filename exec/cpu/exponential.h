/* e^x in single precision, written so that compilers vectorise loops over it. */
#ifndef EXEC_CPU_EXPONENTIAL_H
#define EXEC_CPU_EXPONENTIAL_H

#include <stdint.h>
#include <string.h>

/* Within 2 units in the last place for -87 <= x <= 88, to which X is clamped; NaN stays NaN.
 * Cephes' expf: x = n ln 2 + r, a polynomial in r, the exponent set by its bits. */
static inline float exponential(float x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504088896341f + shift;
    float n = shifted - shift;
    float r = x - n * 0.693359375f;
    r += n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3F800000u;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* Replaces VALUES[n], n at least 1, by their softmax. A NaN makes all of them NaN. */
static inline void softmax(float *values, uint32_t n)
{
    float most = values[0];
    for (uint32_t i = 1; i < n; i++)
        most = values[i] > most ? values[i] : most;
    for (uint32_t i = 0; i < n; i++)
        values[i] = exponential(values[i] - most);
    float lane[8] = {0};
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (uint32_t j = 0; j < 8; j++)
            lane[j] += values[i + j];
    for (; i < n; i++)
        lane[i % 8] += values[i];
    float sum =
        ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    for (uint32_t j = 0; j < n; j++)
        values[j] /= sum;
}

#endif
