/* Attention: which kernel, how its work is cut, and the merge of what was split. */
#include "exec/cuda/attend.cuh"
#include "exec/cuda/hopper.cuh"

static constexpr uint32_t MAX_KEY_DIM = 576;
static constexpr uint32_t MAX_VALUE_DIM = 512;
static constexpr uint32_t BLOCKS_EACH = 2; /* of a multiprocessor, when keys are split */
static constexpr uint32_t MAX_SPLITS = 128;
static constexpr uint32_t MERGE_THREADS = 128;

/* Sets what TASK lacks, for tiles of ROWS and about BLOCKS blocks; returns the grid. */
static dim3 attend_grid(const Spans *spans, uint32_t rows, uint32_t blocks, AttendTask *task)
{
    const AttendLayer &layer = task->layer;
    uint32_t group = layer.n_heads / layer.n_kv_heads;
    task->tile_heads = group < rows ? group : rows;
    task->tile_tokens = rows / task->tile_heads;
    task->head_tiles = divide_up(group, task->tile_heads);
    dim3 grid(most_tiles(spans, task->tile_tokens), layer.n_kv_heads * task->head_tiles);
    uint64_t keys = spans->most_keys;
    if (layer.causal && layer.window > 0 && keys > (uint64_t)layer.window + task->tile_tokens)
        keys = (uint64_t)layer.window + task->tile_tokens;
    uint64_t splits = blocks / ((uint64_t)grid.x * grid.y);
    uint64_t most = (keys + SPLIT_KEYS - 1) / SPLIT_KEYS;
    splits = splits < most ? splits : most;
    splits = splits < MAX_SPLITS ? splits : MAX_SPLITS;
    task->splits = splits > 1 ? (uint32_t)splits : 1;
    grid.z = task->splits;
    task->token_tiles = grid.x;
    return grid;
}

/* A block: one row. Reads 4 splits * value_dim bytes, writes 4 value_dim; bound by latency. */
__global__ void __launch_bounds__(MERGE_THREADS) merge_parts(AttendTask task)
{
    wait_for_earlier_kernels();
    let_next_kernel_start();
    size_t row = blockIdx.x;
    uint32_t dim = task.layer.value_dim;
    float most = -CUDART_INF_F;
    float sum = 0;
    for (uint32_t s = 0; s < task.splits; s++)
        most = fmaxf(most, *part_most(task, s, row));
    for (uint32_t s = 0; s < task.splits; s++)
        sum += share_of(*part_most(task, s, row), most) * *part_sum(task, s, row);
    float scale = final_scale(task, row % task.layer.n_heads, most, sum);
    for (uint32_t i = threadIdx.x; i < dim; i += MERGE_THREADS) {
        float value = 0;
        for (uint32_t s = 0; s < task.splits; s++)
            value += share_of(*part_most(task, s, row), most) * part_values(task, s, row)[i];
        task.out[row * dim + i] = value * scale;
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

typedef enum { ATTEND_PLAIN, ATTEND_STREAM, ATTEND_TILES } AttendKind;

static AttendKind choose_kind(const OpsQueue *queue, const AttendTask &task, const Spans *spans)
{
    const AttendLayer &layer = task.layer;
    if (queue->compute != COMPUTE_BF16 || !is_aligned(task) || layer.key_dim > 128 ||
        layer.value_dim > 128)
        return ATTEND_PLAIN;
    uint32_t rows = layer.n_heads / layer.n_kv_heads * (spans->tokens / spans->n);
    return rows <= STREAM_ROWS ? ATTEND_STREAM : ATTEND_TILES;
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

extern "C" Status ops_attend(const OpsQueue *queue, const AttendLayer *layer, const Spans *spans,
                             const float *queries, float *out)
{
    if (spans->tokens == 0)
        return OK;
    AttendTask task = {};
    task.layer = *layer;
    task.spans = spans->device;
    task.n_spans = spans->n;
    task.rows = spans->tokens * layer->n_heads;
    task.queries = queries;
    task.out = out;
    task.parts = (float *)queue->scratch;
    AttendKind kind = choose_kind(queue, task, spans);
    uint32_t blocks = queue->multiprocessors * (kind == ATTEND_TILES ? 1 : BLOCKS_EACH);
    uint32_t tile_rows = kind == ATTEND_TILES ? TILE_ROWS : STREAM_ROWS;
    dim3 grid = attend_grid(spans, tile_rows, blocks, &task);
    TRY(check_attend(queue, task, grid));
    if (kind == ATTEND_TILES)
        TRY(attend_tiles(task, spans->tokens, blocks, queue->stream));
    else if (kind == ATTEND_STREAM)
        TRY(attend_stream(task, grid, queue->stream));
    else
        TRY(attend_plain(task, queue->compute == COMPUTE_BF16, grid, queue->stream));
    if (task.splits == 1)
        return OK;
    const LaunchShape merge = {dim3(task.rows), MERGE_THREADS, 0, 0};
    return launch_after(merge_parts, merge, queue->stream, task);
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

/* Splits are made only as long as splits * tiles <= blocks, and a tile has at most so many rows. */
static size_t parts_bytes(const ModelConfig *config, uint32_t multiprocessors)
{
    size_t widest = 0;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const AttentionConfig *a = &config->layers[i].attention;
        widest = larger(widest, a->kv_rank > 0 ? a->kv_rank : a->value_dim);
    }
    size_t rows = (size_t)larger(STREAM_ROWS * BLOCKS_EACH, TILE_ROWS) * multiprocessors;
    return product_of(rows, product_of(widest + 2, sizeof(float)));
}

extern "C" size_t ops_scratch_bytes(const DeviceOptions *options, uint32_t multiprocessors)
{
    size_t rounded = 0;
    if (options->compute != COMPUTE_F32)
        rounded = product_of(product_of(options->max_tokens, widest_row(options->config)), 2);
    return larger(rounded, parts_bytes(options->config, multiprocessors));
}
