/* Places in packed matrices (exec/cuda/packed.h). */
#ifndef EXEC_CUDA_PACKED_CUH
#define EXEC_CUDA_PACKED_CUH

#include "exec/cuda/hopper.cuh"
#include "exec/cuda/packed.h"

/* Where word WORD, of 8 columns, of ROW of a matrix of ROWS x COLUMNS lies, in words. */
__device__ inline size_t packed_word(uint32_t row, uint32_t word, uint32_t rows, uint32_t columns)
{
    uint32_t first = row / BLOCK_ROWS * BLOCK_ROWS;
    uint32_t height = min(rows - first, (uint32_t)BLOCK_ROWS);
    uint32_t in_block = (row - first) * 8 + (word % 8 ^ row % 8);
    return (size_t)first * (columns / 8) + (size_t)(word / 8) * height * 8 + in_block;
}

/* An element of packed weights. */
__device__ inline float packed_weight(const void *weights, uint32_t row, uint32_t column,
                                      uint32_t rows, uint32_t columns)
{
    const __nv_bfloat16 *at = (const __nv_bfloat16 *)weights;
    return __bfloat162float(at[packed_word(row, column / 8, rows, columns) * 8 + column % 8]);
}

#endif
