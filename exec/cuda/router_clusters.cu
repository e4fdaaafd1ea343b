/* Scores, choice and weights on the tensor cores.
 *
 * A cluster takes 32 tokens, each of its blocks an eighth of the depth. A token, times the norm's
 * weights, is the sum of two bf16 numbers, which keeps 16 bits of it; the norm's scale is a factor
 * of the logits. The blocks add their parts up in order, and each chooses for four of the tokens.
 * Of up to 32 tokens the first block then groups the rows, and all of them write their columns of
 * the rows to where the experts read them.
 *
 * Reads the matrix once a cluster, before the kernels ahead in the queue have ended, and the tokens
 * once; bound by latency. */
#include "exec/cuda/router_clusters.cuh"

#include "exec/cuda/grouping.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/mma.cuh"

static constexpr uint32_t MOST_SHARED_BYTES = 227 * 1024;
static constexpr uint32_t OWN_SHARED_BYTES = 16 * 1024; /* at the most, beside dynamic memory */
static constexpr uint32_t MOST_EXPERTS = WARPS * MOST_TILES * 8;
static_assert(CLUSTER_TOKENS == GROUP_FEW, "a cluster's tokens are grouped together");

struct Staged {
    uint4 high;
    uint4 low;
};

/* Two f32 as two pairs of bf16 whose sum they are. */
__device__ static void split(float x, float y, uint32_t *high, uint32_t *low)
{
    *high = pack_bf16(x, y);
    float2 rounded = __bfloat1622float2(*(__nv_bfloat162 *)high);
    *low = pack_bf16(x - rounded.x, y - rounded.y);
}

__device__ static Staged split(const float4 &a, const float4 &b)
{
    Staged staged;
    split(a.x, a.y, &staged.high.x, &staged.low.x);
    split(a.z, a.w, &staged.high.y, &staged.low.y);
    split(b.x, b.y, &staged.high.z, &staged.low.z);
    split(b.z, b.w, &staged.high.w, &staged.low.w);
    return staged;
}

