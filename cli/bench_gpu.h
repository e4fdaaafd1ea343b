/* Benchmarks of the CUDA backend. Each prints a table, or one JSON document, with the floor beside
 * every time: bytes over the copy rate or operations over the rate of cuBLAS's product of two large
 * matrices, both measured in the same run. */
#ifndef CLI_BENCH_GPU_H
#define CLI_BENCH_GPU_H

#include <stdbool.h>

#include "base/status.h"

typedef struct {
    const char *shape; /* "olmoe-1b-7b", or NULL: all */
    bool json;
    int argc; /* the command line, from the benchmark's name on */
    char **argv;
} BenchGpuOptions;

typedef struct {
    const char *name;
    Status (*run)(const BenchGpuOptions *options);
} BenchGpu;

/* The benchmark NAME, or NULL. */
const BenchGpu *bench_gpu_find(const char *name);

/* Whole MoE layers, dynamic gating, 1 to 4096 tokens; each is checked against plain f32 kernels and
 * run twice for equal bits. A layer runs in turn with the product that its floor is by,
 * 20 ms of each without a pause, so that both have the clock that the card's power leaves to such
 * work, and right before the copy; the rates of a short run at the beginning, and the floor by
 * them, are told beside it. Fails with ERR_MISMATCH when a layer is wrong. */
Status bench_gpu_moe_layer(const BenchGpuOptions *options);
/* Attention of one layer, prefill and decoding; each is checked against double precision and run
 * twice for equal bits. Fails with ERR_MISMATCH when one is wrong. */
Status bench_gpu_attention(const BenchGpuOptions *options);

#endif
