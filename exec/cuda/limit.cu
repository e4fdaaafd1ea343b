/* Capacity: what is over it is dropped. A block takes an expert and passes over all assignments in
 * their order, so that the result is the same on every run. Experts * assignments * 2 bytes come
 * from the L2. */
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/router.h"

static constexpr uint32_t THREADS = 256;

/* Threads before this one whose FLAG is set; *TOTAL: of the block. */
__device__ static uint32_t count_before(bool flag, uint32_t *total)
{
    __shared__ uint32_t warps[THREADS / 32];
    uint32_t bits = __ballot_sync(0xFFFFFFFF, flag);
    uint32_t warp = threadIdx.x / 32;
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        warps[warp] = __popc(bits);
    __syncthreads();
    uint32_t before = __popc(bits & ((1u << threadIdx.x % 32) - 1));
    *total = 0;
    for (uint32_t w = 0; w < THREADS / 32; w++) {
        before += w < warp ? warps[w] : 0;
        *total += warps[w];
    }
    return before;
}

/* A block drops only its own expert's rows, which no other block takes for its own before or
 * after. */
__global__ void __launch_bounds__(THREADS)
    limit_expert(uint32_t capacity, uint32_t tokens, uint32_t top_k, uint16_t *experts,
                 float *weights)
{
    uint32_t assignments = tokens * top_k;
    uint32_t seen = 0;
    for (uint32_t first = 0; first < assignments; first += THREADS) {
        uint32_t i = first + threadIdx.x;
        size_t row = (size_t)(i % tokens) * top_k + i / tokens;
        bool own = i < assignments && experts[row] == blockIdx.x;
        uint32_t total;
        uint32_t before = count_before(own, &total);
        if (own && seen + before >= capacity) {
            experts[row] = EXPERT_DROPPED;
            weights[row] = 0;
        }
        seen += total;
    }
}

__global__ void __launch_bounds__(THREADS)
    normalise_weights(uint32_t tokens, uint32_t top_k, float *weights)
{
    uint32_t token = blockIdx.x * THREADS + threadIdx.x;
    if (token >= tokens)
        return;
    float *row = weights + (size_t)token * top_k;
    float sum = 0;
    for (uint32_t slot = 0; slot < top_k; slot++)
        sum += row[slot];
    for (uint32_t slot = 0; sum > 0 && slot < top_k; slot++)
        row[slot] /= sum;
}

extern "C" Status router_limit(uint32_t capacity, uint32_t tokens, uint32_t top_k,
                               uint32_t n_experts, bool normalise, const Routing *routing,
                               cudaStream_t stream)
{
    limit_expert<<<n_experts, THREADS, 0, stream>>>(capacity, tokens, top_k, routing->experts,
                                                    routing->weights);
    CUDA_TRY(cudaGetLastError());
    if (!normalise)
        return OK;
    normalise_weights<<<divide_up(tokens, THREADS), THREADS, 0, stream>>>(tokens, top_k,
                                                                          routing->weights);
    CUDA_TRY(cudaGetLastError());
    return OK;
}
