/* Products with packed bf16 experts (exec/cuda/packed.h says how they lie) on the host's cores.
 *
 * Blocks of 128 rows x 64 columns; a row's eight 16-byte words are swizzled, word w of row r lies
 * at w ^ (r % 8). A strip is 32 rows of a matrix, 4 KiB of each of its blocks of columns. */
#ifndef EXEC_CPU_HOST_PACKED_H
#define EXEC_CPU_HOST_PACKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PACKED_BLOCK_ROWS = 128,
    PACKED_BLOCK_COLUMNS = 64,
    PACKED_ROW_BYTES = 128, /* of a block */
    STRIP_ROWS = 32,
    PAIR_ROWS = 16 /* of the input that are paired */
};

/* A product may go on when it is no longer wanted, and others write what it reads: see
 * thread_pool_run_apart(). */
#define PACKED_READS __attribute__((no_sanitize("thread")))

/* Products of every row of some strips and every row of the input. What is added to what depends on
 * COLUMNS alone.
 *
 * The input is bf16, [n][columns]; or in pairs, for kernels that ask for them: of each PAIR_ROWS
 * rows, or those that are left, columns 2 c and 2 c + 1 of all of them, one row after the other,
 * before the next two columns. */
typedef struct {
    const unsigned char *weights; /* the first strip's part of the first block */
    uint32_t strips;              /* that follow each other in the block; 1 to 4 */
    size_t block_bytes;           /* from block to block of the same rows */
    uint32_t columns;             /* a multiple of 64 */
    const uint16_t *in;
    uint32_t n;
    /* [strips][n * STRIP_ROWS]: of each set of PAIR_ROWS rows, or those that are left, the sums
     * [STRIP_ROWS][rows of the set]; where packed_output_at() says */
    float *out;
} PackedStrip;

/* Rows of the set that begins with row FIRST, a multiple of PAIR_ROWS, of N. */
static inline uint32_t packed_set_rows(uint32_t n, uint32_t first)
{
    return n - first < PAIR_ROWS ? n - first : PAIR_ROWS;
}

/* Where the sum of row ROW of the strip and row INPUT of the input lies in a strip's out. */
static inline size_t packed_output_at(uint32_t row, uint32_t input, uint32_t n)
{
    uint32_t first = input / PAIR_ROWS * PAIR_ROWS;
    return (size_t)first * STRIP_ROWS + row * packed_set_rows(n, first) + input - first;
}

/* One strip, STRIP, of the matrix [rows][columns] at MATRIX; rows and columns are multiples of 64.
 */
PackedStrip packed_strip(const void *matrix, uint32_t rows, uint32_t columns, uint32_t strip);

typedef struct {
    const char *name;
    void (*multiply)(const PackedStrip *strip);
    bool pairs; /* the input's form */
    bool wide;  /* the processor has vectors of 512 bits, of bytes and words as well */
} PackedKernel;

/* Each needs what its name says of the processor. */
void packed_strip_amx(const PackedStrip *strip);
void packed_strip_avx512_bf16(const PackedStrip *strip);

/* Those that this processor has, fastest first; [*n]. */
const PackedKernel *packed_kernels(size_t *n);

/* Where column COLUMN of row ROW of the input lies, in elements: N rows of COLUMNS. */
size_t packed_input_at(bool pairs, uint32_t row, uint32_t column, uint32_t n, uint32_t columns);

/* The byte at which word WORD of 8 columns of ROW lies in a matrix [rows][columns]. */
size_t packed_word_at(uint32_t row, uint32_t word, uint32_t rows, uint32_t columns);

#endif
