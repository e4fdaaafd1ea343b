/* Shares of a whole as whole numbers, the same on every machine. Inside policies/ only. */
#ifndef POLICIES_SHARES_H
#define POLICIES_SHARES_H

#include <stdint.h>

/* Shares are whole multiples of 2^-SHARE_BITS. */
enum { SHARE_BITS = 24 };

/* Adds the shares that PARTS[n] have of WHOLE, which none is above, rounded down, to SUM[n].
 *
 * Of a whole below 2^29 by doubles, which processors divide several at a time: a part by
 * 2^SHARE_BITS is exact, and a quotient, at most 2^24 and at least 1 / WHOLE below the next whole
 * number, is not rounded up to it. */
static inline void shares_add(const uint32_t *restrict parts, uint32_t n, uint64_t whole,
                              uint64_t *restrict sum)
{
    if (whole < UINT32_C(1) << 29) {
        for (uint32_t i = 0; i < n; i++)
            sum[i] += (uint32_t)(int32_t)((double)(int32_t)parts[i] * (1 << SHARE_BITS) /
                                          (double)(int32_t)whole);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        sum[i] += ((uint64_t)parts[i] << SHARE_BITS) / whole;
}

#endif
