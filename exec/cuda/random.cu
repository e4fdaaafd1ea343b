#include "base/splitmix64.h"
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/random.h"

static constexpr uint32_t FILL_THREADS = 256;
static constexpr uint32_t FILL_BLOCKS = 1320;

/* Two normal deviates (Box and Muller). */
__device__ static float2 normal_pair(uint64_t seed, uint64_t index)
{
    uint64_t bits = splitmix64_mix(splitmix64_mix(seed) + index);
    float u = ((uint32_t)bits + 1.0f) * 0x1p-32f;
    float v = (uint32_t)(bits >> 32) * 0x1p-32f;
    float radius = sqrtf(-2 * __logf(fminf(u, 1.0f)));
    float2 pair;
    __sincosf(6.2831853f * v, &pair.y, &pair.x);
    return make_float2(radius * pair.x, radius * pair.y);
}

__global__ void __launch_bounds__(FILL_THREADS)
    fill_normal(__nv_bfloat16 *out, size_t count, float deviation, uint64_t seed)
{
    wait_for_earlier_kernels();
    size_t stride = (size_t)gridDim.x * FILL_THREADS;
    for (size_t i = (size_t)blockIdx.x * FILL_THREADS + threadIdx.x; 2 * i < count; i += stride) {
        float2 pair = normal_pair(seed, i);
        out[2 * i] = __float2bfloat16_rn(deviation * pair.x);
        if (2 * i + 1 < count)
            out[2 * i + 1] = __float2bfloat16_rn(deviation * pair.y);
    }
}

__global__ void __launch_bounds__(FILL_THREADS)
    shift_rows(__nv_bfloat16 *rows, uint32_t columns, float deviation, uint64_t seed)
{
    wait_for_earlier_kernels();
    __nv_bfloat16 *row = rows + (size_t)blockIdx.x * columns;
    for (uint32_t i = threadIdx.x; i < columns; i += FILL_THREADS)
        row[i] = __float2bfloat16_rn(__bfloat162float(row[i]) + deviation * normal_pair(seed, i).x);
}

extern "C" Status random_fill(void *out, size_t count, float deviation, uint64_t seed,
                              cudaStream_t stream)
{
    const LaunchShape launch = {dim3(FILL_BLOCKS), FILL_THREADS, 0, 0};
    return launch_after(fill_normal, launch, stream, (__nv_bfloat16 *)out, count, deviation, seed);
}

extern "C" Status random_shift_rows(void *rows, uint32_t n_rows, uint32_t columns, float deviation,
                                    uint64_t seed, cudaStream_t stream)
{
    const LaunchShape launch = {dim3(n_rows), FILL_THREADS, 0, 0};
    return launch_after(shift_rows, launch, stream, (__nv_bfloat16 *)rows, columns, deviation,
                        seed);
}
