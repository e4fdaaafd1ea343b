/* Attention in f32, for checking, and for shapes that the other kernels do not take. */
#include "exec/cuda/attend.cuh"
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/reduce.cuh"

static constexpr uint32_t WARPS = 4;
static constexpr uint32_t WARP_ROWS = PLAIN_ROWS / WARPS;
static constexpr uint32_t KEYS = 32; /* one per lane */

/* Queries, keys (rows padded by one word: a lane reads its own) and values in shared memory. */
struct PlainRoom {
    float *queries;
    float *keys;
    float *values;
    uint32_t key_stride;

    __device__ PlainRoom(float *shared, const AttendLayer &layer)
    {
        key_stride = layer.key_dim | 1;
        queries = shared;
        keys = queries + PLAIN_ROWS * layer.key_dim;
        values = keys + KEYS * key_stride;
    }
    static uint32_t bytes(const AttendLayer &layer)
    {
        return (PLAIN_ROWS * layer.key_dim + KEYS * (layer.key_dim | 1) + KEYS * layer.value_dim) *
               sizeof(float);
    }
};

__device__ static void load_queries(const AttendTask &task, const AttendTile &tile,
                                    const PlainRoom &room)
{
    uint32_t dim = task.layer.key_dim;
    for (uint32_t r = threadIdx.x / 32; r < PLAIN_ROWS; r += WARPS) {
        const AttendRow row = find_row(task, tile, r);
        const float *query = row_query(task, row);
        for (uint32_t i = threadIdx.x % 32; i < dim; i += 32)
            room.queries[r * dim + i] = row.there ? query[i] * task.layer.scale : 0;
    }
}

__device__ static float number(float value)
{
    return value;
}

__device__ static float number(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}

/* Keys and values from FIRST on; beyond the end, zeros. */
template <typename Element>
__device__ static void load_keys(const AttendTask &task, const AttendTile &tile, uint32_t first,
                                 const PlainRoom &room)
{
    const CacheLayer &cache = task.layer.cache;
    uint32_t key_dim = task.layer.key_dim;
    uint32_t value_dim = task.layer.value_dim;
    for (uint32_t k = threadIdx.x / 32; k < KEYS; k += WARPS) {
        bool there = first + k < tile.keys.end;
        size_t place = (size_t)tile.at.span.kv_slot * cache.positions + first + k;
        const Element *key =
            (const Element *)cache.keys + place * cache.key_stride + (size_t)tile.kv_head * key_dim;
        const Element *value = (const Element *)cache.values + place * cache.value_stride +
                               (size_t)tile.kv_head * value_dim;
        for (uint32_t i = threadIdx.x % 32; i < key_dim; i += 32)
            room.keys[k * room.key_stride + i] = there ? number(key[i]) : 0;
        for (uint32_t i = threadIdx.x % 32; i < value_dim; i += 32)
            room.values[k * value_dim + i] = there ? number(value[i]) : 0;
    }
}

