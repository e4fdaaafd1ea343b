/* One forward pass over a backend, and the memory it works in. */
#ifndef EXEC_FORWARD_H
#define EXEC_FORWARD_H

#include "exec/executor.h"
#include "exec/expert_slots.h"
#include "exec/weights.h"

/* Device memory. T is the most tokens of a step, K the largest top_k. */
typedef struct {
    uint32_t *ids;        /* [T] */
    float *hidden;        /* [T][d_model] the residual stream */
    float *normed;        /* [T][d_model] */
    float *qkv;           /* [T][(n_heads + 2 * n_kv_heads) * head_dim] */
    float *mixed;         /* [T][n_heads * head_dim] */
    float *scores;        /* [T][experts] */
    uint16_t *experts;    /* [T][K] */
    float *route_weights; /* [T][K] */
    uint32_t *rows;       /* [T * K] */
    float *expert_out;    /* [T * K][d_model] */
    float *logits;        /* [LOGIT_ROWS][vocabulary] */
    float *keys;          /* [n_layers][max_requests][max_length][n_kv_heads * head_dim] */
    float *values;        /* same shape */
} Activations;

/* Host memory. */
typedef struct {
    uint16_t *experts; /* per MoE layer [tokens][top_k] */
    float *weights;    /* same shape */
    float *scores;     /* per MoE layer [tokens][experts] */
    float *logits;     /* [rows wanted][vocabulary] */
    float *ones;       /* [T] */
    uint32_t *counts;  /* [max_experts] */
    ExpertRows rows;
} ForwardHost;

typedef struct {
    const Backend *backend;
    Device *device;
    const ModelConfig *config;
    const Plan *plan;
    uint32_t max_requests;
    uint32_t max_length;
    uint32_t max_tokens;
    uint32_t max_logits; /* rows of host.logits */
    ModelWeights weights;
    ExpertSlots slots;
    Activations at;
    ForwardHost host;
} Forward;

/* Lay out what is above in device and in host memory (exec/layout.h); weights and slots are laid
 * out by their own functions. */
void forward_lay_out_cache(Forward *forward, Arena *arena);
void forward_lay_out_activations(Forward *forward, Arena *arena);
void forward_lay_out_host(Forward *forward, Arena *arena);

/* Runs a step that has been checked. SPANS[n] cover its tokens in order. Fills all of OUTPUT but
 * its times. Fails with ERR_INPUT when a router or the logits give NaN. */
Status forward_step(Forward *forward, const StepInput *input, const Span *spans, uint32_t n_spans,
                    StepOutput *output);

#endif
