/* What the kernels of attention share: cutting the work into tiles, and finishing rows.
 *
 * A tile is up to ROWS query rows that read the same keys: heads of one key head, of consecutive
 * tokens of a span. Its keys may be split over several blocks, each of which leaves the largest
 * score of a row, the sum of its exponentials and the sum of values; merge_parts() adds these up in
 * the order of the splits. */
#ifndef EXEC_CUDA_ATTEND_CUH
#define EXEC_CUDA_ATTEND_CUH

#include <cuda_bf16.h>
#include <math_constants.h>

#include "exec/cuda/launch.cuh"
#include "exec/cuda/spans.cuh"

static constexpr uint32_t SPLIT_KEYS = 64;    /* a split is a multiple of so many */
static constexpr uint32_t CLUSTER_SPLITS = 4; /* that a cluster may have */

struct AttendTask {
    AttendLayer layer;
    const Span *spans;
    uint32_t n_spans;
    uint32_t rows;        /* in the step: tokens * n_heads */
    uint32_t tile_heads;  /* row r of a tile is token r / tile_heads, */
    uint32_t tile_tokens; /* head r % tile_heads */
    uint32_t head_tiles;  /* of one key head */
    uint32_t splits;
    uint32_t token_tiles; /* items of work: token_tiles * (n_kv_heads * head_tiles) * splits */
    bool rounds;          /* OUT is bf16 */
    bool lets_next;       /* start early: it is no library's, which need not wait as ours do */
    bool clustered;       /* the splits of a tile are a cluster, and the grid's x */
    const float *queries;
    float *out;
    float *parts; /* [splits][rows][value_dim], then [splits][rows] maxima and sums */
};

struct KeyRange {
    uint32_t first;
    uint32_t end;
};

/* What a block works on; tokens is 0 when there is nothing to do. */
struct AttendTile {
    SpanTile at;
    uint32_t kv_head;
    uint32_t first_head;
    uint32_t heads;
    uint32_t split;
    KeyRange keys; /* of this split */
};

__device__ inline KeyRange seen_keys(const AttendLayer &layer, uint32_t keys, uint32_t position)
{
    KeyRange seen = {0, layer.causal ? position + 1 : keys};
    if (layer.window > 0 && position + 1 > layer.window)
        seen.first = position + 1 - layer.window;
    return seen;
}

/* PLACE: x the tile of tokens, y the key head and the tile of its heads, z the split. By a warp. */
__device__ inline AttendTile find_attend_tile(const AttendTask &task, dim3 place)
{
    const AttendLayer &layer = task.layer;
    AttendTile tile = {};
    tile.at = find_tile(task.spans, task.n_spans, place.x, task.tile_tokens);
    if (tile.at.tokens == 0)
        return tile;
    uint32_t group = layer.n_heads / layer.n_kv_heads;
    uint32_t in_group = place.y % task.head_tiles * task.tile_heads;
    tile.split = place.z;
    tile.kv_head = place.y / task.head_tiles;
    tile.first_head = tile.kv_head * group + in_group;
    tile.heads = min(task.tile_heads, group - in_group);
    const Span &span = tile.at.span;
    uint32_t position = span.position + tile.at.first;
    uint32_t first = seen_keys(layer, span.keys, position).first;
    uint32_t end = seen_keys(layer, span.keys, position + tile.at.tokens - 1).end;
    uint32_t all = end > first ? end - first : 0;
    uint32_t share = (all + task.splits - 1) / task.splits;
    share = (share + SPLIT_KEYS - 1) / SPLIT_KEYS * SPLIT_KEYS;
    tile.keys.first = min(first + place.z * share, end);
    tile.keys.end = min(tile.keys.first + share, end);
    return tile;
}

/* A row of a tile, and where its query, its scores' bias and its result belong. */
struct AttendRow {
    bool there;
    uint32_t head;
    uint32_t position;
    KeyRange seen;
    const float *bias; /* of key 0, or NULL */
    size_t token;
};

__device__ inline AttendRow find_row(const AttendTask &task, const AttendTile &tile, uint32_t row)
{
    const AttendLayer &layer = task.layer;
    AttendRow found = {};
    uint32_t token = row / task.tile_heads;
    uint32_t head = row % task.tile_heads;
    found.there = token < tile.at.tokens && head < tile.heads;
    if (!found.there)
        return found;
    found.head = tile.first_head + head;
    found.position = tile.at.span.position + tile.at.first + token;
    found.seen = seen_keys(layer, tile.at.span.keys, found.position);
    found.token = (size_t)tile.at.span.first_token + tile.at.first + token;
    ptrdiff_t middle = (ptrdiff_t)layer.cache.positions - 1;
    if (layer.relative_bias != nullptr)
        found.bias = layer.relative_bias + found.head * (2 * middle + 1) + middle -
                     (ptrdiff_t)found.position;
    return found;
}

