/* Attention: which kernel, how its work is cut, and the merge of what was split. */
#include "exec/cuda/attend.cuh"
#include "exec/cuda/few_rows.h"
#include "exec/cuda/hopper.cuh"
#include "exec/cuda/reduce.cuh"

static constexpr uint32_t MAX_KEY_DIM = 576;
static constexpr uint32_t MAX_VALUE_DIM = 512;
static constexpr uint32_t MAX_SPLITS = 128;
static constexpr uint32_t MERGE_THREADS = 256;
static constexpr uint32_t START_TURNS = 5;   /* that a block's start and end take as long as */
static constexpr uint32_t MERGE_TURNS = 4;   /* ... the merge of what was split */
static constexpr uint32_t CLUSTER_TURNS = 3; /* ... and within a cluster */

/* What a kernel's tiles and blocks are like. */
struct KindShape {
    uint32_t rows;      /* of a tile */
    uint32_t resident;  /* blocks on a multiprocessor */
    uint32_t waves;     /* of these at the most, when keys are split */
    uint32_t turn_keys; /* that a block takes at a time */
    uint32_t clusters;  /* splits that may be a cluster, which merges them itself, at the most */
    uint32_t clustered[CLUSTER_SPLITS + 1]; /* blocks at a time, in clusters of so many */
};

/* Clusters of other sizes leave more multiprocessors without any. */
static bool may_cluster(const KindShape &kind, uint32_t splits)
{
    return splits > 1 && splits <= kind.clusters && (splits & (splits - 1)) == 0;
}

static uint32_t merge_turns(const KindShape &kind, uint32_t splits)
{
    return splits == 1 ? 0 : may_cluster(kind, splits) ? CLUSTER_TURNS : MERGE_TURNS;
}

/* The number of splits of TILES of up to KEYS that are done soonest, counted in turns of a block,
 * with RESIDENT blocks at a time where they are no clusters, of which fewer may find room. */
static uint32_t choose_splits(const KindShape &kind, uint64_t tiles, uint64_t keys,
                              uint64_t resident)
{
    uint32_t best = 1;
    uint64_t least = UINT64_MAX;
    for (uint32_t splits = 1; splits <= MAX_SPLITS; splits++) {
        if (splits > 1 &&
            (tiles * splits > kind.waves * resident || (splits - 1) * SPLIT_KEYS >= keys))
            break;
        uint64_t room = may_cluster(kind, splits) ? kind.clustered[splits] : resident;
        uint64_t waves = (tiles * splits + room - 1) / room;
        uint64_t turns = (keys + splits * kind.turn_keys - 1) / (splits * kind.turn_keys);
        uint64_t time = waves * (turns + START_TURNS) + merge_turns(kind, splits);
        if (time < least) {
            best = splits;
            least = time;
        }
    }
    return best;
}

/* Sets what TASK lacks; returns the grid. */
static dim3 attend_grid(const Spans *spans, const KindShape &kind, uint32_t multiprocessors,
                        AttendTask *task)
{
    uint32_t rows = kind.rows;
    const AttendLayer &layer = task->layer;
    uint32_t group = layer.n_heads / layer.n_kv_heads;
    task->tile_heads = group < rows ? group : rows;
    task->tile_tokens = rows / task->tile_heads;
    task->head_tiles = divide_up(group, task->tile_heads);
    task->token_tiles = most_tiles(spans, task->tile_tokens);
    uint64_t keys = spans->most_keys;
    if (layer.causal && layer.window > 0 && keys > (uint64_t)layer.window + task->tile_tokens)
        keys = (uint64_t)layer.window + task->tile_tokens;
    dim3 grid(task->token_tiles, layer.n_kv_heads * task->head_tiles);
    task->splits = choose_splits(kind, (uint64_t)grid.x * grid.y, keys,
                                 (uint64_t)kind.resident * multiprocessors);
    task->clustered = may_cluster(kind, task->splits);
    bool merges = task->splits > 1 && !task->clustered;
    task->lets_next = merges || !task->rounds || spans->tokens <= FEW_ROWS;
    grid.z = task->splits;
    return grid;
}

/* WIDTH floats that lie together, added and scaled. */
template <uint32_t WIDTH> struct MergedValues {
    float value[WIDTH];

    __device__ void add(const float *from, float share)
    {
        if constexpr (WIDTH == 4) {
            float4 word = *(const float4 *)from;
            value[0] += word.x * share;
            value[1] += word.y * share;
            value[2] += word.z * share;
            value[3] += word.w * share;
        } else {
            value[0] += *from * share;
        }
    }
};

/* The shares of a row's splits and, to every thread, the factor of their sum. */
__device__ static float share_splits(const AttendTask &task, size_t row, float *share)
{
    float most = -CUDART_INF_F;
    float sum = 0;
    for (uint32_t s = threadIdx.x % 32; s < task.splits; s += 32)
        most = fmaxf(most, *part_most(task, s, row));
    most = most_of_lanes(most);
    for (uint32_t s = threadIdx.x % 32; s < task.splits; s += 32) {
        float own = share_of(*part_most(task, s, row), most);
        sum += own * *part_sum(task, s, row);
        share[s] = own; /* by each warp the same */
    }
    return final_scale(task, row % task.layer.n_heads, most, sum_lanes(sum));
}

