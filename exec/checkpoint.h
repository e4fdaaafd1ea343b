/* A Hugging Face checkpoint directory: config.json and single or sharded safetensors.
 *
 * checkpoint_open() reads the config into a ModelConfig, maps the shards, and resolves every tensor
 * that the architecture needs into plain structs, each checked for presence, dtype (F32, F16,
 * BF16), shape and finite values. Tensors point into the maps; the checkpoint must outlive their
 * users. */
#ifndef EXEC_CHECKPOINT_H
#define EXEC_CHECKPOINT_H

#include <stdbool.h>

#include "traces/safetensors.h"

enum { MAX_EOS = 8 };

typedef struct {
    bool moe;
    uint32_t experts; /* MoE layers only, as is top_k */
    uint32_t top_k;
    bool norm_top_k; /* divide the k weights by their sum */
    uint32_t d_ff;   /* of one expert, or of the dense FFN */
} LayerConfig;

typedef struct {
    char architecture[64]; /* config.json model_type, "qwen3_moe" */
    uint32_t vocabulary;
    uint32_t d_model;
    uint32_t n_layers;
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t max_positions;
    float norm_eps;
    float rope_theta;
    bool tied_head;      /* the output matrix is the embedding */
    bool attention_bias; /* q, k, v and o have biases */
    uint32_t n_eos;
    uint32_t eos[MAX_EOS];
    uint32_t n_moe_layers;
    uint32_t max_experts; /* over layers */
    uint32_t max_top_k;
    LayerConfig *layers; /* [n_layers] */
    char *json;          /* text of config.json */
} ModelConfig;

/* One expert: out = down * (silu(gate * x) . (up * x)). */
typedef struct {
    Tensor gate; /* [d_ff][d_model] */
    Tensor up;   /* [d_ff][d_model] */
    Tensor down; /* [d_model][d_ff] */
} ExpertTensors;

typedef struct {
    Tensor input_norm; /* [d_model] */
    Tensor q;          /* [n_heads * head_dim][d_model] */
    Tensor k;          /* [n_kv_heads * head_dim][d_model] */
    Tensor v;          /* [n_kv_heads * head_dim][d_model] */
    Tensor o;          /* [d_model][n_heads * head_dim] */
    Tensor q_bias;     /* [n_heads * head_dim] or data == NULL; likewise k_bias, v_bias, o_bias */
    Tensor k_bias;
    Tensor v_bias;
    Tensor o_bias;
    Tensor q_norm;          /* [head_dim] */
    Tensor k_norm;          /* [head_dim] */
    Tensor ffn_norm;        /* [d_model] (post_attention_layernorm) */
    Tensor router;          /* [experts][d_model], MoE layers */
    ExpertTensors dense;    /* dense layers */
    ExpertTensors *experts; /* [experts], MoE layers */
} LayerTensors;

typedef struct {
    Tensor embedding;     /* [vocabulary][d_model] */
    Tensor final_norm;    /* [d_model] */
    Tensor head;          /* [vocabulary][d_model]; the embedding when tied */
    LayerTensors *layers; /* [n_layers] */
} ModelTensors;

typedef struct Checkpoint Checkpoint;

/* Opens DIRECTORY. Fails with ERR_INPUT naming file, tensor or key and the reason; with
 * ERR_UNSUPPORTED for a model_type, activation, rope type or window that the executor does not
 * implement. */
Status checkpoint_open(const char *directory, Checkpoint **checkpoint);
void checkpoint_close(Checkpoint *checkpoint);
const ModelConfig *checkpoint_config(const Checkpoint *checkpoint);
const ModelTensors *checkpoint_tensors(const Checkpoint *checkpoint);
/* Bytes of one expert of the MoE layer LAYER as stored (gate + up + down); the same for all of
 * them. */
uint64_t checkpoint_expert_bytes(const Checkpoint *checkpoint, uint32_t layer);

#endif
