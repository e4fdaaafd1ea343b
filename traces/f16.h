/* Half-precision arrays: what f16_from_f32() and f32_from_f16() of traces/trace.h do, many at a
 * time. The x86-64 F16C instructions are used where the processor has them; the results are the
 * same to the bit, NaN payloads included. */
#ifndef TRACES_F16_H
#define TRACES_F16_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "traces/trace.h"

/* Rounds to nearest even; beyond 65504 (and its rounding) becomes infinity. HALVES is [count]. */
void f16_encode(const float *values, size_t count, uint16_t *halves);
/* Exact. VALUES is [count]; HALVES need not be aligned. */
void f16_decode(const void *halves, size_t count, float *values);

/* True when VALUE is finite and stays so as half precision: up to 65504 and its rounding. */
static inline bool f16_holds(float value)
{
    return isfinite(f32_from_f16(f16_from_f32(value)));
}

#endif
