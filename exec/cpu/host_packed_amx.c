/* Strips of packed weights by AMX: tiles of 16 rows x 32 columns of weights times 32 columns x up
 * to 16 rows of the input.
 *
 * The swizzle is undone on the way to the tiles, by one shuffle of each load and a store to a
 * buffer in the first-level cache, which costs less than the products. Two tiles of weights and two
 * of the input give four of the sums. A core does 512 products a cycle, so that few rows of the
 * input are bound by the memory that the weights lie in: what comes some blocks later, of this
 * strip or the next one, is fetched between the tiles' instructions, a few lines at a time, and no
 * further than the second-level cache. All at once it would keep every buffer for misses busy, and
 * products would wait (8 experts of 2048 x 768 with 24 rows each, 15 cores of a Xeon of 2.1
 * GHz: 1.44 ms, so 1.17); so would what comes behind the last strip, which another core multiplies
 * (16 experts of a row, 14 cores: 1.42 ms, so 1.33; four strips at a time 1.24). */
#include "exec/cpu/host_packed.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define WITH_AMX __attribute__((target("avx512f,amx-tile,amx-bf16")))
#define INLINE static inline __attribute__((always_inline))

enum {
    TILE_ROWS = 16,
    HALF_BYTES = 64,
    AHEAD = 4 /* blocks beyond the next one */,
    LINE_BYTES = 64,
    LINES = STRIP_ROWS * PACKED_ROW_BYTES / LINE_BYTES /* of a strip's block */,
    PARTS = 8,
    INPUT_AHEAD = 2 * PACKED_BLOCK_COLUMNS
};

/* The first 64 bytes of what LDTILECFG reads: palette 1 and each tile's shape. */
typedef struct {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

_Static_assert(sizeof(TileConfig) == 64, "as the instruction reads it");

/* Sums are tiles 0 to 3 (rows of weights 0 or 16, then the same of the second input), weights 4 and
 * 5, inputs of N0 and N1 rows 6 and 7. */
WITH_AMX PACKED_READS INLINE void configure(uint32_t n0, uint32_t n1)
{
    TileConfig config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        uint32_t n = tile == 2 || tile == 3 || tile == 7 ? n1 : n0;
        bool is_weights = tile == 4 || tile == 5;
        config.rows[tile] = TILE_ROWS;
        config.row_bytes[tile] = (uint16_t)(is_weights ? HALF_BYTES : 4 * n);
    }
    __asm__ volatile("" ::: "memory"); /* all of it is read */
    _tile_loadconfig(&config);
}

/* Row S of eight, of both halves: see host_packed_avx512.c. */
#define ORDER_ROW(S, IMM)                                                                          \
    do {                                                                                           \
        const unsigned char *row = from + (S)*PACKED_ROW_BYTES;                                    \
        __m512i low = _mm512_loadu_si512(row);                                                     \
        __m512i high = _mm512_loadu_si512(row + HALF_BYTES);                                       \
        _mm512_store_si512(to[(S) >> 2][S], _mm512_shuffle_i64x2(low, low, IMM));                  \
        _mm512_store_si512(to[1 ^ ((S) >> 2)][S], _mm512_shuffle_i64x2(high, high, IMM));          \
    } while (0)

/* ordered[half][row] = 32 columns of each of the strip's rows in this block. */
WITH_AMX PACKED_READS INLINE void order_block(const unsigned char *block,
                                              unsigned char (*ordered)[STRIP_ROWS][HALF_BYTES])
{
    for (uint32_t first = 0; first < STRIP_ROWS; first += 8) {
        const unsigned char *from = block + (size_t)first * PACKED_ROW_BYTES;
        unsigned char(*to[2])[HALF_BYTES] = {ordered[0] + first, ordered[1] + first};
        ORDER_ROW(0, 0xE4);
        ORDER_ROW(1, 0xB1);
        ORDER_ROW(2, 0x4E);
        ORDER_ROW(3, 0x1B);
        ORDER_ROW(4, 0xE4);
        ORDER_ROW(5, 0xB1);
        ORDER_ROW(6, 0x4E);
        ORDER_ROW(7, 0x1B);
    }
}

/* The intrinsics do not tell the compiler what memory they read and write. */
#define SEE_MEMORY() __asm__ volatile("" ::: "memory")

static inline void fetch_input(const uint16_t *in, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)in + i, _MM_HINT_T0);
}

/* Part PART of PARTS of a strip's block. */
static inline void fetch_block(const unsigned char *block, uint32_t part)
{
    for (uint32_t line = 0; block != NULL && line < LINES / PARTS; line++)
        _mm_prefetch((const char *)block + (part * (LINES / PARTS) + line) * LINE_BYTES,
                     _MM_HINT_T1);
}

