/* Scores, choice and weights.
 *
 * With a bf16 matrix one kernel does it all: a cluster takes 32 tokens, each of its blocks an
 * eighth of the depth, on the tensor cores; the token is the sum of two bf16 numbers, which keeps
 * 16 bits of it. The blocks add their parts up in order, and each chooses for four of the tokens.
 * In f32 plain kernels make the logits first. */
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/mma.cuh"
#include "exec/cuda/product.cuh"
#include "exec/cuda/router.cuh"

static constexpr uint32_t MOST_SHARED_BYTES = 227 * 1024;
static constexpr uint32_t LOGIT_WARPS = 4;
static constexpr uint32_t FEW_TOKENS = 64;

/* ---- on the tensor cores ---- */

static constexpr uint32_t SLICES = 8; /* of the depth: blocks of a cluster */
static constexpr uint32_t CLUSTER_TOKENS = 32;
static constexpr uint32_t BLOCK_TOKENS = CLUSTER_TOKENS / SLICES; /* that a block chooses for */
static constexpr uint32_t WARPS = 8;
static constexpr uint32_t CHUNK = 32;     /* columns that a warp multiplies at a time */
static constexpr uint32_t MOST_TILES = 8; /* of 8 experts, of a warp */
static constexpr uint32_t MOST_EXPERTS = WARPS * MOST_TILES * 8;

/* How a block's warps share experts and depth. */
struct RouterShape {
    const float *in;
    const __nv_bfloat16 *matrix;
    const float *bias;
    uint32_t columns;
    uint32_t warps;  /* across the experts */
    uint32_t slices; /* of the block's depth, a warp each */
    uint32_t width;  /* experts, rounded up to the warps' */
};

/* Two f32 as two pairs of bf16 whose sum they are. */
struct SplitPair {
    uint32_t high;
    uint32_t low;

    __device__ explicit SplitPair(float x, float y)
    {
        high = pack_bf16(x, y);
        float2 rounded = __bfloat1622float2(*(__nv_bfloat162 *)&high);
        low = pack_bf16(x - rounded.x, y - rounded.y);
    }
};

/* Eight columns of each of 16 tokens, as the matrix instruction wants them twice: lane l has those
 * of rows l / 4 and l / 4 + 8. Any order of the depth does, as the experts' is the same. */
struct TokenColumns {
    uint32_t high[8];
    uint32_t low[8];

    __device__ void load(const float *row, const float *row_8, bool there, bool there_8)
    {
        const float4 zero = make_float4(0, 0, 0, 0);
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            float4 x = there ? ((const float4 *)row)[half] : zero;
            float4 y = there_8 ? ((const float4 *)row_8)[half] : zero;
            const SplitPair parts[4] = {SplitPair(x.x, x.y), SplitPair(y.x, y.y),
                                        SplitPair(x.z, x.w), SplitPair(y.z, y.w)};
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                high[4 * half + i] = parts[i].high;
                low[4 * half + i] = parts[i].low;
            }
        }
    }
    __device__ void multiply(uint4 weights, float (&sum)[4]) const
    {
        mma_16x8x16(sum, low[0], low[1], low[2], low[3], weights.x, weights.y);
        mma_16x8x16(sum, low[4], low[5], low[6], low[7], weights.z, weights.w);
        mma_16x8x16(sum, high[0], high[1], high[2], high[3], weights.x, weights.y);
        mma_16x8x16(sum, high[4], high[5], high[6], high[7], weights.z, weights.w);
    }
};

