/* Plain kernels in f32 that benchmarks and tests compare with: one warp per number, no tiles. */
#ifndef EXEC_CUDA_REFERENCE_H
#define EXEC_CUDA_REFERENCE_H

#include "exec/cuda/packed.h"

/* A MoE layer with packed weights: silu where gated, else relu. */
typedef struct {
    FfnShape expert;
    uint32_t top_k;
    const void *weights;
    size_t stride_bytes; /* from expert to expert */
    size_t down_at;      /* bytes from an expert to its second matrix */
} ReferenceLayer;

#ifdef __cplusplus
extern "C" {
#endif

/* logits[n][experts] of tokens PICK[0 .. n - 1] of IN, bf16. */
Status reference_logits(const void *in, const void *router, uint32_t columns, uint32_t experts,
                        const uint32_t *pick, uint32_t n, float *logits, cudaStream_t stream);
/* out[n][d_model], f32: the layer's answer for tokens PICK[0 .. n - 1] of IN, which go to IDS with
 * WEIGHTS, [tokens][top_k]. INSIDE: room for [n][top_k][d_ff] floats. All device memory. */
Status reference_layer(const ReferenceLayer *layer, const void *in, const uint16_t *ids,
                       const float *weights, const uint32_t *pick, uint32_t n, float *inside,
                       float *out, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
