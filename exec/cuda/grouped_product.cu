/* A persistent grouped product for Hopper.
 *
 * The product is computed transposed, out^T = w * in^T, so that the weights' rows fill the 64 rows
 * of the matrix instruction and the tile's width (16 to 288 rows of IN) its columns: an expert with
 * few rows then wastes little arithmetic.
 *
 * A block computes 128 rows of weights times one tile: one thread fetches blocks of 64 columns of
 * weights into a ring in shared memory, a second one the rows of IN, and two warpgroups multiply 64
 * weight rows each and write their part out through shared memory. The two blocks of a cluster work
 * on neighbouring rows of weights and share the rows of IN, of which each fetches every second
 * piece for both.
 *
 * Tiles are handed out as clusters ask for them, for a group of rows all its tiles of the same
 * weights one after the other, so that weights come from device memory once and are the first to
 * leave the L2, where rows are wanted again. Every second cluster begins with the experts of few
 * rows: they are bound by memory while the others are bound by arithmetic. Of tiles of few rows a
 * stage of the ring has two blocks of columns, so that more weights are under way.
 *
 * With gate and up, 8 rows of each alternate in the packed weights: the same thread then holds a
 * gate and its up. A product that comes after another starts to fetch weights before that one ends.
 *
 * Per tile and 64 columns: 16 KiB of weights, 128 bytes per row of IN (half of it fetched by this
 * block), 8192 multiply-adds per row of IN. Below about 180 rows per expert device memory bounds
 * it, above the tensor cores, which are at work 81 % of the time for 256 rows of 128 experts of
 * 2048 x 768 on an H200; power then bounds their clock, and every instruction that is saved speeds
 * them up. */
#include "exec/cuda/grouped_product.h"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/product_write.cuh"
#include "exec/cuda/tensor_map.h"
#include "exec/cuda/wgmma.cuh"

#include <math.h>

static constexpr uint16_t EVERY_BLOCK = (1 << CLUSTER) - 1;
static constexpr uint32_t THREADS = (CONSUMERS + 1) * 128;
static constexpr uint32_t FETCH_REGISTERS = 40; /* 3 * 168 = 40 + 2 * 232 */
static constexpr uint32_t MULTIPLY_REGISTERS = 232;
/* Blocks of a tile that are still to fetch when the next tile is asked for. */
static constexpr uint32_t ASK_AHEAD = 4;

/* ---- the threads that fetch ---- */

/* How the tiles of the table become those of clusters: each times SHARES of the weights, and cut
 * into PARTS of up to WIDEST rows. */
struct Cut {
    uint32_t shares;
    uint32_t parts;
    uint32_t widest;
};

/* Tile number NUMBER; its width is 0 when the table's tile has no such part. */
__device__ static Tile find_tile(const GroupTable &table, const Cut &cut, uint32_t number)
{
    uint32_t pieces = cut.shares * cut.parts;
    const uint4 word = *(const uint4 *)&table.tiles[number / pieces];
    const RowGroup group = {word.x, word.y, word.z, (uint16_t)word.w, (uint16_t)(word.w >> 16)};
    uint32_t local = number - group.first_tile * pieces;
    uint32_t row_parts = group.n_tiles * cut.parts;
    uint32_t part = local % row_parts;
    uint32_t before = part % cut.parts * cut.widest;
    uint32_t width = before < group.width ? min(group.width - before, cut.widest) : 0;
    return Tile{width, group.first_row + part / cut.parts * group.width + before, group.weights_at,
                local / row_parts * CLUSTER};
}

/* The tiles of a product, which every second cluster takes from the front, where experts have many
 * rows, and the others from the back, where they have few; who finds no more there helps the
 * others. */
struct TileQueue {
    uint32_t *taken; /* [2]: from the front, from the back */
    uint32_t many;   /* to take from the front */
    uint32_t few;
    uint32_t clusters;
    uint32_t end; /* 1: the back */

