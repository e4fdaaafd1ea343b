/* Scores, choice and weights of many tokens.
 *
 * A block takes 8, 16 or 32 tokens, so that there is about one for each multiprocessor, and all
 * experts. A token is the sum of two bf16 numbers, which keeps 16 bits of it; both are rows of one
 * matrix instruction, in the same threads, which add the sums up in the end. Its columns are half
 * of the experts: shared memory, which bounds it otherwise, then gives each of them once. Four
 * warps bring the tokens, each its part of every block of columns by way of its own shared memory,
 * where the next are on their way while it splits the last ones and puts them where the instruction
 * reads; two warpgroups multiply; then each warp chooses for some of the tokens. The two blocks of
 * a cluster share the matrix, of which each fetches half for both: of larger clusters not as many
 * run at once as there are multiprocessors. Where registers suffice more warps take turns in
 * bringing blocks of columns.
 *
 * Per block and column 4 bytes of each token and experts bytes of the matrix, from the L2 mostly,
 * whose latency bounds it. */
#include "exec/cuda/router_tiles.h"

#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/router_shares.cuh"
#include "exec/cuda/tensor_map.h"
#include "exec/cuda/wgmma.cuh"

static constexpr uint32_t CLUSTER = 2; /* blocks */
static constexpr uint16_t EVERY_BLOCK = (1 << CLUSTER) - 1;
static constexpr uint32_t MOST_TOKENS = 32; /* of a block */
static constexpr uint32_t COLUMNS = 64;
static constexpr uint32_t ROW_BYTES = COLUMNS * 2;
static constexpr uint32_t FETCHERS = 4;    /* warps */
static constexpr uint32_t MULTIPLIERS = 2; /* warpgroups */

/* Warpgroups that fetch, each every SETS-th block of columns, as registers suffice; all but the
 * first come after those that multiply. */
__host__ __device__ static constexpr uint32_t sets_of(uint32_t parts)
{
    return parts < 4 ? 2 : 1;
}

