/* Queries, keys and values into the form attention wants: norm, clip, rotary embedding, cache. */
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/launch.cuh"
#include "exec/cuda/put.cuh"
#include "exec/cuda/reduce.cuh"
#include "exec/cuda/spans.cuh"

static constexpr uint32_t THREADS = 256;
static constexpr uint32_t WARPS = THREADS / 32;
static constexpr uint32_t MANY_TOKENS = 512;

__device__ static float clip(float limit, float value)
{
    return limit > 0 ? fminf(fmaxf(value, -limit), limit) : value;
}

/* Element I of VALUES after the rotation of the first DIMS of them by a position's angles. */
__device__ static float rotated(RotaryKind kind, uint32_t dims, const float *cosine,
                                const float *sine, const float *values, uint32_t i)
{
    if (kind == ROTARY_NONE || i >= dims / 2 * 2)
        return values[i];
    uint32_t half = dims / 2;
    uint32_t pair = kind == ROTARY_HALVES ? i % half : i / 2;
    bool second = kind == ROTARY_HALVES ? i >= half : i % 2 == 1;
    uint32_t other = kind == ROTARY_HALVES ? (second ? pair : half + pair) : i ^ 1;
    float across = values[other] * sine[pair];
    return values[i] * cosine[pair] + (second ? across : -across);
}

/* 1 / sqrt(mean of squares + eps) of N floats, for a warp. */
__device__ static float rms_of_warp(const float *values, uint32_t n, float eps)
{
    float squares = 0;
    for (uint32_t i = threadIdx.x % 32; i < n; i += 32)
        squares += values[i] * values[i];
    return 1 / sqrtf(sum_lanes(squares) / n + eps);
}

/* ... for a block. */
__device__ static float rms_of_block(const float *values, uint32_t n, float eps)
{
    float squares = 0;
    for (uint32_t i = threadIdx.x; i < n; i += THREADS)
        squares += values[i] * values[i];
    return 1 / sqrtf(sum_block<THREADS>(squares) / n + eps);
}

/* A warp: head HEAD from FROM to TO, which may be the same, by way of ROOM in shared memory.
 * WEIGHTS are the head's, NULL without a norm; a ROW_SCALE of 0 takes the head's own. */
template <typename To>
__device__ static void prepare_head(const AppendLayer &layer, const float *weights, float row_scale,
                                    uint32_t position, const float *from, float *room, To *to)
{
    uint32_t dim = layer.key_dim;
    float scale = 1;
    if (weights != nullptr)
        scale = row_scale > 0 ? row_scale : rms_of_warp(from, dim, layer.norm_eps);
    for (uint32_t i = threadIdx.x % 32; i < dim; i += 32) {
        float value = weights != nullptr ? from[i] * scale * weights[i] : from[i];
        room[i] = clip(layer.clip, value);
    }
    __syncwarp();
    size_t angle = (size_t)position * (layer.rotary_dims / 2);
    for (uint32_t i = threadIdx.x % 32; i < dim; i += 32)
        put(to + i, rotated(layer.rotary, layer.rotary_dims, layer.cosine + angle,
                            layer.sine + angle, room, i));
    __syncwarp();
}

/* A block: one token, a warp per head. Reads the row of qkv and writes it, part of it as ELEMENTS
 * of the cache; bound by device memory with many tokens, else by latency. */
