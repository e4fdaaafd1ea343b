/* The weights of a model in device memory, but for its experts. */
#ifndef EXEC_WEIGHTS_H
#define EXEC_WEIGHTS_H

#include "base/memory.h"
#include "exec/backend.h"

/* Heads of latent attention, absorbed (DeepSeek-V2, section 2.1.2): the nope part of a query times
 * the keys' expansion of the latent, and the mixed latents times the values'. */
typedef struct {
    Matrix q_a; /* [q_rank][d_model]; no data without a rank */
    Norm q_a_norm;
    Matrix kv_a; /* [kv_rank + rotary_dims][d_model] */
    Norm kv_norm;
    void *absorb; /* [n_heads][kv_rank][nope] */
    void *expand; /* [n_heads][value_dim][kv_rank] */
} LatentWeights;

typedef struct {
    Norm norm;
    Matrix q;  /* [n_heads * key_dim][d_model] */
    Matrix kv; /* [n_kv_heads * (key_dim + value_dim)][d_model] */
    Matrix o;  /* [d_model][n_heads * value_dim] */
} CrossWeights;

typedef struct {
    Matrix first;
    Matrix second;
} FfnWeights;

typedef struct {
    Norm input_norm;
    Matrix qkv; /* q, k, v in one: [n_heads key_dim + n_kv_heads (key_dim + value_dim)][d_model];
                   latent attention: q alone */
    Matrix o;
    float *q_norm;
    float *k_norm;
    float *sinks;
    LatentWeights latent;
    CrossWeights cross;
    Norm ffn_norm;
    Router router;
    FfnWeights dense;
    FfnWeights shared;
    Matrix shared_gate; /* [1][d_model] */
} LayerWeights;

typedef struct {
    float *cosine; /* [max_length][rotary_dims / 2] */
    float *sine;
} RotaryTable;

typedef struct {
    Matrix embedding; /* [vocabulary][d_model] */
    Matrix head;      /* the same memory when tied */
    Norm encoder_norm;
    Norm final_norm;
    RotaryTable rotary[2];   /* of short and of long requests (exec/rope.h); the same memory when
                                there is one */
    float *positions;        /* [max_length + 1][d_model]: row 0 for padding, row 1 + p; or NULL */
    float *relative_bias[2]; /* by Stack: AttendLayer.relative_bias; or NULL */
    LayerWeights *layers;    /* host [n_layers], the caller's */
} ModelWeights;

/* Lays the weights out in the device arena (exec/layout.h). */
void weights_lay_out(ModelWeights *weights, const ModelConfig *config, size_t weight_bytes,
                     uint32_t max_length, Arena *arena);
/* Copies them there from the checkpoint. */
Status weights_store(const ModelWeights *weights, const Checkpoint *checkpoint,
                     const Backend *backend, Device *device, size_t weight_bytes,
                     uint32_t max_length);

#endif
