/* Strips of packed weights by AVX-512's products of bf16 pairs.
 *
 * Eight rows at a time, whose words are swizzled in eight ways: the lanes of a load are put in
 * order by one shuffle, so that all rows multiply the same registers of the input. Up to three
 * rows of the input share each weight in registers; more of them read the eight rows again, from
 * the caches. Bound by memory up to a dozen rows of the input, then by the products. */
#include "exec/cpu/host_packed.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define WITH_BF16 __attribute__((target("avx512f,avx512bf16")))
#define INLINE static inline __attribute__((always_inline))

enum { GROUP_ROWS = 8, HALF_BYTES = 64, MOST_INPUTS = 3, AHEAD = 4 /* blocks */ };

/* Row S of the group: half HALF of its columns in this block lies in half HALF ^ (S >> 2), its
 * 16-byte lanes i at i ^ (S & 3), which IMM undoes. */
#define ADD_ROW(S, IMM)                                                                            \
    do {                                                                                           \
        const unsigned char *from =                                                                \
            at + (S)*PACKED_ROW_BYTES + (size_t)(half ^ ((S) >> 2)) * HALF_BYTES;                  \
        __m512i loaded = _mm512_loadu_si512(from);                                                 \
        __m512bh weight = (__m512bh)_mm512_shuffle_i64x2(loaded, loaded, IMM);                     \
        if (fetches)                                                                               \
            _mm_prefetch((const char *)from + AHEAD * block_bytes, _MM_HINT_T0);                   \
        for (uint32_t i = 0; i < n; i++)                                                           \
            sum[S][i] = _mm512_dpbf16_ps(sum[S][i], weight, (__m512bh)in[i]);                      \
    } while (0)

/* N rows of the input from FIRST on, with the eight rows of the strips from ROW on. */
WITH_BF16 PACKED_READS INLINE void multiply_group(const PackedStrip *strip, uint32_t row,
                                                  uint32_t first, const uint32_t n,
                                                  const int fetches)
{
    __m512 sum[GROUP_ROWS][MOST_INPUTS];
    __m512i in[MOST_INPUTS];
    const size_t block_bytes = strip->block_bytes;
    const unsigned char *at = strip->weights + (size_t)row * PACKED_ROW_BYTES;
    for (uint32_t s = 0; s < GROUP_ROWS; s++)
        for (uint32_t i = 0; i < n; i++)
            sum[s][i] = _mm512_setzero_ps();
    for (uint32_t column = 0; column < strip->columns; column += PACKED_BLOCK_COLUMNS) {
        for (uint32_t half = 0; half < 2; half++) {
            for (uint32_t i = 0; i < n; i++)
                in[i] = _mm512_loadu_si512(strip->in + (size_t)(first + i) * strip->columns +
                                           column + 32 * half);
            ADD_ROW(0, 0xE4);
            ADD_ROW(1, 0xB1);
            ADD_ROW(2, 0x4E);
            ADD_ROW(3, 0x1B);
            ADD_ROW(4, 0xE4);
            ADD_ROW(5, 0xB1);
            ADD_ROW(6, 0x4E);
            ADD_ROW(7, 0x1B);
        }
        at += block_bytes;
    }
    float *out = strip->out + (size_t)(row / STRIP_ROWS) * strip->n * STRIP_ROWS;
    for (uint32_t s = 0; s < GROUP_ROWS; s++)
        for (uint32_t i = 0; i < n; i++)
            out[packed_output_at(row % STRIP_ROWS + s, first + i, strip->n)] =
                _mm512_reduce_add_ps(sum[s][i]);
}

WITH_BF16 PACKED_READS void packed_strip_avx512_bf16(const PackedStrip *strip)
{
    for (uint32_t row = 0; row < strip->strips * STRIP_ROWS; row += GROUP_ROWS)
        for (uint32_t first = 0; first < strip->n; first += MOST_INPUTS) {
            uint32_t left = strip->n - first;
            if (left >= 3 && first == 0)
                multiply_group(strip, row, first, 3, 1);
            else if (left >= 3)
                multiply_group(strip, row, first, 3, 0);
            else if (left == 2)
                multiply_group(strip, row, first, 2, first == 0);
            else
                multiply_group(strip, row, first, 1, first == 0);
        }
}
#endif