__device__ static void put_merged(const AttendTask &task, float *to, uint32_t i, float value)
{
    if (task.rounds)
        ((__nv_bfloat16 *)to)[i] = __float2bfloat16_rn(value);
    else
        to[i] = value;
}

/* A block: one row. Its threads take WIDTH columns each, and some of the splits where there are
 * more threads than columns. Reads 4 splits * value_dim bytes, writes 4 value_dim; bound by
 * latency. */
template <uint32_t WIDTH>
__global__ void __launch_bounds__(MERGE_THREADS) merge_parts(AttendTask task)
{
    __shared__ float share[MAX_SPLITS];
    __shared__ float mixed[MERGE_THREADS][WIDTH];
    wait_for_earlier_kernels();
    let_next_kernel_start();
    size_t row = blockIdx.x;
    uint32_t columns = task.layer.value_dim / WIDTH;
    uint32_t groups = max(MERGE_THREADS / columns, 1u);
    float scale = share_splits(task, row, share);
    __syncthreads();
    for (uint32_t first = 0; first < columns; first += MERGE_THREADS) {
        uint32_t column = first + threadIdx.x % min(columns, MERGE_THREADS);
        uint32_t group = threadIdx.x / columns;
        MergedValues<WIDTH> sum = {};
        if (column < columns && group < groups)
#pragma unroll 8
            for (uint32_t s = group; s < task.splits; s += groups)
                sum.add(part_values(task, s, row) + column * WIDTH, share[s]);
#pragma unroll
        for (uint32_t i = 0; i < WIDTH; i++)
            mixed[threadIdx.x][i] = sum.value[i];
        __syncthreads();
        for (uint32_t g = 1; group == 0 && column < columns && g < groups; g++)
#pragma unroll
            for (uint32_t i = 0; i < WIDTH; i++)
                sum.value[i] += mixed[g * columns + threadIdx.x][i];
        if (column < columns && group == 0)
#pragma unroll
            for (uint32_t i = 0; i < WIDTH; i++)
                put_merged(task, row_result(task, row), column * WIDTH + i, sum.value[i] * scale);
        __syncthreads();
    }
}

/* All rows begin at 16 bytes, in queries and in the cache. */
static bool is_aligned(const AttendTask &task)
{
    const AttendLayer &layer = task.layer;
    const CacheLayer &cache = layer.cache;
    size_t sizes = layer.key_dim | layer.value_dim | cache.key_stride | cache.value_stride;
    uintptr_t places = (uintptr_t)task.queries | (uintptr_t)cache.keys | (uintptr_t)cache.values;
    return sizes % 8 == 0 && layer.query_stride % 4 == 0 && places % 16 == 0;
}

typedef enum { ATTEND_PLAIN, ATTEND_STREAM, ATTEND_TILES, ATTEND_LATENTS } AttendKind;

static KindShape kind_shape(AttendKind kind, const AttendLayer &layer)
{
    bool narrow = layer.key_dim <= 64 && layer.value_dim <= 64;
    switch (kind) {
    case ATTEND_STREAM:
        return {STREAM_ROWS, narrow ? 3u : 2u, 8, 64, CLUSTER_SPLITS, {}};
    case ATTEND_TILES:
        return {TILE_ROWS, 1, 3, 128, 0, {}};
    case ATTEND_LATENTS:
        return {LATENT_ROWS, 1, 3, 64, 0, {}};
    default:
        return {PLAIN_ROWS, 2, 6, 32, 0, {}};
    }
}

static AttendKind choose_kind(const OpsQueue *queue, const AttendTask &task, const Spans *spans)
{
    const AttendLayer &layer = task.layer;
    if (queue->compute != COMPUTE_BF16 || !is_aligned(task))
        return ATTEND_PLAIN;
    if (layer.n_kv_heads == 1 && layer.key_dim == LATENT_KEY_DIM &&
        layer.value_dim == LATENT_VALUE_DIM && layer.cache.values == layer.cache.keys &&
        layer.relative_bias == nullptr)
        return ATTEND_LATENTS;
    if (layer.key_dim > 128 || layer.value_dim > 128)
        return ATTEND_PLAIN;
    uint32_t rows = layer.n_heads / layer.n_kv_heads * (spans->tokens / spans->n);
    return rows <= STREAM_ROWS ? ATTEND_STREAM : ATTEND_TILES;
}

static Status launch(AttendKind kind, const AttendTask &task, const Spans *spans, dim3 grid,
                     const OpsQueue *queue)
{
    switch (kind) {
    case ATTEND_STREAM:
        return attend_stream(task, grid, queue->stream);
    case ATTEND_TILES:
        return attend_tiles(task, spans->tokens, queue->multiprocessors, queue->stream);
    case ATTEND_LATENTS:
        return attend_latents(task, queue->multiprocessors, queue->stream);
    default:
        return attend_plain(task, queue->compute == COMPUTE_BF16, grid, queue->stream);
    }
}