    __device__ bool both() const
    {
        return many > 0 && few > 0;
    }
    __device__ bool is_there(uint32_t i) const
    {
        return i < (end == 0 ? many : few);
    }
    __device__ uint32_t number(uint32_t i) const
    {
        return end == 0 ? i : many + few - 1 - i;
    }
    /* The first tile of CLUSTER needs no asking; FALSE: there is none. */
    __device__ bool first(uint32_t cluster, uint32_t *tile)
    {
        end = both() ? cluster % 2 : many == 0;
        uint32_t at = both() ? cluster / 2 : cluster;
        *tile = number(at);
        return is_there(at) || next(tile);
    }
    /* Another one. */
    __device__ bool next(uint32_t *tile)
    {
        for (uint32_t i = 0; i < 2; i++, end ^= 1) {
            uint32_t firsts = both() ? (clusters + 1 - end) / 2 : clusters;
            uint32_t at = firsts + atomicAdd(&taken[end], 1);
            *tile = number(at);
            if (is_there(at))
                return true;
        }
        return false;
    }
};

/* Gets the cluster its tiles, each when the one before is nearly fetched. One thread of it. */
template <int WIDEST>
__device__ static void share_tiles(const GroupedProduct &product, const GroupTable &table,
                                   Ring<WIDEST> &ring)
{
    const Cut cut = {(product.weight_tiles + CLUSTER - 1) / CLUSTER, product.parts, WIDEST};
    uint32_t many = table.n_tiles[1];
    uint32_t pieces = cut.shares * cut.parts;
    TileQueue queue = {&table.taken[product.kind == PRODUCT_DOWN ? 2 : 0], many * pieces,
                       (table.n_tiles[0] - many) * pieces, gridDim.x / CLUSTER, 0};
    uint32_t number;
    uint32_t parity = 0;
    bool more = queue.first(blockIdx.x / CLUSTER, &number);
    for (; more; more = queue.next(&number)) {
        const Tile tile = find_tile(table, cut, number);
        if (tile.width == 0)
            continue;
        ring.send_tile(tile);
        barrier_wait(ring.wanted(), parity);
        parity ^= 1;
    }
    ring.send_tile(Tile{0, 0, 0, 0});
}

template <int WIDEST>
__device__ static void fetch_weights(const GroupedProduct &product, Ring<WIDEST> &ring)
{
    const uint64_t policy = evict_first();
    uint32_t asks = product.depth_blocks - min(product.depth_blocks, ASK_AHEAD);
    for (;;) {
        barrier_arrive_expect(ring.tile_full(), sizeof(Tile));
        const Tile tile = ring.next_tile(false);
        if (tile.width == 0)
            return;
        uint32_t first = (tile.weight_tile + cluster_rank()) * BLOCK_ROWS;
        uint32_t rows =
            first < product.weight_rows ? min(product.weight_rows - first, BLOCK_ROWS) : 0;
        uint32_t bytes = rows * ROW_BYTES;
        const unsigned char *from = product.weights + tile.weights_at * product.stride_bytes +
                                    (size_t)first * product.depth_blocks * ROW_BYTES;
        uint32_t blocks = ring.blocks(tile.width, product.depth_blocks);
        for (uint32_t block = 0; block < product.depth_blocks; block += blocks) {
            if (block <= asks && asks < block + blocks && cluster_rank() == 0)
                barrier_arrive(ring.wanted());
            ring.wait_empty();
            barrier_arrive_expect(ring.full(), blocks * bytes);
            for (uint32_t i = 0; i < blocks && bytes > 0; i++, from += bytes)
                copy_bytes_once(ring.weights() + i * BLOCK_BYTES, from, bytes, ring.full(), policy);
            ring.stage.advance();
        }
    }
}

/* This block's pieces of a tile's rows, for every block of the cluster. */
__device__ static void fetch_pieces(const GroupedProduct &product, const Tile &tile, uint32_t to,
                                    uint32_t barrier, uint32_t depth_block)
{
    uint32_t wide = tile.width / WIDE_ROWS;
    uint32_t pieces = wide + tile.width % WIDE_ROWS / NARROW_ROWS;
    for (uint32_t i = cluster_rank(); i < pieces; i += CLUSTER) {
        uint32_t row = min(i, wide) * WIDE_ROWS + (i - min(i, wide)) * NARROW_ROWS;
        copy_box_2d_to(EVERY_BLOCK, to + row * ROW_BYTES,
                       i < wide ? &product.in.wide : &product.in.narrow, barrier,
                       depth_block * BLOCK_COLUMNS, tile.first_row + row);
    }
}

