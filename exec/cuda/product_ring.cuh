/* What the warps of a grouped product (exec/cuda/grouped_product.cu, exec/cuda/layer_product.cu)
 * hand to each other through shared memory: tiles to do, and stages of weights and rows. */
#ifndef EXEC_CUDA_PRODUCT_RING_CUH
#define EXEC_CUDA_PRODUCT_RING_CUH

#include "exec/cuda/packed.cuh"

#include <stddef.h>

static constexpr uint32_t CLUSTER = 2;                   /* blocks */
static constexpr uint32_t CONSUMERS = 2;                 /* warpgroups of a block */
static constexpr uint32_t ROW_BYTES = BLOCK_COLUMNS * 2; /* of a stage */
static constexpr uint32_t MAX_STAGES = 8;
static constexpr uint32_t TILE_SLOTS = 2;
static constexpr uint32_t BOX_BYTES = 4 * 1024;          /* of staging memory */
static constexpr uint32_t STAGING_BYTES = 2 * BOX_BYTES; /* of a warpgroup */

/* Threads that take each tile, in one block: the two that fetch, and each multiplying warp's first.
 */
static constexpr uint32_t TILE_READERS = 2 + CONSUMERS * 4;

/* Some rows of one expert times the cluster's rows of weights. */
struct Tile {
    uint32_t width; /* rows of IN; 0: there is no more to do */
    uint32_t first_row;
    uint32_t weights_at;
    uint32_t weight_tile; /* of the cluster's first block */
    uint32_t number;      /* of the table's tile whose rows these are */
    uint32_t down;        /* of two products, the second one */

    /* In shared memory. */
    __device__ uint4 pack() const
    {
        return make_uint4(width | down << 16, first_row, weights_at, weight_tile | number << 16);
    }
    __device__ static Tile unpack(uint4 word)
    {
        return Tile{word.x & 0xFFFF, word.y, word.z, word.w & 0xFFFF, word.w >> 16, word.x >> 16};
    }
};

struct Control {
    uint4 tile[TILE_SLOTS];
    uint64_t tile_full[TILE_SLOTS];
    uint64_t tile_empty[TILE_SLOTS]; /* the first block's are for the whole cluster */
    uint64_t tile_written[TILE_SLOTS];
    uint64_t tile_wanted; /* in the first block */
    uint64_t full[MAX_STAGES];
    uint64_t empty[MAX_STAGES];
};

/* A place in a ring of N, and the parity of the round that it is in. */
template <uint32_t N> struct Place {
    uint32_t at = 0;
    uint32_t parity = 0;

    __device__ void advance()
    {
        at = at + 1 == N ? 0 : at + 1;
        parity ^= at == 0;
    }
};

/* What fits in the 227 KiB of a block when tiles are up to WIDEST rows wide. */
template <int WIDEST> struct RingSize;

template <> struct RingSize<NARROW_WIDTH> {
    static constexpr uint32_t STAGES = 6;
};

template <> struct RingSize<MIDDLE_WIDTH> {
    static constexpr uint32_t STAGES = 5;
};

template <> struct RingSize<MAX_WIDTH> {
    static constexpr uint32_t STAGES = 4;
};