template <typename Element>
__global__ void __launch_bounds__(THREADS)
    append_rows(AppendLayer layer, const Span *__restrict__ spans, uint32_t n_spans, float *qkv)
{
    extern __shared__ float rooms[];
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const SpanTile at = find_token(spans, n_spans, blockIdx.x);
    if (at.tokens == 0)
        return;
    uint32_t dim = layer.key_dim;
    size_t q = (size_t)layer.n_heads * dim;
    size_t k = (size_t)layer.n_kv_heads * dim;
    size_t v = (size_t)layer.n_kv_heads * layer.value_dim;
    float *row = qkv + (size_t)blockIdx.x * (q + k + v);
    uint32_t position = at.span.position + at.first;
    size_t place = (size_t)at.span.kv_slot * layer.cache.positions + position;
    Element *keys = (Element *)layer.cache.keys + place * layer.cache.key_stride;
    Element *values = (Element *)layer.cache.values + place * layer.cache.value_stride;
    float q_scale = 0;
    float k_scale = 0;
    if (layer.row_norm && layer.q_norm != nullptr && q > 0)
        q_scale = rms_of_block(row, q, layer.norm_eps);
    if (layer.row_norm && layer.k_norm != nullptr)
        k_scale = rms_of_block(row + q, k, layer.norm_eps);
    /* every warp must have read the row before one of them changes it */
    if (layer.row_norm)
        __syncthreads();
    float *room = rooms + threadIdx.x / 32 * dim;
    for (uint32_t h = threadIdx.x / 32; h < layer.n_heads + layer.n_kv_heads; h += WARPS) {
        bool query = h < layer.n_heads;
        uint32_t head = query ? h : h - layer.n_heads;
        const float *weights = query ? layer.q_norm : layer.k_norm;
        if (weights != nullptr && layer.row_norm)
            weights += head * dim;
        const float *from = row + (size_t)h * dim;
        if (query)
            prepare_head(layer, weights, q_scale, position, from, room, row + (size_t)h * dim);
        else
            prepare_head(layer, weights, k_scale, position, from, room, keys + (size_t)head * dim);
    }
    for (uint32_t i = threadIdx.x; i < v; i += THREADS)
        put(values + i, clip(layer.clip, row[q + k + i]));
}

/* ---- heads of 64 or 128 dimensions ---- */

__device__ static float4 clip_four(float limit, float4 value)
{
    return make_float4(clip(limit, value.x), clip(limit, value.y), clip(limit, value.z),
                       clip(limit, value.w));
}

/* What a position's rotation makes of a lane's four elements x, with those that they turn with:
 * x * cosine + other * sine. Lane l of LANES has elements 4 l and up of a head. */
struct Rotation {
    float4 cosine;
    float4 sine; /* with the sign that it has here */
    uint32_t partner;
};

template <uint32_t LANES>
__device__ static Rotation load_rotation(const AppendLayer &layer, uint32_t position)
{
    uint32_t dims = layer.rotary_dims;
    uint32_t lane = threadIdx.x % LANES;
    const float *cosine = layer.cosine + (size_t)position * (dims / 2);
    const float *sine = layer.sine + (size_t)position * (dims / 2);
    if (layer.rotary == ROTARY_NONE || 4 * lane >= dims)
        return {make_float4(1, 1, 1, 1), make_float4(0, 0, 0, 0), lane};
    if (layer.rotary == ROTARY_INTERLEAVED) {
        float2 c = *(const float2 *)(cosine + 2 * lane);
        float2 s = *(const float2 *)(sine + 2 * lane);
        return {make_float4(c.x, c.x, c.y, c.y), make_float4(-s.x, s.x, -s.y, s.y), lane};
    }
    uint32_t half = dims / 8; /* in lanes */
    bool second = lane >= half;
    uint32_t partner = second ? lane - half : lane + half;
    float4 s = *(const float4 *)(sine + 4 * min(lane, partner));
    return {*(const float4 *)(cosine + 4 * min(lane, partner)),
            second ? s : make_float4(-s.x, -s.y, -s.z, -s.w), partner};
}

template <uint32_t LANES>
__device__ static float4 rotate_four(RotaryKind kind, const Rotation &by, float4 x)
{
    float4 other = make_float4(x.y, x.x, x.w, x.z);
    if (kind == ROTARY_HALVES)
        other = make_float4(__shfl_sync(0xFFFFFFFF, x.x, by.partner, LANES),
                            __shfl_sync(0xFFFFFFFF, x.y, by.partner, LANES),
                            __shfl_sync(0xFFFFFFFF, x.z, by.partner, LANES),
                            __shfl_sync(0xFFFFFFFF, x.w, by.partner, LANES));
    return make_float4(
        x.x * by.cosine.x + other.x * by.sine.x, x.y * by.cosine.y + other.y * by.sine.y,
        x.z * by.cosine.z + other.z * by.sine.z, x.w * by.cosine.w + other.w * by.sine.w);
}

/* WEIGHTS: the lane's four of the norm; NORMS: whether there is one. */
template <uint32_t LANES>
__device__ static float4 norm_four(float eps, bool norms, float4 weight, float4 x)
{
    if (!norms)
        return x;
    float squares = x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
    float scale = 1 / sqrtf(sum_lanes<LANES>(squares) / (4 * LANES) + eps);
    return make_float4(x.x * scale * weight.x, x.y * scale * weight.y, x.z * scale * weight.z,
                       x.w * scale * weight.w);
}

