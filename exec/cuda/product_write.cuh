/* The end of a tile of a grouped product (exec/cuda/grouped_product.cu, or layer_product.cu):
 * activation, rounding, and the way out through shared memory. */
#ifndef EXEC_CUDA_PRODUCT_WRITE_CUH
#define EXEC_CUDA_PRODUCT_WRITE_CUH

#include "exec/cuda/activation.cuh"
#include "exec/cuda/product_ring.cuh"

static constexpr uint32_t WIDE_ROWS = 64; /* of a piece of rows */
static constexpr uint32_t NARROW_ROWS = 16;

/* With one special instruction rather than an exponential and a reciprocal, which would take longer
 * than the matrix instructions of a shallow tile; relative to x it is off by up to 2^-12, an eighth
 * of what rounding to bf16 is off by. */
__device__ inline float fast_silu(float x)
{
    float half = 0.5f * x;
    float tanh;
    asm("tanh.approx.f32 %0, %1;" : "=f"(tanh) : "f"(half));
    return fmaf(half, tanh, half);
}

/* The same way, whose error of 2^-12 leaves room for that of the terms. */
__device__ inline float fast_gelu(const GeluTerms &terms, float x)
{
    float half = 0.5f * x;
    float square = fminf(x * x, terms.most);
    float inside = x * fmaf(square, fmaf(square, terms.c2, terms.c1), terms.c0);
    float tanh;
    asm("tanh.approx.f32 %0, %1;" : "=f"(tanh) : "f"(inside));
    return fmaf(half, tanh, half);
}

template <ProductKind KIND> struct Kind {
    static constexpr bool GATED = KIND == PRODUCT_SILU_GATED || KIND == PRODUCT_GATED;
    static constexpr bool DOWN = KIND == PRODUCT_DOWN;
    /* Whose end is so long that only some narrow widths have code of their own. */
    static constexpr bool GENERAL = KIND == PRODUCT_GATED || KIND == PRODUCT_PLAIN;
    static constexpr uint32_t COLUMNS = GATED ? 32 : 64; /* of OUT, of a warpgroup */
    static constexpr uint32_t PITCH = COLUMNS * 2;
    static constexpr uint32_t BOX_ROWS = BOX_BYTES / PITCH;

    /* Where word WORD (of 16 bytes) of ROW lies in a box: each word of eight rows in banks of its
     * own. 16 rows further is 16 * PITCH further, and from an even word it is 16 to the next. */
    __device__ static uint32_t offset(uint32_t row, uint32_t word)
    {
        return row * PITCH + (GATED ? word ^ (row / 2 % 4) : word ^ (row % 8)) * 16;
    }
    __device__ static float plain(const GroupedProduct &product, float sum)
    {
        return KIND == PRODUCT_RELU    ? fmaxf(sum, 0)
               : KIND == PRODUCT_GELU  ? fast_gelu(product.gelu, sum)
               : KIND == PRODUCT_PLAIN ? activated(product.expert, sum, 1)
                                       : sum;
    }
    __device__ static float gated(const GroupedProduct &product, float gate, float up)
    {
        return KIND == PRODUCT_GATED ? activated(product.expert, gate, up) : fast_silu(gate) * up;
    }
};

/* Finishes and rounds the sums of up to 32 rows from ROW on and puts them at TO, the thread's place
 * in a box. */
template <int WIDTH, ProductKind KIND>
__device__ inline void stage_rows(const GroupedProduct &product, const float (&sum)[WIDTH / 2],
                                  uint32_t row, uint32_t to)
{
    using K = Kind<KIND>;
    uint32_t low[4] = {0, 0, 0, 0};
    uint32_t high[4] = {0, 0, 0, 0};
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        if (row + 8 * i < WIDTH) {
            const float *s = &sum[(row + 8 * i) / 2];
            if (K::GATED) {
                low[i] = pack_bf16(K::gated(product, s[0], s[2]), K::gated(product, s[1], s[3]));
            } else {
                low[i] = pack_bf16(K::plain(product, s[0]), K::plain(product, s[1]));
                high[i] = pack_bf16(K::plain(product, s[2]), K::plain(product, s[3]));
            }
        }
    store_matrices_transposed(to, low[0], low[1], low[2], low[3]);
    if (!K::GATED)
        store_matrices_transposed(to ^ 16, high[0], high[1], high[2], high[3]);
}

