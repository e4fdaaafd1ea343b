/* The experts' feed-forward networks, split over (expert, tile of rows).
 *
 * A tile gathers its rows, runs gate and up as one product, silu and down, and scatters: by index,
 * or by products with one-hot matrices (the dispatch mask of the paper). Rows between an expert's
 * own and the capacity are zero and are computed like the others. */
#include "exec/cpu/cpu.h"
#include "exec/cpu/exponential.h"

typedef struct {
    const Device *device;
    const ExpertBatch *batch;
    const ExpertJob *jobs;
    const float *in;
    float *out;
} ExpertTask;

/* One thread's scratch. */
typedef struct {
    float *x;      /* [TILE_ROWS][d_model] */
    float *hidden; /* [TILE_ROWS][2 * d_ff] */
    float *y;      /* [TILE_ROWS][d_model] */
    float *mask;   /* [TILE_ROWS][tokens] */
    float *spread; /* [TILE_ROWS][d_model] */
} Scratch;

static uint32_t widest_ff(const ModelConfig *config)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < config->n_layers; i++)
        most = config->layers[i].d_ff > most ? config->layers[i].d_ff : most;
    return most;
}

size_t cpu_experts_scratch(const DeviceOptions *options)
{
    size_t columns = 3 * (size_t)options->config->d_model + 2 * (size_t)widest_ff(options->config);
    return TILE_ROWS * (columns + (options->mask ? options->max_tokens : 0));
}

size_t cpu_experts_tiles(const DeviceOptions *options)
{
    size_t per_expert = divide_up(options->max_tokens, TILE_ROWS);
    return per_expert * (options->config->max_experts > 0 ? options->config->max_experts : 1);
}

static Scratch take_scratch(const ExpertTask *task, size_t worker)
{
    size_t model = (size_t)TILE_ROWS * task->device->d_model;
    Scratch scratch = {.x = cpu_scratch(task->device, worker)};
    scratch.y = scratch.x + model;
    scratch.spread = scratch.y + model;
    scratch.hidden = scratch.spread + model;
    scratch.mask = scratch.hidden + (size_t)TILE_ROWS * 2 * task->batch->d_ff;
    return scratch;
}

static void gather(const ExpertTask *task, const uint32_t *rows, uint32_t n, uint32_t padded,
                   float *x)
{
    size_t d = task->device->d_model;
    for (uint32_t i = 0; i < n; i++)
        memcpy(x + i * d, task->in + rows[i] / task->batch->top_k * d, d * sizeof *x);
    memset(x + n * d, 0, (padded - n) * d * sizeof *x);
}

/* mask[i][token] = 1 where row i of the tile is the token's; x = mask * in. */
static void gather_by_mask(const ExpertTask *task, const uint32_t *rows, uint32_t n,
                           uint32_t padded, Scratch *scratch)
{
    size_t d = task->device->d_model;
    size_t tokens = task->batch->tokens;
    memset(scratch->mask, 0, padded * tokens * sizeof *scratch->mask);
    for (uint32_t i = 0; i < n; i++)
        scratch->mask[i * tokens + rows[i] / task->batch->top_k] = 1;
    cpu_multiply(padded, (uint32_t)d, (uint32_t)tokens, scratch->mask, tokens, task->in, d, 0,
                 scratch->x, d);
}

static void scatter(const ExpertTask *task, const uint32_t *rows, uint32_t n, const float *y)
{
    size_t d = task->device->d_model;
    for (uint32_t i = 0; i < n; i++)
        memcpy(task->out + rows[i] * d, y + i * d, d * sizeof *y);
}

/* spread[token] = mask^T * y, a tile of tokens at a time; rows lie in ascending token order. */
static void scatter_by_mask(const ExpertTask *task, const uint32_t *rows, uint32_t n,
                            uint32_t padded, Scratch *scratch)
{
    size_t d = task->device->d_model;
    uint32_t tokens = task->batch->tokens;
    uint32_t row = 0;
    for (uint32_t first = 0; first < tokens; first += TILE_ROWS) {
        uint32_t block = least(TILE_ROWS, tokens - first);
        cpu_multiply_mask(block, (uint32_t)d, padded, scratch->mask + first, tokens, scratch->y, d,
                          scratch->spread, d);
        for (; row < n && rows[row] / task->batch->top_k < first + block; row++)
            memcpy(task->out + rows[row] * d,
                   scratch->spread + (rows[row] / task->batch->top_k - first) * d,
                   d * sizeof(float));
    }
}

