/* Attention of few query rows over a long cache: decoding.
 *
 * Keys and values go from device memory straight to the registers of the tensor instruction. Its
 * depth may be permuted as long as both operands agree, and its columns as long as the result is
 * written accordingly, so that each lane reads 16 bytes that lie together. */
#include "exec/cuda/attend.cuh"
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/mma.cuh"
#include "exec/cuda/reduce.cuh"

static constexpr uint32_t WARPS = 4;
static constexpr uint32_t KEYS = 16; /* of a warp at a time */

__device__ static float4 load_words(const float *from, bool there)
{
    return there ? *(const float4 *)from : make_float4(0, 0, 0, 0);
}

__device__ static float element(const float4 &word, uint32_t i)
{
    return i == 0 ? word.x : i == 1 ? word.y : i == 2 ? word.z : word.w;
}

/* Lane (g, t) = (lane / 4, lane % 4). Of each block of 32 dimensions it has, of query rows g and
 * g + 8 and of keys g and g + 8, dimensions 4 t to 4 t + 3 and 16 more; of each block of 32 value
 * dimensions, of keys 2 t, 2 t + 1 and 8 more, dimensions 4 g to 4 g + 3. */
template <uint32_t DIM> struct StreamWarp {
    static constexpr uint32_t BLOCKS = DIM / 32;

    AttendRow row[2];
    uint32_t query[2][BLOCKS][4];
    float4 key[2][BLOCKS][2];
    float4 value[BLOCKS][4];
    float mixed[BLOCKS][4][4];
    float most[2];
    float sum[2];

    __device__ void begin(const AttendTask &task, const AttendTile &tile)
    {
        uint32_t g = threadIdx.x % 32 / 4;
        uint32_t t = threadIdx.x % 4;
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            row[i] = find_row(task, tile, g + 8 * i);
            most[i] = -CUDART_INF_F;
            sum[i] = 0;
            const float *from = row_query(task, row[i]);
#pragma unroll
            for (uint32_t b = 0; b < BLOCKS; b++) {
                uint32_t dim = b * 32 + 4 * t;
                float4 low = load_words(from + dim, row[i].there && dim < task.layer.key_dim);
                float4 high =
                    load_words(from + dim + 16, row[i].there && dim + 16 < task.layer.key_dim);
                query[i][b][0] = pack_bf16(low.x, low.y);
                query[i][b][1] = pack_bf16(low.z, low.w);
                query[i][b][2] = pack_bf16(high.x, high.y);
                query[i][b][3] = pack_bf16(high.z, high.w);
            }
        }
#pragma unroll
        for (uint32_t b = 0; b < BLOCKS; b++)
#pragma unroll
            for (uint32_t c = 0; c < 4; c++)
#pragma unroll
                for (uint32_t i = 0; i < 4; i++)
                    mixed[b][c][i] = 0;
    }

    /* KEYS_AT and VALUES_AT: of key 0. A key beyond the last is read as the last. */
    __device__ void load_keys(const AttendLayer &layer, const float *keys_at, uint32_t first,
                              uint32_t last)
    {
        uint32_t dim = threadIdx.x % 4 * 4;
#pragma unroll
        for (uint32_t j = 0; j < 2; j++) {
            uint32_t at = min(first + threadIdx.x % 32 / 4 + 8 * j, last);
            const float *from = keys_at + (size_t)at * layer.cache.key_stride + dim;
#pragma unroll
            for (uint32_t b = 0; b < BLOCKS; b++) {
                key[j][b][0] = load_words(from + b * 32, dim + b * 32 < layer.key_dim);
                key[j][b][1] = load_words(from + b * 32 + 16, dim + b * 32 + 16 < layer.key_dim);
            }
        }
    }

    __device__ void load_values(const AttendLayer &layer, const float *values_at, uint32_t first,
                                uint32_t last)
    {
        uint32_t dim = threadIdx.x % 32 / 4 * 4;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t at = min(first + threadIdx.x % 4 * 2 + i % 2 + i / 2 * 8, last);
            const float *from = values_at + (size_t)at * layer.cache.value_stride + dim;
#pragma unroll
            for (uint32_t b = 0; b < BLOCKS; b++)
                value[b][i] = load_words(from + b * 32, dim + b * 32 < layer.value_dim);
        }
    }

    __device__ void products(float (&score)[2][4])
    {
#pragma unroll
        for (uint32_t j = 0; j < 2; j++)
#pragma unroll
            for (uint32_t b = 0; b < BLOCKS; b++)
#pragma unroll
                for (uint32_t h = 0; h < 2; h++) {
                    const float4 &word = key[j][b][h];
                    mma_16x8x16(score[j], query[0][b][2 * h], query[1][b][2 * h],
                                query[0][b][2 * h + 1], query[1][b][2 * h + 1],
                                pack_bf16(word.x, word.y), pack_bf16(word.z, word.w));
                }
    }

    /* Scores of the keys from FIRST on -> their shares so far. */
    __device__ void take_shares(float scale, uint32_t first, uint32_t end, float (&score)[2][4])
    {
        float higher[2];
        float total[2] = {0, 0};
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            higher[i] = most[i];
#pragma unroll
            for (uint32_t k = 0; k < 4; k++) {
                float &s = score[k / 2][2 * i + k % 2];
                uint32_t at = first + k / 2 * 8 + threadIdx.x % 4 * 2 + k % 2;
                s = at < end && row[i].there ? finish_score(row[i], s * scale, at) : -CUDART_INF_F;
                higher[i] = fmaxf(higher[i], s);
            }
            higher[i] = most_of_lanes<4>(higher[i]);
#pragma unroll
            for (uint32_t k = 0; k < 4; k++) {
                float &s = score[k / 2][2 * i + k % 2];
                s = share_of(s, higher[i]);
                total[i] += s;
            }
            float kept = share_of(most[i], higher[i]);
            most[i] = higher[i];
            sum[i] = sum[i] * kept + total[i]; /* of this lane's keys */
#pragma unroll
            for (uint32_t b = 0; b < BLOCKS; b++)
#pragma unroll
                for (uint32_t c = 0; c < 4; c++) {
                    mixed[b][c][2 * i] *= kept;
                    mixed[b][c][2 * i + 1] *= kept;
                }
        }
    }

    __device__ void mix(const float (&score)[2][4])
    {
        uint32_t share[4] = {
            pack_bf16(score[0][0], score[0][1]), pack_bf16(score[0][2], score[0][3]),
            pack_bf16(score[1][0], score[1][1]), pack_bf16(score[1][2], score[1][3])};
#pragma unroll
        for (uint32_t b = 0; b < BLOCKS; b++)
#pragma unroll
            for (uint32_t c = 0; c < 4; c++)
                mma_16x8x16(mixed[b][c], share[0], share[1], share[2], share[3],
                            pack_bf16(element(value[b][0], c), element(value[b][1], c)),
                            pack_bf16(element(value[b][2], c), element(value[b][3], c)));
    }
};

