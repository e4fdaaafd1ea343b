/* Scores, choice and weights: which kernels do it, and plain ones for f32 and odd shapes, which
 * make the logits first. */
#include "exec/cuda/grouping.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/product.cuh"
#include "exec/cuda/router.cuh"
#include "exec/cuda/router_clusters.h"
#include "exec/cuda/router_tiles.h"

static constexpr uint32_t LOGIT_WARPS = 4;
static constexpr uint32_t FEW_TOKENS = 64;

/* A warp: one logit. The expert's row comes from memory once and then from the L2; bound by
 * latency. */
template <typename Weight>
__global__ void __launch_bounds__(LOGIT_WARPS * 32)
    few_logits(const float *__restrict__ in, const Weight *__restrict__ matrix,
               const float *__restrict__ bias, uint32_t experts, uint32_t columns,
               float *__restrict__ logits)
{
    uint32_t expert = blockIdx.x * LOGIT_WARPS + threadIdx.x / 32;
    size_t token = blockIdx.y;
    if (expert >= experts)
        return;
    const Weight *weights = matrix + (size_t)expert * columns;
    const float *row = in + token * columns;
    float sum = 0;
    for (uint32_t i = threadIdx.x % 32; i < columns; i += 32)
        sum = fmaf(row[i], element(weights[i]), sum);
    sum = sum_lanes(sum);
    if (threadIdx.x % 32 == 0)
        logits[token * experts + expert] = sum + (bias != nullptr ? bias[expert] : 0);
}

template <typename Weight>
static Status compute_logits(const Matrix &matrix, const float *in, uint32_t tokens, float *logits,
                             cudaStream_t stream)
{
    const Weight *weights = (const Weight *)matrix.data;
    if (tokens > FEW_TOKENS) {
        const dim3 grid(divide_up(matrix.rows, PRODUCT_TILE), divide_up(tokens, PRODUCT_TILE));
        dense_product<Weight><<<grid, PRODUCT_THREADS, 0, stream>>>(
            in, weights, matrix.bias, tokens, matrix.rows, matrix.columns, logits);
    } else {
        const dim3 grid(divide_up(matrix.rows, LOGIT_WARPS), tokens);
        few_logits<Weight><<<grid, LOGIT_WARPS * 32, 0, stream>>>(
            in, weights, matrix.bias, matrix.rows, matrix.columns, logits);
    }
    CUDA_TRY(cudaGetLastError());
    return OK;
}

/* A block: a token. */
template <uint32_t PER_LANE> __global__ void __launch_bounds__(32) route_tokens(RouteTask task)
{
    extern __shared__ float shared[];
    for (uint32_t e = threadIdx.x; e < task.experts; e += 32)
        shared[e] = task.routing.scores[(size_t)blockIdx.x * task.experts + e];
    __syncwarp();
    TokenRouter<PER_LANE> router(task, shared);
    router.route(blockIdx.x);
}

static Status route_plainly(const Matrix &matrix, bool bf16, const float *in, const RouteTask &task,
                            cudaStream_t stream)
{
    uint32_t bytes = router_words(task) * (uint32_t)sizeof(float);
    float *logits = task.routing.scores;
    auto kernel = task.experts <= 128 ? route_tokens<4> : route_tokens<32>;
    if (task.experts > 1024)
        return fail(ERR_UNSUPPORTED, "cuda: a router of %u experts: at most 1024 are possible",
                    task.experts);
    TRY(bf16 ? compute_logits<__nv_bfloat16>(matrix, in, task.tokens, logits, stream)
             : compute_logits<float>(matrix, in, task.tokens, logits, stream));
    kernel<<<task.tokens, 32, bytes, stream>>>(task);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

static RouteTask task_of(const Router &router, uint32_t tokens, const uint16_t *forced,
                         const float *forced_weights, const Routing &routing)
{
    return RouteTask{*router.config,
                     router.correction,
                     router.matrix.rows,
                     router.top_k,
                     tokens,
                     forced,
                     forced == nullptr ? nullptr : forced_weights,
                     routing};
}

static RouteTask task_of(const MoeEntry &entry)
{
    return task_of(*entry.router, entry.tokens, entry.forced, entry.forced_weights, entry.routing);
}

extern "C" Status router_route(const Router *router, bool bf16, const float *in, uint32_t tokens,
                               const uint16_t *forced, const float *forced_weights,
                               const Routing *routing, cudaStream_t stream)
{
    const RouteTask task = task_of(*router, tokens, forced, forced_weights, *routing);
    const RouterInput input = {nullptr, in, nullptr, &router->matrix};
    if (bf16 && route_tiles_fit(router->matrix, in, task))
        return route_tiles_run(router->matrix, in, task, stream);
    if (bf16 && route_clusters_fit(input, task))
        return route_clusters_run(input, task, nullptr, stream);
    return route_plainly(router->matrix, bf16, in, task, stream);
}

static RouterInput input_of(const MoeEntry &entry)
{
    return RouterInput{entry.norm, entry.in, entry.normed, &entry.router->matrix};
}

extern "C" bool router_entry_fits(const MoeEntry *entry)
{
    return entry->tokens > 0 && entry->tokens <= CLUSTER_TOKENS &&
           entry->tokens * entry->router->top_k <= MOST_FEW && entry->capacity == 0 &&
           route_clusters_fit(input_of(*entry), task_of(*entry));
}

extern "C" Status router_enter(const MoeEntry *entry, const Grouping *grouping, uint32_t max_width,
                               void *gathered, cudaStream_t stream)
{
    const RouterGroups groups = {entry->groups, *grouping, max_width, gathered};
    return route_clusters_run(input_of(*entry), task_of(*entry), &groups, stream);
}
