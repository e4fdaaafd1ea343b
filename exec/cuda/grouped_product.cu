/* A persistent grouped product for Hopper.
 *
 * The product is computed transposed, out^T = w * in^T, so that the weights' rows fill the 64 rows
 * of the matrix instruction and the tile's width (16 to 256 rows of IN) its columns: an expert with
 * few rows then wastes little arithmetic.
 *
 * A block computes 128 rows of weights times one tile: a warp fetches blocks of 64 columns of both
 * into a ring in shared memory, two warpgroups multiply 64 weight rows each and write their part
 * out through shared memory. The two or four blocks of a cluster work on neighbouring rows of
 * weights and share the rows of IN, of which each fetches every second or fourth piece for all.
 * Tiles go round-robin over clusters: for a group of rows, all its tiles of the same weights one
 * after the other, so that weights come from device memory once.
 *
 * With gate and up, 8 rows of each alternate in the packed weights: the same thread then holds a
 * gate and its up.
 *
 * Per tile and 64 columns: 16 KiB of weights, 128 bytes per row of IN (half of it fetched by this
 * block), 8192 multiply-adds per row of IN. Below about 180 rows per expert device memory bounds
 * it, above the tensor cores. On an H200 (device copy 4.14 TB/s, cuBLAS 787 TFLOP/s): with 1 to 32
 * rows per expert (deepseek-v3, 128 and 1024 tokens) 1.05 times the copy rate, which counts writes;
 * with 1024 rows (mixtral-8x7b, 4096 tokens) gate and up run at 652 TFLOP/s, 83 %. With 256 rows
 * and a depth of 768 (down of qwen3-30b-a3b) 430 TFLOP/s, 54 %: writing a tile is not hidden. */
#include "exec/cuda/grouped_product.h"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/packed.cuh"
#include "exec/cuda/tensor_map.h"
#include "exec/cuda/wgmma.cuh"

static constexpr uint32_t CLUSTER = 2; /* blocks */
static constexpr uint16_t EVERY_BLOCK = (1 << CLUSTER) - 1;
static constexpr uint32_t CONSUMERS = 2; /* warpgroups */
static constexpr uint32_t THREADS = (CONSUMERS + 1) * 128;
static constexpr uint32_t FETCH_REGISTERS = 56; /* 3 * 168 = 56 + 2 * 224 */
static constexpr uint32_t MULTIPLY_REGISTERS = 224;
static constexpr uint32_t ROW_BYTES = BLOCK_COLUMNS * 2; /* of a stage */
static constexpr uint32_t WIDE_ROWS = 64;                /* of a piece of IN */
static constexpr uint32_t NARROW_ROWS = 16;
static constexpr uint32_t RING_BYTES = 192 * 1024;
static constexpr uint32_t STAGING_BYTES = 10240; /* of one warpgroup */
static constexpr uint32_t MAX_STAGES = 8;

/* The tile that a stage's data belongs to. */
struct Tile {
    uint32_t width; /* 0: no more */
    uint32_t first_row;
    uint32_t weight_tile;
    uint32_t weights_at;
};

struct Control {
    uint64_t full[MAX_STAGES];
    uint64_t empty[MAX_STAGES];
    Tile tile[MAX_STAGES];
};

template <int WIDEST> struct Ring {
    static constexpr uint32_t STAGE_BYTES = BLOCK_BYTES + WIDEST * ROW_BYTES;
    static constexpr uint32_t STAGES =
        RING_BYTES / STAGE_BYTES < MAX_STAGES ? RING_BYTES / STAGE_BYTES : MAX_STAGES;
    static constexpr uint32_t SHARED_BYTES =
        1024 + STAGES * STAGE_BYTES + CONSUMERS * STAGING_BYTES + sizeof(Control);

    unsigned char *stages; /* aligned to 1024 */
    Control *control;
    uint32_t stage;
    uint32_t parity;

    __device__ explicit Ring(unsigned char *shared) : stage(0), parity(0)
    {
        stages = (unsigned char *)(((uintptr_t)shared + 1023) & ~(uintptr_t)1023);
        control = (Control *)(stages + STAGES * STAGE_BYTES + CONSUMERS * STAGING_BYTES);
    }
    __device__ uint32_t weights() const
    {
        return shared_address(stages + stage * STAGE_BYTES);
    }
    __device__ uint32_t rows() const
    {
        return weights() + BLOCK_BYTES;
    }
    __device__ uint32_t full() const
    {
        return shared_address(&control->full[stage]);
    }
    __device__ uint32_t empty(uint32_t of_stage) const
    {
        return shared_address(&control->empty[of_stage]);
    }
    __device__ uint32_t staging(uint32_t warpgroup) const
    {
        return shared_address(stages + STAGES * STAGE_BYTES + warpgroup * STAGING_BYTES);
    }
    __device__ void advance()
    {
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        parity ^= stage == 0;
    }
};

