#include "exec/cuda/static_gating.h"

#include "exec/cuda/convert.h"
#include "exec/cuda/expert_rows.h"
#include "exec/cuda/static_slots.h"
#include "exec/gating.h"
#include "base/layout.h"

/* Slots computed at a time: enough that the device is busy with whole tiles. */
enum { SLOTS_AT_ONCE = 65536, PIECES = 12, PIECE_SLACK = 256 };

static StaticTiles tiles_of(uint32_t capacity)
{
    return static_tiles(capacity, grouping_max_width(capacity, 1), 16);
}

/* Experts whose slots are computed together: about as many in each part. */
static uint32_t experts_at_once(uint32_t n_experts, uint32_t slots)
{
    uint32_t most = slots < SLOTS_AT_ONCE ? SLOTS_AT_ONCE / slots : 1;
    uint32_t parts = (n_experts + most - 1) / most;
    return (n_experts + parts - 1) / parts;
}

/* What calls are sized by: the largest of any layer. */
typedef struct {
    size_t slots;
    size_t inside; /* slots computed at a time */
    size_t tiles;
    size_t d_ff;
    size_t d_model;
    size_t element;
    size_t tokens;
    size_t assignments;
    bool mask;
} StaticSize;

static void widen(size_t *size, size_t by)
{
    *size = by > *size ? by : *size;
}

static StaticSize measure(const DeviceOptions *options, bool bf16)
{
    const ModelConfig *config = options->config;
    StaticSize size = {.d_model = config->d_model,
                       .element = sizeof(uint16_t),
                       .tokens = options->max_tokens,
                       .assignments = times(options->max_tokens, config->max_top_k),
                       .mask = options->mask};
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const LayerConfig *layer = &config->layers[i];
        if (!layer->moe)
            continue;
        bool packed = experts_packed(&layer->ffn, bf16);
        StaticTiles tiles = tiles_of(options->capacity);
        /* A smaller step may put more experts into a part, but never more slots than that. */
        size_t most = times(layer->experts, tiles.slots);
        size_t inside = most < SLOTS_AT_ONCE ? most : SLOTS_AT_ONCE;
        widen(&inside, tiles.slots);
        widen(&size.slots, most);
        widen(&size.inside, inside);
        widen(&size.tiles, grouping_max_tiles(most, layer->experts));
        widen(&size.d_ff, layer->ffn.d_ff);
        widen(&size.element, packed ? sizeof(uint16_t) : sizeof(float));
    }
    return size;
}

static size_t add(size_t a, size_t b)
{
    return b < SIZE_MAX - a ? a + b : SIZE_MAX;
}

size_t static_gating_bytes(const DeviceOptions *options, bool bf16)
{
    StaticSize size = measure(options, bf16);
    size_t rows = add(times(size.slots, 2 * size.d_model), times(size.inside, size.d_ff));
    size_t small = size.tiles * sizeof(RowGroup) + PIECES * PIECE_SLACK;
    small = add(small, times(size.assignments, sizeof(uint32_t)));
    if (size.mask) {
        rows = add(rows, times(size.tokens, size.d_model));
        rows = add(rows, times(times(2, size.tokens), size.slots));
    }
    return add(times(rows, size.element), small);
}

static Status take_rows(const StaticSize *size, DeviceArena *arena, StaticGating *gating)
{
    GroupTable *table = &gating->table;
    TRY(device_arena_take(arena, TAKEN + 2, sizeof *table->taken, &table->taken));
    table->n_tiles = table->taken + TAKEN;
    TRY(device_arena_take(arena, size->tiles, sizeof(RowGroup), &table->tiles));
    TRY(device_arena_take(arena, size->slots, size->d_model * size->element, &gating->gathered));
    TRY(device_arena_take(arena, size->inside, size->d_ff * size->element, &gating->inside));
    return device_arena_take(arena, size->slots, size->d_model * size->element, &gating->outside);
}

Status static_gating_open(const DeviceOptions *options, bool bf16, const Cublas *cublas,
                          DeviceArena *arena, StaticGating *gating)
{
    StaticSize size = measure(options, bf16);
    *gating = (StaticGating){.cublas = cublas, .bf16 = bf16};
    if (size.slots == 0)
        return OK;
    if (size.d_model % 4 != 0 || size.slots > INT32_MAX)
        return fail(ERR_UNSUPPORTED,
                    "cuda: static gating of %zu slots of %zu numbers: at most %d slots, and the "
                    "numbers must be a multiple of 4",
                    size.slots, size.d_model, INT32_MAX);
    TRY(take_rows(&size, arena, gating));
    TRY(device_arena_take(arena, size.assignments, sizeof(uint32_t), &gating->slot_of));
    if (!size.mask)
        return OK;
    size_t mask = times(size.tokens, size.slots);
    TRY(device_arena_take(arena, times(size.tokens, size.d_model), size.element, &gating->in));
    TRY(device_arena_take(arena, mask, size.element, &gating->dispatch));
    return device_arena_take(arena, mask, size.element, &gating->weights);
}

