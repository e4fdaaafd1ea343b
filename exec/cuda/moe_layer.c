#include "exec/cuda/moe_layer.h"

const char *const MOE_STAGE_NAMES[MOE_STAGES] = {"logits",  "select", "group",  "gather",
                                                 "gate+up", "down",   "combine"};

enum { PIECES = 13, PIECE_SLACK = 256 };

static size_t max_assignments(const MoeLayerShape *shape)
{
    return (size_t)shape->max_tokens * shape->top_k;
}

/* For any number of tokens, whatever width suits it. */
static size_t max_rows(const MoeLayerShape *shape)
{
    const uint32_t narrowest = 128;
    return grouping_max_rows(max_assignments(shape), shape->experts, narrowest);
}

static size_t packed_columns(uint32_t columns)
{
    return (size_t)packed_column_blocks(columns) * BLOCK_COLUMNS;
}

size_t moe_layer_bytes(const MoeLayerShape *shape)
{
    size_t assignments = max_assignments(shape);
    size_t rows = max_rows(shape);
    size_t bytes = (size_t)shape->max_tokens * shape->experts * sizeof(float);
    bytes += assignments * (sizeof(uint16_t) + sizeof(float) + sizeof(uint32_t));
    bytes += 2 * rows *
             (packed_columns(shape->expert.d_model) + packed_columns(shape->expert.d_ff) +
              shape->expert.d_model);
    bytes += rows * sizeof(uint32_t);
    bytes += (grouping_blocks(shape->max_tokens) + 2) * (shape->experts + 1) * sizeof(uint32_t);
    bytes += (grouping_max_groups(assignments, shape->experts) + 1) *
             (sizeof(RowGroup) + sizeof(uint32_t));
    return bytes + PIECES * PIECE_SLACK;
}

static Status take_grouping(const MoeLayerShape *shape, DeviceArena *arena, Grouping *grouping)
{
    size_t groups = grouping_max_groups(max_assignments(shape), shape->experts);
    size_t counts = grouping_blocks(shape->max_tokens) * shape->experts;
    TRY(device_arena_take(arena, shape->experts + 1, sizeof(uint32_t), &grouping->count_before));
    TRY(device_arena_take(arena, shape->experts + 1, sizeof(uint32_t), &grouping->first_row));
    TRY(device_arena_take(arena, max_rows(shape), sizeof(uint32_t), &grouping->assignment));
    TRY(device_arena_take(arena, max_assignments(shape), sizeof(uint32_t), &grouping->row));
    TRY(device_arena_take(arena, counts, sizeof(uint32_t), &grouping->block_counts));
    TRY(device_arena_take(arena, 2, sizeof(uint32_t), &grouping->done));
    grouping->table.n_groups = grouping->done + 1;
    TRY(device_arena_take(arena, groups + 1, sizeof(uint32_t), &grouping->table.first_tile));
    return device_arena_take(arena, groups, sizeof(RowGroup), &grouping->table.groups);
}

static Status make_products(MoeLayer *layer)
{
    const MoeLayerShape *shape = &layer->shape;
    const ExpertShape *expert = &shape->expert;
    uint32_t rows = (uint32_t)max_rows(shape);
    const GroupedProductShape up = {.kind = expert->gated ? PRODUCT_SILU_GATED : PRODUCT_RELU,
                                    .weights = shape->weights,
                                    .stride_bytes = shape->stride_bytes,
                                    .in = layer->gathered,
                                    .rows = rows,
                                    .out = layer->inside,
                                    .columns = expert->d_ff,
                                    .depth = expert->d_model};
    const GroupedProductShape down = {.kind = PRODUCT_DOWN,
                                      .weights = (const unsigned char *)shape->weights +
                                                 packed_up_bytes(expert),
                                      .stride_bytes = shape->stride_bytes,
                                      .in = layer->inside,
                                      .rows = rows,
                                      .out = layer->outside,
                                      .columns = expert->d_model,
                                      .depth = expert->d_ff};
    TRY(grouped_product_make(&up, &layer->up));
    return grouped_product_make(&down, &layer->down);
}

Status moe_layer_open(const MoeLayerShape *shape, DeviceArena *arena, const Cublas *cublas,
                      MoeLayer *layer)
{
    size_t assignments = max_assignments(shape);
    size_t rows = max_rows(shape);
    const ExpertShape *expert = &shape->expert;
    *layer = (MoeLayer){.shape = *shape, .cublas = cublas};
    TRY(device_arena_take(arena, (size_t)shape->max_tokens * shape->experts, sizeof(float),
                          &layer->logits));
    TRY(device_arena_take(arena, assignments, sizeof(uint16_t), &layer->ids));
    TRY(device_arena_take(arena, assignments, sizeof(float), &layer->weights));
    TRY(device_arena_take(arena, rows * packed_columns(expert->d_model), 2, &layer->gathered));
    TRY(device_arena_take(arena, rows * packed_columns(expert->d_ff), 2, &layer->inside));
    TRY(device_arena_take(arena, rows * expert->d_model, 2, &layer->outside));
    TRY(take_grouping(shape, arena, &layer->grouping));
    return make_products(layer);
}

Status moe_layer_stage(const MoeLayer *layer, MoeStage stage, uint32_t tokens, const void *in,
                       void *out, cudaStream_t stream)
{
    const MoeLayerShape *shape = &layer->shape;
    const RoutingShape routing = {.tokens = tokens,
                                  .experts = shape->experts,
                                  .top_k = shape->top_k,
                                  .columns = shape->expert.d_model,
                                  .normalise = shape->normalise};
    const GroupingShape grouping = {
        .tokens = tokens,
        .top_k = shape->top_k,
        .experts = shape->experts,
        .max_width = grouping_max_width((size_t)tokens * shape->top_k, shape->experts)};
    const Grouping *groups = &layer->grouping;
    switch (stage) {
    case MOE_LOGITS:
        return routing_logits(&routing, in, shape->router, layer->logits, layer->cublas, stream);
    case MOE_SELECT:
        return routing_select(&routing, layer->logits, layer->ids, layer->weights, stream);
    case MOE_GROUP:
        return grouping_run(&grouping, layer->ids, groups, stream);
    case MOE_GATHER:
        return grouping_gather(&grouping, groups, in, shape->expert.d_model, layer->gathered,
                               stream);
    case MOE_UP:
        return grouped_product_run(&layer->up, &groups->table, grouping.max_width, stream);
    case MOE_DOWN:
        return grouped_product_run(&layer->down, &groups->table, grouping.max_width, stream);
    default:
        return routing_combine(&routing, layer->outside, groups->row, layer->weights, out, stream);
    }
}

Status moe_layer_run(const MoeLayer *layer, uint32_t tokens, const void *in, void *out,
                     cudaStream_t stream)
{
    for (int stage = 0; stage < MOE_STAGES; stage++)
        TRY(moe_layer_stage(layer, (MoeStage)stage, tokens, in, out, stream));
    return OK;
}
