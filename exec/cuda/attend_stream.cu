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

__device__ static float4 load_floats(const float *from, bool there)
{
    return there ? *(const float4 *)from : make_float4(0, 0, 0, 0);
}

/* Eight elements, each of which is read once. */
__device__ static uint4 load_elements(const __nv_bfloat16 *from, bool there)
{
    return there ? __ldcs((const uint4 *)from) : make_uint4(0, 0, 0, 0);
}

/* Element I of A and element I of B. */
__device__ static uint32_t pair_of(const uint4 &a, const uint4 &b, uint32_t i)
{
    uint32_t x = i < 2 ? a.x : i < 4 ? a.y : i < 6 ? a.z : a.w;
    uint32_t y = i < 2 ? b.x : i < 4 ? b.y : i < 6 ? b.z : b.w;
    return __byte_perm(x, y, i % 2 == 0 ? 0x5410 : 0x7632);
}

__device__ static void add_share(float share, float4 x, float4 *sum)
{
    sum->x += share * x.x;
    sum->y += share * x.y;
    sum->z += share * x.z;
    sum->w += share * x.w;
}

/* Lane (g, t) = (lane / 4, lane % 4). Of each block of 32 dimensions it has, of query rows g and
 * g + 8 and of keys g and g + 8, dimensions 8 t to 8 t + 7; of each block of 64 value dimensions,
 * of keys 2 t, 2 t + 1 and 8 more, dimensions 8 g to 8 g + 7. */
template <uint32_t DIM> struct StreamWarp {
    static constexpr uint32_t BLOCKS = DIM / 32;
    static constexpr uint32_t VALUE_BLOCKS = DIM / 64;

    AttendRow row[2];
    uint32_t query[2][BLOCKS][4];
    uint4 key[2][BLOCKS];
    uint4 value[VALUE_BLOCKS][4];
    float mixed[VALUE_BLOCKS][8][4];
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
                uint32_t dim = b * 32 + 8 * t;
                bool there = row[i].there && dim < task.layer.key_dim;
                float4 low = load_floats(from + dim, there);
                float4 high = load_floats(from + dim + 4, there);
                query[i][b][0] = pack_bf16(low.x, low.y);
                query[i][b][1] = pack_bf16(low.z, low.w);
                query[i][b][2] = pack_bf16(high.x, high.y);
                query[i][b][3] = pack_bf16(high.z, high.w);
            }
        }
#pragma unroll
        for (uint32_t b = 0; b < VALUE_BLOCKS; b++)
#pragma unroll
            for (uint32_t c = 0; c < 8; c++)
