#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/routing.h"

#include <math_constants.h>

static constexpr uint32_t LOGIT_THREADS = 128;
static constexpr uint32_t LOGIT_TOKENS = 8; /* of a block */
static constexpr uint32_t SELECT_WARPS = 4;
static constexpr uint32_t COMBINE_THREADS = 256;
static constexpr uint32_t MAX_SLOTS = 16;

/* ---- logits of few tokens ---- */

__device__ static float dot8(uint4 a, uint4 b)
{
    const __nv_bfloat162 *x = (const __nv_bfloat162 *)&a;
    const __nv_bfloat162 *y = (const __nv_bfloat162 *)&b;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 u = __bfloat1622float2(x[i]);
        float2 v = __bfloat1622float2(y[i]);
        sum = fmaf(u.x, v.x, sum);
        sum = fmaf(u.y, v.y, sum);
    }
    return sum;
}

__device__ static float warp_sum(float value)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        value += __shfl_xor_sync(0xFFFFFFFF, value, step);
    return value;
}

/* A block: one expert times up to 8 tokens. The expert's row is read once, the tokens' from the L2;
 * bound by latency. */
__global__ void __launch_bounds__(LOGIT_THREADS)
    few_logits(RoutingShape shape, const uint4 *__restrict__ in, const uint4 *__restrict__ router,
               float *__restrict__ logits)
{
    __shared__ float partial[LOGIT_THREADS / 32][LOGIT_TOKENS];
    wait_for_earlier_kernels();
    let_next_kernel_start();
    uint32_t expert = blockIdx.x;
    uint32_t first = blockIdx.y * LOGIT_TOKENS;
    uint32_t n = min(shape.tokens - first, LOGIT_TOKENS);
    uint32_t words = shape.columns / 8;
    float sum[LOGIT_TOKENS] = {};
    for (uint32_t i = threadIdx.x; i < words; i += LOGIT_THREADS) {
        uint4 weight = router[(size_t)expert * words + i];
#pragma unroll
        for (uint32_t t = 0; t < LOGIT_TOKENS; t++)
            if (t < n)
                sum[t] += dot8(weight, in[(size_t)(first + t) * words + i]);
    }
#pragma unroll
    for (uint32_t t = 0; t < LOGIT_TOKENS; t++) {
        float total = warp_sum(sum[t]);
        if (threadIdx.x % 32 == 0)
            partial[threadIdx.x / 32][t] = total;
    }
    __syncthreads();
    if (threadIdx.x < n) {
        float total = 0;
        for (uint32_t w = 0; w < LOGIT_THREADS / 32; w++)
            total += partial[w][threadIdx.x];
        logits[(size_t)(first + threadIdx.x) * shape.experts + expert] = total;
    }
}

extern "C" Status routing_logits(const RoutingShape *shape, const void *in, const void *router,
                                 float *logits, const Cublas *cublas, cudaStream_t stream)
{
    const uint32_t few_tokens = 16;
    if (shape->tokens <= few_tokens) {
        const LaunchShape launch = {dim3(shape->experts, divide_up(shape->tokens, LOGIT_TOKENS)),
                                    LOGIT_THREADS, 0, 0};
        return launch_after(few_logits, launch, stream, *shape, (const uint4 *)in,
                            (const uint4 *)router, logits);
    }
    CublasProduct product = {};
    product.in = CUDA_R_16BF;
    product.out = CUDA_R_32F;
    product.rows = shape->tokens;
    product.columns = shape->experts;
    product.depth = shape->columns;
    product.count = 1;
    const CublasMatrix a = {in, shape->columns, 0};
    const CublasMatrix b = {router, shape->columns, 0};
    const CublasMatrix out = {logits, shape->experts, 0};
    return cublas_product(cublas, &product, &a, &b, &out, stream);
}

/* ---- softmax and choice ---- */

/* Lane l of a token's warp holds the scores of experts l, l + 32, ... */
template <uint32_t VALUES> struct Scores {
    float value[VALUES];

    /* -inf beyond the last expert */
    __device__ void load(const float *logits, uint32_t experts)
    {
#pragma unroll
        for (uint32_t i = 0; i < VALUES; i++) {
            uint32_t expert = threadIdx.x % 32 + 32 * i;
            value[i] = expert < experts ? logits[expert] : -CUDART_INF_F;
        }
    }
    __device__ void softmax()
    {
        float most = -CUDART_INF_F;
#pragma unroll
        for (uint32_t i = 0; i < VALUES; i++)
            most = fmaxf(most, value[i]);
#pragma unroll
        for (int step = 16; step > 0; step /= 2)
            most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFF, most, step));
        float sum = 0;
#pragma unroll
        for (uint32_t i = 0; i < VALUES; i++) {
            value[i] = expf(value[i] - most);
            sum += value[i];
        }
        sum = warp_sum(sum);