template <int WIDEST>
__device__ static void fetch_rows(const GroupedProduct &product, Ring<WIDEST> &ring)
{
    for (;;) {
        const Tile tile = ring.next_tile(false);
        if (tile.width == 0)
            return;
        uint32_t blocks = ring.blocks(tile.width, product.depth_blocks);
        uint32_t bytes = tile.width * ROW_BYTES;
        for (uint32_t block = 0; block < product.depth_blocks; block += blocks) {
            ring.wait_empty();
            barrier_arrive_expect(ring.full(), blocks * bytes);
            for (uint32_t i = 0; i < blocks; i++)
                fetch_pieces(product, tile, ring.weights() + blocks * BLOCK_BYTES + i * bytes,
                             ring.full(), block + i);
            ring.stage.advance();
        }
    }
}

/* One warpgroup; a thread for each of its tasks. */
template <int WIDEST>
__device__ static void fetch(const GroupedProduct &product, const GroupTable &table,
                             Ring<WIDEST> &ring)
{
    if (threadIdx.x % 32 != 0)
        return;
    uint32_t warp = threadIdx.x % 128 / 32;
    /* The table is older than the rows that the kernel before a second product makes. */
    if (warp == 1 || product.kind != PRODUCT_DOWN) {
        wait_for_earlier_kernels();
        let_next_kernel_start();
    }
    if (warp == 0)
        fetch_weights(product, ring);
    else if (warp == 1)
        fetch_rows(product, ring);
    else if (warp == 2 && cluster_rank() == 0)
        share_tiles(product, table, ring);
}

/* ---- the warpgroups that multiply ---- */

/* Tells the blocks of the cluster that this warp is done with STAGE. */
template <int WIDEST> __device__ static void release(const Ring<WIDEST> &ring, uint32_t stage)
{
    uint32_t lane = threadIdx.x % 32;
    if (lane < CLUSTER)
        barrier_arrive_at(ring.empty(stage), lane);
}

/* sum += 64 rows of weights at A times WIDTH rows at B, 64 columns of both. Beyond the widest
 * instruction there are two of about the same width: for a narrow one shared memory is too slow. */
template <int WIDTH, bool FIRST_BLOCK>
__device__ static void multiply_block(float (&sum)[WIDTH / 2], uint64_t a, uint64_t b)
{
    constexpr int FIRST = WIDTH <= 256 ? WIDTH : (WIDTH + 31) / 32 * 16;
    float(&first)[FIRST / 2] = *(float(*)[FIRST / 2]) sum;
#pragma unroll
    for (uint32_t step = 0; step < BLOCK_COLUMNS / 16; step++) {
        if (FIRST_BLOCK && step == 0)
            FirstWgmma<FIRST>::set_product(first, a, b);
        else
            Wgmma<FIRST>::add_product(first, a + 2 * step, b + 2 * step);
        if constexpr (WIDTH > FIRST) {
            float(&rest)[(WIDTH - FIRST) / 2] = *(float(*)[(WIDTH - FIRST) / 2])(sum + FIRST / 2);
            if (FIRST_BLOCK && step == 0)
                FirstWgmma<WIDTH - FIRST>::set_product(rest, a, b + FIRST * ROW_BYTES / 16);
            else
                Wgmma<WIDTH - FIRST>::add_product(rest, a + 2 * step,
                                                  b + FIRST * ROW_BYTES / 16 + 2 * step);
        }
    }
}