__device__ inline const float *row_query(const AttendTask &task, const AttendRow &row)
{
    return task.queries + row.token * task.layer.query_stride +
           (size_t)row.head * task.layer.key_dim;
}

/* The scaled product of a row with KEY -> its score: with its bias, or -inf when it is not seen. */
__device__ inline float finish_score(const AttendRow &row, float product, uint32_t key)
{
    if (key < row.seen.first || key >= row.seen.end)
        return -CUDART_INF_F;
    return row.bias != nullptr ? product + row.bias[key] : product;
}

/* exp(value - most), 0 where nothing was seen yet. */
__device__ inline float share_of(float value, float most)
{
    return most == -CUDART_INF_F ? 0 : expf(value - most);
}

/* Where a row's part of this split belongs. */
__device__ inline float *part_values(const AttendTask &task, uint32_t split, size_t row)
{
    return task.parts + ((size_t)split * task.rows + row) * task.layer.value_dim;
}

__device__ inline float *part_most(const AttendTask &task, uint32_t split, size_t row)
{
    size_t values = (size_t)task.splits * task.rows * task.layer.value_dim;
    return task.parts + values + (size_t)split * task.rows + row;
}

__device__ inline float *part_sum(const AttendTask &task, uint32_t split, size_t row)
{
    return part_most(task, split, row) + (size_t)task.splits * task.rows;
}

/* What the values of a row with these statistics are multiplied by, its sink counted. */
__device__ inline float final_scale(const AttendTask &task, uint32_t head, float most, float sum)
{
    float scale = 1;
    if (task.layer.sinks != nullptr) {
        float sink = task.layer.sinks[head];
        float higher = fmaxf(most, sink);
        scale = share_of(most, higher);
        sum = sum * scale + share_of(sink, higher);
    }
    return sum != 0 ? scale / sum : 0;
}

/* Where row PLACE of OUT begins; of bf16 when it rounds. */
__device__ inline float *row_result(const AttendTask &task, size_t place)
{
    size_t at = place * task.layer.value_dim;
    return task.rounds ? (float *)((__nv_bfloat16 *)task.out + at) : task.out + at;
}

/* VALUE -> element I of the row at TO, which is a part's or OUT's. */
__device__ inline void put_result(const AttendTask &task, float *to, uint32_t i, float value)
{
    if (task.rounds && task.splits == 1)
        ((__nv_bfloat16 *)to)[i] = __float2bfloat16_rn(value);
    else
        to[i] = value;
}

/* ... elements I and I + 1, I even. */
__device__ inline void put_results(const AttendTask &task, float *to, uint32_t i, float2 value)
{
    if (task.rounds && task.splits == 1)
        *(__nv_bfloat162 *)((__nv_bfloat16 *)to + i) = __floats2bfloat162_rn(value.x, value.y);
    else
        *(float2 *)(to + i) = value;
}

/* Writes the statistics of a row when there are splits; returns the factor of its values, which go
 * to *TO. One thread of several that share a row has LEADS set. */
__device__ inline float begin_row(const AttendTask &task, const AttendRow &row, uint32_t split,
                                  float most, float sum, bool leads, float **to)
{
    size_t place = row.token * task.layer.n_heads + row.head;
    if (task.splits == 1) {
        *to = row_result(task, place);
        return final_scale(task, row.head, most, sum);
    }
    *to = part_values(task, split, place);
    if (leads) {
        *part_most(task, split, place) = most;
        *part_sum(task, split, place) = sum;
    }
    return 1;
}

/* The kernels; each queues itself. TASK lacks what depends on the size of a tile. */
static constexpr uint32_t PLAIN_ROWS = 16;
static constexpr uint32_t STREAM_ROWS = 16;
static constexpr uint32_t TILE_ROWS = 128;
static constexpr uint32_t LATENT_ROWS = 64;
static constexpr uint32_t LATENT_KEY_DIM = 576;
static constexpr uint32_t LATENT_VALUE_DIM = 512;

/* All dimensions up to 576 and 512, everything in f32 but the cache, whose elements are ROUNDED. */
Status attend_plain(const AttendTask &task, bool rounded, dim3 grid, cudaStream_t stream);
/* Dimensions up to 128 that are multiples of 8; bf16. For few rows per key. */
Status attend_stream(const AttendTask &task, dim3 grid, cudaStream_t stream);
/* How many of its blocks run at once where every SPLITS of them, up to CLUSTER_SPLITS, are a
 * cluster: fewer than without, as each needs its multiprocessors close together. */
Status attend_stream_clustered(const AttendLayer &layer, uint32_t splits, uint32_t *blocks);
/* The same dimensions, for many rows; BLOCKS are those that fit the device. TOKENS are the step's.
 */
Status attend_tiles(const AttendTask &task, uint32_t tokens, uint32_t blocks, cudaStream_t stream);

/* Latent attention: keys of 576 elements, the first 512 their values; bf16. */
Status attend_latents(const AttendTask &task, uint32_t blocks, cudaStream_t stream);

#endif
