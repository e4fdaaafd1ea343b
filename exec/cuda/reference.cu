#include "exec/cuda/launch.cuh"
#include "exec/cuda/packed.cuh"
#include "exec/cuda/reference.h"

static constexpr uint32_t WARPS = 8;

__device__ static float warp_dot(const __nv_bfloat16 *a, const __nv_bfloat16 *b, uint32_t n)
{
    float sum = 0;
    for (uint32_t i = threadIdx.x % 32; i < n; i += 32)
        sum = fmaf(__bfloat162float(a[i]), __bfloat162float(b[i]), sum);
    for (int step = 16; step > 0; step /= 2)
        sum += __shfl_xor_sync(0xFFFFFFFF, sum, step);
    return sum;
}

__global__ void naive_logits(const __nv_bfloat16 *in, const __nv_bfloat16 *router, uint32_t columns,
                             uint32_t experts, const uint32_t *pick, float *logits)
{
    wait_for_earlier_kernels();
    uint32_t expert = blockIdx.x * WARPS + threadIdx.x / 32;
    if (expert >= experts)
        return;
    float sum = warp_dot(in + (size_t)pick[blockIdx.y] * columns, router + (size_t)expert * columns,
                         columns);
    if (threadIdx.x % 32 == 0)
        logits[(size_t)blockIdx.y * experts + expert] = sum;
}

/* A packed row's product with X; ROW counts gate's and up's rows as they were packed. */
__device__ static float packed_dot(const void *weights, uint32_t row, uint32_t rows,
                                   const __nv_bfloat16 *x, uint32_t n)
{
    float sum = 0;
    for (uint32_t i = threadIdx.x % 32; i < n; i += 32)
        sum = fmaf(packed_weight(weights, row, i, rows, n), __bfloat162float(x[i]), sum);
    for (int step = 16; step > 0; step /= 2)
        sum += __shfl_xor_sync(0xFFFFFFFF, sum, step);
    return sum;
}

/* Block (f, s, i): 8 of the inside's numbers for slot s of picked token i. */
__global__ void naive_inside(ReferenceLayer layer, const __nv_bfloat16 *in, const uint16_t *ids,
                             const uint32_t *pick, float *inside)
{
    wait_for_earlier_kernels();
    const FfnShape &shape = layer.expert;
    uint32_t f = blockIdx.x * WARPS + threadIdx.x / 32;
    uint32_t token = pick[blockIdx.z];
    uint32_t expert = ids[token * layer.top_k + blockIdx.y];
    if (f >= shape.d_ff || expert == 0xFFFF)
        return;
    const char *weights = (const char *)layer.weights + expert * layer.stride_bytes;
    const __nv_bfloat16 *x = in + (size_t)token * shape.d_model;
    float result;
    if (shape.gated) {
        float gate = packed_dot(weights, f / 8 * 16 + f % 8, 2 * shape.d_ff, x, shape.d_model);
        float up = packed_dot(weights, f / 8 * 16 + 8 + f % 8, 2 * shape.d_ff, x, shape.d_model);
        result = gate / (1 + expf(-gate)) * up;
    } else {
        result = fmaxf(packed_dot(weights, f, shape.d_ff, x, shape.d_model), 0);
    }
    if (threadIdx.x % 32 == 0)
        inside[((size_t)blockIdx.z * layer.top_k + blockIdx.y) * shape.d_ff + f] = result;
}

/* Block (c, i): 8 columns of picked token i. */
__global__ void naive_outside(ReferenceLayer layer, const uint16_t *ids, const float *weights,
                              const uint32_t *pick, const float *inside, float *out)
{
    wait_for_earlier_kernels();
    const FfnShape &shape = layer.expert;
    uint32_t column = blockIdx.x * WARPS + threadIdx.x / 32;
    uint32_t token = pick[blockIdx.y];
    if (column >= shape.d_model)
        return;
    float sum = 0;
    for (uint32_t slot = 0; slot < layer.top_k; slot++) {
        uint32_t expert = ids[token * layer.top_k + slot];
        if (expert == 0xFFFF)
            continue;
        const char *down =
            (const char *)layer.weights + expert * layer.stride_bytes + layer.down_at;
        const float *h = inside + ((size_t)blockIdx.y * layer.top_k + slot) * shape.d_ff;
        float dot = 0;
        for (uint32_t i = threadIdx.x % 32; i < shape.d_ff; i += 32)
            dot = fmaf(h[i], packed_weight(down, column, i, shape.d_model, shape.d_ff), dot);
        for (int step = 16; step > 0; step /= 2)
            dot += __shfl_xor_sync(0xFFFFFFFF, dot, step);
        sum = fmaf(weights[token * layer.top_k + slot], dot, sum);
    }
    if (threadIdx.x % 32 == 0)
        out[(size_t)blockIdx.y * shape.d_model + column] = sum;
}

extern "C" Status reference_logits(const void *in, const void *router, uint32_t columns,
                                   uint32_t experts, const uint32_t *pick, uint32_t n,
                                   float *logits, cudaStream_t stream)
{
    const LaunchShape launch = {dim3(divide_up(experts, WARPS), n), WARPS * 32, 0, 0};
    return launch_after(naive_logits, launch, stream, (const __nv_bfloat16 *)in,
                        (const __nv_bfloat16 *)router, columns, experts, pick, logits);
}

extern "C" Status reference_layer(const ReferenceLayer *layer, const void *in, const uint16_t *ids,
                                  const float *weights, const uint32_t *pick, uint32_t n,
                                  float *inside, float *out, cudaStream_t stream)
{
    const LaunchShape in_launch = {dim3(divide_up(layer->expert.d_ff, WARPS), layer->top_k, n),
                                   WARPS * 32, 0, 0};
    const LaunchShape out_launch = {dim3(divide_up(layer->expert.d_model, WARPS), n), WARPS * 32, 0,
                                    0};
    TRY(launch_after(naive_inside, in_launch, stream, *layer, (const __nv_bfloat16 *)in, ids, pick,
                     inside));
    return launch_after(naive_outside, out_launch, stream, *layer, ids, weights, pick,
                        (const float *)inside, out);
}
