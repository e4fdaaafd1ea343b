/* Embedding, norms, activations: operations on rows that device memory bounds. */
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/ops.h"
#include "exec/cuda/put.cuh"
#include "exec/cuda/reduce.cuh"

static constexpr uint32_t THREADS = 256;

__device__ static float to_float(float value)
{
    return value;
}

__device__ static float to_float(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}

/* ---- embedding ---- */

/* A block: 256 columns of a token. Reads a row of the table (and of the positions), writes one. */
template <typename Element>
__global__ void __launch_bounds__(THREADS)
    embed_rows(const Element *__restrict__ table, uint32_t columns,
               const uint32_t *__restrict__ ids, float scale, const float *__restrict__ positions,
               const uint32_t *__restrict__ places, float *__restrict__ out)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    size_t token = blockIdx.x;
    uint32_t column = blockIdx.y * THREADS + threadIdx.x;
    if (column >= columns)
        return;
    float value = to_float(table[(size_t)ids[token] * columns + column]) * scale;
    if (positions != nullptr)
        value += positions[(size_t)places[token] * columns + column];
    out[token * columns + column] = value;
}

extern "C" Status ops_embed(const OpsQueue *queue, const Matrix *table, const uint32_t *ids,
                            uint32_t tokens, float scale, const float *positions,
                            const uint32_t *places, float *out)
{
    if (tokens == 0)
        return OK;
    const LaunchShape launch = {dim3(tokens, divide_up(table->columns, THREADS)), THREADS, 0, 0};
    if (queue->compute == COMPUTE_BF16)
        return launch_after(embed_rows<__nv_bfloat16>, launch, queue->stream,
                            (const __nv_bfloat16 *)table->data, table->columns, ids, scale,
                            positions, places, out);
    return launch_after(embed_rows<float>, launch, queue->stream, (const float *)table->data,
                        table->columns, ids, scale, positions, places, out);
}

/* ---- norms ---- */

/* A block: one row of any width. Reads it from device memory once and from the L1 once or twice
 * more, writes it once. */
template <bool LAYER, typename Out>
__global__ void __launch_bounds__(THREADS)
    norm_rows(Norm norm, const float *__restrict__ in, const uint32_t *__restrict__ pick,
              uint32_t columns, Out *__restrict__ out)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    size_t from = pick != nullptr ? pick[blockIdx.x] : blockIdx.x;
    const float *row = in + from * columns;
    Out *to = out + (size_t)blockIdx.x * columns;
    float mean = 0;
    if (LAYER) {
        float sum = 0;
        for (uint32_t i = threadIdx.x; i < columns; i += THREADS)
            sum += row[i];
        mean = sum_block<THREADS>(sum) / columns;
    }
    float squares = 0;
    for (uint32_t i = threadIdx.x; i < columns; i += THREADS)
        squares += (row[i] - mean) * (row[i] - mean);
    float scale = 1 / sqrtf(sum_block<THREADS>(squares) / columns + norm.eps);
    for (uint32_t i = threadIdx.x; i < columns; i += THREADS) {
        float bias = LAYER && norm.bias != nullptr ? norm.bias[i] : 0;
        put(to + i, (row[i] - mean) * scale * norm.weight[i] + bias);
    }
}

/* A block: one row of up to THREADS * WORDS words of 4 floats, which its threads hold. Reads 4
 * bytes per element and writes 2 or 4; bound by device memory with many rows, by latency with few.
 */
template <uint32_t WORDS, typename Out>
__global__ void __launch_bounds__(THREADS)
    rms_norm_words(Norm norm, const float *__restrict__ in, const uint32_t *__restrict__ pick,
                   uint32_t columns, Out *__restrict__ out)
{
    float4 weight[WORDS];
    float4 value[WORDS];
#pragma unroll
    for (uint32_t w = 0; w < WORDS; w++) {
        uint32_t at = (w * THREADS + threadIdx.x) * 4;
        weight[w] = at < columns ? *(const float4 *)(norm.weight + at) : float4{};
    }
    wait_for_earlier_kernels();
    let_next_kernel_start();
    size_t from = pick != nullptr ? pick[blockIdx.x] : blockIdx.x;
    float squares = 0;
#pragma unroll
    for (uint32_t w = 0; w < WORDS; w++) {
        uint32_t at = (w * THREADS + threadIdx.x) * 4;
        value[w] = at < columns ? *(const float4 *)(in + from * columns + at) : float4{};
        squares += value[w].x * value[w].x + value[w].y * value[w].y + value[w].z * value[w].z +
                   value[w].w * value[w].w;
    }
    float scale = 1 / sqrtf(sum_block<THREADS>(squares) / columns + norm.eps);
#pragma unroll
    for (uint32_t w = 0; w < WORDS; w++) {
        uint32_t at = (w * THREADS + threadIdx.x) * 4;
        if (at < columns)
            put(out + (size_t)blockIdx.x * columns + at,
                make_float4(value[w].x * scale * weight[w].x, value[w].y * scale * weight[w].y,
                            value[w].z * scale * weight[w].z, value[w].w * scale * weight[w].w));
    }
}

