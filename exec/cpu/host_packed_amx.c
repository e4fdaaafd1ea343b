/* Strips of packed weights by AMX: tiles of 16 rows x 32 columns of weights times 32 columns x up
 * to 16 rows of the input.
 *
 * The swizzle is undone on the way to the tiles, by one shuffle of each load and a store to a
 * buffer in the first-level cache, which costs less than the products. Two tiles of weights and two
 * of the input give four of the sums. A core does 512 products a cycle, so that up to some hundred
 * rows of the input are bound by the memory that the weights lie in. */
#include "exec/cpu/host_packed.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define WITH_AMX __attribute__((target("avx512f,amx-tile,amx-bf16")))
#define INLINE static inline __attribute__((always_inline))

enum { TILE_ROWS = 16, HALF_BYTES = 64, AHEAD = 4 /* blocks */ };

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
WITH_AMX INLINE void configure(uint32_t n0, uint32_t n1)
{
    TileConfig config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        uint32_t n = tile == 2 || tile == 3 || tile == 7 ? n1 : n0;
        bool is_weights = tile == 4 || tile == 5;
        config.rows[tile] = TILE_ROWS;
        config.row_bytes[tile] = (uint16_t)(is_weights ? HALF_BYTES : 4 * n);
    }
    _tile_loadconfig(&config);
}

/* Row S of eight, of both halves: see host_packed_avx512.c. */
#define ORDER_ROW(S, IMM)                                                                          \
    do {                                                                                           \
        const unsigned char *row = from + (S)*PACKED_ROW_BYTES;                                    \
        __m512i low = _mm512_loadu_si512(row);                                                     \
        __m512i high = _mm512_loadu_si512(row + HALF_BYTES);                                       \
        _mm_prefetch((const char *)row + ahead, _MM_HINT_T0);                                      \
        _mm_prefetch((const char *)row + ahead + HALF_BYTES, _MM_HINT_T0);                         \
        _mm512_store_si512(to[(S) >> 2][S], _mm512_shuffle_i64x2(low, low, IMM));                  \
        _mm512_store_si512(to[1 ^ ((S) >> 2)][S], _mm512_shuffle_i64x2(high, high, IMM));          \
    } while (0)

/* ordered[half][row] = 32 columns of each of the strip's rows in this block. */
WITH_AMX INLINE void order_block(const unsigned char *block, size_t ahead,
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

/* Sums of one tile's column of inputs: SUMS [STRIP_ROWS][n] -> out[first ...][STRIP_ROWS]. */
static void put_sums(const PackedStrip *strip, const float *sums, uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t row = 0; row < STRIP_ROWS; row++)
            strip->out[(size_t)(first + i) * STRIP_ROWS + row] = sums[row * n + i];
}

/* Inputs [first, first + n0 + n1), which are up to two groups of PAIR_ROWS; N1 may be 0. */
WITH_AMX static void multiply_pair(const PackedStrip *strip, uint32_t first, uint32_t n0,
                                   uint32_t n1)
{
    _Alignas(64) unsigned char ordered[2][2][STRIP_ROWS][HALF_BYTES];
    _Alignas(64) float sums[STRIP_ROWS * PAIR_ROWS];
    const unsigned char *block = strip->weights;
    const size_t ahead = AHEAD * strip->block_bytes;
    const uint16_t *in0 = strip->in + (size_t)first * strip->columns;
    const uint16_t *in1 = in0 + (size_t)n0 * strip->columns;
    configure(n0, n1 > 0 ? n1 : 1);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint32_t column = 0; column < strip->columns; column += PACKED_BLOCK_COLUMNS) {
        unsigned char(*now)[STRIP_ROWS][HALF_BYTES] = ordered[column / PACKED_BLOCK_COLUMNS % 2];
        order_block(block, ahead, now);
        block += strip->block_bytes;
        for (uint32_t half = 0; half < 2; half++) {
            size_t at = column + 32 * half;
            _tile_loadd(4, now[half], HALF_BYTES);
            _tile_loadd(5, now[half] + TILE_ROWS, HALF_BYTES);
            _tile_loadd(6, in0 + at * n0, 4 * n0);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 5, 6);
            if (n1 == 0)
                continue;
            _tile_loadd(7, in1 + at * n1, 4 * n1);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, 4 * n0);
    _tile_stored(1, sums + TILE_ROWS * n0, 4 * n0);
    put_sums(strip, sums, first, n0);
    if (n1 > 0) {
        _tile_stored(2, sums, 4 * n1);
        _tile_stored(3, sums + TILE_ROWS * n1, 4 * n1);
        put_sums(strip, sums, first + n0, n1);
    }
    _tile_release();
}

static uint32_t group_rows(const PackedStrip *strip, uint32_t first)
{
    uint32_t left = first < strip->n ? strip->n - first : 0;
    return left < PAIR_ROWS ? left : PAIR_ROWS;
}

void packed_strip_amx(const PackedStrip *strip)
{
    for (uint32_t first = 0; first < strip->n; first += 2 * PAIR_ROWS)
        multiply_pair(strip, first, group_rows(strip, first), group_rows(strip, first + PAIR_ROWS));
}
#endif
