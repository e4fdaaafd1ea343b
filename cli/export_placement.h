/* `moebius export --to sglang|trtllm`: the placement of a plan. */
#ifndef CLI_EXPORT_PLACEMENT_H
#define CLI_EXPORT_PLACEMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    bool is_trtllm;    /* else sglang */
    const char *trace; /* of the model; may be NULL where the plan has a map */
    const char *plan;
    const char *out;
    uint32_t layers;  /* sglang: all layers of the model; 0: as the trace says */
    uint32_t updates; /* trtllm: layers balanced anew in an iteration */
} PlacementExport;

typedef struct {
    uint32_t ranks;
    uint32_t moe_layers;
    uint32_t layers; /* sglang: all that are written */
    uint32_t slots;
    uint32_t replicas;
} PlacementExported;

/* Fails with ERR_INPUT where the format cannot say what the plan does. */
Status export_placement(const PlacementExport *options, PlacementExported *done);

#endif