__device__ static float4 times(const float4 &a, const float4 &b)
{
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

__device__ static float4 times(const float4 &a, float b)
{
    return make_float4(a.x * b, a.y * b, a.z * b, a.w * b);
}

__device__ static float squares_of(const float4 &a)
{
    return a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
}

/* Eight columns of a token. */
struct TokenWord {
    float4 a;
    float4 b;

    __device__ TokenWord(const ClusterShape &shape, const ClusterPart &part, uint32_t token,
                         uint32_t word)
    {
        const float4 zero = make_float4(0, 0, 0, 0);
        uint32_t column = part.begin + word * 8;
        bool there = token < part.tokens && word < part.words && column < shape.columns;
        const float4 *from =
            (const float4 *)(shape.in + (size_t)(part.first + token) * shape.columns + column);
        a = there ? from[0] : zero;
        b = there ? from[1] : zero;
    }
    __device__ void multiply(const float *weights)
    {
        a = times(a, ((const float4 *)weights)[0]);
        b = times(b, ((const float4 *)weights)[1]);
    }
};

/* The block's columns of all tokens, times the norm's weights, in two parts each. A warp takes
 * every eighth token; SQUARES [tokens] of them without the weights. */
__device__ static void stage_tokens(const ClusterShape &shape, const ClusterPart &part,
                                    const ClusterRoom &room, float *squares)
{
    uint32_t lane = threadIdx.x % 32;
#pragma unroll 1
    for (uint32_t token = threadIdx.x / 32; token < part.tokens; token += WARPS) {
        float sum = 0;
#pragma unroll 2
        for (uint32_t word = lane; word < part.words; word += 32) {
            TokenWord x(shape, part, token, word);
            sum += squares_of(x.a) + squares_of(x.b);
            if (shape.norm != nullptr)
                x.multiply(room.norm + word * 8);
            const Staged staged = split(x.a, x.b);
            *(uint4 *)(room.high + token * shape.stride + word * 8) = staged.high;
            *(uint4 *)(room.low + token * shape.stride + word * 8) = staged.low;
        }
        sum = sum_lanes(sum);
        if (lane == 0)
            squares[token] = sum;
    }
}

/* sum += 16 tokens, rows row and row + 8 the lane's, times a chunk of the warp's experts. Any order
 * of the depth does, as it is the same for both. */
template <uint32_t TILES>
__device__ static void multiply_chunk(const __nv_bfloat16 *row, const __nv_bfloat16 *row_8,
                                      const uint4 (&weights)[TILES], float (&sum)[TILES][4])
{
    const uint4 a = *(const uint4 *)row;
    const uint4 b = *(const uint4 *)row_8;
#pragma unroll
    for (uint32_t n = 0; n < TILES; n++) {
        mma_16x8x16(sum[n], a.x, b.x, a.y, b.y, weights[n].x, weights[n].y);
        mma_16x8x16(sum[n], a.z, b.z, a.w, b.w, weights[n].z, weights[n].w);
    }
}

/* This warp's part of the logits of 16 of the cluster's tokens -> PARTS [tokens][width]. */
template <uint32_t TILES>
__device__ static void multiply_slice(const WarpWeights<TILES> &weights, const ClusterPart &part,
                                      const ClusterRoom &room, uint32_t token, float *parts)
{
    constexpr uint32_t AHEAD = WarpWeights<TILES>::AHEAD;
    const ClusterShape &shape = weights.shape;
    uint32_t lane = threadIdx.x % 32;
    uint32_t row = min(token + lane / 4, part.tokens - 1) * shape.stride;
    uint32_t row_8 = min(token + lane / 4 + 8, part.tokens - 1) * shape.stride;
    float sum[TILES][4] = {};
    float rest[TILES][4] = {};
    auto add = [&](uint32_t chunk, const uint4(&of_chunk)[TILES]) {
        uint32_t column = chunk * CHUNK - part.begin + lane % 4 * 8;
        multiply_chunk(room.low + row + column, room.low + row_8 + column, of_chunk, rest);
        multiply_chunk(room.high + row + column, room.high + row_8 + column, of_chunk, sum);
    };
#pragma unroll
    for (uint32_t i = 0; i < AHEAD; i++)
        if (weights.begin + i < weights.end)
            add(weights.begin + i, weights.ahead[i]);
#pragma unroll 1
    for (uint32_t chunk = weights.begin + AHEAD; chunk < weights.end; chunk++) {
        uint4 of_chunk[TILES];
        weights.load(chunk, of_chunk);
        add(chunk, of_chunk);
    }
    uint32_t first = threadIdx.x / 32 % shape.warps * TILES * 8 + lane % 4 * 2;
#pragma unroll
    for (uint32_t n = 0; n < TILES; n++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            parts[(token + lane / 4 + i / 2 * 8) * shape.width + first + n * 8 + i % 2] =
                sum[n][i] + rest[n][i];
}

/* The parts of all blocks of what lies at AT in each, in order. */
__device__ static float add_ranks(const float *at)
{
    float part[SLICES];
    float sum = 0;
#pragma unroll
    for (uint32_t rank = 0; rank < SLICES; rank++)
        part[rank] = load_shared_of(rank, shared_address(at));
#pragma unroll
    for (uint32_t rank = 0; rank < SLICES; rank++)
        sum += part[rank];
    return sum;
}

/* The logits of the block's own tokens. */
__device__ static void add_parts(const ClusterShape &shape, const RouteTask &task,
                                 const ClusterPart &part, const ClusterRoom &room,
                                 const float *scale)
{
    uint32_t tokens = (shape.tokens + 15) / 16 * 16;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < BLOCK_TOKENS * task.experts; i += THREADS) {
        uint32_t own = i / task.experts;
        uint32_t expert = i % task.experts;
        uint32_t token = cluster_rank() + own * SLICES;
        if (token >= part.tokens)
            break;
        float sum = 0;
#pragma unroll 1
        for (uint32_t slice = 0; slice < shape.slices; slice++)
            sum += add_ranks(&room.parts[(slice * tokens + token) * shape.width + expert]);
        room.own[own * router_words(task) + expert] =
            sum * scale[token] + (shape.bias != nullptr ? shape.bias[expert] : 0);
    }
}

/* A warp: one of the block's tokens, whose choice goes to all blocks. Ends with the warp's part of
 * a cluster_sync(), within which the weights are made. */
template <uint32_t TILES>
__device__ static void choose(const RouteTask &task, const ClusterPart &part,
                              const ClusterRoom &room, uint32_t own)
{
    uint32_t token = cluster_rank() + own * SLICES;
    if (own >= BLOCK_TOKENS || token >= part.tokens) {
        __syncwarp();
        cluster_arrive();
        return;
    }
    TokenRouter<2 * TILES> router(task, room.own + own * router_words(task));
    router.decide(part.first + token);
#pragma unroll 1
    for (uint32_t i = threadIdx.x % 32; i < task.top_k * SLICES; i += 32)
        store_shared_of(i % SLICES, shared_address(&room.ids[token * task.top_k + i / SLICES]),
                        router.chosen[i / SLICES]);
    __syncwarp();
    cluster_arrive();
    router.record(part.first + token);
    __syncwarp();
}

/* The block's columns of all tokens, normed: where the layer finds them, and to their rows. FIRST
 * is the thread's first word. */
__device__ static void put_tokens(const ClusterShape &shape, const GroupTask &group,
                                  const ClusterPart &part, const ClusterRoom &room,
                                  const float *scale, const TokenWord &first)
{
    uint32_t top_k = group.shape.top_k;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < part.tokens * part.words; i += THREADS) {
        uint32_t token = i / part.words;
        uint32_t word = i % part.words;
        uint32_t column = part.begin + word * 8;
        if (column >= shape.columns)
            continue;
        TokenWord x = first;
        if (i != threadIdx.x)
            x = TokenWord(shape, part, token, word);
        if (shape.norm != nullptr) {
            float4 *to = (float4 *)(shape.normed + (size_t)token * shape.columns + column);
            x.a = times(x.a, scale[token]);
            x.b = times(x.b, scale[token]);
            x.multiply(room.norm + word * 8);
            to[0] = x.a;
            to[1] = x.b;
        }
        const uint4 rounded = make_uint4(pack_bf16(x.a.x, x.a.y), pack_bf16(x.a.z, x.a.w),
                                         pack_bf16(x.b.x, x.b.y), pack_bf16(x.b.z, x.b.w));
        const uint32_t *row = room.rows + token * top_k;
#pragma unroll 4
        for (uint32_t slot = 0; group.gathered != nullptr && slot < top_k; slot++)
            if (row[slot] != NO_ROW)
                *(uint4 *)(group.gathered + (size_t)row[slot] * shape.columns + column) = rounded;
    }
}

