/* Scores, choice and weights of many tokens.
 *
 * A block takes 8, 16 or 32 tokens, so that there is about one for each multiprocessor, and all
 * experts. The logits are computed transposed, with the experts as the rows of the matrix
 * instruction; a token is the sum of two bf16 numbers, which keeps 16 bits of it, and both are
 * columns of one instruction, whose sums are added in the end. Four warps bring the tokens, each
 * its part of every block of columns by way of its own shared memory, where the next are on their
 * way while it splits the last ones and puts them where the instruction reads; two warpgroups
 * multiply; then each warp chooses for some of the tokens. The two blocks of a cluster share the
 * matrix, of which each fetches half for both: of larger clusters not as many run at once as there
 * are multiprocessors. Four more warps take every second block of columns where registers suffice.
 *
 * Per block and column 4 bytes of each token and experts bytes of the matrix, from the L2 mostly,
 * whose latency bounds it. */
#include "exec/cuda/router_tiles.h"

#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/router.cuh"
#include "exec/cuda/tensor_map.h"
#include "exec/cuda/wgmma.cuh"

static constexpr uint32_t CLUSTER = 2; /* blocks */
static constexpr uint16_t EVERY_BLOCK = (1 << CLUSTER) - 1;
static constexpr uint32_t MOST_TOKENS = 32; /* of a block */
static constexpr uint32_t COLUMNS = 64;
static constexpr uint32_t ROW_BYTES = COLUMNS * 2;
static constexpr uint32_t FETCHERS = 4;    /* warps */
static constexpr uint32_t MULTIPLIERS = 2; /* warpgroups */

/* Of a block: those that fetch and multiply, and where registers suffice some more that fetch every
 * second block of columns. */
__host__ __device__ static constexpr uint32_t threads_of(uint32_t parts)
{
    return parts < 4 ? 4 * 128 : 3 * 128;
}

/* Warpgroups that fetch, the second one behind those that multiply. */
__host__ __device__ static constexpr uint32_t sets_of(uint32_t parts)
{
    return parts < 4 ? 2 : 1;
}

static constexpr uint32_t MOST_STAGES = 6;
static constexpr uint32_t STAGES_BYTES = 160 * 1024; /* about, of all stages */
static constexpr uint32_t RAW_BLOCKS = 8;            /* of columns, that warps wait for */
static constexpr uint32_t MOST_EXPERTS = 512;
static constexpr uint32_t MULTIPROCESSORS = 132; /* of an H200 or H100 */
/* From where it pays, on an H200: with fewer tokens and experts the kernel of router_clusters.cu
 * has all its blocks at work at once and is faster. */
static constexpr uint32_t MANY_TOKENS = 513;
static constexpr uint32_t MANY_LOGITS = 1 << 18;

/* Of a stage: both parts of each token. */
__host__ __device__ static constexpr uint32_t token_bytes(uint32_t tokens)
{
    return 2 * tokens * ROW_BYTES;
}

/* Words of 4 columns that a lane brings of a block of columns. */
__host__ __device__ static constexpr uint32_t words_of(uint32_t tokens)
{
    return tokens * COLUMNS / 4 / (FETCHERS * 32);
}

/* Of a warp: its part of a block of columns on its way. */
__host__ __device__ static constexpr uint32_t raw_bytes(uint32_t tokens)
{
    return words_of(tokens) * 32 * 16;
}

struct TilesShape {
    CUtensorMap matrix; /* boxes of 64 columns of a block's half of the experts */
    const float *in;
    const float *bias;
    uint32_t columns;
    uint32_t blocks;  /* of columns */
    uint32_t experts; /* rounded up to a multiple of 64 */
    uint32_t stages;
    uint32_t stage_bytes; /* experts' rows, then the tokens' */
    uint32_t multipliers; /* warpgroups that have experts */
};

struct TilesControl {
    uint64_t full[MOST_STAGES];
    uint64_t empty[MOST_STAGES];
};

