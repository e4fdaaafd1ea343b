/* The parts of the attention benchmark. */
#ifndef CLI_BENCH_GPU_ATTENTION_H
#define CLI_BENCH_GPU_ATTENTION_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/bench_ceilings.h"
#include "cli/bench_gpu.h"

/* Attention of one layer of a model. */
typedef struct {
    const char *name;
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t key_dim;
    uint32_t value_dim;
    uint32_t window;
    bool latent; /* values are the first value_dim elements of the keys */
    bool sinks;
    bool encoder; /* every token sees all of its request's */
} AttentionShape;

/* One shape with so many requests of so many new tokens, the last of KEYS positions. */
typedef struct {
    const AttentionShape *shape;
    uint32_t requests;
    uint32_t tokens; /* of a request */
    uint32_t keys;
    double milliseconds;
    double bytes_ms;        /* of what must be read and written, at the copy's rate */
    double flops_ms;        /* of both products, at the matrix product's rate */
    double append_ms;       /* of norm, rotary embedding and cache; 0: latent, not measured */
    double append_floor_ms; /* its bytes at the copy's rate */
    double error;           /* |out - reference| / |reference| over some rows */
    bool repeats;           /* two runs gave the same bits */
} AttentionCell;

static inline double attention_floor_ms(const AttentionCell *cell)
{
    return cell->bytes_ms > cell->flops_ms ? cell->bytes_ms : cell->flops_ms;
}

Status attention_cells_print(const Ceilings *ceilings, const AttentionCell *cells, size_t n);
Status attention_cells_print_json(const BenchGpuOptions *options, const Ceilings *ceilings,
                                  const AttentionCell *cells, size_t n);

#endif