/* hidden[i][0 .. d_ff) = silu(gate) * up, both in hidden[i]. */
static void gated_silu(float *hidden, uint32_t rows, uint32_t d_ff)
{
    for (size_t row = 0; row < rows; row++) {
        float *restrict gate = hidden + row * 2 * d_ff;
        const float *restrict up = gate + d_ff;
        for (uint32_t i = 0; i < d_ff; i++)
            gate[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
    }
}

static void run_tile(void *argument, size_t item, size_t worker)
{
    const ExpertTask *task = argument;
    const ExpertTile *tile = &task->device->tiles[item];
    const ExpertJob *job = &task->jobs[tile->job];
    const uint32_t *rows = task->batch->rows + job->first_row + tile->first;
    uint32_t n = tile->first < job->n_rows ? least(tile->rows, job->n_rows - tile->first) : 0;
    Scratch scratch = take_scratch(task, worker);
    size_t d = task->device->d_model;
    size_t ff = task->batch->d_ff;
    const float *gate_up = job->weights;
    if (task->batch->mask)
        gather_by_mask(task, rows, n, tile->rows, &scratch);
    else
        gather(task, rows, n, tile->rows, scratch.x);
    cpu_multiply_transposed(tile->rows, (uint32_t)(2 * ff), (uint32_t)d, 1, scratch.x, d, gate_up,
                            d, 0, scratch.hidden, 2 * ff);
    gated_silu(scratch.hidden, tile->rows, (uint32_t)ff);
    cpu_multiply_transposed(tile->rows, (uint32_t)d, (uint32_t)ff, 1, scratch.hidden, 2 * ff,
                            gate_up + 2 * ff * d, ff, 0, scratch.y, d);
    if (task->batch->mask)
        scatter_by_mask(task, rows, n, tile->rows, &scratch);
    else
        scatter(task, rows, n, scratch.y);
}

Status cpu_run_experts(Device *device, const ExpertBatch *batch, const ExpertJob *jobs,
                       uint32_t n_jobs, const float *in, float *out)
{
    size_t n = 0;
    for (uint32_t i = 0; i < n_jobs; i++) {
        uint32_t rows = batch->capacity > 0 ? batch->capacity : jobs[i].n_rows;
        for (uint32_t first = 0; first < rows; first += TILE_ROWS)
            device->tiles[n++] = (ExpertTile){i, first, least(TILE_ROWS, rows - first)};
    }
    ExpertTask task = {device, batch, jobs, in, out};
    thread_pool_run(device->pool, n, run_tile, &task);
    return OK;
}

typedef struct {
    const Device *device;
    const float *in;
    const float *weights;
    uint32_t tokens;
    uint32_t top_k;
    float *out;
} CombineTask;

static void combine_token(const CombineTask *task, size_t token, float *restrict sum)
{
    uint32_t d = task->device->d_model;
    float *restrict out = task->out + token * d;
    memset(sum, 0, d * sizeof *sum);
    for (size_t row = token * task->top_k; row < (token + 1) * task->top_k; row++) {
        float weight = task->weights[row];
        const float *restrict in = task->in + row * d;
        for (uint32_t i = 0; weight != 0 && i < d; i++)
            sum[i] += weight * in[i];
    }
    for (uint32_t i = 0; i < d; i++)
        out[i] += sum[i];
}

static void combine_rows(void *argument, size_t item, size_t worker)
{
    const CombineTask *task = argument;
    size_t first = item * TILE_ROWS;
    for (size_t token = first; token < first + TILE_ROWS && token < task->tokens; token++)
        combine_token(task, token, cpu_scratch(task->device, worker));
}

Status cpu_combine(Device *device, const float *in, const float *weights, uint32_t tokens,
                   uint32_t top_k, float *out)
{
    CombineTask task = {device, in, weights, tokens, top_k, out};
    thread_pool_run(device->pool, divide_up(tokens, TILE_ROWS), combine_rows, &task);
    return OK;
}
