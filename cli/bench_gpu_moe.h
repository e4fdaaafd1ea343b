/* The parts of the MoE layer benchmark. */
#ifndef CLI_BENCH_GPU_MOE_H
#define CLI_BENCH_GPU_MOE_H

#include "cli/bench_ceilings.h"
#include "cli/bench_gpu_moe_cells.h"
#include "exec/cuda/experts.h"
#include "exec/cuda/router.h"

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
    cudaStream_t stream;
    LayerConfig layer;
    ModelConfig model; /* of this one layer */
    ExpertsWork work;
    ExpertBatch batch; /* of the cell at hand */
    Router router;
    void *weights;
    void *dense;                 /* one expert before it is packed */
    void *rounded[BENCH_INPUTS]; /* bf16 */
    float *in[BENCH_INPUTS];     /* the same numbers */
    void *expert_out;
    float *out;
    uint32_t *picked;
    float *picked_logits;
    float *inside;
    float *expected;
} MoeBench;

/* Queues all operations for input I. */
Status moe_bench_layer(MoeBench *bench, int i);

/* Runs the layer twice on poisoned memory and compares. Fails with ERR_MISMATCH when a token went
 * to the wrong experts. */
Status moe_bench_check(MoeBench *bench, MoeCell *cell);

#endif
