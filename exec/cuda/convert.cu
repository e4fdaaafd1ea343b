#include "exec/cuda/convert.h"
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"

static constexpr uint32_t THREADS = 256;
static constexpr uint32_t MAX_BLOCKS = 1056;

/* Reads 4 bytes per element and writes 2; bound by memory. */
__global__ void __launch_bounds__(THREADS)
    round_floats(const float *__restrict__ in, size_t count, __nv_bfloat16 *__restrict__ out)
{
    size_t stride = (size_t)gridDim.x * THREADS;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride)
        out[i] = __float2bfloat16_rn(in[i]);
}

extern "C" Status convert_to_bf16(const float *in, size_t count, void *out, cudaStream_t stream)
{
    size_t blocks = (count + THREADS - 1) / THREADS;
    if (count == 0)
        return OK;
    round_floats<<<(uint32_t)min(blocks, (size_t)MAX_BLOCKS), THREADS, 0, stream>>>(
        in, count, (__nv_bfloat16 *)out);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

__global__ void __launch_bounds__(THREADS)
    widen_elements(const __nv_bfloat16 *__restrict__ in, size_t count, float *__restrict__ out)
{
    size_t stride = (size_t)gridDim.x * THREADS;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride)
        out[i] = __bfloat162float(in[i]);
}

extern "C" Status convert_to_f32(const void *in, size_t count, float *out, cudaStream_t stream)
{
    size_t blocks = (count + THREADS - 1) / THREADS;
    if (count == 0)
        return OK;
    widen_elements<<<(uint32_t)min(blocks, (size_t)MAX_BLOCKS), THREADS, 0, stream>>>(
        (const __nv_bfloat16 *)in, count, out);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

__device__ static uint64_t device_clock_ns()
{
    uint64_t ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns)::"memory");
    return ns;
}

__global__ void note_clock(uint64_t *start)
{
    *start = device_clock_ns();
}

/* One thread that mostly sleeps, so that it takes next to nothing from what computes beside it. */
__global__ void wait_for_clock(const uint64_t *start, uint64_t ns)
{
    uint64_t end = *start + ns;
    for (uint64_t now = device_clock_ns(); now < end; now = device_clock_ns())
        __nanosleep((uint32_t)min(end - now, (uint64_t)1000));
}

static constexpr uint64_t HELD_AT_MOST_NS = 1000000000;

/* One thread, which asks the host's memory again and again, a microsecond each time. One release
 * may be of several holds, so that the number seen may be a later one; it may have wrapped. */
__global__ void wait_for_host(const uint32_t *over, uint32_t number)
{
    uint64_t end = device_clock_ns() + HELD_AT_MOST_NS;
    uint32_t seen;
    do
        asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(over) : "memory");
    while ((int32_t)(seen - number) < 0 && device_clock_ns() < end);
}

extern "C" Status clock_note(uint64_t *start, cudaStream_t stream)
{
    note_clock<<<1, 1, 0, stream>>>(start);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

extern "C" Status clock_wait(const uint64_t *start, uint64_t ns, cudaStream_t stream)
{
    wait_for_clock<<<1, 1, 0, stream>>>(start, ns);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

extern "C" Status hold_queue(const uint32_t *over, uint32_t number, cudaStream_t stream)
{
    wait_for_host<<<1, 1, 0, stream>>>(over, number);
    CUDA_TRY(cudaGetLastError());
    return OK;
}