/* One thread's place in the ring of stages, with TOKENS each. */
template <uint32_t TOKENS> struct TilesRing {
    uint32_t base; /* of the stages, aligned to 1024 */
    uint32_t stage_bytes;
    uint32_t stages;
    TilesControl *control;
    uint32_t at;
    uint32_t parity;

    __device__ uint32_t experts() const
    {
        return base + at * stage_bytes;
    }
    __device__ uint32_t tokens() const
    {
        return experts() + stage_bytes - token_bytes(TOKENS);
    }
    __device__ uint32_t full() const
    {
        return shared_address(&control->full[at]);
    }
    __device__ uint32_t empty(uint32_t of_stage) const
    {
        return shared_address(&control->empty[of_stage]);
    }
    __device__ void advance()
    {
        at = at + 1 == stages ? 0 : at + 1;
        parity ^= at == 0;
    }
};

template <uint32_t TOKENS>
__device__ static void init_ring(const TilesRing<TOKENS> &ring, uint32_t multipliers)
{
    for (uint32_t i = 0; i < ring.stages; i++) {
        barrier_init(shared_address(&ring.control->full[i]), 1 + FETCHERS);
        barrier_init(ring.empty(i), multipliers * 4 * CLUSTER);
    }
    barrier_init_fence();
}

/* ---- the warpgroup that fetches ---- */

/* 16 bytes of device memory, or zeros, on their way to shared memory. */
__device__ static void copy_word(uint32_t to, const float *from, bool there)
{
    uint32_t bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
}

/* A warp, which brings its part of each block of columns, or of every second one of two SETS. A
 * lane has of some of the tokens, every eighth, one or more of the 16 words of 4 columns. */
template <uint32_t TOKENS, uint32_t SETS> struct TokenFetcher {
    static constexpr uint32_t WORDS = words_of(TOKENS);
    static constexpr uint32_t PLACES = RAW_BLOCKS / SETS;
    const TilesShape &shape;
    uint32_t tokens; /* of the step */
    uint32_t warp;   /* of FETCHERS */
    uint32_t raw;    /* the lane's first word */

    __device__ TokenFetcher(const TilesShape &tiles_shape, uint32_t all_tokens, uint32_t set,
                            uint32_t raw_at)
        : shape(tiles_shape), tokens(all_tokens), warp(threadIdx.x / 32 % FETCHERS),
          raw(raw_at + (set * FETCHERS + warp) * PLACES * raw_bytes(TOKENS) + threadIdx.x % 32 * 16)
    {
    }
    /* Of word I. */
    __device__ uint32_t token(uint32_t i) const
    {
        return (warp * WORDS + i) / 4 * 8 + threadIdx.x % 32 / 4;
    }
    __device__ uint32_t column(uint32_t i) const
    {
        return (warp * WORDS + i) % 4 * 16 + threadIdx.x % 4 * 4;
    }
    /* Place NUMBER of PLACES. */
    __device__ uint32_t place(uint32_t number) const
    {
        return raw + number * raw_bytes(TOKENS);
    }
    __device__ void ask(uint32_t block, uint32_t to) const
    {
#pragma unroll
        for (uint32_t i = 0; i < WORDS; i++) {
            size_t number = (size_t)blockIdx.x * TOKENS + token(i);
            const float *from = shape.in + (number < tokens ? number : 0) * shape.columns;
            uint32_t at = block * COLUMNS + column(i);
            bool there = number < tokens && at < shape.columns;
            copy_word(to + i * 32 * 16, there ? from + at : from, there);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    /* Puts the two parts of four columns where the matrix instruction reads. */
    __device__ void put_word(uint32_t i, const uint4 &word, uint32_t to) const
    {
        const float x[4] = {__uint_as_float(word.x), __uint_as_float(word.y),
                            __uint_as_float(word.z), __uint_as_float(word.w)};
        uint32_t high[2];
        uint32_t low[2];
#pragma unroll
        for (uint32_t j = 0; j < 2; j++) {
            high[j] = pack_bf16(x[2 * j], x[2 * j + 1]);
            float2 rounded = __bfloat1622float2(*(__nv_bfloat162 *)&high[j]);
            low[j] = pack_bf16(x[2 * j] - rounded.x, x[2 * j + 1] - rounded.y);
        }
        uint32_t at =
            to + token(i) * ROW_BYTES + (column(i) / 8 ^ token(i) % 8) * 16 + column(i) % 8 * 2;
        asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(at), "r"(high[0]), "r"(high[1])
                     : "memory");
        asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(at + TOKENS * ROW_BYTES), "r"(low[0]),
                     "r"(low[1])
                     : "memory");
    }
    /* What was asked for before the last PLACES - 1 blocks, to TO. */
    __device__ void put(uint32_t from, uint32_t to) const
    {
        uint4 word[WORDS];
        asm volatile("cp.async.wait_group %0;" ::"n"(PLACES - 1) : "memory");
#pragma unroll
        for (uint32_t i = 0; i < WORDS; i++)
            word[i] = load_shared_word(from + i * 32 * 16);
#pragma unroll
        for (uint32_t i = 0; i < WORDS; i++)
            put_word(i, word[i], to);
    }
};

