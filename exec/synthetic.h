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

#include "base/splitmix64.h"

/* Element I is mean + step * n, with n from -124 to 124 of deviation 26.1. STEP is a power of two,
 * MEAN 0, or 1 where STEP is 1/128. */
typedef struct Synthetic {
    uint64_t key;
    float mean;
    float step;
} Synthetic;

/* Sum of eight five-bit numbers, less its mean: near enough to normal. The bits are those
 * of number INDEX of the tensor's. */
SPLITMIX64_INLINE float synthetic_value(Synthetic tensor, uint64_t index)
{
    const uint64_t bits = splitmix64_at(tensor.key, index);
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
