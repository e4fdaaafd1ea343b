#include "exec/cuda/small_copies.h"

#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"

static constexpr uint32_t THREADS = 256;

/* ---- to the host ---- */

struct TellBlock {
    Tell tell[MOST_TELLS];
};

/* Elements of a tell, so many bytes that its sizes and places are multiples of. */
template <typename Element> __device__ void write_told(const Tell &tell)
{
    const Element *from = (const Element *)tell.from;
    Element *to = (Element *)tell.to;
    uint32_t count = (uint32_t)(tell.bytes / sizeof *to);
    for (uint32_t i = threadIdx.x; i < count; i += THREADS)
        to[i] = from[i];
}

__device__ bool is_wide(const Tell &tell)
{
    return ((size_t)tell.from | (size_t)tell.to | tell.bytes) % sizeof(uint4) == 0;
}

/* One block: the word comes after what all of its threads have written. At the most some KiB over
 * the link, bound by its latency. */
__global__ void __launch_bounds__(THREADS)
    tell(const __grid_constant__ TellBlock block, uint32_t n, uint32_t *told, uint32_t number)
{
    wait_for_earlier_kernels();
    for (uint32_t t = 0; t < n; t++) {
        if (is_wide(block.tell[t]))
            write_told<uint4>(block.tell[t]);
        else
            write_told<uint16_t>(block.tell[t]);
    }
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x == 0)
        asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(told), "r"(number) : "memory");
}

extern "C" Status tell_host(const Tell *tells, uint32_t n, uint32_t *told, uint32_t number,
                            cudaStream_t stream)
{
    TellBlock block = {};
    for (uint32_t t = 0; t < n; t++)
        block.tell[t] = tells[t];
    const LaunchShape shape = {dim3(1), THREADS, 0, 0};
    return launch_after(tell, shape, stream, block, n, told, number);
}

/* ---- to the device ---- */

struct LoadBlock {
    SmallLoad load[MOST_TOGETHER];
};

/* A block copies so much of a load, every thread 64 bytes, which are under way together: enough
 * blocks to cover the link's latency run at a time. The link bounds it: on an H200 64 loads of 64
 * KiB take 91 us, 46 GB/s or 83 % of the copy engine's rate, and 8 of them 19 us, of which 10 pass
 * before and after; the engine takes 5.4 us for each. */
static constexpr uint32_t WORDS = 4;
static constexpr uint32_t CHUNK = WORDS * THREADS;

__global__ void __launch_bounds__(THREADS)
    copy_loads(const __grid_constant__ LoadBlock block, uint32_t words)
{
    const uint4 *from = (const uint4 *)block.load[blockIdx.y].from;
    uint4 *to = (uint4 *)block.load[blockIdx.y].to;
    uint32_t first = blockIdx.x * CHUNK + threadIdx.x;
    uint4 word[WORDS];
#pragma unroll
    for (uint32_t i = 0; i < WORDS; i++)
        if (first + i * THREADS < words)
            word[i] = from[first + i * THREADS];
#pragma unroll
    for (uint32_t i = 0; i < WORDS; i++)
        if (first + i * THREADS < words)
            to[first + i * THREADS] = word[i];
}

extern "C" Status copy_together(const SmallLoad *loads, uint32_t n, size_t bytes,
                                cudaStream_t stream)
{
    uint32_t words = (uint32_t)(bytes / sizeof(uint4));
    LoadBlock block = {};
    for (uint32_t i = 0; i < n; i++)
        block.load[i] = loads[i];
    copy_loads<<<dim3(divide_up(words, CHUNK), n), THREADS, 0, stream>>>(block, words);
    CUDA_TRY(cudaGetLastError());
    return OK;
}
