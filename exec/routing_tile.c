#include "exec/routing_tile.h"

#include <stdlib.h>
#include <string.h>

#include "base/layout.h"
#include "traces/reader.h"

static void find_layers(const TraceLayer *layers, uint32_t n, TileStack stacks[2])
{
    for (uint32_t i = 0; i < n; i++) {
        TileStack *stack = &stacks[layers[i].stack];
        stack->layer[stack->n_layers] = i;
        stack->first_id[stack->n_layers++] = stack->row_ids;
        stack->row_ids += layers[i].top_k;
    }
}

/* The trace's stack that a layer of STACK takes from. */
static const TileStack *stack_for(const RoutingTile *tile, Stack stack)
{
    const TileStack *own = &tile->stacks[stack];
    return own->n_tokens > 0 ? own : &tile->stacks[1 - stack];
}

static Status check_layer(const char *file, const TraceLayer *has, const TraceLayer *wants)
{
    if (has->experts > wants->experts)
        return fail(ERR_INPUT, "%s: layer %u has %u experts, layer %u of the model only %u", file,
                    has->layer, has->experts, wants->layer, wants->experts);
    if (has->top_k < wants->top_k)
        return fail(ERR_INPUT, "%s: layer %u has top_k %u, layer %u of the model wants %u", file,
                    has->layer, has->top_k, wants->layer, wants->top_k);
    return OK;
}

static Status check_fit(const char *file, const TraceLayer *traced, const RoutingTile *tile)
{
    for (uint32_t i = 0; i < tile->n_layers; i++) {
        const TileStack *stack = stack_for(tile, tile->layers[i].stack);
        if (stack->n_tokens == 0)
            return fail(ERR_INPUT, "%s: it holds no tokens", file);
        TRY(check_layer(file, &traced[stack->layer[tile->number[i] % stack->n_layers]],
                        &tile->layers[i]));
    }
    return OK;
}

static Status count_tokens(TraceReader *reader, RoutingTile *tile)
{
    TraceStep step;
    Status status;
    while ((status = trace_reader_next_step(reader, &step)) == OK)
        tile->stacks[step.stack].n_tokens += step.tokens;
    return status == STATUS_END ? trace_reader_rewind(reader) : status;
}

static void lay_out_tile(RoutingTile *tile)
{
    Arena *arena = &tile->arena;
    tile->number = lay_out(arena, tile->n_layers, sizeof *tile->number);
    for (int s = 0; s < 2; s++) {
        TileStack *stack = &tile->stacks[s];
        size_t n = stack->n_tokens;
        stack->ids = lay_out(arena, times(n, stack->row_ids), sizeof *stack->ids);
        stack->tokens = lay_out(arena, n, sizeof *stack->tokens);
        stack->first = lay_out(arena, n + 1, sizeof *stack->first);
    }
}

/* Numbers the run's MoE layers within their stacks. */
static void number_layers(RoutingTile *tile)
{
    uint32_t n[2] = {0};
    for (uint32_t i = 0; i < tile->n_layers; i++)
        tile->number[i] = n[tile->layers[i].stack]++;
}

/* The first of EXPERTS [top_k] that stands there before; top_k: they differ, or are dropped. */
static uint32_t find_again(const uint16_t *experts, uint32_t top_k)
{
    for (uint32_t slot = 1; slot < top_k; slot++)
        for (uint32_t other = 0; other < slot; other++)
            if (experts[slot] == experts[other] && experts[slot] != EXPERT_DROPPED)
                return slot;
    return top_k;
}

/* From layer after layer to token after token. */
static Status keep_step(const char *file, const TraceLayer *traced, const TraceStep *step,
                        uint64_t row, TileStack *stack)
{
    const uint16_t *from = step->experts;
    for (uint32_t l = 0; l < stack->n_layers; l++) {
        uint32_t top_k = traced[stack->layer[l]].top_k;
        for (uint32_t i = 0; i < step->tokens; i++, from += top_k) {
            uint32_t again = find_again(from, top_k);
            if (again < top_k)
                return fail(ERR_INPUT, "%s: step %u: layer %u: token %u: expert %u twice", file,
                            step->step, traced[stack->layer[l]].layer, i, from[again]);
            memcpy(stack->ids + (row + i) * stack->row_ids + stack->first_id[l], from,
                   top_k * sizeof *from);
        }
    }
    for (uint32_t i = 0; i < step->tokens; i++)
        stack->tokens[row + i] = (TileToken){step->request[i], step->position[i], row + i};
    return OK;
}

static int compare_tokens(const void *left, const void *right)
{
    const TileToken *a = left;
    const TileToken *b = right;
    if (a->request != b->request)
        return a->request < b->request ? -1 : 1;
    if (a->position != b->position)
        return a->position < b->position ? -1 : 1;
    return (a->row > b->row) - (a->row < b->row);
}

static void sort_tokens(TileStack *stack)
{
    qsort(stack->tokens, stack->n_tokens, sizeof *stack->tokens, compare_tokens);
    for (uint64_t i = 0; i < stack->n_tokens; i++)
        if (i == 0 || stack->tokens[i].request != stack->tokens[i - 1].request)
            stack->first[stack->n_requests++] = i;
    stack->first[stack->n_requests] = stack->n_tokens;
}

static Status load(TraceReader *reader, const char *file, RoutingTile *tile)
{
    uint32_t n;
    uint64_t rows[2] = {0};
    TraceStep step;
    Status status;
    const TraceLayer *traced = trace_reader_layers(reader, &n);
    find_layers(traced, n, tile->stacks);
    TRY(count_tokens(reader, tile));
    lay_out_tile(tile);
    TRY(arena_commit(&tile->arena, file));
    lay_out_tile(tile);
    number_layers(tile);
    TRY(check_fit(file, traced, tile));
    while ((status = trace_reader_next_step(reader, &step)) == OK) {
        TRY(keep_step(file, traced, &step, rows[step.stack], &tile->stacks[step.stack]));
        rows[step.stack] += step.tokens;
    }
    for (int s = 0; status == STATUS_END && s < 2; s++)
        sort_tokens(&tile->stacks[s]);
    return status == STATUS_END ? OK : status;
}

Status routing_tile_open(const char *file, const TraceLayer *layers, uint32_t n_layers,
                         RoutingTile *tile)
{
    TraceReader *reader;
    *tile = (RoutingTile){.layers = layers, .n_layers = n_layers};
    TRY(trace_reader_open(file, &reader));
    Status status = load(reader, file, tile);
    trace_reader_close(reader);
    return status;
}

void routing_tile_close(RoutingTile *tile)
{
    arena_free(&tile->arena);
    *tile = (RoutingTile){0};
}

/* Where a request's tokens begin when it is used for the LAP-th time. */
static uint64_t start_of_lap(uint64_t lap)
{
    lap *= 0x9E3779B97F4A7C15u;
    return lap ^ (lap >> 29);
}

void routing_tile_take(const RoutingTile *tile, uint32_t layer_index, uint32_t request,
                       uint32_t position, uint16_t *experts)
{
    const TraceLayer *layer = &tile->layers[layer_index];
    const TileStack *stack = stack_for(tile, layer->stack);
    uint32_t from = request % stack->n_requests;
    uint64_t first = stack->first[from];
    uint64_t length = stack->first[from + 1] - first;
    uint64_t start = start_of_lap(request / stack->n_requests) % length;
    const TileToken *token = &stack->tokens[first + (start + position) % length];
    uint32_t at = stack->first_id[tile->number[layer_index] % stack->n_layers];
    memcpy(experts, stack->ids + token->row * stack->row_ids + at, layer->top_k * sizeof *experts);
}
