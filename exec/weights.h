/* The weights of a model in device memory, but for its experts. */
#ifndef EXEC_WEIGHTS_H
#define EXEC_WEIGHTS_H

#include "base/memory.h"
#include "exec/backend.h"

typedef struct {
    float *input_norm; /* [d_model] */
    Matrix qkv;        /* [(n_heads + 2 * n_kv_heads) * head_dim][d_model]: q, k, v in one */
    Matrix o;          /* [d_model][n_heads * head_dim] */
    float *q_norm;     /* [head_dim] */
    float *k_norm;     /* [head_dim] */
    float *ffn_norm;   /* [d_model] */
    Matrix router;     /* [experts][d_model], MoE layers */
    void *dense;       /* dense layers: gate, up and down like an expert's */
} LayerWeights;

typedef struct {
    Matrix embedding;     /* [vocabulary][d_model] */
    Matrix head;          /* the same memory when tied */
    float *final_norm;    /* [d_model] */
    float *cosine;        /* [max_length][head_dim / 2] of the rotary embedding */
    float *sine;          /* same shape */
    LayerWeights *layers; /* host [n_layers], the caller's */
} ModelWeights;

/* Lays the weights out in the device arena (exec/layout.h). */
void weights_lay_out(ModelWeights *weights, const ModelConfig *config, size_t weight_bytes,
                     uint32_t max_length, Arena *arena);
/* Copies them there from the checkpoint. */
Status weights_store(const ModelWeights *weights, const Checkpoint *checkpoint,
                     const Backend *backend, Device *device, uint32_t max_length);

#endif