static Status merge(const AttendTask &task, cudaStream_t stream)
{
    const LaunchShape shape = {dim3(task.rows), MERGE_THREADS, 0, 0};
    return task.layer.value_dim % 4 == 0 ? launch_after(merge_parts<4>, shape, stream, task)
                                         : launch_after(merge_parts<1>, shape, stream, task);
}

static Status check_attend(const OpsQueue *queue, const AttendTask &task, dim3 grid)
{
    if (task.layer.key_dim > MAX_KEY_DIM || task.layer.value_dim > MAX_VALUE_DIM)
        return fail(ERR_UNSUPPORTED,
                    "cuda: attention over %u and %u dimensions: at most %u and %u "
                    "are possible",
                    task.layer.key_dim, task.layer.value_dim, MAX_KEY_DIM, MAX_VALUE_DIM);
    if (grid.y > UINT16_MAX)
        return fail(ERR_UNSUPPORTED, "cuda: attention of %u heads is not possible",
                    task.layer.n_heads);
    size_t bytes = (size_t)task.splits * task.rows * (task.layer.value_dim + 2) * sizeof(float);
    if (task.splits > 1 && bytes > queue->scratch_bytes)
        return fail(ERR_MEMORY, "cuda: %zu bytes of scratch, attention needs %zu",
                    queue->scratch_bytes, bytes);
    return OK;
}

static AttendTask make_task(const OpsQueue *queue, const AttendLayer *layer, const Spans *spans,
                            const float *queries, float *out)
{
    AttendTask task = {};
    task.layer = *layer;
    task.spans = spans->device;
    task.n_spans = spans->n;
    task.rows = spans->tokens * layer->n_heads;
    task.queries = queries;
    task.out = out;
    task.parts = (float *)queue->scratch;
    return task;
}

static Status attend(const OpsQueue *queue, AttendKind kind, const Spans *spans, AttendTask *task)
{
    KindShape shape = kind_shape(kind, task->layer);
    for (uint32_t splits = 2; splits <= shape.clusters; splits *= 2)
        TRY(attend_stream_clustered(task->layer, splits, &shape.clustered[splits]));
    dim3 grid = attend_grid(spans, shape, queue->multiprocessors, task);
    TRY(check_attend(queue, *task, grid));
    TRY(launch(kind, *task, spans, grid, queue));
    return task->splits > 1 && !task->clustered ? merge(*task, queue->stream) : OK;
}

extern "C" Status ops_attend(const OpsQueue *queue, const AttendLayer *layer, const Spans *spans,
                             const float *queries, float *out)
{
    if (spans->tokens == 0)
        return OK;
    AttendTask task = make_task(queue, layer, spans, queries, out);
    return attend(queue, choose_kind(queue, task, spans), spans, &task);
}

extern "C" Status ops_attend_mixed(const OpsQueue *queue, const AttendLayer *layer,
                                   const Spans *spans, const float *queries, void *mixed)
{
    if (spans->tokens == 0)
        return OK;
    AttendTask task = make_task(queue, layer, spans, queries, (float *)mixed);
    task.rounds = queue->compute == COMPUTE_BF16;
    return attend(queue, choose_kind(queue, task, spans), spans, &task);
}

/* ---- scratch ---- */

/* A * B, or SIZE_MAX. */
static size_t product_of(size_t a, size_t b)
{
    return b != 0 && a > SIZE_MAX / b ? SIZE_MAX : a * b;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Elements of the widest row that a product rounds. */
static size_t widest_row(const ModelConfig *config)
{
    size_t widest = config->d_model;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const LayerConfig *layer = &config->layers[i];
        const AttentionConfig *a = &layer->attention;
        widest = larger(widest, (size_t)a->n_heads * larger(a->key_dim, a->value_dim));
        widest = larger(widest, (size_t)a->n_heads * a->kv_rank);
        widest = larger(widest, a->q_rank);
        widest = larger(widest, layer->moe ? layer->shared.d_ff : layer->ffn.d_ff);
    }
    return widest;
}

/* Rows of parts on a multiprocessor: rows * resident * waves of kind_shape(), the largest. */
static constexpr size_t PART_ROWS = 384;
static constexpr size_t LATENT_PART_ROWS = 192;

static size_t parts_bytes(const ModelConfig *config, uint32_t multiprocessors)
{
    size_t widest = 0;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const AttentionConfig *a = &config->layers[i].attention;
        widest = larger(widest, a->kv_rank > 0 ? LATENT_PART_ROWS * ((size_t)a->kv_rank + 2)
                                               : PART_ROWS * ((size_t)a->value_dim + 2));
    }
    return product_of(widest, multiprocessors * sizeof(float));
}

extern "C" size_t ops_scratch_bytes(const DeviceOptions *options, uint32_t multiprocessors)
{
    size_t rounded = 0;
    if (options->compute != COMPUTE_F32)
        rounded = product_of(product_of(options->max_tokens, widest_row(options->config)), 2);
    return larger(rounded, parts_bytes(options->config, multiprocessors));
}
