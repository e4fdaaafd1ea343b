#include "sim/rank_split.h"

#include "base/memory.h"
#include "traces/layers.h"

static Status make_parts(RankSplit *split, uint32_t most)
{
    TRY(mem_new(&split->parts, split->ranks, sizeof *split->parts, "ranks"));
    for (uint32_t rank = 0; rank < split->ranks; rank++) {
        RankPart *part = &split->parts[rank];
        TRY(mem_new(&part->experts, (size_t)most + 1, sizeof *part->experts, "experts of ranks"));
        TRY(mem_new(&part->rows, (size_t)most + 1, sizeof *part->rows, "experts of ranks"));
        TRY(mem_new(&part->at, (size_t)most + 1, sizeof *part->at, "experts of ranks"));
    }
    return OK;
}

/* Numbers the experts of layer I on the ranks that hold them. */
static void number_experts(RankSplit *split, uint32_t i)
{
    size_t all = split->first[split->n_layers];
    uint32_t copied = 0;
    for (uint32_t e = 0; e < split->of[i].experts; e++) {
        const PlanRow on = plan_table_row(split->map, split->map_at[i], e);
        if (on.n > 1)
            split->turn[split->first[i] + e] = (uint16_t)(copied++ % on.n);
        for (uint32_t copy = 0; copy < on.n; copy++) {
            uint32_t *held = &split->held[(size_t)on.values[copy] * split->n_layers + i];
            split->number[on.values[copy] * all + split->first[i] + e] = (uint16_t)*held;
            split->places[split->first[i] + e] =
                (RankPlace){.rank = on.n == 1 ? (uint16_t)on.values[copy] : RANK_SPLIT_SEVERAL,
                            .number = (uint16_t)(*held)++};
        }
    }
}

static void make_layers(RankSplit *split)
{
    for (uint32_t rank = 0; rank < split->ranks; rank++)
        for (uint32_t i = 0; i < split->n_layers; i++) {
            size_t at = (size_t)rank * split->n_layers + i;
            split->layers[at] = split->of[i];
            split->layers[at].experts = split->held[at];
        }
}

static Status make_room(RankSplit *split)
{
    size_t n = split->n_layers;
    TRY(mem_new(&split->map_at, n, sizeof *split->map_at, "ranks"));
    TRY(mem_new(&split->first, n + 1, sizeof *split->first, "ranks"));
    TRY(mem_new(&split->layers, n * split->ranks, sizeof *split->layers, "layers of ranks"));
    TRY(mem_new(&split->held, n * split->ranks, sizeof *split->held, "layers of ranks"));
    for (uint32_t i = 0; i < n; i++) {
        split->first[i + 1] = split->first[i] + split->of[i].experts;
        split->map_at[i] = plan_table_find(split->map, split->of[i].layer);
    }
    TRY(mem_new(&split->number, (size_t)split->ranks * split->first[n], sizeof *split->number,
                "experts of ranks"));
    TRY(mem_new(&split->places, split->first[n], sizeof *split->places, "experts of ranks"));
    TRY(mem_new(&split->turn, split->first[n], sizeof *split->turn, "experts of ranks"));
    return make_parts(split, layers_max_experts(split->of, split->n_layers));
}

Status rank_split_open(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                       RankSplit *split)
{
    *split = (RankSplit){.ranks = plan->placement.ranks, .n_layers = n_layers, .of = layers};
    TRY(placement_map_view(plan, layers, n_layers, &split->map, &split->made));
    TRY(make_room(split));
    for (uint32_t i = 0; i < n_layers; i++)
        number_experts(split, i);
    make_layers(split);
    return OK;
}

void rank_split_close(RankSplit *split)
{
    for (uint32_t rank = 0; split->parts != NULL && rank < split->ranks; rank++) {
        mem_free(split->parts[rank].experts);
        mem_free(split->parts[rank].rows);
        mem_free(split->parts[rank].at);
    }
    mem_free(split->parts);
    mem_free(split->turn);
    mem_free(split->places);
    mem_free(split->number);
    mem_free(split->held);
    mem_free(split->layers);
    mem_free(split->first);
    mem_free(split->map_at);
    plan_table_release(split->made);
    *split = (RankSplit){0};
}

uint64_t rank_split_bytes(const RankSplit *split)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < (size_t)split->ranks * split->n_layers; i++)
        bytes += split->layers[i].experts * split->layers[i].expert_bytes;
    return bytes;
}

static inline void give(RankPart *part, uint32_t number, uint32_t at, uint32_t rows)
{
    part->experts[part->n] = (uint16_t)number;
    part->rows[part->n] = rows;
    part->at[part->n++] = (uint16_t)at;
    part->sum += rows;
}

/* Gives those that hold the expert its ROWS in turn. */
static void spread(RankSplit *split, uint32_t layer_index, uint32_t expert, uint32_t at,
                   uint32_t rows)
{
    const PlanRow on = plan_table_row(split->map, split->map_at[layer_index], expert);
    const uint16_t *numbers = split->number + split->first[layer_index] + expert;
    uint16_t *turn = &split->turn[split->first[layer_index] + expert];
    for (uint32_t copy = 0; copy < on.n; copy++) {
        uint32_t rank = on.values[copy];
        uint32_t own = rows / on.n + ((copy + on.n - *turn) % on.n < rows % on.n);
        if (own > 0)
            give(&split->parts[rank], numbers[(size_t)rank * split->first[split->n_layers]], at,
                 own);
    }
    *turn = (uint16_t)((*turn + rows) % on.n);
}

void rank_split_event(RankSplit *split, uint32_t layer_index, uint32_t n, const uint16_t *experts,
                      const uint32_t *rows)
{
    const RankPlace *places = split->places + split->first[layer_index];
    RankPart *parts = split->parts;
    for (uint32_t rank = 0; rank < split->ranks; rank++)
        parts[rank].n = parts[rank].sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        const RankPlace place = places[experts[i]];
        uint32_t all = rows != NULL ? rows[i] : 1;
        if (place.rank == RANK_SPLIT_SEVERAL)
            spread(split, layer_index, experts[i], i, all);
        else
            give(&parts[place.rank], place.number, i, all);
    }
    split->sum = 0;
    split->fullest = 0;
    for (uint32_t rank = 0; rank < split->ranks; rank++) {
        split->sum += parts[rank].sum;
        if (parts[rank].sum > split->fullest)
            split->fullest = parts[rank].sum;
    }
}

uint16_t rank_split_expert(const RankSplit *split, uint32_t rank, uint32_t layer_index,
                           uint32_t number)
{
    const uint16_t *numbers = split->number + (size_t)rank * split->first[split->n_layers];
    for (uint32_t e = 0; e < split->of[layer_index].experts; e++) {
        const PlanRow on = plan_table_row(split->map, split->map_at[layer_index], e);
        for (uint32_t copy = 0; copy < on.n; copy++)
            if (on.values[copy] == rank && numbers[split->first[layer_index] + e] == number)
                return (uint16_t)e;
    }
    return 0;
}
