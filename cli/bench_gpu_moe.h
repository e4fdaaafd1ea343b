/* The parts of the MoE layer benchmark. */
#ifndef CLI_BENCH_GPU_MOE_H
#define CLI_BENCH_GPU_MOE_H

#include "cli/bench_ceilings.h"
#include "exec/cuda/moe_layer.h"

enum {
    BENCH_INPUTS = 4, /* taken in turn, so that small layers do not stay in the cache */
    BENCH_PICKED = 32 /* tokens that are compared with the reference */
};

typedef struct {
    const char *name;
    uint32_t d_model;
    uint32_t d_ff;
    uint32_t experts;
    uint32_t top_k;
    float skew; /* deviation of the experts' mean logits, next to the tokens' 1 */
} BenchShape;

/* Everything on the device for one shape. */
typedef struct {
    const BenchShape *shape;
    DeviceArena arena;
    Cublas cublas;
    cudaStream_t stream;
    MoeLayer layer;
    void *weights;
    void *dense; /* one expert before it is packed */
    void *router;
    void *in[BENCH_INPUTS];
    void *out;
    uint32_t *picked;
    float *picked_logits;
    float *inside;
    float *expected;
    uint32_t tokens;   /* of the cell at hand */
    uint32_t n_stages; /* of the layer that are timed */
} MoeBench;

/* One shape with one number of tokens. */
typedef struct {
    const char *shape;
    uint32_t tokens;
    double active; /* experts, mean over the inputs */
    double milliseconds;
    double floor_ms; /* of the three products */
    double stages_ms[MOE_STAGES];
    double error; /* |out - reference| / |reference| */
    bool repeats; /* two runs gave the same bits */
} MoeCell;

static inline ExpertShape bench_expert(const BenchShape *shape)
{
    return (ExpertShape){.d_model = shape->d_model, .d_ff = shape->d_ff, .gated = true};
}

/* Runs the layer twice on poisoned memory and compares. Fails with ERR_MISMATCH when a token went
 * to the wrong experts. */
Status moe_bench_check(MoeBench *bench, MoeCell *cell);

Status moe_cells_print(const Ceilings *ceilings, const MoeCell *cells, size_t n);
Status moe_cells_print_json(const Ceilings *ceilings, const MoeCell *cells, size_t n);

#endif
