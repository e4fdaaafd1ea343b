/* The experts' feed-forward networks, split over (expert, tile of rows).
 *
 * A tile gathers its rows, runs the first matrix (gate and up as one product), the activation and
 * the second matrix, and scatters: by index, or by products with one-hot matrices (the dispatch
 * mask of the paper). Rows between an expert's own and the capacity are zero and are computed like
 * the others. */
#include "exec/cpu/cpu.h"
#include "exec/cpu/host_experts.h"

#include <string.h>

typedef struct {
    const Device *device;
    const ExpertBatch *batch;
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

static size_t widest_first(const ModelConfig *config)
{
    size_t most = 0;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        size_t rows = config->layers[i].moe ? ffn_first_rows(&config->layers[i].ffn) : 0;
        most = rows > most ? rows : most;
    }
    return most;
}

size_t cpu_experts_scratch(const DeviceOptions *options)
{
    size_t columns = 3 * (size_t)options->config->d_model + widest_first(options->config);
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
    scratch.mask = scratch.hidden + (size_t)TILE_ROWS * ffn_first_rows(task->batch->shape);
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

/* scratch->y = the FFN at WEIGHTS of scratch->x */
static void run_ffn(const ExpertTask *task, const unsigned char *weights, uint32_t rows,
                    const Scratch *scratch)
{
    const FfnShape *shape = task->batch->shape;
    FfnLayout layout = ffn_layout(shape, sizeof(float));
    size_t d = shape->d_model;
    uint32_t first_rows = ffn_first_rows(shape);
    if (shape->bias) {
        cpu_put_bias((const float *)(const void *)(weights + layout.first_bias), rows, first_rows,
                     false, scratch->hidden, first_rows);
        cpu_put_bias((const float *)(const void *)(weights + layout.second_bias), rows, (uint32_t)d,
                     false, scratch->y, d);
    }
    cpu_multiply_transposed(rows, first_rows, (uint32_t)d, 1, scratch->x, d,
                            (const float *)(const void *)(weights + layout.first), d, shape->bias,
                            scratch->hidden, first_rows);
    for (size_t row = 0; row < rows; row++)
        cpu_activate_row(shape, scratch->hidden + row * first_rows,
                         scratch->hidden + row * first_rows);
    cpu_multiply_transposed(rows, (uint32_t)d, shape->d_ff, 1, scratch->hidden, first_rows,
                            (const float *)(const void *)(weights + layout.second), shape->d_ff,
                            shape->bias, scratch->y, d);
}

static void run_tile(void *argument, size_t item, size_t worker)
{
    const ExpertTask *task = argument;
    const ExpertBatch *batch = task->batch;
    const ExpertTile *tile = &task->device->tiles[item];
    uint32_t first = batch->groups.first[tile->expert] + tile->first;
    uint32_t end = batch->groups.first[tile->expert + 1];
    const uint32_t *rows = batch->groups.rows + first;
    uint32_t n = first < end ? least(tile->rows, end - first) : 0;
    Scratch scratch = take_scratch(task, worker);
    if (batch->mask)
        gather_by_mask(task, rows, n, tile->rows, &scratch);
    else
        gather(task, rows, n, tile->rows, scratch.x);
    run_ffn(task, batch->slots + tile->slot * batch->slot_stride, tile->rows, &scratch);
    if (batch->mask)
        scatter_by_mask(task, rows, n, tile->rows, &scratch);
    else
        scatter(task, rows, n, scratch.y);
}

/* Cuts the rows of EXPERT into tiles from number N on; returns the number after the last. */
static size_t cut_tiles(Device *device, const ExpertBatch *batch, uint32_t expert, uint32_t slot,
                        size_t n)
{
    uint32_t rows = batch->groups.first[expert + 1] - batch->groups.first[expert];
    if (rows > 0 && batch->capacity > 0)
        rows = batch->capacity;
    for (uint32_t first = 0; first < rows; first += TILE_ROWS)
        device->tiles[n++] = (ExpertTile){expert, slot, first, least(TILE_ROWS, rows - first)};
    return n;
}

Status cpu_run_experts(Device *device, const ExpertBatch *batch, const ExpertJob *jobs,
                       uint32_t n_jobs, const float *in, void *out)
{
    size_t n = 0;
    for (uint32_t i = 0; jobs != NULL && i < n_jobs; i++)
        n = cut_tiles(device, batch, jobs[i].expert, jobs[i].slot, n);
    for (uint32_t e = 0; jobs == NULL && e < batch->n_experts; e++)
        n = cut_tiles(device, batch, e, batch->placed != NULL ? batch->placed[e].slot : e, n);
    ExpertTask task = {device, batch, in, out};
    thread_pool_run(device->pool, n, run_tile, &task);
    return OK;
}

/* Everything lies where the host reads it. */
Status cpu_offer_host(Device *device, const ExpertBatch *batch, const float *in)
{
    (void)device;
    (void)batch;
    (void)in;
    return OK;
}

Status cpu_run_host(Device *device, const ExpertBatch *batch, const HostJob *jobs, uint32_t n_jobs,
                    const float *in, void *out)
{
    HostWork work = {.shape = batch->shape,
                     .form = HOST_PARTS,
                     .top_k = batch->top_k,
                     .groups = batch->groups,
                     .jobs = jobs,
                     .n_jobs = n_jobs,
                     .in = in};
    while (host_experts_next(device->host, &work, true, out, device->host_rows) > 0)
        ;
    return OK;
}

Status cpu_time_host(Device *device, const FfnShape *shape, const HostJob *jobs, uint32_t n_jobs,
                     uint64_t *ns)
{
    host_experts_time(device->host, shape, HOST_PARTS, jobs, n_jobs, ns);
    return OK;
}

/* An expert without rows would add nothing, so it is passed over here. */
Status cpu_run_static(Device *device, const ExpertBatch *batch, float scale, const float *in,
                      void *rows, float *out)
{
    TRY(cpu_run_experts(device, batch, NULL, 0, in, rows));
    return cpu_combine(device, batch, scale, rows, out);
}
