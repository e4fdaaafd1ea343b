/* A whole MoE layer with all experts resident: router, choice, grouping, both products, combine.
 * Nothing in it waits for the host, so a stream can capture it. */
#ifndef EXEC_CUDA_MOE_LAYER_H
#define EXEC_CUDA_MOE_LAYER_H

#include "exec/cuda/device_arena.h"
#include "exec/cuda/grouped_product.h"
#include "exec/cuda/routing.h"

typedef struct {
    ExpertShape expert; /* silu where gated, else relu */
    uint32_t experts;
    uint32_t top_k;
    bool normalise;
    uint32_t max_tokens;
    const void *router;  /* device bf16 [experts][d_model] */
    const void *weights; /* device, packed [experts], each stride_bytes after the last */
    size_t stride_bytes;
} MoeLayerShape;

typedef enum {
    MOE_LOGITS,
    MOE_SELECT,
    MOE_GROUP,
    MOE_GATHER,
    MOE_UP,
    MOE_DOWN,
    MOE_COMBINE,
    MOE_STAGES
} MoeStage;

extern const char *const MOE_STAGE_NAMES[MOE_STAGES];

/* Device memory and descriptors of a layer. */
typedef struct {
    MoeLayerShape shape;
    const Cublas *cublas;
    float *logits;  /* [tokens][experts], scores afterwards */
    uint16_t *ids;  /* [tokens][top_k] */
    float *weights; /* [tokens][top_k] */
    void *gathered; /* octet-packed [rows][d_model] */
    void *inside;   /* octet-packed [rows][d_ff] */
    void *outside;  /* bf16 [rows][d_model] */
    Grouping grouping;
    GroupedProduct up;
    GroupedProduct down;
} MoeLayer;

/* Bytes that moe_layer_open() takes from the arena. */
size_t moe_layer_bytes(const MoeLayerShape *shape);
Status moe_layer_open(const MoeLayerShape *shape, DeviceArena *arena, const Cublas *cublas,
                      MoeLayer *layer);
/* One part of the layer for TOKENS rows of IN, bf16 [tokens][d_model]; OUT likewise. */
Status moe_layer_stage(const MoeLayer *layer, MoeStage stage, uint32_t tokens, const void *in,
                       void *out, cudaStream_t stream);
/* All of them. */
Status moe_layer_run(const MoeLayer *layer, uint32_t tokens, const void *in, void *out,
                     cudaStream_t stream);

#endif