template <typename Out>
static Status queue_norm(const OpsQueue *queue, const Norm *norm, const float *in,
                         const uint32_t *pick, uint32_t rows, uint32_t columns, Out *out)
{
    const LaunchShape launch = {dim3(rows), THREADS, 0, 0};
    const uint32_t word_columns = 4 * THREADS;
    auto kernel = norm->kind == NORM_LAYER ? norm_rows<true, Out> : norm_rows<false, Out>;
    bool words = norm->kind == NORM_RMS && columns % 4 == 0 && columns <= 8 * word_columns &&
                 ((uintptr_t)in | (uintptr_t)out | (uintptr_t)norm->weight) % 16 == 0;
    if (words)
        kernel = columns <= word_columns       ? rms_norm_words<1, Out>
                 : columns <= 2 * word_columns ? rms_norm_words<2, Out>
                 : columns <= 4 * word_columns ? rms_norm_words<4, Out>
                                               : rms_norm_words<8, Out>;
    if (rows == 0)
        return OK;
    return launch_after(kernel, launch, queue->stream, *norm, in, pick, columns, out);
}

extern "C" Status ops_norm(const OpsQueue *queue, const Norm *norm, const float *in,
                           const uint32_t *pick, uint32_t rows, uint32_t columns, float *out)
{
    return queue_norm(queue, norm, in, pick, rows, columns, out);
}

extern "C" Status ops_norm_rounded(const OpsQueue *queue, const Norm *norm, const float *in,
                                   uint32_t rows, uint32_t columns, void *out)
{
    return queue_norm(queue, norm, in, nullptr, rows, columns, (__nv_bfloat16 *)out);
}

/* ---- what is no number ---- */

static constexpr uint32_t NAN_FLOATS = 16; /* of a thread */

/* Block (x, y): NAN_FLOATS * THREADS floats of row y, of which FOUND was 0. */
__global__ void __launch_bounds__(THREADS)
    find_nan_in_rows(const float *__restrict__ in, size_t columns, uint32_t *__restrict__ found)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const float *row = in + blockIdx.y * columns;
    size_t first = (size_t)blockIdx.x * NAN_FLOATS * THREADS + threadIdx.x;
    bool nan = false;
#pragma unroll
    for (uint32_t i = 0; i < NAN_FLOATS; i++)
        nan |= first + i * THREADS < columns && isnan(row[first + i * THREADS]);
    if (nan)
        found[blockIdx.y] = 1;
}

extern "C" Status ops_find_nan(const OpsQueue *queue, const float *in, uint32_t rows,
                               size_t columns, uint32_t *found)
{
    if (rows == 0)
        return OK;
    size_t blocks = (columns + NAN_FLOATS * THREADS - 1) / (NAN_FLOATS * THREADS);
    const LaunchShape launch = {dim3((uint32_t)blocks, rows), THREADS, 0, 0};
    CUDA_TRY(cudaMemsetAsync(found, 0, rows * sizeof *found, queue->stream));
    return columns > 0 ? launch_after(find_nan_in_rows, launch, queue->stream, in, columns, found)
                       : OK;
}

/* ---- activations ---- */

__device__ static float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

template <Activation ACTIVATION> __device__ static float activation(float x)
{
    if constexpr (ACTIVATION == ACTIVATION_GELU)
        return 0.5f * x * (1 + erff(x * 0.70710678118654752f));
    if constexpr (ACTIVATION == ACTIVATION_GELU_TANH)
        return 0.5f * x * (1 + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    if constexpr (ACTIVATION == ACTIVATION_RELU)
        return x < 0 ? 0 : x;
    return x * sigmoid(x);
}

__device__ static float clamped_swiglu(const FfnShape &shape, float gate, float up)
{
    float g = gate > shape.limit ? shape.limit : gate;
    float u = up > shape.limit ? shape.limit : up < -shape.limit ? -shape.limit : up;
    return g * sigmoid(shape.alpha * g) * (u + 1);
}

/* A block: 256 columns of a row. Reads 4 or 8 bytes per column, writes 4. */
template <Activation ACTIVATION>
__global__ void __launch_bounds__(THREADS)
    activate_rows(FfnShape shape, const float *__restrict__ hidden, const float *__restrict__ gates,
                  float *__restrict__ out)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    size_t row = blockIdx.x;
    uint32_t column = blockIdx.y * THREADS + threadIdx.x;
    if (column >= shape.d_ff)
        return;
    const float *in = hidden + row * (shape.gated ? 2 : 1) * shape.d_ff;
    float value;
    if constexpr (ACTIVATION == ACTIVATION_CLAMPED_SWIGLU)
        value = clamped_swiglu(shape, in[column], in[shape.d_ff + column]);
    else
        value = activation<ACTIVATION>(in[column]) * (shape.gated ? in[shape.d_ff + column] : 1);
    out[row * shape.d_ff + column] = gates != nullptr ? value * sigmoid(gates[row]) : value;
}

