/* Weights that are computed instead of stored: a model too large to ship, in its true shape.
 *
 * A value depends on the tensor's name and the element's index alone, so any part of any tensor can
 * be made anywhere, in any order, by host and device alike: both run synthetic_value(), whose
 * arithmetic is exact, and so hold the same bits. Every value fits bf16. Nothing but the tensor's
 * key is kept. */
#ifndef EXEC_SYNTHETIC_H
#define EXEC_SYNTHETIC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define SYNTHETIC_INLINE __host__ __device__ static inline
#else
#define SYNTHETIC_INLINE static inline
#endif

/* Element I is mean + step * n, with n from -124 to 124 of deviation 26.1. STEP is a power of two,
 * MEAN 0, or 1 where STEP is 1/128. */
typedef struct Synthetic {
    uint64_t key;
    float mean;
    float step;
} Synthetic;

/* Sum of eight five-bit numbers, less its mean: near enough to normal. The bits are splitmix64's
 * (Steele, Lea and Flood 2014), with the index as its counter. */
SYNTHETIC_INLINE float synthetic_value(Synthetic tensor, uint64_t index)
{
    uint64_t bits = tensor.key + index * 0x9E3779B97F4A7C15u;
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
    bits ^= bits >> 31;
    uint64_t sum = (bits & 0x1F1F1F1F1F1F1F1Fu) * 0x0101010101010101u >> 56;
    return tensor.mean + tensor.step * (float)((int)sum - 124);
}

/* OUT[i] = element first + i, or first + i * stride. */
void synthetic_values(const Synthetic *tensor, uint64_t first, size_t count, float *out);
void synthetic_strided(const Synthetic *tensor, uint64_t first, uint64_t stride, size_t count,
                       float *out);

/* The tensor NAME with elements of about this deviation around MEAN. */
Synthetic synthetic_make(const char *name, float mean, double deviation);

#endif
