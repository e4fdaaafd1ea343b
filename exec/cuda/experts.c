#include "exec/cuda/experts.h"

#include "exec/cuda/router.h"
#include "base/layout.h"

enum { PIECES = 12, PIECE_SLACK = 256 };

bool experts_packed(const FfnShape *shape, bool bf16)
{
    return bf16 && packed_suits(shape);
}

/* What calls are sized by: the most of any layer. */
typedef struct {
    size_t assignments;
    size_t experts;
    size_t rows;
    size_t tiles;
    size_t d_model;
    size_t d_ff;
    size_t element; /* of the rows' arrays */
} ExpertsSize;

static ExpertsSize measure(const DeviceOptions *options, bool bf16)
{
    const ModelConfig *config = options->config;
    ExpertsSize size = {.experts = config->max_experts, .d_model = config->d_model, .element = 2};
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const LayerConfig *layer = &config->layers[i];
        if (!layer->moe)
            continue;
        size.d_ff = layer->ffn.d_ff > size.d_ff ? layer->ffn.d_ff : size.d_ff;
        if (!experts_packed(&layer->ffn, bf16))
            size.element = sizeof(float);
    }
    if (size.experts == 0)
        return size;
    if (options->capacity > 0)
        size.d_ff = size.d_model = 0; /* run_static() has its own rows */
    size.assignments = times(options->max_tokens, config->max_top_k);
    size.rows = grouping_max_rows(size.assignments, size.experts);
    size.tiles = grouping_max_tiles(size.assignments, size.experts);
    return size;
}

/* Bytes of everything but the rows. */
static size_t small_bytes(const ExpertsSize *size)
{
    size_t of_expert = sizeof(uint8_t) + sizeof(uint32_t);
    size_t of_tile = sizeof(RowGroup) + sizeof(uint32_t);
    size_t words = size->assignments + size->rows / DONE_ROWS;
    return size->experts * of_expert + 2 * size->tiles * of_tile + words * sizeof(uint32_t) +
           PIECES * PIECE_SLACK;
}

size_t experts_bytes(const DeviceOptions *options, bool bf16)
{
    ExpertsSize size = measure(options, bf16);
    size_t rows = times(size.rows, (size.d_model + size.d_ff) * size.element);
    size_t small = small_bytes(&size);
    return rows < SIZE_MAX - small ? rows + small : SIZE_MAX;
}

size_t experts_out_bytes(const DeviceOptions *options, bool bf16)
{
    ExpertsSize size = measure(options, bf16);
    return times(size.rows, size.d_model * size.element);
}

static Status take_table(DeviceArena *arena, size_t tiles, GroupTable *table)
{
    TRY(device_arena_take(arena, TAKEN + 2, sizeof *table->taken, &table->taken));
    table->n_tiles = table->taken + TAKEN;
    TRY(device_arena_take(arena, tiles, sizeof *table->written, &table->written));
    return device_arena_take(arena, tiles, sizeof *table->tiles, &table->tiles);
}

static Status take_grouping(DeviceArena *arena, const ExpertsSize *size, Grouping *grouping)
{
    TRY(device_arena_take(arena, size->experts + 1, sizeof(uint32_t), &grouping->first_row));
    TRY(device_arena_take(arena, size->assignments, sizeof(uint32_t), &grouping->row));
    TRY(device_arena_take(arena, size->rows / DONE_ROWS, sizeof(uint32_t), &grouping->table.done));
    return take_table(arena, size->tiles, &grouping->table);
}

Status experts_open(const DeviceOptions *options, bool bf16, DeviceArena *arena, ExpertsWork *work)
{
    ExpertsSize size = measure(options, bf16);
    *work = (ExpertsWork){.bf16 = bf16, .max_rows = size.rows};
    if (size.experts == 0)
        return OK;
    TRY(device_arena_take(arena, size.experts, sizeof *work->selected, &work->selected));
    TRY(take_grouping(arena, &size, &work->grouping));
    TRY(take_table(arena, size.tiles, &work->some));
    TRY(device_arena_take(arena, size.rows, size.d_model * size.element, &work->gathered));
    return device_arena_take(arena, size.rows, size.d_ff * size.element, &work->inside);
}