/* This warp's part of the logits of the cluster's tokens -> PARTS [slices][tokens][width]. */
template <uint32_t TILES>
__device__ static void multiply_slice(const RouterShape &shape, uint32_t experts, uint32_t first,
                                      uint32_t tokens, float *parts)
{
    uint32_t warp = threadIdx.x / 32;
    uint32_t lane = threadIdx.x % 32;
    uint32_t slice = warp / shape.warps;
    if (slice >= shape.slices)
        return;
    uint32_t chunks = (shape.columns + CHUNK - 1) / CHUNK;
    uint32_t slices = SLICES * shape.slices;
    uint32_t part = cluster_rank() * shape.slices + slice;
    uint32_t first_expert = warp % shape.warps * TILES * 8 + lane / 4;
    uint32_t end = chunks * (part + 1) / slices;
    float sum[2][TILES][4] = {};
#pragma unroll 2
    for (uint32_t chunk = chunks * part / slices; chunk < end; chunk++) {
        uint32_t column = chunk * CHUNK + lane % 4 * 8;
        bool inside = column < shape.columns;
        uint4 weights[TILES];
#pragma unroll
        for (uint32_t n = 0; n < TILES; n++) {
            uint32_t expert = first_expert + n * 8;
            weights[n] = make_uint4(0, 0, 0, 0);
            if (inside && expert < experts)
                weights[n] =
                    *(const uint4 *)(shape.matrix + (size_t)expert * shape.columns + column);
        }
#pragma unroll
        for (uint32_t m = 0; m < 2; m++) {
            uint32_t row = first + m * 16 + lane / 4;
            if (first + m * 16 >= tokens)
                continue;
            const float *at = shape.in + (size_t)row * shape.columns + column;
            TokenColumns columns;
            columns.load(at, at + (size_t)8 * shape.columns, inside && row < tokens,
                         inside && row + 8 < tokens);
#pragma unroll
            for (uint32_t n = 0; n < TILES; n++)
                columns.multiply(weights[n], sum[m][n]);
        }
    }
    parts += (size_t)slice * CLUSTER_TOKENS * shape.width;
#pragma unroll
    for (uint32_t m = 0; m < 2; m++)
#pragma unroll
        for (uint32_t n = 0; n < TILES; n++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                uint32_t expert = (warp % shape.warps * TILES + n) * 8 + lane % 4 * 2 + i % 2;
                parts[(m * 16 + lane / 4 + i / 2 * 8) * shape.width + expert] = sum[m][n][i];
            }
}

/* The logit of the cluster's token number TOKEN: the parts of all blocks, in order. */
__device__ static float add_parts(const RouterShape &shape, const float *parts, uint32_t token,
                                  uint32_t expert)
{
    float sum = 0;
    for (uint32_t slice = 0; slice < shape.slices; slice++) {
        uint32_t at =
            shared_address(&parts[(slice * CLUSTER_TOKENS + token) * shape.width + expert]);
        float part[SLICES];
#pragma unroll
        for (uint32_t rank = 0; rank < SLICES; rank++)
            part[rank] = load_shared_of(rank, at);
#pragma unroll
        for (uint32_t rank = 0; rank < SLICES; rank++)
            sum += part[rank];
    }
    return shape.bias != nullptr ? sum + shape.bias[expert] : sum;
}

/* A cluster: 32 tokens. Reads their rows and the matrix once (mostly from the L2), each warp the
 * rows again from the L1; bound by latency below a thousand tokens. */
template <uint32_t TILES>
__global__ void __cluster_dims__(SLICES, 1, 1) __launch_bounds__(WARPS * 32)
    route_in_clusters(RouterShape shape, RouteTask task)
{
    extern __shared__ float parts[];
    float *own_tokens = parts + (size_t)shape.slices * CLUSTER_TOKENS * shape.width;
    uint32_t words = router_words(task.experts, task.top_k);
    wait_for_earlier_kernels();
    let_next_kernel_start();
    uint32_t first = blockIdx.x / SLICES * CLUSTER_TOKENS;
    multiply_slice<TILES>(shape, task.experts, first, task.tokens, parts);
    cluster_sync();
    uint32_t own = first + cluster_rank() * BLOCK_TOKENS;
    for (uint32_t i = threadIdx.x; i < BLOCK_TOKENS * task.experts; i += WARPS * 32)
        if (own + i / task.experts < task.tokens)
            own_tokens[i / task.experts * words + i % task.experts] = add_parts(
                shape, parts, cluster_rank() * BLOCK_TOKENS + i / task.experts, i % task.experts);
    cluster_sync(); /* no block may end while another reads from it */
    uint32_t warp = threadIdx.x / 32;
    if (warp >= BLOCK_TOKENS || own + warp >= task.tokens)
        return;
    TokenRouter router(task, own_tokens + warp * words);
    router.route(own + warp);
}