/* A warp's rows: lane l has the score of key l of a tile, and values l, l + 32, ... */
template <uint32_t VALUES> struct PlainRows {
    AttendRow row[WARP_ROWS];
    float most[WARP_ROWS];
    float sum[WARP_ROWS];
    float value[WARP_ROWS][VALUES];

    __device__ void begin(const AttendTask &task, const AttendTile &tile)
    {
#pragma unroll
        for (uint32_t r = 0; r < WARP_ROWS; r++) {
            row[r] = find_row(task, tile, threadIdx.x / 32 * WARP_ROWS + r);
            most[r] = -CUDART_INF_F;
            sum[r] = 0;
#pragma unroll
            for (uint32_t i = 0; i < VALUES; i++)
                value[r][i] = 0;
        }
    }

    __device__ void products(const PlainRoom &room, uint32_t key_dim, float (&score)[WARP_ROWS])
    {
        const float *query = room.queries + threadIdx.x / 32 * WARP_ROWS * key_dim;
        const float *key = room.keys + threadIdx.x % 32 * room.key_stride;
        for (uint32_t i = 0; i < key_dim; i++)
#pragma unroll
            for (uint32_t r = 0; r < WARP_ROWS; r++)
                score[r] = fmaf(query[r * key_dim + i], key[i], score[r]);
    }

    /* Takes in the keys from FIRST on. */
    __device__ void add(const AttendTask &task, const PlainRoom &room, uint32_t first, uint32_t end)
    {
        float score[WARP_ROWS] = {};
        uint32_t value_dim = task.layer.value_dim;
        uint32_t lane = threadIdx.x % 32;
        products(room, task.layer.key_dim, score);
#pragma unroll
        for (uint32_t r = 0; r < WARP_ROWS; r++) {
            bool there = row[r].there && first + lane < end;
            score[r] = there ? finish_score(row[r], score[r], first + lane) : -CUDART_INF_F;
            float higher = fmaxf(most[r], most_of_lanes(score[r]));
            float kept = share_of(most[r], higher);
            score[r] = share_of(score[r], higher);
            most[r] = higher;
            sum[r] = sum[r] * kept + sum_lanes(score[r]);
#pragma unroll
            for (uint32_t i = 0; i < VALUES; i++)
                value[r][i] *= kept;
        }
        for (uint32_t k = 0; k < KEYS && first + k < end; k++) {
            float share[WARP_ROWS];
#pragma unroll
            for (uint32_t r = 0; r < WARP_ROWS; r++)
                share[r] = __shfl_sync(0xFFFFFFFF, score[r], k);
#pragma unroll
            for (uint32_t i = 0; i < VALUES; i++) {
                uint32_t at = lane + 32 * i;
                float v = at < value_dim ? room.values[k * value_dim + at] : 0;
#pragma unroll
                for (uint32_t r = 0; r < WARP_ROWS; r++)
                    value[r][i] = fmaf(share[r], v, value[r][i]);
            }
        }
    }

    __device__ void finish(const AttendTask &task, uint32_t split)
    {
        uint32_t lane = threadIdx.x % 32;
#pragma unroll
        for (uint32_t r = 0; r < WARP_ROWS; r++) {
            if (!row[r].there)
                continue;
            float *to;
            float scale = begin_row(task, row[r], split, most[r], sum[r], lane == 0, &to);
#pragma unroll
            for (uint32_t i = 0; i < VALUES; i++)
                if (lane + 32 * i < task.layer.value_dim)
                    put_result(task, to, lane + 32 * i, value[r][i] * scale);
        }
    }
};

/* A block: 16 rows of a tile, four per warp, 32 keys at a time. Per key 4 (key_dim + value_dim)
 * bytes from the L2 and 2 * 16 (key_dim + value_dim) operations, each with about one read of
 * shared memory, which bounds it: on an H200 3 TFLOP/s with 16 or 128 heads over a latent of 576.
 */
template <uint32_t VALUES, typename Element>
__global__ void __launch_bounds__(WARPS * 32) attend_rows_plain(AttendTask task)
{
    extern __shared__ float shared[];
    wait_for_earlier_kernels();
    if (task.lets_next)
        let_next_kernel_start();
    const AttendTile tile = find_attend_tile(task, blockIdx);
    if (tile.at.tokens == 0)
        return;
    const PlainRoom room(shared, task.layer);
    PlainRows<VALUES> rows;
    rows.begin(task, tile);
    load_queries(task, tile, room);
    for (uint32_t first = tile.keys.first; first < tile.keys.end; first += KEYS) {
        __syncthreads();
        load_keys<Element>(task, tile, first, room);
        __syncthreads();
        rows.add(task, room, first, tile.keys.end);
    }
    rows.finish(task, tile.split);
}

template <typename Element>
static Status attend_elements(const AttendTask &task, dim3 grid, cudaStream_t stream)
{
    uint32_t values = task.layer.value_dim;
    auto kernel = values <= 64    ? attend_rows_plain<2, Element>
                  : values <= 128 ? attend_rows_plain<4, Element>
                  : values <= 256 ? attend_rows_plain<8, Element>
                                  : attend_rows_plain<16, Element>;
    const LaunchShape launch = {grid, WARPS * 32, PlainRoom::bytes(task.layer), 0};
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)launch.shared_bytes));
    return launch_after(kernel, launch, stream, task);
}

Status attend_plain(const AttendTask &task, bool rounded, dim3 grid, cudaStream_t stream)
{
    return rounded ? attend_elements<__nv_bfloat16>(task, grid, stream)
                   : attend_elements<float>(task, grid, stream);
}
