/* Capacity, grouping by expert and the weighted sum. For capacity and grouping a block takes an
 * expert and passes over all assignments in their order, so that the result is the same on every
 * run without a sort. Experts * assignments * 2 bytes come from the L2. */
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

/* Where expert E's rows begin is the number of assignments to lower ones, which the block counts
 * itself. */
__global__ void __launch_bounds__(THREADS)
    group_expert(const uint16_t *__restrict__ experts, uint32_t assignments, RowGroups groups)
{
    uint32_t at = 0;
    uint32_t total;
    for (uint32_t first = 0; first < assignments; first += THREADS) {
        uint32_t i = first + threadIdx.x;
        at += __syncthreads_count(i < assignments && experts[i] < blockIdx.x);
    }
    if (threadIdx.x == 0)
        groups.first[blockIdx.x] = at;
    for (uint32_t first = 0; first < assignments; first += THREADS) {
        uint32_t i = first + threadIdx.x;
        bool own = i < assignments && experts[i] == blockIdx.x;
        uint32_t before = count_before(own, &total);
        if (own)
            groups.rows[at + before] = i;
        at += total;
    }
    if (threadIdx.x == 0 && blockIdx.x == gridDim.x - 1)
        groups.first[gridDim.x] = at;
}

extern "C" Status router_group(const uint16_t *experts, uint32_t tokens, uint32_t top_k,
                               uint32_t n_experts, const RowGroups *groups, cudaStream_t stream)
{
    group_expert<<<n_experts, THREADS, 0, stream>>>(experts, tokens * top_k, *groups);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

/* A thread: one column of a token. Reads top_k * 4 bytes and 4 more, writes 4; bound by memory. */
__global__ void __launch_bounds__(THREADS)
    combine_tokens(const float *__restrict__ in, Routing routing, uint32_t top_k, uint32_t columns,
                   float scale, float *__restrict__ out)
{
    size_t token = blockIdx.x;
    uint32_t column = blockIdx.y * THREADS + threadIdx.x;
    if (column >= columns)
        return;
    float sum = 0;
    for (size_t row = token * top_k; row < (token + 1) * top_k; row++)
        if (routing.experts[row] != EXPERT_DROPPED)
            sum = fmaf(routing.weights[row], in[row * columns + column], sum);
    out[token * columns + column] += scale * sum;
}

extern "C" Status router_combine(const float *in, const Routing *routing, uint32_t tokens,
                                 uint32_t top_k, uint32_t columns, float scale, float *out,
                                 cudaStream_t stream)
{
    combine_tokens<<<dim3(tokens, divide_up(columns, THREADS)), THREADS, 0, stream>>>(
        in, *routing, top_k, columns, scale, out);
    CUDA_TRY(cudaGetLastError());
    return OK;
}