/* ---- the warp that fetches ---- */

/* Finds the group of tile number TILE, tiles of the table counting SHARES times, from group FROM
 * on. By the whole warp. */
__device__ static uint32_t find_group(const GroupTable &table, uint32_t n_groups, uint32_t shares,
                                      uint32_t tile, uint32_t from)
{
    for (;;) {
        uint32_t next = from + 1 + threadIdx.x % 32;
        bool before = next < n_groups && table.first_tile[next] * shares <= tile;
        uint32_t passed = __popc(__ballot_sync(0xFFFFFFFF, before));
        from += passed;
        if (passed < 32)
            return from;
    }
}

/* This block's pieces of a tile's rows, for every block of the cluster. */
__device__ static void fetch_rows(const GroupedProduct &product, const Tile &tile, uint32_t to,
                                  uint32_t barrier, uint32_t depth_block, uint32_t rank)
{
    uint32_t wide = tile.width / WIDE_ROWS;
    uint32_t pieces = wide + tile.width % WIDE_ROWS / NARROW_ROWS;
    for (uint32_t i = rank; i < pieces; i += CLUSTER) {
        uint32_t row = min(i, wide) * WIDE_ROWS + (i - min(i, wide)) * NARROW_ROWS;
        copy_box_4d_to(EVERY_BLOCK, to + row * ROW_BYTES,
                       i < wide ? &product.wide_pieces : &product.narrow_pieces, barrier, 0, 0,
                       depth_block, (tile.first_row + row) / 8);
    }
}

template <int WIDEST>
__device__ static void fetch_tile(const GroupedProduct &product, Ring<WIDEST> &ring,
                                  const Tile &tile, uint32_t rank)
{
    const unsigned char *weights = product.weights + tile.weights_at * product.stride_bytes +
                                   (size_t)tile.weight_tile * product.depth_blocks * BLOCK_BYTES;
    bool there = tile.weight_tile < product.weight_tiles;
    uint32_t bytes = tile.width * ROW_BYTES + (there ? BLOCK_BYTES : 0);
    for (uint32_t block = 0; block < product.depth_blocks; block++, weights += BLOCK_BYTES) {
        barrier_wait(ring.empty(ring.stage), ring.parity ^ 1);
        if (block == 0)
            ring.control->tile[ring.stage] = tile;
        barrier_arrive_expect(ring.full(), bytes);
        if (there)
            copy_bytes(ring.weights(), weights, BLOCK_BYTES, ring.full());
        fetch_rows(product, tile, ring.rows(), ring.full(), block, rank);
        ring.advance();
    }
}

template <int WIDEST>
__device__ static void fetch_tiles(const GroupedProduct &product, const GroupTable &table,
                                   Ring<WIDEST> &ring)
{
    uint32_t rank = cluster_rank();
    uint32_t n_groups = *table.n_groups;
    uint32_t shares = (product.weight_tiles + CLUSTER - 1) / CLUSTER;
    uint32_t n_tiles = table.first_tile[n_groups] * shares;
    uint32_t at = 0;
    for (uint32_t number = blockIdx.x / CLUSTER; number < n_tiles; number += gridDim.x / CLUSTER) {
        at = find_group(table, n_groups, shares, number, at);
        RowGroup group = table.groups[at];
        uint32_t first = table.first_tile[at];
        uint32_t in_group = table.first_tile[at + 1] - first;
        uint32_t local = number - first * shares;
        const Tile tile = {group.width, group.first_row + local % in_group * group.width,
                           local / in_group * CLUSTER + rank, group.weights_at};
        if (threadIdx.x % 32 == 0)
            fetch_tile(product, ring, tile, rank);
        __syncwarp();
    }
    if (threadIdx.x % 32 == 0) {
        barrier_wait(ring.empty(ring.stage), ring.parity ^ 1);
        ring.control->tile[ring.stage].width = 0;
        barrier_arrive(ring.full());
    }
}

/* ---- the warpgroups that multiply ---- */

/* Tells the blocks of the cluster that this warp is done with STAGE. */
template <int WIDEST> __device__ static void release(const Ring<WIDEST> &ring, uint32_t stage)
{
    uint32_t lane = threadIdx.x % 32;
    if (lane < CLUSTER)
        barrier_arrive_at(ring.empty(stage), lane);
}

