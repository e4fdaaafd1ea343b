/* The greedy choice among logits. */
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/ops.h"

static constexpr uint32_t THREADS = 1024;
static constexpr uint32_t SLICES = 8; /* blocks of a cluster */
static constexpr uint32_t UNROLL = 4;

/* Orders as VALUE does, and among equals the lower PLACE first; a NaN is above all. */
__device__ static uint64_t key_of(float value, uint32_t place)
{
    uint32_t bits = __float_as_uint(value + 0.0f); /* -0 is 0 */
    bits ^= (bits & 0x80000000u) != 0 ? 0xFFFFFFFFu : 0x80000000u;
    return isnan(value) ? UINT64_MAX : (uint64_t)bits << 32 | ~place;
}

__device__ static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

__device__ static uint64_t largest_of_lanes(uint64_t key)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        key = larger(key, __shfl_xor_sync(0xFFFFFFFF, key, step));
    return key;
}

/* Of the part of ROW that is this block's, for the first warp. */
__device__ static uint64_t largest_of_part(const float *__restrict__ row, uint32_t columns)
{
    __shared__ uint64_t of_warp[THREADS / 32];
    uint64_t key = 0;
#pragma unroll UNROLL
    for (uint32_t i = cluster_rank() * THREADS + threadIdx.x; i < columns; i += SLICES * THREADS)
        key = larger(key, key_of(row[i], i));
    key = largest_of_lanes(key);
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = key;
    __syncthreads();
    return threadIdx.x < 32 ? largest_of_lanes(of_warp[threadIdx.x]) : 0;
}

/* A cluster: one row, 4 bytes a column, once. Bound by latency for few rows, by memory (or the L2
 * that the logits still lie in) for many. */
__global__ void __cluster_dims__(SLICES, 1, 1) __launch_bounds__(THREADS)
    find_best_in_rows(const float *__restrict__ in, uint32_t columns, uint32_t *__restrict__ best)
{
    __shared__ uint32_t part[2];
    wait_for_earlier_kernels();
    let_next_kernel_start();
    uint64_t key = largest_of_part(in + (size_t)blockIdx.y * columns, columns);
    if (threadIdx.x == 0) {
        part[0] = (uint32_t)key;
        part[1] = (uint32_t)(key >> 32);
    }
    cluster_sync();
    if (cluster_rank() == 0 && threadIdx.x == 0) {
        for (uint32_t rank = 1; rank < SLICES; rank++) {
            uint32_t low = __float_as_uint(load_shared_of(rank, shared_address(&part[0])));
            uint32_t high = __float_as_uint(load_shared_of(rank, shared_address(&part[1])));
            key = larger(key, (uint64_t)high << 32 | low);
        }
        best[blockIdx.y] = key == UINT64_MAX ? UINT32_MAX : ~(uint32_t)key;
    }
    cluster_sync(); /* no block may end while another reads from it */
}

extern "C" Status ops_find_best(const OpsQueue *queue, const float *in, uint32_t rows,
                                uint32_t columns, uint32_t *best)
{
    const LaunchShape launch = {dim3(SLICES, rows), THREADS, 0, 0};
    return rows > 0 ? launch_after(find_best_in_rows, launch, queue->stream, in, columns, best)
                    : OK;
}