/* This block's half of the experts' columns, for every block of the cluster. */
template <uint32_t TOKENS>
__device__ static void fetch_experts(const TilesShape &shape, const TilesRing<TOKENS> &ring,
                                     uint32_t block)
{
    uint32_t rows = shape.experts / CLUSTER;
    barrier_arrive_expect(ring.full(), shape.experts * ROW_BYTES);
    copy_box_2d_to(EVERY_BLOCK, ring.experts() + cluster_rank() * rows * ROW_BYTES, &shape.matrix,
                   ring.full(), block * COLUMNS, cluster_rank() * rows);
}

/* Number SET of SETS warpgroups. */
template <uint32_t TOKENS, uint32_t SETS>
__device__ static void fetch(const TilesShape &shape, uint32_t tokens, uint32_t set,
                             TilesRing<TOKENS> ring, uint32_t raw)
{
    using Fetcher = TokenFetcher<TOKENS, SETS>;
    const Fetcher fetcher(shape, tokens, set, raw);
    uint32_t place = 0;
    wait_for_earlier_kernels();
    for (uint32_t i = 0; i < Fetcher::PLACES; i++)
        fetcher.ask(set + i * SETS, fetcher.place(i));
    for (uint32_t block = 0; block < shape.blocks; block++, ring.advance()) {
        if (block % SETS != set)
            continue;
        barrier_wait(ring.empty(ring.at), ring.parity ^ 1);
        if (threadIdx.x % 128 == 0)
            fetch_experts(shape, ring, block);
        __syncwarp();
        fetcher.put(fetcher.place(place), ring.tokens());
        fence_for_copies();
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            barrier_arrive(ring.full());
        fetcher.ask(block + RAW_BLOCKS, fetcher.place(place));
        place = (place + 1) % Fetcher::PLACES;
    }
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}

/* ---- the warpgroups that multiply ---- */

template <uint32_t TOKENS> __device__ static void release(const TilesRing<TOKENS> &ring)
{
    uint32_t lane = threadIdx.x % 32;
    if (lane < CLUSTER)
        barrier_arrive_at(ring.empty(ring.at), lane);
}

