/* Places in packed matrices (exec/cuda/packed.h). */
#ifndef EXEC_CUDA_PACKED_CUH
#define EXEC_CUDA_PACKED_CUH

#include "exec/cuda/hopper.cuh"
#include "exec/cuda/packed.h"

/* Where word WORD of row ROW lies in a block of 8 words a row. */
__device__ inline uint32_t swizzled_word(uint32_t row, uint32_t word)
{
    return row * 8 + (word ^ (row % 8));
}

/* Where an octet-packed matrix of COLUMN_BLOCKS has the 128 bytes of ROW in COLUMN_BLOCK. */
__device__ inline size_t octet_offset(uint32_t row, uint32_t column_block, uint32_t column_blocks)
{
    return ((size_t)(row / 8) * column_blocks + column_block) * OCTET_BYTES + row % 8 * 128;
}

/* An element of packed weights. */
__device__ inline float packed_weight(const void *weights, uint32_t row, uint32_t column,
                                      uint32_t column_blocks)
{
    size_t block = (size_t)(row / BLOCK_ROWS) * column_blocks + column / BLOCK_COLUMNS;
    uint32_t word = swizzled_word(row % BLOCK_ROWS, column % BLOCK_COLUMNS / 8);
    const __nv_bfloat16 *at = (const __nv_bfloat16 *)((const char *)weights + block * BLOCK_BYTES);
    return __bfloat162float(at[word * 8 + column % 8]);
}

#endif