/* One thread's view. */
template <int WIDEST> struct Ring {
    static constexpr uint32_t STAGES = RingSize<WIDEST>::STAGES;
    static constexpr uint32_t STAGE_BYTES = BLOCK_BYTES + WIDEST * ROW_BYTES;
    static constexpr uint32_t SHARED_BYTES =
        1024 + STAGES * STAGE_BYTES + CONSUMERS * STAGING_BYTES + sizeof(Control);
    static_assert(STAGES <= MAX_STAGES && SHARED_BYTES <= 227 * 1024, "shared memory");

    /* Blocks of columns that a stage may take for a tile of WIDTH rows: with two of few rows more
     * weights are under way. The weights lie first, then the rows. */
    __host__ __device__ static constexpr uint32_t most_blocks(uint32_t width)
    {
        return 2 * (BLOCK_BYTES + width * ROW_BYTES) <= STAGE_BYTES ? 2 : 1;
    }
    /* ... and that each takes of DEPTH_BLOCKS. */
    __device__ static uint32_t blocks(uint32_t width, uint32_t depth_blocks)
    {
        return depth_blocks % most_blocks(width) == 0 ? most_blocks(width) : 1;
    }

    uint32_t stages; /* in shared memory, aligned to 1024 */
    uint32_t control;
    Place<STAGES> stage;
    Place<TILE_SLOTS> slot;

    __device__ explicit Ring(unsigned char *shared)
    {
        stages = (shared_address(shared) + 1023) & ~1023u;
        control = stages + STAGES * STAGE_BYTES + CONSUMERS * STAGING_BYTES;
    }
    /* Number I of the words that begin at OFFSET of the control. */
    __device__ uint32_t at(uint32_t offset, uint32_t i) const
    {
        return control + offset + i * (uint32_t)sizeof(uint64_t);
    }
    /* By one thread. READERS of a block take each tile. */
    __device__ void init(uint32_t readers)
    {
        for (uint32_t i = 0; i < STAGES; i++) {
            barrier_init(at(offsetof(Control, full), i), 2);
            barrier_init(empty(i), CONSUMERS * 4 * CLUSTER);
        }
        for (uint32_t i = 0; i < TILE_SLOTS; i++) {
            barrier_init(at(offsetof(Control, tile_full), i), 1);
            barrier_init(at(offsetof(Control, tile_empty), i), readers * CLUSTER);
            barrier_init(at(offsetof(Control, tile_written), i), CONSUMERS * 4);
        }
        barrier_init(wanted(), 1);
        barrier_init_fence();
    }
    __device__ uint32_t weights() const
    {
        return stages + stage.at * STAGE_BYTES;
    }
    __device__ uint32_t full() const
    {
        return at(offsetof(Control, full), stage.at);
    }
    __device__ uint32_t empty(uint32_t of_stage) const
    {
        return at(offsetof(Control, empty), of_stage);
    }
    __device__ uint32_t staging(uint32_t warpgroup) const
    {
        return stages + STAGES * STAGE_BYTES + warpgroup * STAGING_BYTES;
    }
    __device__ uint32_t tile_full() const
    {
        return at(offsetof(Control, tile_full), slot.at);
    }
    __device__ uint32_t tile_at() const
    {
        return control + (uint32_t)offsetof(Control, tile) + slot.at * (uint32_t)sizeof(uint4);
    }
    __device__ uint32_t wanted() const
    {
        return at(offsetof(Control, tile_wanted), 0);
    }
    /* Waits until the stage may be written. */
    __device__ void wait_empty() const
    {
        barrier_wait(empty(stage.at), stage.parity ^ 1);
    }
    /* Hands a tile to the blocks of the cluster. */
    __device__ void send_tile(const Tile &tile)
    {
        const uint4 word = tile.pack();
        barrier_wait(at(offsetof(Control, tile_empty), slot.at), slot.parity ^ 1);
        for (uint32_t rank = 0; rank < CLUSTER; rank++)
            send_word_to(rank, tile_at(), word, tile_full());
        slot.advance();
    }
    /* The next tile, for a single thread or for a WHOLE_WARP. */
    __device__ Tile next_tile(bool whole_warp)
    {
        const Tile tile = look_at_tile(whole_warp);
        leave_tile();
        return tile;
    }
    /* The two halves of it. */
    __device__ Tile look_at_tile(bool whole_warp) const
    {
        barrier_wait(tile_full(), slot.parity);
        uint4 word = load_shared_word(tile_at());
        if (whole_warp)
            __syncwarp();
        return Tile::unpack(word);
    }
    __device__ void leave_tile()
    {
        if (threadIdx.x % 32 == 0)
            barrier_arrive_at(at(offsetof(Control, tile_empty), slot.at), 0);
        slot.advance();
    }
    /* Of the slot at hand: each multiplying warp has written its part of the tile. */
    __device__ uint32_t tile_written(uint32_t of_slot) const
    {
        return at(offsetof(Control, tile_written), of_slot);
    }
};

#endif
