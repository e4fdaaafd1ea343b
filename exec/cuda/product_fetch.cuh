/* How a grouped product (exec/cuda/grouped_product.cu, exec/cuda/layer_product.cu) fetches its
 * tiles: which rows and weights they have, and the way of these into the ring. */
#ifndef EXEC_CUDA_PRODUCT_FETCH_CUH
#define EXEC_CUDA_PRODUCT_FETCH_CUH

#include "exec/cuda/grouped_product.h"
#include "exec/cuda/product_write.cuh"

static constexpr uint16_t EVERY_BLOCK = (1 << CLUSTER) - 1;
/* Blocks of a tile that are still to fetch when the next tile is asked for. */
static constexpr uint32_t ASK_AHEAD = 4;

/* How the tiles of the table become those of clusters: each times SHARES of the weights, and cut
 * into PARTS of up to WIDEST rows. */
struct Cut {
    uint32_t shares;
    uint32_t parts;
    uint32_t widest;
};

/* The rows of the weights, as shares of clusters. */
__device__ inline uint32_t shares_of(const GroupedProduct &product)
{
    return (product.weight_tiles + CLUSTER - 1) / CLUSTER;
}

__device__ inline RowGroup group_at(const GroupTable &table, uint32_t tile)
{
    const uint4 word = *(const uint4 *)&table.tiles[tile];
    return RowGroup{word.x, word.y, word.z, (uint16_t)word.w, (uint16_t)(word.w >> 16)};
}

/* Tile number NUMBER; its width is 0 when the table's tile has no such part. */
__device__ inline Tile find_tile(const GroupTable &table, const Cut &cut, uint32_t number)
{
    uint32_t pieces = cut.shares * cut.parts;
    const RowGroup group = group_at(table, number / pieces);
    uint32_t local = number - group.first_tile * pieces;
    uint32_t row_parts = (group.rows + group.width - 1) / group.width * cut.parts;
    uint32_t part = local % row_parts;
    uint32_t first = part / cut.parts * group.width;
    uint32_t of_tile = min((uint32_t)group.width, group.rows - first);
    uint32_t before = part % cut.parts * cut.widest;
    uint32_t width = before < of_tile ? min(of_tile - before, cut.widest) : 0;
    return Tile{width,
                group.first_row + first + before,
                group.weights_at,
                local / row_parts * CLUSTER,
                group.first_tile + part / cut.parts,
                0};
}

/* The weights of TILE, for this block; on the way the next tile is asked for. */
template <int WIDEST>
__device__ inline void fetch_weights_of(const GroupedProduct &product, const Tile &tile,
                                        uint64_t policy, Ring<WIDEST> &ring)
{
    uint32_t asks = product.depth_blocks - min(product.depth_blocks, ASK_AHEAD);
    uint32_t first = (tile.weight_tile + cluster_rank()) * BLOCK_ROWS;
    uint32_t rows = first < product.weight_rows ? min(product.weight_rows - first, BLOCK_ROWS) : 0;
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

/* This block's pieces of a tile's rows, for every block of the cluster. */
__device__ inline void fetch_pieces(const GroupedProduct &product, const Tile &tile, uint32_t to,
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

/* The rows of TILE. */
template <int WIDEST>
__device__ inline void fetch_rows_of(const GroupedProduct &product, const Tile &tile,
                                     Ring<WIDEST> &ring)
{
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

/* The next tile, for a thread that fetches: who reads it expects its bytes. */
template <int WIDEST> __device__ inline Tile next_tile_to_fetch(Ring<WIDEST> &ring, bool expects)
{
    if (expects)
        barrier_arrive_expect(ring.tile_full(), sizeof(uint4));
    return ring.next_tile(false);
}

#endif
