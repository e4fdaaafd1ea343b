/* Products with dense weights: of few rows by exec/cuda/few_rows.h, of many by cuBLAS, whose bf16
 * operand is made in scratch. */
#include "exec/cuda/few_rows.h"
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"

static constexpr uint32_t THREADS = 256;

/* Eight floats of IN. */
__device__ static uint4 load_rounded(const float *in)
{
    float4 a = *(const float4 *)in;
    float4 b = *(const float4 *)(in + 4);
    return make_uint4(pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y),
                      pack_bf16(b.z, b.w));
}

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
        out[i] = load_rounded(in + 8 * i);
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

/* The same, four at a time. */
template <bool ADD>
__global__ void __launch_bounds__(THREADS)
    put_bias_words(const float4 *__restrict__ bias, uint32_t words, float4 *__restrict__ out)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    uint32_t word = blockIdx.y * THREADS + threadIdx.x;
    if (word >= words)
        return;
    float4 sum = bias[word];
    float4 *to = out + (size_t)blockIdx.x * words + word;
    if (ADD) {
        float4 before = *to;
        sum = make_float4(before.x + sum.x, before.y + sum.y, before.z + sum.z, before.w + sum.w);
    }
    *to = sum;
}

static Status queue_bias(const OpsQueue *queue, const Matrix *weight, uint32_t rows, bool add,
                         float *out)
{
    if (weight->rows % 4 == 0 && ((uintptr_t)weight->bias | (uintptr_t)out) % 16 == 0) {
        uint32_t words = weight->rows / 4;
        const LaunchShape wide = {dim3(rows, divide_up(words, THREADS)), THREADS, 0, 0};
        return launch_after(add ? put_bias_words<true> : put_bias_words<false>, wide, queue->stream,
                            (const float4 *)weight->bias, words, (float4 *)out);
    }
    const LaunchShape launch = {dim3(rows, divide_up(weight->rows, THREADS)), THREADS, 0, 0};
    return launch_after(add ? put_bias<true> : put_bias<false>, launch, queue->stream,
                        (const float *)weight->bias, weight->rows, out);
}

/* ROWS of weight->columns, already elements of the compute type, times WEIGHT. */
static Status multiply(const OpsQueue *queue, const void *in, const Matrix *weight, uint32_t rows,
                       bool add, float *out)
{
    if (weight->bias != nullptr)
        TRY(queue_bias(queue, weight, rows, add, out));
    CublasProduct product = {};
    product.in = queue->compute == COMPUTE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    product.out = CUDA_R_32F;
    product.rows = rows;
    product.columns = weight->rows;
    product.depth = weight->columns;
    product.count = 1;
    product.add = add || weight->bias != nullptr;
    const CublasMatrix a = {in, weight->columns, 0};
    const CublasMatrix b = {weight->data, weight->columns, 0};
    const CublasMatrix to = {out, weight->rows, 0};
    return cublas_product(queue->cublas, &product, &a, &b, &to, queue->stream);
}

extern "C" Status ops_linear(const OpsQueue *queue, const float *in, const Matrix *weight,
                             uint32_t rows, bool add, float *out)
{
    const FewRows few = {in, nullptr, weight, rows, add, out, rows > 1 ? queue->scratch : nullptr};
    FewRowsCut cut;
    if (rows == 0 || weight->rows == 0)
        return OK;
    if (few_rows_fit(queue, &few, &cut)) {
        if (rows > 1)
            TRY(round_to_scratch(queue, in, weight->columns, 0, rows, 1, weight->columns));
        return few_rows_run(queue, &few, &cut);
    }
    if (queue->compute != COMPUTE_BF16)
        return multiply(queue, in, weight, rows, add, out);
    TRY(round_to_scratch(queue, in, weight->columns, 0, rows, 1, weight->columns));
    return multiply(queue, queue->scratch, weight, rows, add, out);
}

extern "C" Status ops_linear_mixed(const OpsQueue *queue, const void *in, const Matrix *weight,
                                   uint32_t rows, float *out)
{
    const FewRows few = {nullptr, nullptr, weight, rows, true, out, in};
    FewRowsCut cut;
    if (rows == 0 || weight->rows == 0)
        return OK;
    if (few_rows_fit(queue, &few, &cut))
        return few_rows_run(queue, &few, &cut);
    return multiply(queue, in, weight, rows, true, out);
}

extern "C" Status ops_norm_linear(const OpsQueue *queue, const Norm *norm, const float *in,
                                  const Matrix *weight, uint32_t rows, float *normed, float *out)
{
    const FewRows few = {in, norm, weight, rows, false, out, nullptr};
    FewRowsCut cut;
    if (rows == 0 || weight->rows == 0)
        return OK;
    if (few_rows_fit(queue, &few, &cut))
        return few_rows_run(queue, &few, &cut);
    if (queue->compute != COMPUTE_BF16) {
        TRY(ops_norm(queue, norm, in, nullptr, rows, weight->columns, normed));
        return multiply(queue, normed, weight, rows, false, out);
    }
    /* f32 has the room for bf16 */
    TRY(ops_norm_rounded(queue, norm, in, rows, weight->columns, normed));
    return multiply(queue, normed, weight, rows, false, out);
}

/* The first product leaves bf16 without its bias, which the activation adds. */
static Status ffn_of_many(const OpsQueue *queue, const DenseFfn *ffn, const float *in,
                          uint32_t rows, float *out)
{
    const Matrix *first = ffn->first;
    CublasProduct product = {};
    product.in = CUDA_R_16BF;
    product.out = CUDA_R_16BF;
    product.rows = rows;
    product.columns = first->rows;
    product.depth = first->columns;
    product.count = 1;
    const CublasMatrix a = {queue->scratch, first->columns, 0};
    const CublasMatrix b = {first->data, first->columns, 0};
    const CublasMatrix to = {ffn->hidden, first->rows, 0};
    TRY(round_to_scratch(queue, in, first->columns, 0, rows, 1, first->columns));
    TRY(cublas_product(queue->cublas, &product, &a, &b, &to, queue->stream));
    TRY(ops_activate_rounded(queue, ffn->shape, ffn->hidden, first->bias, ffn->gates, rows,
                             ffn->inside));
    return multiply(queue, ffn->inside, ffn->second, rows, true, out);
}

extern "C" Status ops_ffn(const OpsQueue *queue, const DenseFfn *ffn, const float *in,
                          uint32_t rows, float *out)
{
    const FewRows few = {
        in, nullptr, ffn->first, rows, false, ffn->hidden, rows > 1 ? queue->scratch : nullptr};
    FewRowsCut cut;
    if (rows == 0)
        return OK;
    if (queue->compute == COMPUTE_BF16 && ffn->shape->d_ff % 8 == 0 &&
        !few_rows_fit(queue, &few, &cut))
        return ffn_of_many(queue, ffn, in, rows, out);
    TRY(ops_linear(queue, in, ffn->first, rows, false, ffn->hidden));
    TRY(ops_activate(queue, ffn->shape, ffn->hidden, ffn->gates, rows, ffn->inside));
    return ops_linear(queue, ffn->inside, ffn->second, rows, true, out);
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
