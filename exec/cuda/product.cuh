/* A plain tiled product of f32 rows with a matrix of any element type, summed in f32 without tensor
 * cores: what checks and odd shapes are computed by. Tiles are 64 x 64; a thread holds 4 x 4 sums
 * and adds along the depth in order, so that a row's numbers do not depend on the rows beside it.
 */
#ifndef EXEC_CUDA_PRODUCT_CUH
#define EXEC_CUDA_PRODUCT_CUH

#include <cuda_bf16.h>
#include <stdint.h>

static constexpr uint32_t PRODUCT_TILE = 64;
static constexpr uint32_t PRODUCT_DEPTH = 16;
static constexpr uint32_t PRODUCT_THREADS = 256;

__device__ inline float element(float value)
{
    return value;
}

__device__ inline float element(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}

/* A tile's part of both operands, the depth outside. */
struct ProductStage {
    float a[PRODUCT_DEPTH][PRODUCT_TILE + 4];
    float b[PRODUCT_DEPTH][PRODUCT_TILE + 4];
};

/* sum[i][j] += a(row 4 y + i, k) * b(4 x + j, k) over k below DEPTH, x and y the thread's places in
 * its block of 16 x 16. A and B are asked for (row, k) and answer 0 outside. */
template <typename A, typename B>
__device__ inline void add_product(const A &a, const B &b, uint32_t depth, ProductStage &stage,
                                   float (&sum)[4][4])
{
    uint32_t row = threadIdx.x / 4;
    uint32_t column = threadIdx.x % 4 * 4;
    for (uint32_t k = 0; k < depth; k += PRODUCT_DEPTH) {
        __syncthreads();
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            bool there = k + column + i < depth;
            stage.a[column + i][row] = there ? a(row, k + column + i) : 0;
            stage.b[column + i][row] = there ? b(row, k + column + i) : 0;
        }
        __syncthreads();
#pragma unroll
        for (uint32_t step = 0; step < PRODUCT_DEPTH; step++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
#pragma unroll
                for (uint32_t j = 0; j < 4; j++)
                    sum[i][j] = fmaf(stage.a[step][threadIdx.x / 16 * 4 + i],
                                     stage.b[step][threadIdx.x % 16 * 4 + j], sum[i][j]);
    }
}

/* out[rows][columns] = in[rows][depth] * weights[columns][depth]^T + bias. Block (x, y): a tile. */
template <typename Weight>
__global__ void __launch_bounds__(PRODUCT_THREADS)
    dense_product(const float *__restrict__ in, const Weight *__restrict__ weights,
                  const float *__restrict__ bias, uint32_t rows, uint32_t columns, uint32_t depth,
                  float *__restrict__ out)
{
    __shared__ ProductStage stage;
    float sum[4][4] = {};
    uint32_t first_row = blockIdx.y * PRODUCT_TILE;
    uint32_t first_column = blockIdx.x * PRODUCT_TILE;
    auto a = [&](uint32_t row, uint32_t k) {
        return first_row + row < rows ? in[(size_t)(first_row + row) * depth + k] : 0;
    };
    auto b = [&](uint32_t row, uint32_t k) {
        return first_column + row < columns
                   ? element(weights[(size_t)(first_column + row) * depth + k])
                   : 0;
    };
    add_product(a, b, depth, stage, sum);
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t j = 0; j < 4; j++) {
            uint32_t row = first_row + threadIdx.x / 16 * 4 + i;
            uint32_t column = first_column + threadIdx.x % 16 * 4 + j;
            if (row < rows && column < columns)
                out[(size_t)row * columns + column] =
                    sum[i][j] + (bias != nullptr ? bias[column] : 0);
        }
}

#endif