/* sum += 64 rows of weights times the tile's rows, over the whole depth. */
template <int WIDTH, int WIDEST>
__device__ static void multiply_tile(Ring<WIDEST> &ring, uint32_t depth_blocks, uint32_t warpgroup,
                                     float (&sum)[WIDTH / 2])
{
    uint32_t previous = 0;
#pragma unroll 1
    for (uint32_t block = 0; block < depth_blocks; block++) {
        barrier_wait(ring.full(), ring.parity);
        uint64_t a = swizzled_operand(ring.weights() + warpgroup * 64 * ROW_BYTES);
        uint64_t b = swizzled_operand(ring.rows());
        wgmma_fence();
#pragma unroll
        for (uint32_t step = 0; step < BLOCK_COLUMNS / 16; step++)
            Wgmma<WIDTH>::add_product(sum, a + 2 * step, b + 2 * step);
        wgmma_commit();
        wgmma_wait<1>();
        if (block > 0)
            release(ring, previous);
        previous = ring.stage;
        ring.advance();
    }
    wgmma_wait<0>();
    wgmma_results(sum);
    release(ring, previous);
}

__device__ static float silu(float x)
{
    return __fdividef(x, 1 + __expf(-x));
}

template <ProductKind KIND> __device__ static float finished(float sum)
{
    if (KIND == PRODUCT_GELU)
        return 0.5f * sum * (1 + erff(sum * 0.70710678118654752f));
    return KIND == PRODUCT_RELU ? fmaxf(sum, 0) : sum;
}

/* The biases of the two rows of weights that the thread holds sums of: r and r + 8 of the
 * warpgroup's, with a gate and its up the same column of each. */
template <ProductKind KIND>
__device__ static float2 biases_of(const GroupedProduct &product, const Tile &tile,
                                   uint32_t warpgroup)
{
    constexpr bool GATED = KIND == PRODUCT_SILU_GATED;
    if (product.bias == nullptr)
        return make_float2(0, 0);
    const float *bias = (const float *)(product.bias + tile.weights_at * product.stride_bytes);
    uint32_t row = tile.weight_tile * BLOCK_ROWS + warpgroup * 64 + threadIdx.x % 128 / 32 * 16 +
                   threadIdx.x % 32 / 4;
    uint32_t first = GATED ? row / 16 * 8 + row % 8 : row;
    uint32_t second = GATED ? first : row + 8;
    return make_float2(first < product.columns ? bias[first] : 0,
                       second < product.columns ? bias[GATED ? product.columns + second : second]
                                                : 0);
}

/* Bytes from the start of OUT to word WORD (8 columns) of the tile's part of a row. */
template <ProductKind KIND>
__device__ static size_t out_offset(const GroupedProduct &product, uint32_t row, uint32_t column)
{
    if (KIND == PRODUCT_DOWN)
        return ((size_t)row * product.columns + column) * 2;
    return octet_offset(row, column / BLOCK_COLUMNS, product.column_blocks) +
           column % BLOCK_COLUMNS * 2;
}

/* Finishes and rounds 32 rows' sums and puts them, as rows, at STAGING. */
template <int WIDTH, ProductKind KIND>
__device__ static void stage_rows(const float (&sum)[WIDTH / 2], float2 bias, uint32_t row,
                                  uint32_t staging, uint32_t pitch)
{
    constexpr bool GATED = KIND == PRODUCT_SILU_GATED;
    uint32_t low[4] = {0, 0, 0, 0};
    uint32_t high[4] = {0, 0, 0, 0};
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        if (row + 8 * i < WIDTH) {
            const float *all = &sum[(row + 8 * i) / 2];
            const float s[4] = {all[0] + bias.x, all[1] + bias.x, all[2] + bias.y, all[3] + bias.y};
            if (GATED) {
                low[i] = pack_bf16(silu(s[0]) * s[2], silu(s[1]) * s[3]);
            } else {
                low[i] = pack_bf16(finished<KIND>(s[0]), finished<KIND>(s[1]));
                high[i] = pack_bf16(finished<KIND>(s[2]), finished<KIND>(s[3]));
            }
        }
    uint32_t warp = threadIdx.x % 128 / 32;
    uint32_t to = staging + threadIdx.x % 32 * pitch + warp * (GATED ? 16 : 32);
    store_matrices_transposed(to, low[0], low[1], low[2], low[3]);
    if (!GATED)
        store_matrices_transposed(to + 16, high[0], high[1], high[2], high[3]);
}

/* Writes a warpgroup's 64 x WIDTH sums as rows of OUT. They pass through shared memory so that a
 * row's values leave in words of 16 bytes side by side. */
