/* The route trace of BigMoeOnEdge, CSV v1, as it lies in the file.
 *
 * Format: docs/metrics of that project, "Route trace". A '#' preamble (version, model, bytes per
 * layer), a row of column names, then one row per routed expert. Columns are found by name; those
 * added later ("dropped") may be missing. `step` is the token's position in its context. Phase 0 is
 * the prompt, computed as one batch per turn; phase 1 is one token per step. */
#ifndef TRACES_IMPORT_BIGMOE_H
#define TRACES_IMPORT_BIGMOE_H

#include "traces/trace.h"

typedef struct {
    uint32_t line;
    uint32_t turn;
    uint32_t step;
    uint16_t layer;
    uint16_t slot;
    uint16_t expert;
    uint8_t phase;     /* 0 prefill, 1 decode */
    uint8_t residency; /* 0 miss, 1 hit, 2 hit on what was prefetched */
    bool dropped;      /* routed, but not computed */
    float weight;      /* NaN: the engine did not know */
    uint64_t bytes;    /* read for this row: of the first row of a miss only */
} BigmoeRow;

typedef struct {
    const char *file;
    char *model; /* zero-terminated, inside the file's text */
    char *architecture;
    uint32_t n_layer;
    uint32_t n_expert;
    uint32_t n_expert_used;
    uint64_t *expert_bytes; /* [n_layer] */
    uint64_t *dense_bytes;  /* [n_layer] */
    BigmoeRow *rows;        /* [n_rows] in the file's order */
    size_t n_rows;
    bool has_residency;
    bool has_weights;
    char *text;
} BigmoeTrace;

/* Reads and checks all rows one by one: numbers, ranges, and weights that are all known or all
 * unknown. Fails with ERR_INPUT ("FILE: line N: ..."), ERR_UNSUPPORTED for another version. */
Status bigmoe_read(const char *path, BigmoeTrace *trace);
void bigmoe_free(BigmoeTrace *trace);

#endif