/* Begins to add the BLOCKS of the next stage. */
template <int WIDTH, uint32_t BLOCKS, bool FIRST_STAGE, int WIDEST>
__device__ static void start_stage(Ring<WIDEST> &ring, uint32_t warpgroup, float (&sum)[WIDTH / 2])
{
    /* from one lane, so that the compiler knows them to be the warp's: the matrix instruction's
     * operands are */
    uint32_t at = __shfl_sync(0xFFFFFFFF, ring.weights(), 0);
    uint64_t a = swizzled_operand(at + __shfl_sync(0xFFFFFFFF, warpgroup, 0) * 64 * ROW_BYTES);
    uint64_t b = swizzled_operand(at + BLOCKS * BLOCK_BYTES);
    barrier_wait(ring.full(), ring.stage.parity);
    wgmma_fence();
    multiply_block<WIDTH, FIRST_STAGE>(sum, a, b);
    if (BLOCKS > 1)
        multiply_block<WIDTH, false>(sum, a + BLOCK_BYTES / 16, b + WIDTH * ROW_BYTES / 16);
    wgmma_commit();
}

/* sum = 64 rows of weights times the tile's rows, over the whole depth. */
template <int WIDTH, uint32_t BLOCKS, int WIDEST>
__device__ static void multiply_tile(Ring<WIDEST> &ring, uint32_t depth_blocks, uint32_t warpgroup,
                                     float (&sum)[WIDTH / 2])
{
    uint32_t previous = ring.stage.at;
    start_stage<WIDTH, BLOCKS, true>(ring, warpgroup, sum);
    ring.stage.advance();
#pragma unroll 1
    for (uint32_t block = BLOCKS; block < depth_blocks; block += BLOCKS) {
        start_stage<WIDTH, BLOCKS, false>(ring, warpgroup, sum);
        wgmma_wait<1>();
        release(ring, previous);
        previous = ring.stage.at;
        ring.stage.advance();
    }
    wgmma_wait<0>();
    wgmma_results(sum);
    release(ring, previous);
}

/* The biases of this thread's two rows of weights; of a gated product, of the gate and of up. */
template <ProductKind KIND>
__device__ static float2 load_bias(const GroupedProduct &product, const Tile &tile,
                                   uint32_t warpgroup)
{
    if (product.bias == NULL)
        return make_float2(0, 0);
    using K = Kind<KIND>;
    const float *bias = (const float *)(product.bias + tile.weights_at * product.stride_bytes);
    uint32_t column = ((tile.weight_tile + cluster_rank()) * CONSUMERS + warpgroup) * K::COLUMNS +
                      threadIdx.x % 128 / 32 * (K::COLUMNS / 4) + threadIdx.x % 32 / 4;
    uint32_t other = column + (K::GATED ? product.columns : 8);
    return column < product.columns ? make_float2(bias[column], bias[other]) : make_float2(0, 0);
}

template <int WIDTH> __device__ static void add_bias(float2 bias, float (&sum)[WIDTH / 2])
{
#pragma unroll
    for (uint32_t i = 0; i < WIDTH / 2; i++)
        sum[i] += i % 4 < 2 ? bias.x : bias.y;
}

template <int WIDTH, ProductKind KIND, int WIDEST>
__device__ static void do_tile(const GroupedProduct &product, Ring<WIDEST> &ring, const Tile &tile,
                               uint32_t warpgroup, uint32_t &box)
{
    if constexpr (WIDTH <= WIDEST) {
        const float2 bias = load_bias<KIND>(product, tile, warpgroup);
        float sum[WIDTH / 2];
        constexpr uint32_t BLOCKS = Ring<WIDEST>::most_blocks(WIDTH);
        if (ring.blocks(WIDTH, product.depth_blocks) == BLOCKS)
            multiply_tile<WIDTH, BLOCKS>(ring, product.depth_blocks, warpgroup, sum);
        else
            multiply_tile<WIDTH, 1>(ring, product.depth_blocks, warpgroup, sum);
        if (product.bias != NULL)
            add_bias<WIDTH>(bias, sum);
        write_tile<WIDTH, WIDEST, KIND>(product, ring, tile, warpgroup, sum, box);
    }
}