static GroupingShape grouping_shape(uint32_t tokens, uint32_t top_k, uint32_t n_experts)
{
    return (GroupingShape){.tokens = tokens,
                           .top_k = top_k,
                           .experts = n_experts,
                           .max_width = grouping_max_width((size_t)tokens * top_k, n_experts)};
}

bool experts_entry_fits(const ExpertsWork *work, const MoeEntry *entry)
{
    return work->bf16 && router_entry_fits(entry);
}

Status experts_enter(ExpertsWork *work, const MoeEntry *entry, cudaStream_t stream)
{
    const Router *router = entry->router;
    const GroupingShape shape = grouping_shape(entry->tokens, router->top_k, router->matrix.rows);
    bool gathers = work->gathered != NULL && experts_packed(entry->shape, work->bf16);
    TRY(router_enter(entry, &work->grouping, shape.max_width, gathers ? work->gathered : NULL,
                     stream));
    work->in = gathers ? entry->normed : NULL;
    work->counted = false;
    return OK;
}

Status experts_group(ExpertsWork *work, const uint16_t *experts, uint32_t tokens, uint32_t top_k,
                     uint32_t n_experts, const RowGroups *groups, cudaStream_t stream)
{
    const GroupingShape shape = grouping_shape(tokens, top_k, n_experts);
    work->in = NULL;
    work->counted = false;
    return grouping_run(&shape, experts, groups, &work->grouping, stream);
}

/* The table of the experts of N jobs, of the host or else of all, where the batch says they are. */
static Status select_jobs(const ExpertsWork *work, const ExpertBatch *batch, const ExpertJob *jobs,
                          uint32_t n, const GroupingShape *shape, cudaStream_t stream)
{
    return jobs != NULL
               ? grouping_select(shape, &batch->groups, &work->grouping, jobs, n, &work->some,
                                 work->selected, stream)
               : grouping_select_placed(shape, &batch->groups, &work->grouping, batch->placed,
                                        batch->n_experts, &work->some, work->selected, stream);
}

Status experts_run(ExpertsWork *work, const ExpertBatch *batch, const ExpertJob *jobs,
                   uint32_t n_jobs, const float *in, void *out, cudaStream_t stream)
{
    const GroupingShape shape = grouping_shape(batch->tokens, batch->top_k, batch->n_experts);
    size_t assignments = (size_t)batch->tokens * batch->top_k;
    ExpertRows rows = {.batch = batch,
                       .packed = experts_packed(batch->shape, work->bf16),
                       .bf16 = work->bf16,
                       .table = work->grouping.table,
                       .max_width = shape.max_width,
                       .max_rows = (uint32_t)work->max_rows,
                       .max_tiles = (uint32_t)grouping_max_tiles(assignments, batch->n_experts),
                       .in = work->gathered,
                       .inside = work->inside,
                       .out = out,
                       .stream = stream};
    work->counted = false;
    if (jobs != NULL && n_jobs == 0)
        return OK;
    if (jobs != NULL || batch->placed != NULL) {
        rows.table = work->some;
        TRY(select_jobs(work, batch, jobs, n_jobs, &shape, stream));
    }
    if (in == work->in)
        return expert_rows_multiply(&rows);
    TRY(expert_rows_fill(&rows, &work->grouping, jobs != NULL ? work->selected : NULL, in));
    work->counted = rows.table.done != NULL && expert_rows_counts(&rows);
    return expert_rows_multiply_filled(&rows);
}

Status experts_put_rows(const ExpertsWork *work, const ExpertBatch *batch,
                        const uint32_t *assignments, uint32_t n, const void *rows, void *out,
                        cudaStream_t stream)
{
    const ExpertRows to = {.batch = batch,
                           .packed = experts_packed(batch->shape, work->bf16),
                           .out = out,
                           .stream = stream};
    return expert_rows_put(&to, &work->grouping, assignments, n, rows);
}

Status experts_combine(const ExpertsWork *work, const ExpertBatch *batch, float scale,
                       const void *in, float *out, cudaStream_t stream)
{
    ExpertRows rows = {
        .batch = batch, .packed = experts_packed(batch->shape, work->bf16), .stream = stream};
    if (work->counted)
        rows.table.done = work->grouping.table.done;
    return expert_rows_combine(&rows, &work->grouping, batch->routing.weights, scale, in, out);
}
