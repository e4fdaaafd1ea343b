/* How the matrices of an expert lie in its slot for the grouped products: as they are fetched.
 *
 * Blocks of 128 rows x 64 columns, 16 KiB each and in one piece, those of the same rows after each
 * other; the last rows are 64 where there are no more. A block's row is 128 bytes; its 16-byte
 * words are swizzled (word w of row r lies at w ^ (r % 8)), which is what the tensor cores read
 * from shared memory. Gate and up are one matrix, 8 rows of gate, then the same 8 of up, and so on.
 * So a block of weights streams from memory in whole pages, and by one instruction.
 *
 * Matrices begin where exec/ffn_layout.h says and take as much room as plain ones; biases lie as
 * they do there. */
#ifndef EXEC_CUDA_PACKED_H
#define EXEC_CUDA_PACKED_H

#include "exec/cuda/check.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "exec/ffn_layout.h"

enum { BLOCK_ROWS = 128, BLOCK_COLUMNS = 64, BLOCK_BYTES = BLOCK_ROWS * BLOCK_COLUMNS * 2 };

/* True where bf16 experts of SHAPE can lie packed: all sizes are multiples of 64. */
static inline bool packed_suits(const FfnShape *shape)
{
    return shape->d_model % BLOCK_COLUMNS == 0 && shape->d_ff % BLOCK_COLUMNS == 0;
}

/* Blocks that ROWS rows take. */
static inline uint32_t packed_row_blocks(uint32_t rows)
{
    return (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
}

/* Packs an expert: DENSE, on the device, has ffn_layout()'s form with bf16. */
Status packed_expert_store(const FfnShape *shape, const void *dense, void *packed,
                           cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