#define CASE(WIDTH)                                                                                \
    case WIDTH:                                                                                    \
        do_tile<WIDTH, KIND>(product, ring, tile, warpgroup, box);                                 \
        break;

template <ProductKind KIND, int WIDEST>
__device__ __forceinline__ static void do_tile_of_width(const GroupedProduct &product,
                                                        Ring<WIDEST> &ring, const Tile &tile,
                                                        uint32_t warpgroup, uint32_t &box)
{
    switch (tile.width) {
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
        CASE(272)
        CASE(288)
    }
}

#undef CASE

/* The same with the next of a few widths: what is multiplied beyond the tile's is not written. */
template <ProductKind KIND, int WIDEST>
__device__ static void do_tile_in_steps(const GroupedProduct &product, Ring<WIDEST> &ring,
                                        const Tile &tile, uint32_t warpgroup, uint32_t &box)
{
    if (tile.width <= 32)
        do_tile<32, KIND>(product, ring, tile, warpgroup, box);
    else if (tile.width <= 64)
        do_tile<64, KIND>(product, ring, tile, warpgroup, box);
    else
        do_tile<NARROW_WIDTH, KIND>(product, ring, tile, warpgroup, box);
}

template <ProductKind KIND, int WIDEST>
__device__ __forceinline__ static void do_tiles(const GroupedProduct &product, Ring<WIDEST> &ring)
{
    uint32_t warpgroup = threadIdx.x / 128;
    uint32_t box = 0;
    for (;;) {
        const Tile tile = ring.next_tile(true);
        if (tile.width == 0)
            break;
        if constexpr (Kind<KIND>::GENERAL)
            do_tile_in_steps<KIND>(product, ring, tile, warpgroup, box);
        else
            do_tile_of_width<KIND>(product, ring, tile, warpgroup, box);
    }
}

template <int WIDEST, ProductKind KIND>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    grouped_product(const __grid_constant__ GroupedProduct product, const GroupTable table)
{
    extern __shared__ unsigned char shared[];
    Ring<WIDEST> ring(shared);
    if (threadIdx.x == 0) {
        ring.init();
        tensor_map_prefetch(&product.in.wide);
        tensor_map_prefetch(&product.in.narrow);
    }
    cluster_sync();
    if (threadIdx.x / 128 == CONSUMERS) {
        take_registers<FETCH_REGISTERS, false>();
        fetch(product, table, ring);
    } else {
        take_registers<MULTIPLY_REGISTERS, true>();
        do_tiles<KIND>(product, ring);
    }
    /* neither block may end while the other still signals to it */
    __syncwarp();
    cluster_sync();
}

/* ---- host ---- */

/* As many clusters as the device runs at once; the device is asked once. */
template <int WIDEST, ProductKind KIND> static Status count_clusters(uint32_t *clusters)
{
    static int count = 0; /* the same whoever writes it */
    auto kernel = grouped_product<WIDEST, KIND>;
    constexpr uint32_t bytes = Ring<WIDEST>::SHARED_BYTES;
    if (count == 0) {
        CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
        cudaLaunchAttribute cluster = {};
        cluster.id = cudaLaunchAttributeClusterDimension;
        cluster.val.clusterDim.x = CLUSTER;
        cluster.val.clusterDim.y = 1;
        cluster.val.clusterDim.z = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(CLUSTER);
        config.blockDim = dim3(THREADS);
        config.dynamicSmemBytes = bytes;
        config.attrs = &cluster;
        config.numAttrs = 1;
        CUDA_TRY(cudaOccupancyMaxActiveClusters(&count, kernel, &config));
    }
    *clusters = (uint32_t)count;
    return OK;
}