/* Where a thread of a warpgroup works while it writes a tile: all that does not change from rows to
 * rows, since a tile's end is fetched as often as it is run and each instruction counts. */
template <ProductKind KIND> struct WritePlaces {
    using K = Kind<KIND>;
    static constexpr uint32_t WORDS = K::PITCH / 16; /* of a row */
    static constexpr uint32_t ROWS = 128 / WORDS;    /* that a warpgroup writes at once */
    uint32_t put;                                    /* in the first box, its first 32 rows */
    uint32_t get;                                    /* ... its first ROWS */
    uint32_t row;                                    /* of these */
    bool inside;                                     /* the columns are OUT's */
    unsigned char *to;                               /* the next ROWS' word */
    size_t step;                                     /* to the ROWS after them */

    __device__ WritePlaces(const GroupedProduct &product, const Tile &tile, uint32_t staging,
                           uint32_t warpgroup)
    {
        uint32_t column =
            ((tile.weight_tile + cluster_rank()) * CONSUMERS + warpgroup) * K::COLUMNS;
        uint32_t pitch = product.columns * (uint32_t)sizeof(uint16_t);
        uint32_t word = threadIdx.x % WORDS;
        row = threadIdx.x % 128 / WORDS;
        put = staging + K::offset(threadIdx.x % 32, threadIdx.x % 128 / 32 * (K::GATED ? 1 : 2));
        get = staging + K::offset(row, word);
        inside = column < product.columns;
        to = product.out + (size_t)(tile.first_row + row) * pitch + column * sizeof(uint16_t) +
             word * 16;
        step = (size_t)ROWS * pitch;
    }
    /* The next ROWS of OUT, from FROM; of them those below END are the tile's. */
    __device__ void write(uint32_t from, uint32_t end)
    {
        if (inside && row < end)
            *(uint4 *)to = load_shared_word(from);
        to += step;
    }
};

/* Writes a warpgroup's 64 x WIDTH sums as rows of OUT, of which the tile has no more than WIDTH.
 * They take turns in two boxes of staging memory: who writes into one has passed the barrier behind
 * which all have read the other, and so has read this one. */
template <int WIDTH, int WIDEST, ProductKind KIND>
__device__ inline void write_tile(const GroupedProduct &product, const Ring<WIDEST> &ring,
                                  const Tile &tile, uint32_t warpgroup,
                                  const float (&sum)[WIDTH / 2])
{
    using K = Kind<KIND>;
    WritePlaces<KIND> places(product, tile, ring.staging(warpgroup), warpgroup);
    const uint32_t width = K::GENERAL ? tile.width : WIDTH;
    named_barrier(1 + warpgroup, 128); /* the tile before is read */
#pragma unroll
    for (uint32_t chunk = 0; chunk < WIDTH; chunk += K::BOX_ROWS) {
        uint32_t box = chunk / K::BOX_ROWS % 2 * BOX_BYTES;
        if (K::GENERAL && chunk >= width)
            break;
#pragma unroll
        for (uint32_t row = 0; row < K::BOX_ROWS && chunk + row < WIDTH; row += 32)
            stage_rows<WIDTH, KIND>(product, sum, chunk + row, places.put + box + row * K::PITCH);
        named_barrier(1 + warpgroup, 128);
#pragma unroll
        for (uint32_t row = 0; row < K::BOX_ROWS && chunk + row < WIDTH; row += places.ROWS)
            if (chunk + row < width)
                places.write(places.get + box + row * K::PITCH, width - chunk - row);
    }
}

#endif