template <int WIDTH, int WIDEST, ProductKind KIND>
__device__ static void write_tile(const GroupedProduct &product, const Ring<WIDEST> &ring,
                                  const Tile &tile, uint32_t warpgroup,
                                  const float (&sum)[WIDTH / 2], float2 bias)
{
    constexpr uint32_t COLUMNS = KIND == PRODUCT_SILU_GATED ? 32 : 64; /* of OUT */
    constexpr uint32_t PITCH = COLUMNS * 2 + 16;         /* bytes; without bank conflicts */
    constexpr uint32_t CHUNK = COLUMNS == 32 ? 128 : 64; /* rows staged at a time */
    constexpr uint32_t WORDS = COLUMNS / 8;              /* of 16 bytes in a row */
    constexpr uint32_t STEP = 128 / WORDS;               /* rows that the threads write at once */
    static_assert(PITCH * CHUNK <= STAGING_BYTES, "staging");
    uint32_t staging = ring.staging(warpgroup);
    uint32_t row = threadIdx.x % 128 / WORDS;
    uint32_t from = staging + row * PITCH + threadIdx.x % WORDS * 16;
    uint32_t column =
        tile.weight_tile * (COLUMNS * CONSUMERS) + warpgroup * COLUMNS + threadIdx.x % WORDS * 8;
    bool there = KIND == PRODUCT_DOWN ? column < product.columns
                                      : column < product.column_blocks * BLOCK_COLUMNS;
#pragma unroll
    for (uint32_t chunk = 0; chunk < WIDTH; chunk += CHUNK) {
#pragma unroll
        for (uint32_t i = chunk; i < WIDTH && i < chunk + CHUNK; i += 32)
            stage_rows<WIDTH, KIND>(sum, bias, i, staging + (i - chunk) * PITCH, PITCH);
        named_barrier(1 + warpgroup, 128);
#pragma unroll
        for (uint32_t i = 0; i < CHUNK; i += STEP)
            if (chunk + i + row < WIDTH && there)
                *(uint4 *)(product.out +
                           out_offset<KIND>(product, tile.first_row + chunk + i + row, column)) =
                    load_shared_word(from + i * PITCH);
        named_barrier(1 + warpgroup, 128);
    }
}

template <int WIDTH, ProductKind KIND, int WIDEST>
__device__ static void do_tile(const GroupedProduct &product, Ring<WIDEST> &ring, const Tile &tile,
                               uint32_t warpgroup)
{
    if constexpr (WIDTH <= WIDEST) {
        float sum[WIDTH / 2];
        float2 bias = biases_of<KIND>(product, tile, warpgroup);
#pragma unroll
        for (float &s : sum)
            s = 0; /* also ends the life of the last tile's registers */
        multiply_tile<WIDTH>(ring, product.depth_blocks, warpgroup, sum);
        write_tile<WIDTH, WIDEST, KIND>(product, ring, tile, warpgroup, sum, bias);
    }
}

template <ProductKind KIND, int WIDEST>
__device__ static void do_tiles(const GroupedProduct &product, Ring<WIDEST> &ring)
{
    uint32_t warpgroup = threadIdx.x / 128;
    for (;;) {
        barrier_wait(ring.full(), ring.parity);
        const Tile tile = ring.control->tile[ring.stage];
        switch (tile.width) {
        case 0:
            return;
#define CASE(WIDTH)                                                                                \
    case WIDTH:                                                                                    \
        do_tile<WIDTH, KIND>(product, ring, tile, warpgroup);                                      \
        break;
            CASE(16)
            CASE(32)
            CASE(48)
            CASE(64)
            CASE(80)
            CASE(96)
            CASE(112)
            CASE(128)
            CASE(144)
            CASE(160)
            CASE(176)
            CASE(192)
            CASE(208)
            CASE(224)
            CASE(240)
            CASE(256)
#undef CASE
        }
    }
}

template <int WIDEST, ProductKind KIND>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    grouped_product(const __grid_constant__ GroupedProduct product, const GroupTable table)
{
    extern __shared__ unsigned char shared[];
    Ring<WIDEST> ring(shared);
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < ring.STAGES; i++) {
            barrier_init(shared_address(&ring.control->full[i]), 1);
            barrier_init(shared_address(&ring.control->empty[i]), CONSUMERS * 4 * CLUSTER);
        }
        barrier_init_fence();
        tensor_map_prefetch(&product.wide_pieces);
        tensor_map_prefetch(&product.narrow_pieces);
    }
    cluster_sync();
    wait_for_earlier_kernels();
    let_next_kernel_start();
    if (threadIdx.x / 128 == CONSUMERS) {
        take_registers<FETCH_REGISTERS, false>();
        if (threadIdx.x % 128 < 32)
            fetch_tiles(product, table, ring);
    } else {
        take_registers<MULTIPLY_REGISTERS, true>();
        do_tiles<KIND>(product, ring);
    }
    /* neither block may end while the other still signals to it */
    __syncwarp();
    cluster_sync();
}