#pragma unroll
        for (uint32_t i = 0; i < VALUES; i++)
            value[i] /= sum;
    }
    __device__ void store(float *scores, uint32_t experts) const
    {
#pragma unroll
        for (uint32_t i = 0; i < VALUES; i++) {
            uint32_t expert = threadIdx.x % 32 + 32 * i;
            if (expert < experts)
                scores[expert] = value[i];
        }
    }
    /* Takes the largest out: its expert, and its score in *SCORE, for every lane. */
    __device__ uint32_t take_largest(float *score)
    {
        float most = -1;
        uint32_t expert = UINT32_MAX;
#pragma unroll
        for (uint32_t i = 0; i < VALUES; i++)
            if (value[i] > most) {
                most = value[i];
                expert = threadIdx.x % 32 + 32 * i;
            }
#pragma unroll
        for (int step = 16; step > 0; step /= 2) {
            float other = __shfl_xor_sync(0xFFFFFFFF, most, step);
            uint32_t other_expert = __shfl_xor_sync(0xFFFFFFFF, expert, step);
            if (other > most || (other == most && other_expert < expert)) {
                most = other;
                expert = other_expert;
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < VALUES; i++)
            if (expert == threadIdx.x % 32 + 32 * i)
                value[i] = -1;
        *score = most;
        return expert;
    }
};

/* A warp: one token. Reads and writes 4 * experts bytes; bound by latency. */
template <uint32_t VALUES>
__global__ void __launch_bounds__(SELECT_WARPS * 32)
    select_experts(RoutingShape shape, float *__restrict__ logits, uint16_t *__restrict__ ids,
                   float *__restrict__ weights)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    uint32_t token = blockIdx.x * SELECT_WARPS + threadIdx.x / 32;
    uint32_t lane = threadIdx.x % 32;
    if (token >= shape.tokens)
        return;
    Scores<VALUES> scores;
    scores.load(logits + (size_t)token * shape.experts, shape.experts);
    scores.softmax();
    scores.store(logits + (size_t)token * shape.experts, shape.experts);
    float weight = 0; /* lane s: of slot s */
    uint32_t expert = 0;
    float sum = 0;
    for (uint32_t slot = 0; slot < shape.top_k; slot++) {
        float score;
        uint32_t largest = scores.take_largest(&score);
        sum += score;
        if (lane == slot) {
            weight = score;
            expert = largest;
        }
    }
    if (lane < shape.top_k) {
        ids[(size_t)token * shape.top_k + lane] = (uint16_t)expert;
        weights[(size_t)token * shape.top_k + lane] = shape.normalise ? weight / sum : weight;
    }
}

template <uint32_t VALUES>
static Status launch_select(const RoutingShape &shape, float *logits, uint16_t *ids, float *weights,
                            cudaStream_t stream)
{
    const LaunchShape launch = {dim3(divide_up(shape.tokens, SELECT_WARPS)), SELECT_WARPS * 32, 0,
                                0};
    return launch_after(select_experts<VALUES>, launch, stream, shape, logits, ids, weights);
}

extern "C" Status routing_select(const RoutingShape *shape, float *logits, uint16_t *ids,
                                 float *weights, cudaStream_t stream)
{
    if (shape->experts > 512 || shape->top_k > MAX_SLOTS)
        return fail(ERR_UNSUPPORTED, "cuda: %u experts, top %u: at most 512 and %u are possible",
                    shape->experts, shape->top_k, MAX_SLOTS);
    if (shape->experts <= 32)
        return launch_select<1>(*shape, logits, ids, weights, stream);
    if (shape->experts <= 64)
        return launch_select<2>(*shape, logits, ids, weights, stream);
    if (shape->experts <= 128)
        return launch_select<4>(*shape, logits, ids, weights, stream);
    if (shape->experts <= 256)
        return launch_select<8>(*shape, logits, ids, weights, stream);
    return launch_select<16>(*shape, logits, ids, weights, stream);
}

/* ---- combine ---- */

__device__ static void add_scaled(float (&sum)[8], float weight, uint4 word)
{
    const __nv_bfloat162 *pair = (const __nv_bfloat162 *)&word;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 value = __bfloat1622float2(pair[i]);
        sum[2 * i] = fmaf(weight, value.x, sum[2 * i]);
        sum[2 * i + 1] = fmaf(weight, value.y, sum[2 * i + 1]);
    }
}

/* A thread: 8 columns of a token. Reads top_k * columns * 2 bytes per token, writes columns * 2;
 * bound by memory. */
__global__ void __launch_bounds__(COMBINE_THREADS)
    combine_rows(RoutingShape shape, const uint4 *__restrict__ in, const uint32_t *__restrict__ row,
                 const float *__restrict__ weights, uint4 *__restrict__ out)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    uint32_t words = shape.columns / 8;
    uint32_t token = blockIdx.x;
    uint32_t word = blockIdx.y * COMBINE_THREADS + threadIdx.x;
    if (word >= words)
        return;
    float sum[8] = {};
#pragma unroll 8
    for (uint32_t i = token * shape.top_k; i < (token + 1) * shape.top_k; i++)
        if (row[i] != UINT32_MAX)
            add_scaled(sum, weights[i], in[(size_t)row[i] * words + word]);
    out[(size_t)token * words + word] =
        make_uint4(pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]), pack_bf16(sum[4], sum[5]),
                   pack_bf16(sum[6], sum[7]));
}

extern "C" Status routing_combine(const RoutingShape *shape, const void *in, const uint32_t *row,
                                  const float *weights, void *out, cudaStream_t stream)
{
    const LaunchShape launch = {dim3(shape->tokens, divide_up(shape->columns / 8, COMBINE_THREADS)),
                                COMBINE_THREADS, 0, 0};
    return launch_after(combine_rows, launch, stream, *shape, (const uint4 *)in, row, weights,
                        (uint4 *)out);
}