#pragma unroll
                for (uint32_t i = 0; i < 4; i++)
                    mixed[b][c][i] = 0;
    }

    /* KEYS_AT and VALUES_AT: of key 0. A key beyond the last is read as the last. */
    __device__ void load_keys(const AttendLayer &layer, const __nv_bfloat16 *keys_at,
                              uint32_t first, uint32_t last)
    {
        uint32_t dim = threadIdx.x % 4 * 8;
#pragma unroll
        for (uint32_t j = 0; j < 2; j++) {
            uint32_t at = min(first + threadIdx.x % 32 / 4 + 8 * j, last);
            const __nv_bfloat16 *from = keys_at + (size_t)at * layer.cache.key_stride + dim;
#pragma unroll
            for (uint32_t b = 0; b < BLOCKS; b++)
                key[j][b] = load_elements(from + b * 32, dim + b * 32 < layer.key_dim);
        }
    }

    __device__ void load_values(const AttendLayer &layer, const __nv_bfloat16 *values_at,
                                uint32_t first, uint32_t last)
    {
        uint32_t dim = threadIdx.x % 32 / 4 * 8;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t at = min(first + threadIdx.x % 4 * 2 + i % 2 + i / 2 * 8, last);
            const __nv_bfloat16 *from = values_at + (size_t)at * layer.cache.value_stride + dim;
#pragma unroll
            for (uint32_t b = 0; b < VALUE_BLOCKS; b++)
                value[b][i] = load_elements(from + b * 64, dim + b * 64 < layer.value_dim);
        }
    }

    __device__ void products(float (&score)[2][4])
    {
#pragma unroll
        for (uint32_t j = 0; j < 2; j++)
#pragma unroll
            for (uint32_t b = 0; b < BLOCKS; b++) {
                const uint4 &word = key[j][b];
                mma_16x8x16(score[j], query[0][b][0], query[1][b][0], query[0][b][1],
                            query[1][b][1], word.x, word.y);
                mma_16x8x16(score[j], query[0][b][2], query[1][b][2], query[0][b][3],
                            query[1][b][3], word.z, word.w);
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
            for (uint32_t b = 0; b < VALUE_BLOCKS; b++)
#pragma unroll
                for (uint32_t c = 0; c < 8; c++) {
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
        for (uint32_t b = 0; b < VALUE_BLOCKS; b++)
#pragma unroll
            for (uint32_t c = 0; c < 8; c++)
                mma_16x8x16(mixed[b][c], share[0], share[1], share[2], share[3],
                            pair_of(value[b][0], value[b][1], c),
                            pair_of(value[b][2], value[b][3], c));
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
            for (uint32_t b = 0; b < DIM / 64; b++)
#pragma unroll
                for (uint32_t j = 0; j < 2; j++)
#pragma unroll
                    for (uint32_t c = 0; c < 8; c += 4)
                        *(float4 *)&mixed[w][g + 8 * i][b * 64 + 8 * (2 * t + j) + c] = make_float4(
                            warp.mixed[b][c][2 * i + j], warp.mixed[b][c + 1][2 * i + j],
                            warp.mixed[b][c + 2][2 * i + j], warp.mixed[b][c + 3][2 * i + j]);
        }
    }

    /* The warps' shares of row R, its largest score and its sum. */
    __device__ void share_warps(uint32_t r, float (&share)[WARPS], float *higher,
                                float *total) const
    {
        *higher = -CUDART_INF_F;
        *total = 0;
#pragma unroll
        for (uint32_t w = 0; w < WARPS; w++)
            *higher = fmaxf(*higher, most[w][r]);
#pragma unroll
        for (uint32_t w = 0; w < WARPS; w++) {
            share[w] = share_of(most[w][r], *higher);
            *total += share[w] * sum[w][r];
        }
    }

    /* Merges row R, for a warp. */
    __device__ void finish(const AttendTask &task, const AttendRow &row, uint32_t split, uint32_t r)
    {
        float higher;
        float total;
        float share[WARPS];
        share_warps(r, share, &higher, &total);
        float *to;
        float scale = begin_row(task, row, split, higher, total, threadIdx.x % 32 == 0, &to);
        for (uint32_t i = threadIdx.x % 32; i < task.layer.value_dim; i += 32) {
            float value = 0;
#pragma unroll
            for (uint32_t w = 0; w < WARPS; w++)
                value += share[w] * mixed[w][r][i];
            put_result(task, to, i, value * scale);
        }
    }

    /* Merges row R where the block's own part is wanted, for a warp. */
    __device__ void merge(uint32_t r)
    {
        float higher;
        float total;
        float share[WARPS];
        share_warps(r, share, &higher, &total);
        float4 value = {};
        uint32_t column = threadIdx.x % (DIM / 4) * 4;
#pragma unroll
        for (uint32_t w = 0; w < WARPS; w++)
            add_share(share[w], *(const float4 *)&mixed[w][r][column], &value);
        __syncwarp();
        *(float4 *)&mixed[0][r][column] = value;
        most[0][r] = higher;
        sum[0][r] = total;
    }

    /* Adds up what the blocks of the cluster have merged of row R, and writes it; for a warp. */
    __device__ void finish_cluster(const AttendTask &task, const AttendRow &row, uint32_t r) const
    {
        uint32_t column = threadIdx.x % (DIM / 4) * 4;
        float share[CLUSTER_SPLITS];
        float higher = -CUDART_INF_F;
        float total = 0;
        float4 value = {};
#pragma unroll
        for (uint32_t s = 0; s < CLUSTER_SPLITS; s++) {
            share[s] =
                s < task.splits ? load_shared_of(s, shared_address(&most[0][r])) : -CUDART_INF_F;
            higher = fmaxf(higher, share[s]);
        }
#pragma unroll
        for (uint32_t s = 0; s < CLUSTER_SPLITS; s++) {
            if (s >= task.splits)
                continue;
            share[s] = share_of(share[s], higher);
            total += share[s] * load_shared_of(s, shared_address(&sum[0][r]));
            add_share(share[s], load_four_of(s, shared_address(&mixed[0][r][column])), &value);
        }
        float scale = final_scale(task, row.head, higher, total);
        if (column >= task.layer.value_dim)
            return;
        float *to = row_result(task, row.token * task.layer.n_heads + row.head);
        value = make_float4(value.x * scale, value.y * scale, value.z * scale, value.w * scale);
        if (task.rounds)
            *(uint2 *)((__nv_bfloat16 *)to + column) =
                make_uint2(pack_bf16(value.x, value.y), pack_bf16(value.z, value.w));
        else
            *(float4 *)(to + column) = value;
    }
};