/* Block B of strip AT, or as many behind its last one of the next strip; NULL behind the last
 * strip.
 */
static inline const unsigned char *block_at(const PackedStrip *strip, uint32_t at, uint32_t b)
{
    uint32_t blocks = strip->columns / PACKED_BLOCK_COLUMNS;
    at += b >= blocks;
    b -= b >= blocks ? blocks : 0;
    if (at >= strip->strips || b >= blocks)
        return NULL;
    return strip->weights + (size_t)at * STRIP_ROWS * PACKED_ROW_BYTES + b * strip->block_bytes;
}

/* One block of weights, in order, with the same columns of one set or two; NEXT is fetched unless
 * it is NULL. */
WITH_AMX PACKED_READS INLINE void multiply_block(unsigned char (*block)[STRIP_ROWS][HALF_BYTES],
                                                 const uint16_t *in0, uint32_t n0,
                                                 const uint16_t *in1, uint32_t n1,
                                                 const unsigned char *next)
{
    for (uint32_t half = 0; half < 2; half++) {
        size_t at = 32 * half;
        fetch_block(next, 4 * half);
        _tile_loadd(4, block[half], HALF_BYTES);
        _tile_loadd(6, in0 + at * n0, 4 * n0);
        _tile_loadd(5, block[half] + TILE_ROWS, HALF_BYTES);
        fetch_block(next, 4 * half + 1);
        _tile_dpbf16ps(0, 4, 6);
        fetch_block(next, 4 * half + 2);
        _tile_dpbf16ps(1, 5, 6);
        fetch_block(next, 4 * half + 3);
        if (n1 == 0)
            continue;
        _tile_loadd(7, in1 + at * n1, 4 * n1);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* Strip AT with rows [first, first + n0 + n1) of the input, which are one set or two; N1 may be 0.
 * A block is put in order while the one before it is multiplied, since a tile cannot be loaded from
 * stores that are still on their way to the cache. */
WITH_AMX PACKED_READS static void multiply_sets(const PackedStrip *strip, uint32_t at,
                                                uint32_t first, uint32_t n0, uint32_t n1)
{
    _Alignas(64) unsigned char ordered[2][2][STRIP_ROWS][HALF_BYTES];
    const unsigned char *block = strip->weights + (size_t)at * STRIP_ROWS * PACKED_ROW_BYTES;
    const uint16_t *in0 = strip->in + (size_t)first * strip->columns;
    const uint16_t *in1 = in0 + (size_t)n0 * strip->columns;
    float *out = strip->out + ((size_t)at * strip->n + first) * STRIP_ROWS;
    uint32_t blocks = strip->columns / PACKED_BLOCK_COLUMNS;
    order_block(block, ordered[0]);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint32_t b = 0; b < blocks; b++) {
        size_t column = (size_t)b * PACKED_BLOCK_COLUMNS;
        if (b + 1 < blocks)
            order_block(block + (b + 1) * strip->block_bytes, ordered[(b + 1) % 2]);
        fetch_input(in0 + (column + INPUT_AHEAD) * n0, 2 * PACKED_BLOCK_COLUMNS * n0);
        fetch_input(in1 + (column + INPUT_AHEAD) * n1, 2 * PACKED_BLOCK_COLUMNS * n1);
        SEE_MEMORY();
        multiply_block(ordered[b % 2], in0 + column * n0, n0, in1 + column * n1, n1,
                       first == 0 ? block_at(strip, at, b + 1 + AHEAD) : NULL);
    }
    _tile_stored(0, out, 4 * n0);
    _tile_stored(1, out + TILE_ROWS * n0, 4 * n0);
    if (n1 > 0) {
        _tile_stored(2, out + (size_t)n0 * STRIP_ROWS, 4 * n1);
        _tile_stored(3, out + (size_t)n0 * STRIP_ROWS + TILE_ROWS * n1, 4 * n1);
    }
    SEE_MEMORY();
}

WITH_AMX PACKED_READS void packed_strip_amx(const PackedStrip *strip)
{
    for (uint32_t first = 0; first < strip->n; first += 2 * PAIR_ROWS) {
        uint32_t n0 = packed_set_rows(strip->n, first);
        uint32_t n1 = first + n0 < strip->n ? packed_set_rows(strip->n, first + n0) : 0;
        configure(n0, n1 > 0 ? n1 : 1);
        for (uint32_t at = 0; at < strip->strips; at++)
            multiply_sets(strip, at, first, n0, n1);
    }
    _tile_release();
}
#endif
