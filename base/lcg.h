/* Numbers that only have to look drawn, one multiplication each. */
#ifndef BASE_LCG_H
#define BASE_LCG_H

#include <stdint.h>

/* The next of STATE; the higher a bit, the longer it takes to repeat. Knuth's linear congruential
 * generator for MMIX, modulus 2^64. */
static inline uint64_t lcg_next(uint64_t *state)
{
    return *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
}

#endif
