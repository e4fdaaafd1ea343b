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
#include "exec/cuda/product_fetch.cuh"
#include "exec/cuda/product_launch.cuh"
#include "exec/cuda/product_multiply.cuh"
#include "exec/cuda/tensor_map.h"

#include <math.h>

/* ---- the threads that fetch ---- */

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
    const Cut cut = {shares_of(product), product.parts, WIDEST};
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
    ring.send_tile(Tile{});
}

template <int WIDEST>
__device__ static void fetch_weights(const GroupedProduct &product, Ring<WIDEST> &ring)
{
    const uint64_t policy = evict_first();
    for (;;) {
        const Tile tile = next_tile_to_fetch(ring, true);
        if (tile.width == 0)
            return;
        fetch_weights_of(product, tile, policy, ring);
    }
}

template <int WIDEST>
__device__ static void fetch_rows(const GroupedProduct &product, Ring<WIDEST> &ring)
{
    for (;;) {
        const Tile tile = next_tile_to_fetch(ring, false);
        if (tile.width == 0)
            return;
        fetch_rows_of(product, tile, ring);
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

/* The same with the next of a few widths: what is multiplied beyond the tile's is not written. */
template <ProductKind KIND, int WIDEST>
__device__ static void do_tile_in_steps(const GroupedProduct &product, Ring<WIDEST> &ring,
                                        const Tile &tile, uint32_t warpgroup)
{
    if (tile.width <= 32)
        do_tile<32, KIND>(product, ring, tile, warpgroup);
    else if (tile.width <= 64)
        do_tile<64, KIND>(product, ring, tile, warpgroup);
    else
        do_tile<NARROW_WIDTH, KIND>(product, ring, tile, warpgroup);
}

template <ProductKind KIND, int WIDEST>
__device__ __forceinline__ static void do_tiles(const GroupedProduct &product, Ring<WIDEST> &ring)
{
    uint32_t warpgroup = threadIdx.x / 128;
    for (;;) {
        const Tile tile = ring.next_tile(true);
        if (tile.width == 0)
            break;
        if constexpr (Kind<KIND>::GENERAL)
            do_tile_in_steps<KIND>(product, ring, tile, warpgroup);
        else
            do_tile_of_width<KIND>(product, ring, tile, warpgroup);
    }
}

template <int WIDEST, ProductKind KIND>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(PRODUCT_BLOCK, 1)
    grouped_product(const __grid_constant__ GroupedProduct product, const GroupTable table)
{
    extern __shared__ unsigned char shared[];
    Ring<WIDEST> ring(shared);
    if (threadIdx.x == 0) {
        ring.init(TILE_READERS);
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

template <int WIDEST, ProductKind KIND>
static Status launch(const GroupedProduct &product, const GroupTable &table, cudaStream_t stream)
{
    return launch_product<grouped_product<WIDEST, KIND>, WIDEST>(product, table, stream);
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