/* ---- host ---- */

template <int WIDEST, ProductKind KIND>
static Status launch(const GroupedProduct &product, const GroupTable &table, cudaStream_t stream)
{
    auto kernel = grouped_product<WIDEST, KIND>;
    constexpr uint32_t bytes = Ring<WIDEST>::SHARED_BYTES;
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    const LaunchShape shape = {dim3(product.clusters * CLUSTER), THREADS, bytes, 0};
    return launch_after(kernel, shape, stream, product, table);
}

template <int WIDEST>
static Status launch_kind(const GroupedProduct &product, const GroupTable &table,
                          cudaStream_t stream)
{
    switch (product.kind) {
    case PRODUCT_DOWN:
        return launch<WIDEST, PRODUCT_DOWN>(product, table, stream);
    case PRODUCT_RELU:
        return launch<WIDEST, PRODUCT_RELU>(product, table, stream);
    case PRODUCT_GELU:
        return launch<WIDEST, PRODUCT_GELU>(product, table, stream);
    default:
        return launch<WIDEST, PRODUCT_SILU_GATED>(product, table, stream);
    }
}

extern "C" Status grouped_product_run(const GroupedProduct *product, const GroupTable *table,
                                      uint32_t max_width, cudaStream_t stream)
{
    if (max_width <= 128)
        return launch_kind<128>(*product, *table, stream);
    return launch_kind<256>(*product, *table, stream);
}

/* How many clusters the device runs at once. */
static Status count_clusters(uint32_t *clusters)
{
    int device;
    int multiprocessors;
    int capability;
    CUDA_TRY(cudaGetDevice(&device));
    CUDA_TRY(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
    CUDA_TRY(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device));
    if (capability != 9)
        return fail(ERR_UNSUPPORTED,
                    "cuda: a device of compute capability %d.x: this build runs on 9.0 (Hopper)",
                    capability);
    *clusters = (uint32_t)multiprocessors / CLUSTER;
    return OK;
}

/* IN as [octets][depth blocks][8 rows][64 columns], whichever way it lies, taken ROWS rows of a
 * depth block at a time. */
static Status make_pieces(const GroupedProductShape &shape, uint32_t rows, CUtensorMap *map)
{
    uint32_t depth_blocks = packed_column_blocks(shape.depth);
    uint64_t row_step = shape.dense ? (uint64_t)depth_blocks * ROW_BYTES : ROW_BYTES;
    uint64_t block_step = shape.dense ? ROW_BYTES : (uint64_t)OCTET_BYTES;
    const TensorShape pieces = {shape.in,
                                4,
                                {BLOCK_COLUMNS, 8, depth_blocks, shape.rows / 8},
                                {0, row_step, block_step, (uint64_t)depth_blocks * OCTET_BYTES},
                                {BLOCK_COLUMNS, 8, 1, rows / 8}};
    return tensor_map_make(&pieces, map);
}

extern "C" Status grouped_product_make(const GroupedProductShape *shape, GroupedProduct *product)
{
    if (shape->columns % 8 != 0)
        return fail(ERR_UNSUPPORTED, "cuda: experts of %u x %u: the sizes must be multiples of 8",
                    shape->columns, shape->depth);
    if (shape->dense && shape->depth % BLOCK_COLUMNS != 0)
        return fail(ERR_UNSUPPORTED, "cuda: dense rows of %u columns: must be a multiple of %d",
                    shape->depth, BLOCK_COLUMNS);
    bool gated = shape->kind == PRODUCT_SILU_GATED;
    product->weights = (const unsigned char *)shape->weights;
    product->bias = (const unsigned char *)shape->bias;
    product->stride_bytes = shape->stride_bytes;
    product->out = (unsigned char *)shape->out;
    product->columns = shape->columns;
    product->column_blocks = packed_column_blocks(shape->columns);
    product->depth_blocks = packed_column_blocks(shape->depth);
    product->weight_tiles = packed_row_blocks(gated ? 2 * shape->columns : shape->columns);
    product->kind = shape->kind;
    TRY(count_clusters(&product->clusters));
    TRY(make_pieces(*shape, WIDE_ROWS, &product->wide_pieces));
    return make_pieces(*shape, NARROW_ROWS, &product->narrow_pieces);
}
