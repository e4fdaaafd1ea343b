/* How matrices lie in device memory for the grouped products: as they are fetched.
 *
 * Weights: blocks of 128 rows x 64 columns, 16 KiB each and in one piece, those of the same rows
 * after each other. A block's row is 128 bytes; its 16-byte words are swizzled (word w of row r
 * lies at w ^ (r % 8)), which is what the tensor cores read from shared memory. Gate and up are one
 * matrix, 8 rows of gate, then the same 8 of up, and so on. Rows and columns beyond the matrix are
 * zero. So a block of weights streams from memory in whole pages, and by one instruction.
 *
 * Rows of activations: octets of 8 rows; for each 64 columns the octet's 8 x 128 bytes lie
 * together. */
#ifndef EXEC_CUDA_PACKED_H
#define EXEC_CUDA_PACKED_H

#include "exec/cuda/check.h"

#include <stdbool.h>
#include <stdint.h>

/* Functions for the host and, in kernels, for the device. */
#ifdef __CUDACC__
#define PACKED_FUNCTION static inline __host__ __device__
#else
#define PACKED_FUNCTION static inline
#endif

enum {
    BLOCK_ROWS = 128,
    BLOCK_COLUMNS = 64,
    BLOCK_BYTES = BLOCK_ROWS * BLOCK_COLUMNS * 2,
    OCTET_BYTES = 8 * BLOCK_COLUMNS * 2
};

/* An expert's network: up (and gate) [d_ff][d_model], down [d_model][d_ff]. */
typedef struct {
    uint32_t d_model;
    uint32_t d_ff; /* a multiple of 8 */
    bool gated;
} ExpertShape;

/* Blocks that ROWS rows or COLUMNS columns take. */
PACKED_FUNCTION uint32_t packed_row_blocks(uint32_t rows)
{
    return (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
}

PACKED_FUNCTION uint32_t packed_column_blocks(uint32_t columns)
{
    return (columns + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
}

PACKED_FUNCTION uint32_t packed_up_rows(const ExpertShape *shape)
{
    return shape->gated ? 2 * shape->d_ff : shape->d_ff;
}

/* Bytes of gate and up; down follows them. */
PACKED_FUNCTION size_t packed_up_bytes(const ExpertShape *shape)
{
    return (size_t)packed_row_blocks(packed_up_rows(shape)) * packed_column_blocks(shape->d_model) *
           BLOCK_BYTES;
}

PACKED_FUNCTION size_t packed_expert_bytes(const ExpertShape *shape)
{
    return packed_up_bytes(shape) + (size_t)packed_row_blocks(shape->d_model) *
                                        packed_column_blocks(shape->d_ff) * BLOCK_BYTES;
}

#ifdef __cplusplus
extern "C" {
#endif

/* Packs bf16 matrices of the device, dense rows: gate (NULL unless gated) and up to FIRST, down to
 * SECOND. */
Status packed_expert_store(const ExpertShape *shape, const void *gate, const void *up,
                           const void *down, void *first, void *second, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
