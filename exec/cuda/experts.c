#include "exec/cuda/expert_rows.h"

#include "exec/layout.h"

enum { NARROW_WIDTH = 128, PIECES = 11, PIECE_SLACK = 256 };

bool experts_packed(const FfnShape *shape, bool bf16)
{
    Activation activation = shape->activation;
    bool known = shape->gated ? activation == ACTIVATION_SILU
                              : activation == ACTIVATION_RELU || activation == ACTIVATION_GELU;
    /* The packed form has no padding then, and so the size of the plain one. */
    bool whole = shape->d_model % BLOCK_ROWS == 0 && shape->d_ff % BLOCK_COLUMNS == 0 &&
                 ffn_first_rows(shape) % BLOCK_ROWS == 0;
    return bf16 && known && whole;
}

/* What calls are sized by. */
typedef struct {
    size_t rows;
    size_t jobs;
    size_t groups;
    size_t d_model;
    size_t d_ff;
    size_t element; /* of the rows' arrays */
} ExpertsSize;

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* The most rows that ASSIGNMENTS of up to EXPERTS take in tiles of either kind. */
static size_t most_rows(size_t assignments, size_t experts)
{
    size_t active = assignments < experts ? assignments : experts;
    size_t plain = assignments + PLAIN_TILE * active;
    size_t packed = grouping_max_rows(assignments, (uint32_t)experts, NARROW_WIDTH);
    return round_up(plain > packed ? plain : packed, PLAIN_TILE);
}

static ExpertsSize measure(const DeviceOptions *options, bool bf16)
{
    const ModelConfig *config = options->config;
    ExpertsSize size = {.jobs = config->max_experts, .d_model = config->d_model, .element = 2};
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const LayerConfig *layer = &config->layers[i];
        if (!layer->moe)
            continue;
        size.d_ff = layer->ffn.d_ff > size.d_ff ? layer->ffn.d_ff : size.d_ff;
        if (!experts_packed(&layer->ffn, bf16))
            size.element = sizeof(float);
    }
    if (size.jobs == 0)
        return size;
    size.rows = most_rows(times(options->max_tokens, config->max_top_k), size.jobs);
    size.groups = size.rows / GROUP_ROWS + size.jobs + 1;
    return size;
}

size_t experts_bytes(const DeviceOptions *options, bool bf16)
{
    ExpertsSize size = measure(options, bf16);
    size_t columns = 2 * size.d_model + size.d_ff;
    size_t small = size.jobs * (2 * sizeof(ExpertJob) + sizeof(uint32_t)) +
                   size.groups * (sizeof(RowGroup) + sizeof(uint32_t)) +
                   size.rows * sizeof(uint32_t) + PIECES * PIECE_SLACK;
    size_t rows = times(size.rows, columns * size.element);
    return rows < SIZE_MAX - small ? rows + small : SIZE_MAX;
}

Status experts_open(const DeviceOptions *options, bool bf16, DeviceArena *arena, ExpertsWork *work)
{
    ExpertsSize size = measure(options, bf16);
    *work = (ExpertsWork){.bf16 = bf16, .max_jobs = (uint32_t)size.jobs, .max_rows = size.rows};
    if (size.jobs == 0)
        return OK;
    TRY(device_arena_take(arena, size.jobs, sizeof *work->jobs, &work->jobs));
    TRY(device_arena_take(arena, size.jobs, sizeof *work->all, &work->all));
    TRY(device_arena_take(arena, size.jobs + 1, sizeof(uint32_t), &work->first_row));
    TRY(device_arena_take(arena, size.rows, sizeof(uint32_t), &work->assignment));
    TRY(device_arena_take(arena, 1, sizeof(uint32_t), &work->table.n_groups));
    TRY(device_arena_take(arena, size.groups + 1, sizeof(uint32_t), &work->table.first_tile));
    TRY(device_arena_take(arena, size.groups, sizeof(RowGroup), &work->table.groups));
    TRY(device_arena_take(arena, size.rows, size.d_model * size.element, &work->gathered));
    TRY(device_arena_take(arena, size.rows, size.d_ff * size.element, &work->inside));
    TRY(device_arena_take(arena, size.rows, size.d_model * size.element, &work->outside));
    return expert_jobs_fill(work->all, work->max_jobs, NULL);
}

