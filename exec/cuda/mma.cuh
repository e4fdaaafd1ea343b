/* The warp's matrix instruction, m16 n8 k16, bf16 in, f32 sums.
 *
 * Lane l holds, with g = l / 4 and t = l % 4: of A [16][16] the pairs (row g, k 2t), (g + 8, 2t),
 * (g, 2t + 8), (g + 8, 2t + 8); of B [8][16] (column g, k 2t), (g, 2t + 8); of the sums (row g,
 * columns 2t and 2t + 1), then row g + 8. */
#ifndef EXEC_CUDA_MMA_CUH
#define EXEC_CUDA_MMA_CUH

#include <stdint.h>

__device__ inline void mma_16x8x16(float (&sum)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                   uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Four 8 x 8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8. */
__device__ inline void load_matrices(uint32_t (&to)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

/* ... each of them transposed. */
__device__ inline void load_matrices_transposed(uint32_t (&to)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

#endif
