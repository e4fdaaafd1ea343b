/* What the warpgroups of a grouped product multiply (exec/cuda/grouped_product.cu,
 * exec/cuda/layer_product.cu): a tile's sums from the stages of the ring, a function for each
 * width. */
#ifndef EXEC_CUDA_PRODUCT_MULTIPLY_CUH
#define EXEC_CUDA_PRODUCT_MULTIPLY_CUH

#include "exec/cuda/product_write.cuh"
#include "exec/cuda/wgmma.cuh"

/* Tells the blocks of the cluster that this warp is done with STAGE. */
template <int WIDEST> __device__ inline void release(const Ring<WIDEST> &ring, uint32_t stage)
{
    uint32_t lane = threadIdx.x % 32;
    if (lane < CLUSTER)
        barrier_arrive_at(ring.empty(stage), lane);
}

/* sum += 64 rows of weights at A times WIDTH rows at B, 64 columns of both. Beyond the widest
 * instruction there are two of about the same width: for a narrow one shared memory is too slow. */
template <int WIDTH, bool FIRST_BLOCK>
__device__ inline void multiply_block(float (&sum)[WIDTH / 2], uint64_t a, uint64_t b)
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
__device__ inline void start_stage(Ring<WIDEST> &ring, uint32_t warpgroup, float (&sum)[WIDTH / 2])
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
__device__ inline void multiply_tile(Ring<WIDEST> &ring, uint32_t depth_blocks, uint32_t warpgroup,
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
__device__ inline float2 load_bias(const GroupedProduct &product, const Tile &tile,
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

template <int WIDTH> __device__ inline void add_bias(float2 bias, float (&sum)[WIDTH / 2])
{
#pragma unroll
    for (uint32_t i = 0; i < WIDTH / 2; i++)
        sum[i] += i % 4 < 2 ? bias.x : bias.y;
}

template <int WIDTH, ProductKind KIND, int WIDEST>
__device__ inline void do_tile(const GroupedProduct &product, Ring<WIDEST> &ring, const Tile &tile,
                               uint32_t warpgroup)
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
        write_tile<WIDTH, WIDEST, KIND>(product, ring, tile, warpgroup, sum);
    }
}

#define CASE(WIDTH)                                                                                \
    case WIDTH:                                                                                    \
        do_tile<WIDTH, KIND>(product, ring, tile, warpgroup);                                      \
        break;

template <ProductKind KIND, int WIDEST>
__device__ __forceinline__ void do_tile_of_width(const GroupedProduct &product, Ring<WIDEST> &ring,
                                                 const Tile &tile, uint32_t warpgroup)
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

#endif