/* What the warps of a block leave for each other. */
template <uint32_t DIM> struct StreamParts {
    float most[WARPS][STREAM_ROWS];
    float sum[WARPS][STREAM_ROWS];
    float mixed[WARPS][STREAM_ROWS][DIM + 4];

    __device__ void put(const StreamWarp<DIM> &warp)
    {
        uint32_t w = threadIdx.x / 32;
        uint32_t g = threadIdx.x % 32 / 4;
        uint32_t t = threadIdx.x % 4;
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            float total = sum_lanes<4>(warp.sum[i]);
            if (t == 0) {
                most[w][g + 8 * i] = warp.most[i];
                sum[w][g + 8 * i] = total;
            }
#pragma unroll
            for (uint32_t b = 0; b < DIM / 32; b++)
#pragma unroll
                for (uint32_t j = 0; j < 2; j++)
                    *(float4 *)&mixed[w][g + 8 * i][b * 32 + 4 * (2 * t + j)] =
                        make_float4(warp.mixed[b][0][2 * i + j], warp.mixed[b][1][2 * i + j],
                                    warp.mixed[b][2][2 * i + j], warp.mixed[b][3][2 * i + j]);
        }
    }

    /* Merges row R, for a warp. */
    __device__ void finish(const AttendTask &task, const AttendRow &row, uint32_t r)
    {
        float higher = -CUDART_INF_F;
        float total = 0;
        float share[WARPS];
#pragma unroll
        for (uint32_t w = 0; w < WARPS; w++)
            higher = fmaxf(higher, most[w][r]);
#pragma unroll
        for (uint32_t w = 0; w < WARPS; w++) {
            share[w] = share_of(most[w][r], higher);
            total += share[w] * sum[w][r];
        }
        float *to;
        float scale = begin_row(task, row, higher, total, threadIdx.x % 32 == 0, &to);
        for (uint32_t i = threadIdx.x % 32; i < task.layer.value_dim; i += 32) {
            float value = 0;
#pragma unroll
            for (uint32_t w = 0; w < WARPS; w++)
                value += share[w] * mixed[w][r][i];
            to[i] = value * scale;
        }
    }
};

/* A block: up to 16 rows and the keys of a split, of which its warps take 16 in turn. Per key 4
 * (key_dim + value_dim) bytes and, with a group of 8 heads, 16 (key_dim + value_dim) operations:
 * device memory bounds it. */
template <uint32_t DIM>
__global__ void __launch_bounds__(WARPS * 32, 2) attend_rows_stream(AttendTask task)
{
    __shared__ __align__(16) StreamParts<DIM> parts;
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const AttendTile tile = find_attend_tile(task);
    if (tile.at.tokens == 0)
        return;
    const AttendLayer &layer = task.layer;
    size_t slot = (size_t)tile.at.span.kv_slot * layer.cache.positions;
    const float *keys =
        layer.cache.keys + slot * layer.cache.key_stride + (size_t)tile.kv_head * layer.key_dim;
    const float *values = layer.cache.values + slot * layer.cache.value_stride +
                          (size_t)tile.kv_head * layer.value_dim;
    uint32_t end = tile.keys.end;
    uint32_t first = tile.keys.first + threadIdx.x / 32 * KEYS;
    StreamWarp<DIM> warp;
    warp.begin(task, tile);
    if (first < end)
        warp.load_keys(layer, keys, first, end - 1);
    for (; first < end; first += WARPS * KEYS) {
        float score[2][4] = {};
        warp.load_values(layer, values, first, end - 1);
        warp.products(score);
        warp.load_keys(layer, keys, first + WARPS * KEYS, end - 1);
        warp.take_shares(layer.scale, first, end, score);
        warp.mix(score);
    }
    parts.put(warp);
    __syncthreads();
    for (uint32_t r = threadIdx.x / 32; r < STREAM_ROWS; r += WARPS) {
        const AttendRow row = find_row(task, tile, r);
        if (row.there)
            parts.finish(task, row, r);
    }
}

Status attend_stream(const AttendTask &task, dim3 grid, cudaStream_t stream)
{
    const LaunchShape launch = {grid, WARPS * 32, 0, 0};
    uint32_t dim = max(task.layer.key_dim, task.layer.value_dim);
    auto kernel = dim <= 64 ? attend_rows_stream<64> : attend_rows_stream<128>;
    return launch_after(kernel, launch, stream, task);
}