/* As append_rows(), for heads of 4 LANES dimensions without a norm of whole rows: LANES lanes have
 * a head in their registers. blockIdx: x the token, y a share of its heads. Bound by device memory,
 * with few tokens by latency. */
template <uint32_t LANES, typename Element>
__global__ void __launch_bounds__(THREADS)
    append_heads(AppendLayer layer, const Span *__restrict__ spans, uint32_t n_spans, float *qkv)
{
    constexpr uint32_t DIM = 4 * LANES;
    constexpr uint32_t WARP_HEADS = 32 / LANES;
    constexpr bool EARLY = sizeof(Element) == sizeof(__nv_bfloat16); /* no library's kernel next */
    if (EARLY)
        let_next_kernel_start();
    /* spans and angles are older than the kernels that may still run */
    const SpanTile at = find_token(spans, n_spans, blockIdx.x);
    uint32_t position = at.tokens > 0 ? at.span.position + at.first : 0;
    const Rotation rotation = load_rotation<LANES>(layer, position);
    wait_for_earlier_kernels();
    if (!EARLY)
        let_next_kernel_start();
    if (at.tokens == 0)
        return;
    uint32_t heads = layer.n_heads + layer.n_kv_heads;
    uint32_t v = layer.n_kv_heads * layer.value_dim;
    float *row = qkv + (size_t)blockIdx.x * ((size_t)heads * DIM + v);
    size_t place = (size_t)at.span.kv_slot * layer.cache.positions + position;
    Element *keys = (Element *)layer.cache.keys + place * layer.cache.key_stride;
    Element *values = (Element *)layer.cache.values + place * layer.cache.value_stride;
    uint32_t element = threadIdx.x % LANES * 4;
    bool norms = layer.k_norm != nullptr;
    /* all lanes of a warp go round together: they exchange numbers */
    for (uint32_t first = (blockIdx.y * WARPS + threadIdx.x / 32) * WARP_HEADS; first < heads;
         first += gridDim.y * WARPS * WARP_HEADS) {
        uint32_t h = first + threadIdx.x % 32 / LANES;
        bool there = h < heads;
        bool query = h < layer.n_heads;
        const float *weights = query ? layer.q_norm : layer.k_norm;
        float *from = row + (size_t)(there ? h : 0) * DIM + element;
        float4 weight = norms ? *(const float4 *)(weights + element) : make_float4(1, 1, 1, 1);
        float4 x = norm_four<LANES>(layer.norm_eps, norms, weight, *(const float4 *)from);
        x = rotate_four<LANES>(layer.rotary, rotation, clip_four(layer.clip, x));
        if (query)
            put(from, x);
        else if (there)
            put(keys + (size_t)(h - layer.n_heads) * DIM + element, x);
    }
    for (uint32_t i = (blockIdx.y * THREADS + threadIdx.x) * 4; i < v; i += gridDim.y * THREADS * 4)
        put(values + i, clip_four(layer.clip, *(const float4 *)(row + (size_t)heads * DIM + i)));
}

static bool fits_heads(const AppendLayer *layer, const float *qkv)
{
    const CacheLayer *cache = &layer->cache;
    size_t sizes = cache->key_stride | cache->value_stride |
                   (size_t)layer->n_kv_heads * layer->value_dim | layer->rotary_dims / 2;
    uintptr_t places = (uintptr_t)qkv | (uintptr_t)cache->keys | (uintptr_t)cache->values |
                       (uintptr_t)layer->cosine | (uintptr_t)layer->sine |
                       (uintptr_t)layer->q_norm | (uintptr_t)layer->k_norm;
    bool norms_rows = layer->row_norm && (layer->q_norm != nullptr || layer->k_norm != nullptr);
    /* norms of queries and of keys are both there or both not: a warp may hold heads of both */
    bool alike = (layer->q_norm == nullptr) == (layer->k_norm == nullptr);
    return (layer->key_dim == 64 || layer->key_dim == 128) && !norms_rows && alike &&
           sizes % 4 == 0 && places % 16 == 0;
}

