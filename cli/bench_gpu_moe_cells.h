/* What the MoE layer benchmark measures, and how it is printed. */
#ifndef CLI_BENCH_GPU_MOE_CELLS_H
#define CLI_BENCH_GPU_MOE_CELLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/bench_ceilings.h"
#include "cli/bench_gpu.h"

/* The backend's operations of a layer. */
typedef enum { MOE_ROUTE, MOE_EXPERTS, MOE_COMBINE, MOE_STAGES } MoeStage;

extern const char *const MOE_STAGE_NAMES[MOE_STAGES];

/* One shape with one number of tokens. */
typedef struct {
    const char *shape;
    uint32_t tokens;
    double active; /* experts, mean over the inputs */
    double milliseconds;
    double bytes_per_s;   /* of copies right after the layer */
    double flops_per_s;   /* of cuBLAS's products in turn with the layer */
    double floor_ms;      /* of the three products, by these rates */
    double cool_floor_ms; /* ... by those of the beginning */
    double stages_ms[MOE_STAGES];
    double error; /* |out - reference| / |reference| */
    bool repeats; /* two runs gave the same bits */
} MoeCell;

Status moe_cells_print(const Ceilings *ceilings, const MoeCell *cells, size_t n);
Status moe_cells_print_json(const BenchGpuOptions *options, const Ceilings *ceilings,
                            const MoeCell *cells, size_t n);

#endif