extern "C" Status ops_activate(const OpsQueue *queue, const FfnShape *shape, const float *hidden,
                               const float *gates, uint32_t rows, float *out)
{
    if (rows == 0)
        return OK;
    auto kernel = shape->activation == ACTIVATION_GELU        ? activate_rows<ACTIVATION_GELU>
                  : shape->activation == ACTIVATION_GELU_TANH ? activate_rows<ACTIVATION_GELU_TANH>
                  : shape->activation == ACTIVATION_RELU      ? activate_rows<ACTIVATION_RELU>
                  : shape->activation == ACTIVATION_CLAMPED_SWIGLU
                      ? activate_rows<ACTIVATION_CLAMPED_SWIGLU>
                      : activate_rows<ACTIVATION_SILU>;
    const LaunchShape launch = {dim3(rows, divide_up(shape->d_ff, THREADS)), THREADS, 0, 0};
    return launch_after(kernel, launch, queue->stream, *shape, hidden, gates, out);
}

/* Eight bf16 plus their biases. */
__device__ static void load_biased(const uint4 *from, const float *bias, float (&value)[8])
{
    uint4 word = *from;
    const __nv_bfloat162 *pair = (const __nv_bfloat162 *)&word;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 both = __bfloat1622float2(pair[i]);
        value[2 * i] = both.x + (bias != nullptr ? bias[2 * i] : 0);
        value[2 * i + 1] = both.y + (bias != nullptr ? bias[2 * i + 1] : 0);
    }
}

/* A thread: 8 columns of a row. Reads 2 or 4 bytes per column, writes 2; bound by memory. */
template <Activation ACTIVATION>
__global__ void __launch_bounds__(THREADS)
    activate_words(FfnShape shape, const uint4 *__restrict__ hidden, const float *__restrict__ bias,
                   const float *__restrict__ gates, uint4 *__restrict__ out)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    size_t row = blockIdx.x;
    uint32_t words = shape.d_ff / 8;
    uint32_t word = blockIdx.y * THREADS + threadIdx.x;
    if (word >= words)
        return;
    const uint4 *in = hidden + row * (shape.gated ? 2 : 1) * words + word;
    float gate[8];
    float up[8];
    float inside[8];
    load_biased(in, bias != nullptr ? bias + word * 8 : nullptr, gate);
    if (shape.gated)
        load_biased(in + words, bias != nullptr ? bias + shape.d_ff + word * 8 : nullptr, up);
    float scale = gates != nullptr ? sigmoid(gates[row]) : 1;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if constexpr (ACTIVATION == ACTIVATION_CLAMPED_SWIGLU)
            inside[i] = clamped_swiglu(shape, gate[i], up[i]) * scale;
        else
            inside[i] = activation<ACTIVATION>(gate[i]) * (shape.gated ? up[i] : 1) * scale;
    }
    out[row * words + word] =
        make_uint4(pack_bf16(inside[0], inside[1]), pack_bf16(inside[2], inside[3]),
                   pack_bf16(inside[4], inside[5]), pack_bf16(inside[6], inside[7]));
}

extern "C" Status ops_activate_rounded(const OpsQueue *queue, const FfnShape *shape,
                                       const void *hidden, const float *bias, const float *gates,
                                       uint32_t rows, void *out)
{
    if (rows == 0)
        return OK;
    Activation kind = shape->activation;
    auto kernel = kind == ACTIVATION_GELU             ? activate_words<ACTIVATION_GELU>
                  : kind == ACTIVATION_GELU_TANH      ? activate_words<ACTIVATION_GELU_TANH>
                  : kind == ACTIVATION_RELU           ? activate_words<ACTIVATION_RELU>
                  : kind == ACTIVATION_CLAMPED_SWIGLU ? activate_words<ACTIVATION_CLAMPED_SWIGLU>
                                                      : activate_words<ACTIVATION_SILU>;
    const LaunchShape launch = {dim3(rows, divide_up(shape->d_ff / 8, THREADS)), THREADS, 0, 0};
    return launch_after(kernel, launch, queue->stream, *shape, (const uint4 *)hidden, bias, gates,
                        (uint4 *)out);
}