template <typename Element>
static Status append_elements(const AppendLayer *layer, const Spans *spans, float *qkv,
                              cudaStream_t stream)
{
    if (fits_heads(layer, qkv)) {
        /* a warp has one turn where tokens are few, and all of a token's where they are many */
        uint32_t warp_heads = 128 / layer->key_dim;
        uint32_t shares = divide_up(layer->n_heads + layer->n_kv_heads, WARPS * warp_heads);
        const dim3 grid(spans->tokens, spans->tokens < MANY_TOKENS ? shares : 1);
        const LaunchShape launch = {grid, THREADS, 0, 0};
        auto kernel = layer->key_dim == 64 ? append_heads<16, Element> : append_heads<32, Element>;
        return launch_after(kernel, launch, stream, *layer, spans->device, spans->n, qkv);
    }
    const LaunchShape launch = {dim3(spans->tokens), THREADS,
                                (uint32_t)(WARPS * layer->key_dim * sizeof(float)), 0};
    return launch_after(append_rows<Element>, launch, stream, *layer, spans->device, spans->n, qkv);
}

extern "C" Status ops_append(const OpsQueue *queue, const AppendLayer *layer, const Spans *spans,
                             float *qkv)
{
    if (spans->tokens == 0)
        return OK;
    return queue->compute == COMPUTE_BF16
               ? append_elements<__nv_bfloat16>(layer, spans, qkv, queue->stream)
               : append_elements<float>(layer, spans, qkv, queue->stream);
}

/* ---- latent attention ---- */

/* A block: one token. Reads its latent and the rotary part of each head, writes the same. */
template <typename Element>
__global__ void __launch_bounds__(THREADS)
    append_latents(LatentLayer layer, const Span *__restrict__ spans, uint32_t n_spans,
                   const float *__restrict__ kv, const float *__restrict__ queries,
                   float *__restrict__ absorbed)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const SpanTile at = find_token(spans, n_spans, blockIdx.x);
    if (at.tokens == 0)
        return;
    size_t token = blockIdx.x;
    uint32_t rank = layer.kv_rank;
    uint32_t dims = layer.rotary_dims;
    uint32_t position = at.span.position + at.first;
    const float *cosine = layer.cosine + (size_t)position * (dims / 2);
    const float *sine = layer.sine + (size_t)position * (dims / 2);
    const float *latent = kv + token * (rank + dims);
    size_t place = (size_t)at.span.kv_slot * layer.cache.positions + position;
    Element *key = (Element *)layer.cache.keys + place * layer.cache.key_stride;
    const Norm &norm = layer.latent_norm;
    float mean = 0;
    if (norm.kind == NORM_LAYER) {
        float sum = 0;
        for (uint32_t i = threadIdx.x; i < rank; i += THREADS)
            sum += latent[i];
        mean = sum_block<THREADS>(sum) / rank;
    }
    float squares = 0;
    for (uint32_t i = threadIdx.x; i < rank; i += THREADS)
        squares += (latent[i] - mean) * (latent[i] - mean);
    float scale = 1 / sqrtf(sum_block<THREADS>(squares) / rank + norm.eps);
    for (uint32_t i = threadIdx.x; i < rank; i += THREADS) {
        float bias = norm.kind == NORM_LAYER && norm.bias != nullptr ? norm.bias[i] : 0;
        put(key + i, (latent[i] - mean) * scale * norm.weight[i] + bias);
    }
    for (uint32_t i = threadIdx.x; i < dims; i += THREADS)
        put(key + rank + i, rotated(layer.rotary, dims, cosine, sine, latent + rank, i));
    for (uint32_t i = threadIdx.x; i < layer.n_heads * dims; i += THREADS) {
        size_t head = token * layer.n_heads + i / dims;
        const float *query = queries + head * (layer.nope_dim + dims) + layer.nope_dim;
        absorbed[head * (rank + dims) + rank + i % dims] =
            rotated(layer.rotary, dims, cosine, sine, query, i % dims);
    }
}

extern "C" Status ops_append_latent(const OpsQueue *queue, const LatentLayer *layer,
                                    const Spans *spans, const float *kv, const float *queries,
                                    float *absorbed)
{
    if (spans->tokens == 0)
        return OK;
    const LaunchShape launch = {dim3(spans->tokens), THREADS, 0, 0};
    auto kernel =
        queue->compute == COMPUTE_BF16 ? append_latents<__nv_bfloat16> : append_latents<float>;
    return launch_after(kernel, launch, queue->stream, *layer, spans->device, spans->n, kv, queries,
                        absorbed);
}