/* A block: up to 16 rows and the keys of a split, of which its warps take 16 in turn. The splits of
 * a tile are a cluster where they are few: each of its blocks then adds up some of the rows. Per
 * key 2 (key_dim + value_dim) bytes and, with a group of 8 heads, 16 (key_dim + value_dim)
 * operations: device memory bounds it. */
template <uint32_t DIM>
__global__ void __launch_bounds__(WARPS * 32, DIM == 64 ? 3 : 2) attend_rows_stream(AttendTask task)
{
    __shared__ __align__(16) StreamParts<DIM> parts;
    const dim3 place = task.clustered ? dim3(blockIdx.y, blockIdx.z, blockIdx.x)
                                      : dim3(blockIdx.x, blockIdx.y, blockIdx.z);
    /* spans are older than the kernels that may still run */
    const AttendTile tile = find_attend_tile(task, place);
    wait_for_earlier_kernels();
    if (task.lets_next)
        let_next_kernel_start();
    if (tile.at.tokens == 0)
        return;
    const AttendLayer &layer = task.layer;
    size_t slot = (size_t)tile.at.span.kv_slot * layer.cache.positions;
    const __nv_bfloat16 *keys = (const __nv_bfloat16 *)layer.cache.keys +
                                slot * layer.cache.key_stride +
                                (size_t)tile.kv_head * layer.key_dim;
    const __nv_bfloat16 *values = (const __nv_bfloat16 *)layer.cache.values +
                                  slot * layer.cache.value_stride +
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
    if (task.clustered) {
        for (uint32_t r = threadIdx.x / 32; r < STREAM_ROWS; r += WARPS)
            parts.merge(r);
        __syncwarp();
        cluster_sync();
        for (uint32_t r = threadIdx.x / 32 * task.splits + tile.split; r < STREAM_ROWS;
             r += WARPS * task.splits) {
            const AttendRow row = find_row(task, tile, r);
            if (row.there)
                parts.finish_cluster(task, row, r);
        }
        __syncwarp();
        cluster_sync(); /* no block may end while another reads from it */
        return;
    }
    for (uint32_t r = threadIdx.x / 32; r < STREAM_ROWS; r += WARPS) {
        const AttendRow row = find_row(task, tile, r);
        if (row.there)
            parts.finish(task, row, tile.split, r);
    }
}

/* What the device is asked about KERNEL once. */
template <auto KERNEL> static Status count_clustered(uint32_t splits, uint32_t *blocks)
{
    static int clusters[CLUSTER_SPLITS + 1]; /* the same whoever writes it; 0: not asked yet */
    if (clusters[splits] == 0) {
        cudaLaunchAttribute attribute = {};
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = splits;
        attribute.val.clusterDim.y = 1;
        attribute.val.clusterDim.z = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(splits);
        config.blockDim = dim3(WARPS * 32);
        config.attrs = &attribute;
        config.numAttrs = 1;
        CUDA_TRY(cudaOccupancyMaxActiveClusters(&clusters[splits], KERNEL, &config));
    }
    *blocks = max(clusters[splits], 1) * splits;
    return OK;
}

Status attend_stream_clustered(const AttendLayer &layer, uint32_t splits, uint32_t *blocks)
{
    uint32_t dim = max(layer.key_dim, layer.value_dim);
    return dim <= 64 ? count_clustered<attend_rows_stream<64>>(splits, blocks)
                     : count_clustered<attend_rows_stream<128>>(splits, blocks);
}

Status attend_stream(const AttendTask &task, dim3 grid, cudaStream_t stream)
{
    const LaunchShape launch = {task.clustered ? dim3(grid.z, grid.x, grid.y) : grid, WARPS * 32, 0,
                                task.clustered ? task.splits : 0};
    uint32_t dim = max(task.layer.key_dim, task.layer.value_dim);
    auto kernel = dim <= 64 ? attend_rows_stream<64> : attend_rows_stream<128>;
    return launch_after(kernel, launch, stream, task);
}
