/* A Hugging Face checkpoint directory: config.json and single or sharded safetensors; or a model
 * without files, of made-up weights in the shape of a published one.
 *
 * checkpoint_open() reads the config into a ModelConfig, maps the shards, and resolves every tensor
 * that the architecture needs into plain structs, each checked for presence, dtype (F32, F16,
 * BF16), shape and finite values; a tensor that the architecture does not know is refused. Tensors
 * point into the maps; the checkpoint must outlive their users. */
#ifndef EXEC_CHECKPOINT_H
#define EXEC_CHECKPOINT_H

#include <stdbool.h>

#include "exec/model.h"
#include "traces/safetensors.h"

/* A matrix inside a tensor (of a stack of experts, say): element (r, c) is the tensor's element
 * first + r * row_step + c * column_step. A vector is one row. */
typedef struct {
    Tensor tensor; /* neither data nor synthetic: absent */
    uint64_t first;
    uint32_t rows;
    uint32_t columns;
    uint64_t row_step;
    uint64_t column_step;
} Part;

/* The whole of TENSOR, of rank 1 or 2. */
Part part_of(const Tensor *tensor);
/* Bytes as stored; 0 when absent. */
uint64_t part_bytes(const Part *part);
/* COUNT elements from element FIRST on, read or computed. */
void tensor_floats(const Tensor *tensor, uint64_t first, size_t count, float *out);
/* Converts row ROW to floats. */
void part_row(const Part *part, uint32_t row, float *out);

/* An FFN's parts (exec/model.h, FfnShape). Without a gate its first matrix is UP. */
typedef struct {
    Part gate; /* [d_ff][d_model] */
    Part up;   /* [d_ff][d_model] */
    Part down; /* [d_model][d_ff] */
    Part gate_bias;
    Part up_bias;
    Part down_bias;
} FfnTensors;

typedef struct {
    Tensor weight; /* [d_model] */
    Tensor bias;   /* LayerNorm */
} NormTensors;

/* Those that the layer's AttentionConfig asks for have data. */
typedef struct {
    Tensor q; /* [n_heads * key_dim][d_model]; [...][q_rank] behind q_a */
    Tensor k; /* [n_kv_heads * key_dim][d_model] */
    Tensor v; /* [n_kv_heads * value_dim][d_model] */
    Tensor o; /* [d_model][n_heads * value_dim] */
    Tensor q_bias;
    Tensor k_bias;
    Tensor v_bias;
    Tensor o_bias;
    Tensor q_norm; /* [key_dim], or the row's */
    Tensor k_norm;
    Tensor sinks;         /* [n_heads] */
    Tensor relative_bias; /* [buckets][n_heads], first layer of a stack */
    Tensor q_a;           /* latent attention: [q_rank][d_model] */
    Tensor q_a_bias;
    Tensor q_a_norm;
    Tensor kv_a; /* [kv_rank + rotary_dims][d_model] */
    Tensor kv_a_bias;
    Tensor kv_a_norm; /* [kv_rank] */
    Tensor kv_b;      /* [n_heads * (key_dim - rotary_dims + value_dim)][kv_rank] */
} AttentionTensors;

typedef struct {
    NormTensors input_norm;
    AttentionTensors attention;
    NormTensors cross_norm;
    AttentionTensors cross;
    NormTensors ffn_norm;
    Tensor router; /* [experts][d_model], MoE layers */
    Tensor router_bias;
    Tensor correction; /* [experts] */
    FfnTensors dense;  /* dense layers */
    FfnTensors shared;
    Tensor shared_gate;  /* [1][d_model] */
    FfnTensors *experts; /* [experts], MoE layers */
} LayerTensors;

typedef struct {
    Tensor embedding; /* [vocabulary][d_model] */
    Tensor positions; /* [max_positions + pad + 1][d_model] when they are learned */
    NormTensors encoder_norm;
    NormTensors final_norm; /* of the decoder */
    Tensor head;            /* [vocabulary][d_model]; the embedding when tied */
    Tensor head_bias;
    LayerTensors *layers; /* [n_layers] */
} ModelTensors;

typedef struct Checkpoint Checkpoint;

/* Opens DIRECTORY. Fails with ERR_INPUT naming file, tensor or key and the reason; with
 * ERR_UNSUPPORTED for a model_type, activation, rope type or quantisation that the executor does
 * not implement. */
Status checkpoint_open(const char *directory, Checkpoint **checkpoint);
/* MODEL is a directory, or "shape:" and the name of a shape (exec/shape.h): a model of synthetic
 * weights, "shape:qwen3-30b-a3b" or, with but 2 layers of each stack, "shape:qwen3-30b-a3b:2". Of
 * encoder and decoder "shape:nllb-moe-54b:24+1" has 24 layers and 1. */
Status checkpoint_open_model(const char *model, Checkpoint **checkpoint);
bool checkpoint_is_shape(const char *model);
void checkpoint_close(Checkpoint *checkpoint);
const ModelConfig *checkpoint_config(const Checkpoint *checkpoint);
const ModelTensors *checkpoint_tensors(const Checkpoint *checkpoint);
/* Bytes of one expert of the MoE layer LAYER as stored, biases included; the same for all of them.
 */
uint64_t checkpoint_expert_bytes(const Checkpoint *checkpoint, uint32_t layer);
/* Bytes of all tensors, those of the experts included. */
uint64_t checkpoint_bytes(const Checkpoint *checkpoint);
/* Writes the name of layer LAYER's MoE module, as in "model.layers.3.mlp". */
void checkpoint_moe_name(const Checkpoint *checkpoint, uint32_t layer, char name[96]);

#endif