/* ---- products with the masks ---- */

static cudaDataType type_of(const StaticSlots *slots)
{
    return slots->bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

/* gathered[slot] = sum over tokens of dispatch[token][slot] * in[token] */
static Status dispatch_by_mask(const StaticGating *gating, const StaticSlots *slots, float scale,
                               const float *in)
{
    const ExpertBatch *batch = slots->batch;
    uint32_t all = batch->n_experts * slots->tiles.slots;
    uint32_t d = batch->shape->d_model;
    const CublasProduct product = {.in = type_of(slots),
                                   .out = type_of(slots),
                                   .rows = all,
                                   .columns = d,
                                   .depth = batch->tokens,
                                   .count = 1,
                                   .a_depth_first = true,
                                   .b_depth_first = true};
    const CublasMatrix mask = {.data = gating->dispatch, .columns = all};
    const CublasMatrix tokens = {.data = slots->bf16 ? gating->in : in, .columns = d};
    const CublasMatrix to = {.data = gating->gathered, .columns = d};
    TRY(static_slots_mark(slots, scale, gating->dispatch, gating->weights));
    if (slots->bf16)
        TRY(convert_to_bf16(in, (size_t)batch->tokens * d, gating->in, slots->stream));
    return cublas_product(gating->cublas, &product, &mask, &tokens, &to, slots->stream);
}

/* out[token] += sum over slots of weights[token][slot] * outside[slot] */
static Status combine_by_mask(const StaticGating *gating, const StaticSlots *slots, float *out)
{
    const ExpertBatch *batch = slots->batch;
    uint32_t all = batch->n_experts * slots->tiles.slots;
    uint32_t d = batch->shape->d_model;
    const CublasProduct product = {.in = type_of(slots),
                                   .out = CUDA_R_32F,
                                   .rows = batch->tokens,
                                   .columns = d,
                                   .depth = all,
                                   .count = 1,
                                   .b_depth_first = true,
                                   .add = true};
    const CublasMatrix mask = {.data = gating->weights, .columns = all};
    const CublasMatrix from = {.data = gating->outside, .columns = d};
    const CublasMatrix to = {.data = out, .columns = d};
    return cublas_product(gating->cublas, &product, &mask, &from, &to, slots->stream);
}

/* ---- the experts ---- */

static unsigned char *row(const StaticSlots *slots, void *rows, uint32_t expert)
{
    size_t element = slots->bf16 ? sizeof(uint16_t) : sizeof(float);
    size_t columns = slots->batch->shape->d_model;
    return (unsigned char *)rows + (size_t)expert * slots->tiles.slots * columns * element;
}

/* gathered -> outside for N experts from FIRST on. */
static Status run_part(const StaticGating *gating, const StaticSlots *slots, uint32_t first,
                       uint32_t n)
{
    const ExpertRows rows = {.batch = slots->batch,
                             .packed = slots->bf16,
                             .bf16 = gating->bf16,
                             .table = gating->table,
                             .max_width = grouping_max_width(slots->batch->capacity, 1),
                             .max_rows = n * slots->tiles.slots,
                             .max_tiles = n * slots->tiles.tiles,
                             .in = row(slots, gating->gathered, first),
                             .inside = gating->inside,
                             .out = row(slots, gating->outside, first),
                             .stream = slots->stream};
    TRY(static_slots_table(slots, first, n, &gating->table));
    return expert_rows_multiply(&rows);
}

static Status run_experts(const StaticGating *gating, const StaticSlots *slots)
{
    uint32_t n_experts = slots->batch->n_experts;
    uint32_t at_once = experts_at_once(n_experts, slots->tiles.slots);
    for (uint32_t first = 0; first < n_experts; first += at_once) {
        uint32_t left = n_experts - first;
        TRY(run_part(gating, slots, first, left < at_once ? left : at_once));
    }
    return OK;
}

Status static_gating_run(const StaticGating *gating, const ExpertBatch *batch, float scale,
                         const float *in, float *out, cudaStream_t stream)
{
    bool packed = experts_packed(batch->shape, gating->bf16);
    const StaticSlots slots = {
        .batch = batch, .tiles = tiles_of(batch->capacity), .bf16 = packed, .stream = stream};
    if (batch->mask)
        TRY(dispatch_by_mask(gating, &slots, scale, in));
    else
        TRY(static_slots_fill(&slots, in, gating->gathered, gating->slot_of));
    TRY(run_experts(gating, &slots));
    return batch->mask ? combine_by_mask(gating, &slots, out)
                       : static_slots_sum(&slots, scale, gating->outside, gating->slot_of, out);
}
