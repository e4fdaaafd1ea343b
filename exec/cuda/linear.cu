/* Products with dense weights.
 *
 * With few rows a product is one pass over the weights, which the first kernel makes; with many
 * it is cuBLAS's, whose bf16 operand is made in scratch. */
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/mma.cuh"
#include "exec/cuda/ops.h"

static constexpr uint32_t FEW_ROWS = 16;
static constexpr uint32_t FEW_WARPS = 8;
static constexpr uint32_t THREADS = 256;

/* ---- few rows ---- */

/* Eight floats of IN, or zeros. */
__device__ static uint4 load_rounded(const float *in, bool there)
{
    if (!there)
        return make_uint4(0, 0, 0, 0);
    float4 a = *(const float4 *)in;
    float4 b = *(const float4 *)(in + 4);
    return make_uint4(pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y),
                      pack_bf16(b.z, b.w));
}

/* out[rows][n] = in[rows][k] * weight[n][k]^T: a block makes 16 columns of OUT. Its warps take
 * turns over blocks of 32 of K, weights going from device memory straight to the registers of the
 * tensor instruction (the depth is permuted alike in both operands, so that a lane's 16 bytes lie
 * together); their sums meet in shared memory in the order of the warps.
 *
 * Reads 32 k bytes of weights and 4 k per row of IN, which comes from the L2; 32 k operations per
 * row. Device memory bounds it. */
template <uint32_t ROW_TILES>
__global__ void __launch_bounds__(FEW_WARPS * 32)
    few_rows(const float *__restrict__ in, const __nv_bfloat16 *__restrict__ weight,
             const float *__restrict__ bias, uint32_t rows, uint32_t n, uint32_t k, bool add,
             float *__restrict__ out)
{
    __shared__ float part[FEW_WARPS][16][8 * ROW_TILES + 1];
    uint32_t warp = threadIdx.x / 32;
    uint32_t group = threadIdx.x % 32 / 4;
    uint32_t offset = threadIdx.x % 4 * 8;
    uint32_t first = blockIdx.x * 16;
    /* beyond the last column: the last one again, not written */
    const __nv_bfloat16 *low = weight + (size_t)min(first + group, n - 1) * k + offset;
    const __nv_bfloat16 *high = weight + (size_t)min(first + group + 8, n - 1) * k + offset;
    float sum[ROW_TILES][4] = {};
    wait_for_earlier_kernels();
    let_next_kernel_start();
#pragma unroll 4
    for (uint32_t at = warp * 32; at < k; at += FEW_WARPS * 32) {
        uint4 a = __ldcs((const uint4 *)(low + at));
        uint4 b = __ldcs((const uint4 *)(high + at));
#pragma unroll
        for (uint32_t tile = 0; tile < ROW_TILES; tile++) {
            uint32_t row = tile * 8 + group;
            uint4 x = load_rounded(in + (size_t)row * k + offset + at, row < rows);
            mma_16x8x16(sum[tile], a.x, b.x, a.y, b.y, x.x, x.y);
            mma_16x8x16(sum[tile], a.z, b.z, a.w, b.w, x.z, x.w);
        }
    }
#pragma unroll
    for (uint32_t tile = 0; tile < ROW_TILES; tile++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            part[warp][group + i / 2 * 8][tile * 8 + threadIdx.x % 4 * 2 + i % 2] = sum[tile][i];
    __syncthreads();
    uint32_t column = threadIdx.x % 16;
    for (uint32_t row = threadIdx.x / 16; row < rows && first + column < n; row += FEW_WARPS * 2) {
        float total = bias != nullptr ? bias[first + column] : 0;
        for (uint32_t w = 0; w < FEW_WARPS; w++)
            total += part[w][column][row];
        float *to = out + (size_t)row * n + first + column;
        *to = add ? *to + total : total;
    }
}

static bool fits_few_rows(const OpsQueue *queue, const float *in, const Matrix *weight,
                          uint32_t rows)
{
    return queue->compute == COMPUTE_BF16 && rows <= FEW_ROWS && weight->columns % 32 == 0 &&
           ((uintptr_t)weight->data | (uintptr_t)in) % 16 == 0;
}

static Status queue_few_rows(const OpsQueue *queue, const float *in, const Matrix *weight,
                             uint32_t rows, bool add, float *out)
{
    const LaunchShape launch = {dim3(divide_up(weight->rows, 16)), FEW_WARPS * 32, 0, 0};
    auto kernel = rows <= 8 ? few_rows<1> : few_rows<2>;
    return launch_after(kernel, launch, queue->stream, in, (const __nv_bfloat16 *)weight->data,
                        (const float *)weight->bias, rows, weight->rows, weight->columns, add, out);
}

/* ---- many rows ---- */

/* A block: 256 elements. [tokens][heads][columns] floats, their places given by strides, to bf16
 * that lies together. */
__global__ void __launch_bounds__(THREADS)
    round_heads(const float *__restrict__ in, size_t in_token, size_t in_head, uint32_t heads,
                uint32_t columns, size_t count, __nv_bfloat16 *__restrict__ out)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count)
        return;
    size_t row = i / columns;
    out[i] = __float2bfloat16_rn(in[row / heads * in_token + row % heads * in_head + i % columns]);
}