__host__ __device__ static constexpr uint32_t threads_of(uint32_t parts)
{
    return (MULTIPLIERS + sets_of(parts)) * 128;
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

/* Of a stage: both parts of each token, of eight tokens the first and then the second ones. */
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
    bool by_shares;       /* a ShareRouter chooses experts */
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

/* Of shared memory, that a token takes in the end: a multiple of 4. */
__host__ __device__ static uint32_t logits_words(const RouteTask &task)
{
    return (router_words(task) + 3) / 4 * 4;
}

/* ---- the warpgroup that fetches ---- */

/* 16 bytes of device memory, or zeros, on their way to shared memory. */
__device__ static void copy_word(uint32_t to, const float *from, bool there)
{
    uint32_t bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
}

/* A warp, which brings its part of every SETS-th block of columns. A lane has of one token every
 * fourth of the 16 words of 4 columns, or fewer. Each instruction counts: the warps that multiply
 * wait for this one. */
template <uint32_t TOKENS, uint32_t SETS> struct TokenFetcher {
    static constexpr uint32_t WORDS = words_of(TOKENS);
    static constexpr uint32_t PLACES = RAW_BLOCKS / SETS;
    const TilesShape &shape;
    uint32_t raw;     /* the lane's first word */
    uint32_t put_at;  /* of the lane's token in a stage */
    uint32_t word_at; /* of the lane's first word, in words of 8 columns */
    uint32_t column;  /* of the next first word to ask for; none are there without a token */
    const float *from;

    __device__ TokenFetcher(const TilesShape &tiles_shape, uint32_t tokens, uint32_t set,
                            uint32_t raw_at)
        : shape(tiles_shape)
    {
        uint32_t warp = threadIdx.x / 32 % FETCHERS;
        uint32_t lane = threadIdx.x % 32;
        uint32_t first = warp * WORDS % 4 * 16 + lane % 4 * 4;
        size_t token = (size_t)blockIdx.x * TOKENS + warp * WORDS / 4 * 8 + lane / 4;
        raw = raw_at + (set * FETCHERS + warp) * PLACES * raw_bytes(TOKENS) + lane * 16;
        put_at = (warp * WORDS / 4 * 16 + lane / 4) * ROW_BYTES + first % 8 * 2;
        word_at = first / 8;
        column = set * COLUMNS + first;
        from = shape.in + (token < tokens ? token : 0) * shape.columns + column;
        if (token >= tokens)
            column = shape.columns;
    }
    /* Place NUMBER of PLACES. */
    __device__ uint32_t place(uint32_t number) const
    {
        return raw + number * raw_bytes(TOKENS);
    }
    /* The next block of this set's. */
    __device__ void ask(uint32_t to)
    {
#pragma unroll
        for (uint32_t i = 0; i < WORDS; i++)
            copy_word(to + i * 32 * 16, from + i * 16, column + i * 16 < shape.columns);
        asm volatile("cp.async.commit_group;" ::: "memory");
        from += SETS * COLUMNS;
        column += SETS * COLUMNS;
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
        uint32_t at = to + put_at + ((word_at + 2 * i) ^ threadIdx.x % 32 / 4) * 16;
        asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(at), "r"(high[0]), "r"(high[1])
                     : "memory");
        asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(at + 8 * ROW_BYTES), "r"(low[0]),
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
    Fetcher fetcher(shape, tokens, set, raw);
    uint32_t place = 0;
    wait_for_earlier_kernels();
    for (uint32_t i = 0; i < Fetcher::PLACES; i++)
        fetcher.ask(fetcher.place(i));
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
        fetcher.ask(fetcher.place(place));
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

/* SUM = both parts of the tokens times experts 64 * PARTS * warpgroup on. Rows beyond the tokens
 * are what lies there. */
template <uint32_t PARTS, uint32_t TOKENS>
__device__ static void multiply(const TilesShape &shape, TilesRing<TOKENS> ring, uint32_t warpgroup,
                                float (&sum)[PARTS * 32])
{
#pragma unroll 1
    for (uint32_t block = 0; block < shape.blocks; block++) {
        barrier_wait(ring.full(), ring.parity);
        uint64_t a = swizzled_operand(ring.tokens());
        uint64_t b = swizzled_operand(ring.experts() + warpgroup * PARTS * 64 * ROW_BYTES);
        wgmma_fence();
#pragma unroll
        for (uint32_t step = 0; step < COLUMNS / 16; step++)
            Wgmma<PARTS * 64>::add_product(sum, a + 2 * step, b + 2 * step);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_results(sum);
        release(ring);
        ring.advance();
    }
}

/* The logits, to where a warp chooses by them: LOGITS [TOKENS][words]. */
template <uint32_t PARTS, uint32_t TOKENS>
__device__ static void put_logits(const TilesShape &shape, uint32_t experts, uint32_t warpgroup,
                                  const float (&sum)[PARTS * 32], uint32_t words, float *logits)
{
    uint32_t token = threadIdx.x % 128 / 32 * 8 + threadIdx.x % 32 / 4;
    uint32_t first = warpgroup * PARTS * 64 + threadIdx.x % 4 * 2;
    float *to = logits + token * words + first;
    float logit[PARTS * 16];
    if (token >= TOKENS)
        return;
#pragma unroll
    for (uint32_t i = 0; i < PARTS * 16; i++)
        logit[i] = sum[i / 2 * 4 + i % 2 + 2] + sum[i / 2 * 4 + i % 2];
    if (shape.bias != nullptr)
#pragma unroll
        for (uint32_t i = 0; i < PARTS * 16; i++)
            logit[i] += shape.bias[min(first + i / 2 * 8 + i % 2, experts - 1)];
#pragma unroll
    for (uint32_t i = 0; i < PARTS * 16; i++)
        if (first + i / 2 * 8 + i % 2 < experts)
            to[i / 2 * 8 + i % 2] = logit[i];
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
    uint32_t words = logits_words(task);
    /* the multipliers come after the fetchers */
    uint32_t warpgroup = threadIdx.x / 128 - 1;
    let_next_kernel_start();
    if (threadIdx.x == 0) {
        init_ring(ring, shape.multipliers);
        tensor_map_prefetch(&shape.matrix);
    }
    cluster_sync();
    constexpr uint32_t SETS = sets_of(PARTS);
    if (threadIdx.x / 128 == 0 || threadIdx.x / 128 > MULTIPLIERS) {
        uint32_t set = threadIdx.x / 128 == 0 ? 0 : threadIdx.x / 128 - MULTIPLIERS;
        fetch<TOKENS, SETS>(shape, task.tokens, set, ring,
                            ring.base + shape.stages * shape.stage_bytes);
        __syncthreads();
    } else if (warpgroup >= shape.multipliers) {
        __syncthreads();
    } else {
        float sum[PARTS * 32];
#pragma unroll
        for (uint32_t i = 0; i < PARTS * 32; i++)
            sum[i] = 0;
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
        if (PARTS * 128 >= MOST_SHARES && shape.by_shares)
            ShareRouter(task).route(logits + i * words, token);
        else
            TokenRouter<4 * PARTS, true>(task, logits + i * words).route(token);
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
           MOST_TOKENS * logits_words(task) * sizeof(float) <= stages_of(stage_bytes) * stage_bytes;
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
    shape.by_shares = chosen_by_shares(task);
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