template <uint32_t TILES>
__global__ void __cluster_dims__(SLICES, 1, 1) __launch_bounds__(THREADS, 1)
    route_in_clusters(const __grid_constant__ ClusterShape shape,
                      const __grid_constant__ RouteTask task,
                      const __grid_constant__ GroupTask group)
{
    extern __shared__ __align__(16) uint32_t dynamic[];
    __shared__ float squares[CLUSTER_TOKENS];
    __shared__ float scale[CLUSTER_TOKENS];
    __shared__ FewMarks marks;
    const ClusterPart part(shape, task.tokens);
    ClusterRoom room;
    room.cut(shape, task, dynamic);
    let_next_kernel_start();
    for (uint32_t i = threadIdx.x; shape.norm != nullptr && i < part.words * 8; i += THREADS)
        room.norm[i] = part.begin + i < shape.columns ? shape.norm[part.begin + i] : 0;
    WarpWeights<TILES> weights(shape, task.experts);
    __syncthreads();
    wait_for_earlier_kernels();
    stage_tokens(shape, part, room, squares);
    __syncthreads();
    uint32_t slice = threadIdx.x / 32 / shape.warps;
    uint32_t rounded = (shape.tokens + 15) / 16 * 16;
    if (slice < shape.slices)
#pragma unroll 1
        for (uint32_t token = 0; token < part.tokens; token += 16)
            multiply_slice(weights, part, room, token, room.parts + slice * rounded * shape.width);
    /* for what comes last */
    uint32_t words = max(part.words, 1u);
    const TokenWord first(shape, part, threadIdx.x / words, threadIdx.x % words);
    cluster_sync();
    if (threadIdx.x < part.tokens)
        scale[threadIdx.x] =
            shape.norm != nullptr
                ? 1 / sqrtf(add_ranks(&squares[threadIdx.x]) / shape.columns + shape.eps)
                : 1;
    __syncthreads();
    add_parts(shape, task, part, room, scale);
    __syncthreads();
    choose<TILES>(task, part, room, threadIdx.x / 32);
    cluster_wait(); /* and no block may end while another reads from it */
    if (group.groups.first == nullptr)
        return;
    /* each block finds the same */
    group_few<THREADS>(group.shape, room.ids, marks, group.groups, group.grouping, room.rows);
    __syncthreads();
    put_tokens(shape, group, part, room, scale, first);
}