/* sum[i] = experts 64 (PARTS * warpgroup + i) on times the tokens, both parts. */
template <uint32_t PARTS, uint32_t TOKENS>
__device__ static void multiply(const TilesShape &shape, TilesRing<TOKENS> ring, uint32_t warpgroup,
                                float (&sum)[PARTS][TOKENS])
{
#pragma unroll 1
    for (uint32_t block = 0; block < shape.blocks; block++) {
        barrier_wait(ring.full(), ring.parity);
        uint64_t b = swizzled_operand(ring.tokens());
        wgmma_fence();
#pragma unroll
        for (uint32_t part = 0; part < PARTS; part++) {
            uint64_t a =
                swizzled_operand(ring.experts() + (warpgroup * PARTS + part) * 64 * ROW_BYTES);
#pragma unroll
            for (uint32_t step = 0; step < COLUMNS / 16; step++)
                Wgmma<2 * TOKENS>::add_product(sum[part], a + 2 * step, b + 2 * step);
        }
        wgmma_commit();
        wgmma_wait<0>();
#pragma unroll
        for (uint32_t part = 0; part < PARTS; part++)
            wgmma_results(sum[part]);
        release(ring);
        ring.advance();
    }
}

/* The logits, to where a warp chooses by them: LOGITS [TOKENS][words]. */
template <uint32_t PARTS, uint32_t TOKENS>
__device__ static void put_logits(const TilesShape &shape, uint32_t experts, uint32_t warpgroup,
                                  const float (&sum)[PARTS][TOKENS], uint32_t words, float *logits)
{
    uint32_t row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    uint32_t token = threadIdx.x % 4 * 2;
#pragma unroll
    for (uint32_t i = 0; i < 2 * PARTS; i++) {
        uint32_t expert = (warpgroup * PARTS + i / 2) * 64 + row + i % 2 * 8;
        if (expert >= experts)
            continue;
        float bias = shape.bias != nullptr ? shape.bias[expert] : 0;
        float *to = logits + token * words + expert;
#pragma unroll
        for (uint32_t j = 0; j < TOKENS / 4; j++) {
            const float *own = &sum[i / 2][j / 2 * 4 + i % 2 * 2 + j % 2];
            to[(j / 2 * 8 + j % 2) * words] = own[TOKENS / 2] + own[0] + bias;
        }
    }
}

template <uint32_t PARTS, uint32_t TOKENS>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(threads_of(PARTS), 1)
    route_in_tiles(const __grid_constant__ TilesShape shape, const __grid_constant__ RouteTask task)
{
    extern __shared__ unsigned char shared[];
    __shared__ TilesControl control;
    unsigned char *stages = (unsigned char *)(((uintptr_t)shared + 1023) & ~(uintptr_t)1023);
    const TilesRing<TOKENS> ring = {
        shared_address(stages), shape.stage_bytes, shape.stages, &control, 0, 0};
    float *logits = (float *)stages; /* in the end */
    uint32_t words = router_words(task);
    /* the multipliers come after the fetchers */
    uint32_t warpgroup = threadIdx.x / 128 - 1;
    let_next_kernel_start();
    if (threadIdx.x == 0) {
        init_ring(ring, shape.multipliers);
        tensor_map_prefetch(&shape.matrix);
    }
    cluster_sync();
    constexpr uint32_t SETS = sets_of(PARTS);
    if (threadIdx.x / 128 == 0 || (SETS == 2 && threadIdx.x / 128 == 1 + MULTIPLIERS)) {
        fetch<TOKENS, SETS>(shape, task.tokens, threadIdx.x / 128 == 0 ? 0 : 1, ring,
                            ring.base + shape.stages * shape.stage_bytes);
        __syncthreads();
    } else if (warpgroup >= shape.multipliers) {
        __syncthreads();
    } else {
        float sum[PARTS][TOKENS];
#pragma unroll
        for (uint32_t i = 0; i < PARTS * TOKENS; i++)
            sum[i / TOKENS][i % TOKENS] = 0;
        multiply<PARTS, TOKENS>(shape, ring, warpgroup, sum);
        __syncthreads();
        put_logits<PARTS, TOKENS>(shape, task.experts, warpgroup, sum, words, logits);
    }
    __syncthreads();
    wait_for_earlier_kernels();
    for (uint32_t i = threadIdx.x / 32; i < TOKENS; i += threads_of(PARTS) / 32) {
        size_t token = (size_t)blockIdx.x * TOKENS + i;
        if (token >= task.tokens)
            break;
        TokenRouter<4 * PARTS, 4 * PARTS> router(task, logits + i * words);
        router.route(token);
    }
    /* no block may end while another signals to it */
    __syncwarp();
    cluster_sync();
}