template <uint32_t TILES>
static Status launch_clusters(const RouterShape &shape, const RouteTask &task, cudaStream_t stream)
{
    size_t bytes = (size_t)shape.slices * CLUSTER_TOKENS * shape.width * sizeof(float) +
                   (size_t)BLOCK_TOKENS * router_words(task.experts, task.top_k) * sizeof(float);
    CUDA_TRY(cudaFuncSetAttribute(route_in_clusters<TILES>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    const LaunchShape launch = {dim3(SLICES * divide_up(task.tokens, CLUSTER_TOKENS)), WARPS * 32,
                                (uint32_t)bytes, 0};
    return launch_after(route_in_clusters<TILES>, launch, stream, shape, task);
}

static bool suits_clusters(const Matrix &matrix)
{
    return matrix.rows <= MOST_EXPERTS && matrix.columns % 8 == 0;
}

static Status route_by_clusters(const Matrix &matrix, const float *in, const RouteTask &task,
                                cudaStream_t stream)
{
    uint32_t tiles = divide_up(matrix.rows, 8);
    uint32_t of_warp = divide_up(tiles, WARPS);
    of_warp = of_warp <= 2 ? of_warp : of_warp <= 4 ? 4 : MOST_TILES;
    uint32_t warps = divide_up(tiles, of_warp);
    const RouterShape shape = {in,
                               (const __nv_bfloat16 *)matrix.data,
                               matrix.bias,
                               matrix.columns,
                               warps,
                               WARPS / warps,
                               warps * of_warp * 8};
    switch (of_warp) {
    case 1:
        return launch_clusters<1>(shape, task, stream);
    case 2:
        return launch_clusters<2>(shape, task, stream);
    case 4:
        return launch_clusters<4>(shape, task, stream);
    default:
        return launch_clusters<MOST_TILES>(shape, task, stream);
    }
}

/* ---- plainly ---- */

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
__global__ void __launch_bounds__(32) route_tokens(RouteTask task)
{
    extern __shared__ float shared[];
    TokenRouter router(task, shared);
    for (uint32_t e = threadIdx.x; e < task.experts; e += 32)
        router.scores[e] = task.routing.scores[(size_t)blockIdx.x * task.experts + e];
    router.route(blockIdx.x);
}

static Status route_plainly(const Matrix &matrix, bool bf16, const float *in, const RouteTask &task,
                            cudaStream_t stream)
{
    uint32_t bytes = router_words(task.experts, task.top_k) * (uint32_t)sizeof(float);
    float *logits = task.routing.scores;
    if (bytes > MOST_SHARED_BYTES)
        return fail(ERR_UNSUPPORTED,
                    "device cuda: a router of %u experts wants %u bytes of shared memory for a "
                    "token, there are %u",
                    task.experts, bytes, MOST_SHARED_BYTES);
    TRY(bf16 ? compute_logits<__nv_bfloat16>(matrix, in, task.tokens, logits, stream)
             : compute_logits<float>(matrix, in, task.tokens, logits, stream));
    CUDA_TRY(cudaFuncSetAttribute(route_tokens, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  MOST_SHARED_BYTES));
    route_tokens<<<task.tokens, 32, bytes, stream>>>(task);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

extern "C" Status router_route(const Router *router, bool bf16, const float *in, uint32_t tokens,
                               const uint16_t *forced, const float *forced_weights,
                               const Routing *routing, cudaStream_t stream)
{
    const RouteTask task = {*router->config,
                            router->correction,
                            router->matrix.rows,
                            router->top_k,
                            tokens,
                            forced,
                            forced == nullptr ? nullptr : forced_weights,
                            *routing};
    if (bf16 && suits_clusters(router->matrix))
        return route_by_clusters(router->matrix, in, task, stream);
    return route_plainly(router->matrix, bf16, in, task, stream);
}