/* ---- host ---- */

static uint32_t tiles_of_warp(uint32_t experts)
{
    uint32_t of_warp = divide_up(divide_up(experts, 8), WARPS);
    return of_warp <= 2 ? of_warp : of_warp <= 4 ? 4 : MOST_TILES;
}

static ClusterShape shape_of(const RouterInput &input, const RouteTask &task)
{
    const Matrix &matrix = *input.matrix;
    uint32_t of_warp = tiles_of_warp(matrix.rows);
    uint32_t warps = divide_up(divide_up(matrix.rows, 8), of_warp);
    uint32_t depth = divide_up(divide_up(matrix.columns, CHUNK), SLICES) * CHUNK;
    return ClusterShape{input.in, input.norm != nullptr ? input.norm->weight : nullptr,
                        input.norm != nullptr ? input.norm->eps : 0, input.normed,
                        (const __nv_bfloat16 *)matrix.data, matrix.bias, matrix.columns, warps,
                        WARPS / warps, warps * of_warp * 8,
                        min(task.tokens, (uint32_t)CLUSTER_TOKENS),
                        /* rows start in different halves of the banks */
                        depth % 64 == 0 ? depth + 32 : depth};
}

static uint32_t room_bytes(const ClusterShape &shape, const RouteTask &task)
{
    ClusterRoom room;
    return room.cut(shape, task, nullptr) * (uint32_t)sizeof(uint32_t);
}

bool route_clusters_fit(const RouterInput &input, const RouteTask &task)
{
    const Matrix &matrix = *input.matrix;
    return matrix.rows <= MOST_EXPERTS && matrix.columns % 8 == 0 &&
           (input.norm == nullptr || input.norm->kind == NORM_RMS) &&
           ((uintptr_t)input.in | (uintptr_t)input.normed | (uintptr_t)matrix.data) % 16 == 0 &&
           room_bytes(shape_of(input, task), task) <= MOST_SHARED_BYTES - OWN_SHARED_BYTES;
}

template <uint32_t TILES>
static Status launch(const ClusterShape &shape, const RouteTask &task, const GroupTask &group,
                     cudaStream_t stream)
{
    uint32_t bytes = room_bytes(shape, task);
    const LaunchShape launch = {dim3(SLICES * divide_up(task.tokens, CLUSTER_TOKENS)), THREADS,
                                bytes, 0};
    CUDA_TRY(cudaFuncSetAttribute(route_in_clusters<TILES>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  MOST_SHARED_BYTES - OWN_SHARED_BYTES));
    return launch_after(route_in_clusters<TILES>, launch, stream, shape, task, group);
}

Status route_clusters_run(const RouterInput &input, const RouteTask &task,
                          const RouterGroups *groups, cudaStream_t stream)
{
    const ClusterShape shape = shape_of(input, task);
    GroupTask group = {};
    if (groups != nullptr)
        group = GroupTask{groups->groups,
                          groups->grouping,
                          {task.tokens, task.top_k, task.experts, groups->max_width},
                          (__nv_bfloat16 *)groups->gathered};
    switch (tiles_of_warp(task.experts)) {
    case 1:
        return launch<1>(shape, task, group, stream);
    case 2:
        return launch<2>(shape, task, group, stream);
    case 4:
        return launch<4>(shape, task, group, stream);
    default:
        return launch<MOST_TILES>(shape, task, group, stream);
    }
}