/* A thread: 8 elements; 48 bytes. Bound by device memory. */
__global__ void __launch_bounds__(THREADS)
    round_words(const float *__restrict__ in, size_t words, uint4 *__restrict__ out)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < words)
        out[i] = load_rounded(in + 8 * i, true);
}

static Status blocks_of(size_t items, uint32_t *blocks)
{
    size_t n = (items + THREADS - 1) / THREADS;
    if (n > INT32_MAX)
        return fail(ERR_UNSUPPORTED, "cuda: %zu elements are too many for one operation", items);
    *blocks = (uint32_t)n;
    return OK;
}

/* IN, rounded, to scratch. */
static Status round_to_scratch(const OpsQueue *queue, const float *in, size_t in_token,
                               size_t in_head, uint32_t tokens, uint32_t heads, uint32_t columns)
{
    size_t count = (size_t)tokens * heads * columns;
    bool dense = in_token == (size_t)heads * columns && (heads == 1 || in_head == columns);
    uint32_t blocks = 0;
    if (count * 2 > queue->scratch_bytes)
        return fail(ERR_MEMORY, "cuda: %zu bytes of scratch, a product needs %zu",
                    queue->scratch_bytes, count * 2);
    if (dense && count % 8 == 0 && (uintptr_t)in % 16 == 0) {
        TRY(blocks_of(count / 8, &blocks));
        const LaunchShape launch = {dim3(blocks), THREADS, 0, 0};
        return launch_after(round_words, launch, queue->stream, in, count / 8,
                            (uint4 *)queue->scratch);
    }
    TRY(blocks_of(count, &blocks));
    const LaunchShape launch = {dim3(blocks), THREADS, 0, 0};
    return launch_after(round_heads, launch, queue->stream, in, in_token, in_head, heads, columns,
                        count, (__nv_bfloat16 *)queue->scratch);
}

/* A thread: one element of OUT, set to its column's bias, or raised by it. */
template <bool ADD>
__global__ void __launch_bounds__(THREADS)
    put_bias(const float *__restrict__ bias, uint32_t columns, float *__restrict__ out)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    uint32_t column = blockIdx.y * THREADS + threadIdx.x;
    size_t at = (size_t)blockIdx.x * columns + column;
    if (column < columns)
        out[at] = ADD ? out[at] + bias[column] : bias[column];
}

static Status queue_bias(const OpsQueue *queue, const Matrix *weight, uint32_t rows, bool add,
                         float *out)
{
    const LaunchShape launch = {dim3(rows, divide_up(weight->rows, THREADS)), THREADS, 0, 0};
    return launch_after(add ? put_bias<true> : put_bias<false>, launch, queue->stream,
                        (const float *)weight->bias, weight->rows, out);
}

extern "C" Status ops_linear(const OpsQueue *queue, const float *in, const Matrix *weight,
                             uint32_t rows, bool add, float *out)
{
    if (rows == 0 || weight->rows == 0)
        return OK;
    if (fits_few_rows(queue, in, weight, rows))
        return queue_few_rows(queue, in, weight, rows, add, out);
    bool rounds = queue->compute == COMPUTE_BF16;
    if (rounds)
        TRY(round_to_scratch(queue, in, weight->columns, 0, rows, 1, weight->columns));
    if (weight->bias != nullptr)
        TRY(queue_bias(queue, weight, rows, add, out));
    CublasProduct product = {};
    product.in = rounds ? CUDA_R_16BF : CUDA_R_32F;
    product.out = CUDA_R_32F;
    product.rows = rows;
    product.columns = weight->rows;
    product.depth = weight->columns;
    product.count = 1;
    product.add = add || weight->bias != nullptr;
    const CublasMatrix a = {rounds ? queue->scratch : in, weight->columns, 0};
    const CublasMatrix b = {weight->data, weight->columns, 0};
    const CublasMatrix to = {out, weight->rows, 0};
    return cublas_product(queue->cublas, &product, &a, &b, &to, queue->stream);
}

extern "C" Status ops_linear_heads(const OpsQueue *queue, const HeadMatrices *matrices,
                                   const float *in, uint32_t tokens, float *out)
{
    const HeadMatrices &m = *matrices;
    if (tokens == 0 || m.heads == 0)
        return OK;
    bool rounds = queue->compute == COMPUTE_BF16;
    if (rounds)
        TRY(round_to_scratch(queue, in, m.in_token, m.in_head, tokens, m.heads, m.columns));
    CublasProduct product = {};
    product.in = rounds ? CUDA_R_16BF : CUDA_R_32F;
    product.out = CUDA_R_32F;
    product.rows = tokens;
    product.columns = m.rows;
    product.depth = m.columns;
    product.count = m.heads;
    const CublasMatrix a = {rounds ? queue->scratch : in,
                            rounds ? m.heads * m.columns : (uint32_t)m.in_token,
                            rounds ? m.columns : m.in_head};
    const CublasMatrix b = {m.weights, m.columns, (size_t)m.rows * m.columns};
    const CublasMatrix to = {out, (uint32_t)m.out_token, m.out_head};
    return cublas_product(queue->cublas, &product, &a, &b, &to, queue->stream);
}
