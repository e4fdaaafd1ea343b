/* Static gating on the device: every expert computes its whole capacity, whatever the routing.
 *
 * An expert has the same number of slots, its capacity rounded up to whole tiles. With `mask` (what
 * the paper starts from; GShard: Lepikhin et al. 2020) two matrices [tokens][experts][slots] are
 * made in memory, one with a 1 and one with the weight where a token has a slot: rows reach the
 * slots, and come back as weighted sums, by products with them. Without it (Tutel: Hwang et al.
 * 2023) rows are copied into the slots and summed from there. In between both run the products that
 * dynamic gating runs, over all slots; only as many experts at a time as fill the device, so that
 * what lies between the two matrices of an expert takes little memory.
 *
 * Where the experts' products are those of the tensor cores, the masks are bf16 and theirs are too;
 * else all is f32. On an H200, per layer: the experts at 737 to 814 TFLOP/s from 256 slots on, and
 * at the copy rate below (cuBLAS's batched products of the same slots, without the activation,
 * take 0.97 to 1.11 times as long); products with masks at 716 to 781 TFLOP/s from 2048 tokens on.
 * With 4096 tokens of nllb-moe-54b (128 experts, capacity 1) 43.7 ms padded, 65.8 with masks of
 * 4.3 GB each. */
#ifndef EXEC_CUDA_STATIC_GATING_H
#define EXEC_CUDA_STATIC_GATING_H

#include "exec/cuda/cublas.h"
#include "exec/cuda/experts.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Device memory of a call; slots are those of all experts of a layer. */
typedef struct {
    const Cublas *cublas;
    void *in;          /* mask: [max_tokens][d_model] */
    void *dispatch;    /* mask: [max_tokens][slots] */
    void *weights;     /* mask: [max_tokens][slots] */
    uint32_t *slot_of; /* padded: [max_tokens * top_k] of an assignment that was not dropped */
    bool bf16;
    GroupTable table;
    void *gathered; /* [slots][d_model] */
    void *inside;   /* [slots that are computed at a time][d_ff] */
    void *outside;  /* [slots][d_model] */
} StaticGating;

/* Bytes that static_gating_open() takes; SIZE_MAX when they do not fit. */
size_t static_gating_bytes(const DeviceOptions *options, bool bf16);
/* For steps of up to OPTIONS->max_tokens, whose capacity is up to OPTIONS->capacity. */
Status static_gating_open(const DeviceOptions *options, bool bf16, const Cublas *cublas,
                          DeviceArena *arena, StaticGating *gating);
/* Backend.run_static */
Status static_gating_run(const StaticGating *gating, const ExpertBatch *batch, float scale,
                         const float *in, float *out, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
