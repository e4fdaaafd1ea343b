/* Sums and maxima over the threads of a warp or of a block, in a fixed order. */
#ifndef EXEC_CUDA_REDUCE_CUH
#define EXEC_CUDA_REDUCE_CUH

#include <stdint.h>

/* Over lanes that differ in the bits below WIDTH (a power of two); every lane gets it. */
template <int WIDTH = 32> __device__ inline float sum_lanes(float value)
{
#pragma unroll
    for (int step = WIDTH / 2; step > 0; step /= 2)
        value += __shfl_xor_sync(0xFFFFFFFF, value, step);
    return value;
}

template <int WIDTH = 32> __device__ inline float most_of_lanes(float value)
{
#pragma unroll
    for (int step = WIDTH / 2; step > 0; step /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFF, value, step));
    return value;
}

/* Over the block's THREADS; every thread gets it. May be called again and again. */
template <uint32_t THREADS> __device__ inline float sum_block(float value)
{
    __shared__ float part[THREADS / 32];
    value = sum_lanes(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = value;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (uint32_t w = 0; w < THREADS / 32; w++)
        total += part[w];
    return total;
}

#endif
