/* Numbers drawn by a seed, the same on every machine and device: SplitMix64 (Steele, Lea and Flood
 * 2014). */
#ifndef BASE_SPLITMIX64_H
#define BASE_SPLITMIX64_H

#include <stdint.h>

#ifdef __CUDACC__
#define SPLITMIX64_INLINE __host__ __device__ static inline
#else
#define SPLITMIX64_INLINE static inline
#endif

#define SPLITMIX64_STEP UINT64_C(0x9E3779B97F4A7C15)

/* Number N, from 1, of those that begin at SEED: any of them, in any order. */
SPLITMIX64_INLINE uint64_t splitmix64_at(uint64_t seed, uint64_t n)
{
    uint64_t z = seed + n * SPLITMIX64_STEP;
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* The first of KEY: a number whose bits depend on all of KEY's. */
SPLITMIX64_INLINE uint64_t splitmix64_mix(uint64_t key)
{
    return splitmix64_at(key, 1);
}

/* The next of STATE, which begins as the seed. */
SPLITMIX64_INLINE uint64_t splitmix64_next(uint64_t *state)
{
    uint64_t number = splitmix64_mix(*state);
    *state += SPLITMIX64_STEP;
    return number;
}

/* The same as a share of 1: 0 to 1, 1 left out. */
SPLITMIX64_INLINE double splitmix64_share(uint64_t *state)
{
    return (double)(splitmix64_next(state) >> 11) * 0x1p-53;
}

#endif