template <int WIDEST, ProductKind KIND>
static Status launch(const GroupedProduct &product, const GroupTable &table, cudaStream_t stream)
{
    uint32_t clusters = 0;
    TRY((count_clusters<WIDEST, KIND>(&clusters)));
    const LaunchShape shape = {dim3(clusters * CLUSTER), THREADS, Ring<WIDEST>::SHARED_BYTES, 0};
    return launch_after(grouped_product<WIDEST, KIND>, shape, stream, product, table);
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
    GroupedProduct all = *product;
    all.parts = 1;
    if (product->kind == PRODUCT_PLAIN || product->kind == PRODUCT_GATED) {
        all.parts = divide_up(max_width, NARROW_WIDTH);
        return product->kind == PRODUCT_PLAIN
                   ? launch<NARROW_WIDTH, PRODUCT_PLAIN>(all, *table, stream)
                   : launch<NARROW_WIDTH, PRODUCT_GATED>(all, *table, stream);
    }
    if (max_width <= NARROW_WIDTH)
        return launch_kind<NARROW_WIDTH>(all, *table, stream);
    if (max_width <= MIDDLE_WIDTH)
        return launch_kind<MIDDLE_WIDTH>(all, *table, stream);
    return launch_kind<MAX_WIDTH>(all, *table, stream);
}

static Status check_device(void)
{
    int device;
    int capability;
    CUDA_TRY(cudaGetDevice(&device));
    CUDA_TRY(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device));
    if (capability != 9)
        return fail(ERR_UNSUPPORTED,
                    "cuda: a device of compute capability %d.x: this build runs on 9.0 (Hopper)",
                    capability);
    return OK;
}

static Status map_pieces(const void *data, uint32_t rows, uint32_t columns, RowPieces *pieces)
{
    TensorShape shape = {data, 2, {columns, rows}, {0, columns * 2}, {BLOCK_COLUMNS, WIDE_ROWS}};
    TRY(tensor_map_make(&shape, &pieces->wide));
    shape.box[1] = NARROW_ROWS;
    return tensor_map_make(&shape, &pieces->narrow);
}

static ProductKind kind_of(const GroupedProductShape &shape)
{
    if (shape.down)
        return PRODUCT_DOWN;
    if (shape.expert.gated)
        return shape.expert.activation == ACTIVATION_SILU ? PRODUCT_SILU_GATED : PRODUCT_GATED;
    switch (shape.expert.activation) {
    case ACTIVATION_RELU:
        return PRODUCT_RELU;
    case ACTIVATION_GELU:
    case ACTIVATION_GELU_TANH:
        return PRODUCT_GELU;
    default:
        return PRODUCT_PLAIN;
    }
}

/* That by the error function within 4e-5 * |x| (minimax in the error of tanh, found by search). */
static const GeluTerms GELU_BY_ERF = {0.7977177f, 0.0367981f, -0.00031575f, 20};
static const GeluTerms GELU_BY_TANH = {0.79788456f, 0.79788456f * 0.044715f, 0, INFINITY};

extern "C" Status grouped_product_make(const GroupedProductShape *shape, GroupedProduct *product)
{
    const FfnShape &expert = shape->expert;
    const FfnLayout layout = ffn_layout(&expert, sizeof(uint16_t));
    const unsigned char *weights = (const unsigned char *)shape->weights;
    uint32_t depth = shape->down ? expert.d_ff : expert.d_model;
    if (!packed_suits(&expert))
        return fail(ERR_UNSUPPORTED, "cuda: experts of %u x %u: the sizes must be multiples of %d",
                    expert.d_model, expert.d_ff, BLOCK_COLUMNS);
    product->expert = expert;
    product->kind = kind_of(*shape);
    product->gelu = expert.activation == ACTIVATION_GELU ? GELU_BY_ERF : GELU_BY_TANH;
    product->weights = weights + (shape->down ? layout.second : layout.first);
    product->bias =
        expert.bias ? weights + (shape->down ? layout.second_bias : layout.first_bias) : NULL;
    product->stride_bytes = shape->stride_bytes;
    product->columns = shape->down ? expert.d_model : expert.d_ff;
    product->depth_blocks = depth / BLOCK_COLUMNS;
    product->weight_rows = shape->down ? expert.d_model : ffn_first_rows(&expert);
    product->weight_tiles = packed_row_blocks(product->weight_rows);
    TRY(check_device());
    product->out = (unsigned char *)shape->out;
    return map_pieces(shape->in, shape->rows, depth, &product->in);
}