/* ---- host ---- */

static uint32_t rounded_experts(const RouteTask &task)
{
    return divide_up(task.experts, 64) * 64;
}

static uint32_t stages_of(uint32_t stage_bytes)
{
    return min(MOST_STAGES, max(2u, STAGES_BYTES / stage_bytes));
}

bool route_tiles_fit(const Matrix &matrix, const float *in, const RouteTask &task)
{
    uint32_t stage_bytes = rounded_experts(task) * ROW_BYTES + token_bytes(MOST_TOKENS);
    return (task.tokens >= MANY_TOKENS || (uint64_t)task.tokens * task.experts >= MANY_LOGITS) &&
           task.experts <= MOST_EXPERTS && matrix.columns % 8 == 0 &&
           ((uintptr_t)matrix.data | (uintptr_t)in) % 16 == 0 &&
           MOST_TOKENS * router_words(task) * sizeof(float) <= stages_of(stage_bytes) * stage_bytes;
}

template <uint32_t PARTS, uint32_t TOKENS>
static Status launch(TilesShape &shape, const RouteTask &task, cudaStream_t stream)
{
    shape.stage_bytes = shape.experts * ROW_BYTES + token_bytes(TOKENS);
    shape.stages = stages_of(shape.stage_bytes);
    uint32_t stages = shape.stages * shape.stage_bytes;
    /* the last stage's experts as the instructions read them, up to the next 128 or 256 */
    uint32_t read = stages - shape.stage_bytes + MULTIPLIERS * PARTS * 64 * ROW_BYTES;
    uint32_t bytes = 1024 + max(stages + FETCHERS * RAW_BLOCKS * raw_bytes(TOKENS), read);
    const LaunchShape launch = {dim3(divide_up(divide_up(task.tokens, TOKENS), CLUSTER) * CLUSTER),
                                threads_of(PARTS), bytes, 0};
    CUDA_TRY(cudaFuncSetAttribute(route_in_tiles<PARTS, TOKENS>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    return launch_after(route_in_tiles<PARTS, TOKENS>, launch, stream, shape, task);
}

template <uint32_t PARTS>
static Status launch_tokens(TilesShape &shape, const RouteTask &task, cudaStream_t stream)
{
    if (task.tokens <= 8 * MULTIPROCESSORS)
        return launch<PARTS, 8>(shape, task, stream);
    return task.tokens <= 16 * MULTIPROCESSORS ? launch<PARTS, 16>(shape, task, stream)
                                               : launch<PARTS, MOST_TOKENS>(shape, task, stream);
}

Status route_tiles_run(const Matrix &matrix, const float *in, const RouteTask &task,
                       cudaStream_t stream)
{
    TilesShape shape = {};
    shape.in = in;
    shape.bias = matrix.bias;
    shape.columns = matrix.columns;
    shape.blocks = divide_up(matrix.columns, COLUMNS);
    shape.experts = rounded_experts(task);
    shape.multipliers = shape.experts <= 64 ? 1 : MULTIPLIERS;
    const TensorShape map = {matrix.data,
                             2,
                             {matrix.columns, matrix.rows},
                             {0, (uint64_t)matrix.columns * 2},
                             {COLUMNS, shape.experts / CLUSTER}};
    TRY(tensor_map_make(&map, &shape.matrix));
    if (shape.experts <= 128)
        return launch_tokens<1>(shape, task, stream);
    return shape.experts <= 256 ? launch_tokens<2>(shape, task, stream)
                                : launch_tokens<4>(shape, task, stream);
}