static ProductKind first_kind(const FfnShape *shape)
{
    if (shape->gated)
        return PRODUCT_SILU_GATED;
    return shape->activation == ACTIVATION_RELU ? PRODUCT_RELU : PRODUCT_GELU;
}

static const float *bias_at(const ExpertBatch *batch, size_t offset)
{
    return batch->shape->bias ? (const float *)(const void *)(batch->slots + offset) : NULL;
}

Status experts_multiply_packed(const ExpertRows *rows, bool dense)
{
    const ExpertsWork *work = rows->work;
    const ExpertBatch *batch = rows->batch;
    const FfnShape *shape = batch->shape;
    const FfnLayout layout = ffn_layout(shape, sizeof(uint16_t));
    const GroupedProductShape up = {.kind = first_kind(shape),
                                    .weights = batch->slots + layout.first,
                                    .bias = bias_at(batch, layout.first_bias),
                                    .stride_bytes = batch->slot_stride,
                                    .in = work->gathered,
                                    .dense = dense,
                                    .rows = (uint32_t)work->max_rows,
                                    .out = work->inside,
                                    .columns = shape->d_ff,
                                    .depth = shape->d_model};
    const GroupedProductShape down = {.kind = PRODUCT_DOWN,
                                      .weights = batch->slots + layout.second,
                                      .bias = bias_at(batch, layout.second_bias),
                                      .stride_bytes = batch->slot_stride,
                                      .in = work->inside,
                                      .rows = (uint32_t)work->max_rows,
                                      .out = work->outside,
                                      .columns = shape->d_model,
                                      .depth = shape->d_ff};
    GroupedProduct product;
    TRY(grouped_product_make(&up, &product));
    TRY(grouped_product_run(&product, &work->table, rows->max_width, rows->stream));
    TRY(grouped_product_make(&down, &product));
    return grouped_product_run(&product, &work->table, rows->max_width, rows->stream);
}

static Status run_rows(const ExpertRows *rows, const float *in, float *out)
{
    TRY(expert_rows_place(rows));
    TRY(expert_rows_gather(rows, in));
    TRY(rows->max_width > 0 ? experts_multiply_packed(rows, false) : expert_rows_multiply(rows));
    return expert_rows_scatter(rows, out);
}

/* Jobs whose rows fit together: all of them unless each is padded to a capacity. */
static uint32_t jobs_at_once(const ExpertsWork *work, const ExpertBatch *batch, uint32_t n_jobs)
{
    if (batch->capacity == 0)
        return n_jobs;
    size_t fit = work->max_rows / most_rows(batch->capacity, 1);
    return fit == 0 ? 1 : fit < n_jobs ? (uint32_t)fit : n_jobs;
}

/* Rows that N_JOBS can have, so that grids are no larger than they must be. */
static size_t rows_of_jobs(const ExpertsWork *work, const ExpertBatch *batch, uint32_t n_jobs)
{
    size_t rows = batch->capacity > 0 ? n_jobs * most_rows(batch->capacity, 1)
                                      : most_rows((size_t)batch->tokens * batch->top_k, n_jobs);
    return rows < work->max_rows ? rows : work->max_rows;
}

Status experts_run(const ExpertsWork *work, const ExpertBatch *batch, const ExpertJob *jobs,
                   uint32_t n_jobs, const float *in, float *out, cudaStream_t stream)
{
    const ExpertJob *placed = batch->placed != NULL ? batch->placed : work->all;
    uint32_t n = jobs != NULL ? n_jobs : batch->n_experts;
    if (n == 0)
        return OK;
    if (jobs != NULL)
        TRY(expert_jobs_put(work->jobs, jobs, n, stream));
    size_t assignments = (size_t)batch->tokens * batch->top_k;
    bool packed = experts_packed(batch->shape, work->bf16);
    uint32_t at_once = jobs_at_once(work, batch, n);
    for (uint32_t first = 0; first < n; first += at_once) {
        uint32_t some = n - first < at_once ? n - first : at_once;
        const ExpertRows rows = {.work = work,
                                 .batch = batch,
                                 .jobs = (jobs != NULL ? work->jobs : placed) + first,
                                 .n_jobs = some,
                                 .max_rows = rows_of_jobs(work, batch, some),
                                 .max_width =
                                     packed ? grouping_max_width(assignments, batch->n_experts) : 0,
                                 .stream = stream};
        TRY(run_rows(&rows, in, out));
    }
    return OK;
}
