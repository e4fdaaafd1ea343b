/* Routing as JSON lines, one per (token, layer), in any order:
 *
 *   {"layer_idx": 3, "token_idx": 17, "selected_ids": [5, 1], "gate_weights": [0.7, 0.3]}
 *
 * Other keys are passed over. All lines have gate_weights or none has; all select equally many;
 * every layer that occurs has a line for every token between the smallest and the largest index. */
#ifndef TRACES_IMPORT_JSONL_H
#define TRACES_IMPORT_JSONL_H

#include "traces/trace.h"

typedef struct {
    uint32_t line;
    uint32_t layer;
    uint32_t token;
} JsonlRow;

typedef struct {
    const char *file;
    JsonlRow *rows; /* [n_rows] */
    size_t n_rows;
    uint32_t top_k;
    bool has_weights;
    int32_t *ids;   /* [n_rows][top_k]; -1: routed nowhere */
    float *weights; /* [n_rows][top_k], or NULL */
    size_t room;    /* rows allocated */
} JsonlRouting;

/* Reads PATH; ids are checked to be below EXPERTS. Fails with ERR_INPUT ("FILE: line N: ..."). */
Status jsonl_routing_read(const char *path, uint32_t experts, JsonlRouting *routing);
void jsonl_routing_free(JsonlRouting *routing);

#endif
