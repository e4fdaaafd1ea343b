#include "exec/synthetic.h"

#include <math.h>

/* Of n, in units of step: eight uniform numbers from 0 to 31. */
static const double DEVIATION = 26.127; /* sqrt(8 * (32 * 32 - 1) / 12) */

void synthetic_values(const Synthetic *tensor, uint64_t first, size_t count, float *out)
{
    const Synthetic made = *tensor;
    for (size_t i = 0; i < count; i++)
        out[i] = synthetic_value(made, first + i);
}

void synthetic_strided(const Synthetic *tensor, uint64_t first, uint64_t stride, size_t count,
                       float *out)
{
    const Synthetic made = *tensor;
    for (size_t i = 0; i < count; i++)
        out[i] = synthetic_value(made, first + i * stride);
}

/* FNV-1a, then mixed, for names differ in few bits. */
static uint64_t key_of(const char *name)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (const char *p = name; *p != '\0'; p++)
        hash = (hash ^ (unsigned char)*p) * 0x100000001B3u;
    hash = (hash ^ (hash >> 32)) * 0xD6E8FEB86659FD93u;
    return hash ^ (hash >> 32);
}

Synthetic synthetic_make(const char *name, float mean, double deviation)
{
    double exponent = mean != 0 ? -7 : nearbyint(log2(deviation / DEVIATION));
    return (Synthetic){.key = key_of(name), .mean = mean, .step = (float)exp2(exponent)};
}
