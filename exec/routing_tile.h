/* The routing of a recorded trace, laid over a run of another size.
 *
 * Requests: request R of the run goes where request R mod N of the trace's N went, position by
 * position, and from the end on from its beginning again; the second time a request is used, and
 * every later time, from another position of it (a fixed one for each time), so that copies do not
 * run in step. Layers: MoE layer L of a stack takes layer L mod M of the trace's M in that stack,
 * or, where the trace has no such stack, in its other. A token takes the first top_k experts that
 * the trace has for it, in router order. A trace with fewer experts than the layer leaves the rest
 * idle; one with more experts, or with a smaller top_k, does not fit. */
#ifndef EXEC_ROUTING_TILE_H
#define EXEC_ROUTING_TILE_H

#include "base/memory.h"
#include "traces/trace.h"

/* A token of the trace and where its experts lie. */
typedef struct {
    uint32_t request;
    uint32_t position;
    uint64_t row;
} TileToken;

/* What the trace says of one stack. */
typedef struct {
    uint32_t n_layers;
    uint32_t layer[TRACE_MAX_LAYERS]; /* [n_layers] index into the trace's layers */
    uint32_t first_id[TRACE_MAX_LAYERS];
    uint32_t row_ids; /* ids of a token, all layers of the stack */
    uint64_t n_tokens;
    uint16_t *ids;     /* [n_tokens][row_ids] */
    TileToken *tokens; /* [n_tokens] by request, then position */
    uint64_t *first;   /* [n_requests + 1] into TOKENS */
    uint32_t n_requests;
} TileStack;

typedef struct {
    const TraceLayer *layers; /* of the run, [n_layers] */
    uint32_t n_layers;
    uint32_t *number; /* [n_layers] of each in its stack's MoE layers */
    TileStack stacks[2];
    Arena arena;
} RoutingTile;

/* Loads FILE. TILE must be zeroed, and routing_tile_close() is due in any case. Fails with
 * ERR_INPUT when it does not fit the layers, holds no tokens or gives a token one expert twice, and
 * as the trace's reader does. */
Status routing_tile_open(const char *file, const TraceLayer *layers, uint32_t n_layers,
                         RoutingTile *tile);
void routing_tile_close(RoutingTile *tile);
/* The top_k experts of one token in layer LAYER_INDEX. */
void routing_tile_take(const RoutingTile *tile, uint32_t layer_index, uint32_t request,
                       uint32_t position, uint16_t *experts);

#endif
