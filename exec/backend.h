/* What a device must be able to do for a forward pass: one table of functions per backend.
 *
 * The forward pass (exec/forward.c) is written once over this table. Pointers called "device" point
 * into device memory: only the backend may look behind them, but they may be offset by the host.
 * All device memory is one block, taken once by allocate(); nothing else is allocated after open().
 * Activations are f32, weights of a matrix have the backend's own element type, and work on one
 * device happens in the order of the calls. Every function returns OK or has written the error
 * record. One thread at a time. */
#ifndef EXEC_BACKEND_H
#define EXEC_BACKEND_H

#include "exec/checkpoint.h"

/* One opened device. */
typedef struct Device Device;

/* The most that a step will ask of a device. */
typedef struct {
    const ModelConfig *config;
    size_t threads;        /* 0: all */
    uint32_t max_requests; /* KV cache slots */
    uint32_t max_length;   /* positions of one request */
    uint32_t max_tokens;   /* of one step */
    bool mask;             /* expert rows may be gathered by one-hot products */
} DeviceOptions;

/* A weight in device memory: [rows][columns]; BIAS [rows] f32 or NULL. */
typedef struct {
    void *data;
    float *bias;
    uint32_t rows;
    uint32_t columns;
} Matrix;

/* Consecutive tokens of one request in a step. */
typedef struct {
    uint32_t kv_slot;
    uint32_t first_token; /* row in the step's arrays */
    uint32_t tokens;
    uint32_t position; /* of the first one */
} Span;

/* The attention of one layer: shapes and where its part of the KV cache lies. */
typedef struct {
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    float norm_eps;
    const float *q_norm; /* device [head_dim] */
    const float *k_norm; /* device [head_dim] */
    const float *cosine; /* device [max_length][head_dim / 2] */
    const float *sine;
    float *keys;   /* device [max_requests][max_length][n_kv_heads * head_dim] */
    float *values; /* device, same shape */
} AttentionLayer;

/* A token's expert rows and how they are gathered. Row token * top_k + slot belongs to (token,
 * slot). */
typedef struct {
    uint32_t tokens;
    uint32_t top_k;
    uint32_t d_ff;
    uint32_t capacity;    /* rows computed per expert, padded with zeros; 0: just those it has */
    bool mask;            /* gather and scatter by products with one-hot matrices */
    const uint32_t *rows; /* device [tokens * top_k]: rows grouped by expert */
} ExpertBatch;

/* One expert's share: its weights lie at WEIGHTS (gate, up, down), its rows are
 * batch->rows[first_row ...]. */
typedef struct {
    const void *weights;
    uint32_t first_row;
    uint32_t n_rows;
} ExpertJob;

typedef struct {
    const char *name;
    size_t weight_bytes; /* of one element of a Matrix */

    Status (*open)(const DeviceOptions *options, Device **device);
    void (*close)(Device *device);
    /* "cpu: AMD EPYC 9000, 2 threads, OpenBLAS 0.3.21" */
    const char *(*describe)(const Device *device);

    /* All device memory that the caller will use, zeroed, aligned to 64 bytes; called once. */
    Status (*allocate)(Device *device, size_t bytes, void **memory);
    Status (*upload)(Device *device, void *to, const void *from, size_t bytes);
    Status (*download)(Device *device, void *to, const void *from, size_t bytes);
    /* Converts TENSOR to matrix elements, or to floats (norms and biases). */
    Status (*store)(Device *device, const Tensor *tensor, void *to);
    Status (*store_floats)(Device *device, const Tensor *tensor, float *to);
    /* The load: host -> slot, gate, up and down one after the other. */
    Status (*load_expert)(Device *device, const ExpertTensors *expert, void *slot);

    /* out[tokens][d_model] = rows of TABLE. */
    Status (*embed)(Device *device, const Matrix *table, const uint32_t *ids, uint32_t tokens,
                    float *out);
    /* out[i] = in[i] * weight / sqrt(mean(in[i]^2) + eps), per row of COLUMNS. */
    Status (*rms_norm)(Device *device, const float *in, const float *weight, uint32_t rows,
                       uint32_t columns, float eps, float *out);
    /* out[rows][weight->rows] = in[rows][weight->columns] * weight^T + bias, added to OUT when ADD.
     */
    Status (*linear)(Device *device, const float *in, const Matrix *weight, uint32_t rows, bool add,
                     float *out);
    /* Per head of QKV [tokens][(n_heads + 2 * n_kv_heads) * head_dim]: RMS norm and rotary
     * embedding (halves rotated) of the queries, in place, and of the keys, into the cache; values
     * into the cache. */
    Status (*append)(Device *device, const AttentionLayer *layer, const Span *spans,
                     uint32_t n_spans, float *qkv);
    /* out[tokens][n_heads * head_dim]: causal attention of the queries in QKV over the cache, query
     * heads in groups of n_heads / n_kv_heads per KV head, scaled by 1 / sqrt(head_dim). */
    Status (*attend)(Device *device, const AttentionLayer *layer, const Span *spans,
                     uint32_t n_spans, const float *qkv, float *out);
    /* scores[tokens][router->rows] = softmax(in * router^T) in f32; EXPERTS and WEIGHTS
     * [tokens][top_k] its largest in descending order (ties: lower id), the weights divided by
     * their sum when NORMALISE. A NaN in a row makes its weights NaN. */
    Status (*route)(Device *device, const float *in, const Matrix *router, uint32_t tokens,
                    uint32_t top_k, bool normalise, float *scores, uint16_t *experts,
                    float *weights);
    /* out[row] = down * (silu(gate * x) . (up * x)) for the rows of each job, x being
     * in[row / top_k]. A row's numbers do not depend on which jobs share the call. */
    Status (*run_experts)(Device *device, const ExpertBatch *batch, const ExpertJob *jobs,
                          uint32_t n_jobs, const float *in, float *out);
    /* out[token] += sum over slots, in order, of weights[token][slot] * in[token * top_k + slot];
     * a slot of weight 0 is not read. */
    Status (*combine)(Device *device, const float *in, const float *weights, uint32_t tokens,
                      uint32_t top_k, float *out);
} Backend;

extern const Backend BACKEND_CPU;

/* The backend NAME; ERR_UNSUPPORTED names those there are. */
Status backend_find(const char *name, const Backend **backend);

#endif
