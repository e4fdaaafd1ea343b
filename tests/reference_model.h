/* A plain qwen3_moe forward pass in double precision, straight from the tensors of a checkpoint:
 * one loop per formula, no cache, no batching. What exec/ computes is compared with it. */
#ifndef TESTS_REFERENCE_MODEL_H
#define TESTS_REFERENCE_MODEL_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "exec/checkpoint.h"
#include "tests/support.h"
#include "traces/trace.h"

/* A step: N tokens, each with its request and position. Positions of a request begin at 0 and
 * ascend. */
typedef struct {
    uint32_t n;
    const uint32_t *token;
    const uint32_t *request;
    const uint32_t *position;
    uint32_t capacity; /* rows per expert, 0: no limit */
} ReferenceStep;

typedef struct {
    double *logits;    /* [n][vocabulary] */
    uint16_t *experts; /* per MoE layer [n][top_k] */
    double *weights;   /* same shape */
    double *scores;    /* per MoE layer [n][experts] */
    double *residuals; /* per MoE layer [n][d_model], as its FFN block finds them */
} ReferenceOutput;

static inline double *reference_new(size_t count)
{
    double *block = calloc(count + 1, sizeof *block);
    assert_non_null(block);
    return block;
}

/* out[rows][m] = in[rows][k] * W[m][k]^T + bias */
static inline void reference_linear(const double *in, size_t rows, size_t k, const Tensor *weight,
                                    const Tensor *bias, double *out)
{
    size_t m = weight->shape[0];
    float *w = malloc(k * sizeof *w);
    for (size_t j = 0; j < m; j++) {
        float b = 0;
        tensor_to_f32(weight, j * k, k, w);
        if (bias != NULL && bias->data != NULL)
            tensor_to_f32(bias, j, 1, &b);
        for (size_t i = 0; i < rows; i++) {
            double sum = b;
            for (size_t x = 0; x < k; x++)
                sum += in[i * k + x] * w[x];
            out[i * m + j] = sum;
        }
    }
    free(w);
}

static inline void reference_norm(const double *in, size_t rows, size_t n, const Tensor *weight,
                                  double eps, double *out)
{
    for (size_t i = 0; i < rows; i++) {
        double square = 0;
        for (size_t x = 0; x < n; x++)
            square += in[i * n + x] * in[i * n + x];
        for (size_t x = 0; x < n; x++) {
            float w;
            tensor_to_f32(weight, x, 1, &w);
            out[i * n + x] = in[i * n + x] / sqrt(square / (double)n + eps) * w;
        }
    }
}

/* Norm of each head, then rotation by position. */
static inline void reference_rotate(const ModelConfig *config, const ReferenceStep *step,
                                    uint32_t heads, const Tensor *norm, double *x)
{
    uint32_t dim = config->layers[0].attention.key_dim;
    reference_norm(x, (size_t)step->n * heads, dim, norm, config->norm_eps, x);
    for (size_t row = 0; row < (size_t)step->n * heads; row++)
        for (uint32_t i = 0; i < dim / 2; i++) {
            double angle = step->position[row / heads] * pow(config->rope.theta, -2.0 * i / dim);
            double a = x[row * dim + i];
            double b = x[row * dim + dim / 2 + i];
            x[row * dim + i] = a * cos(angle) - b * sin(angle);
            x[row * dim + dim / 2 + i] = b * cos(angle) + a * sin(angle);
        }
}

/* One query head of one token over the tokens of its request up to its own. */
static inline void reference_attend(const ModelConfig *config, const ReferenceStep *step,
                                    uint32_t token, uint32_t head, const double *q, const double *k,
                                    const double *v, double *out)
{
    const AttentionConfig *attention = &config->layers[0].attention;
    uint32_t dim = attention->key_dim;
    uint32_t kv_head = head / (attention->n_heads / attention->n_kv_heads);
    double *p = reference_new(step->n);
    double sum = 0;
    for (uint32_t i = 0; i < step->n; i++) {
        if (step->request[i] != step->request[token] || step->position[i] > step->position[token])
            continue;
        double dot = 0;
        for (uint32_t x = 0; x < dim; x++)
            dot += q[((size_t)token * attention->n_heads + head) * dim + x] *
                   k[((size_t)i * attention->n_kv_heads + kv_head) * dim + x];
        p[i] = exp(dot / sqrt(dim));
        sum += p[i];
    }
    for (uint32_t i = 0; i < step->n; i++)
        for (uint32_t x = 0; x < dim; x++)
            out[((size_t)token * attention->n_heads + head) * dim + x] +=
                p[i] / sum * v[((size_t)i * attention->n_kv_heads + kv_head) * dim + x];
    free(p);
}

static inline void reference_attention(const ModelConfig *config, const LayerTensors *layer,
                                       const ReferenceStep *step, double *hidden)
{
    const AttentionConfig *attention = &config->layers[0].attention;
    const AttentionTensors *tensors = &layer->attention;
    size_t n = step->n;
    size_t d = config->d_model;
    size_t heads = (size_t)attention->n_heads * attention->key_dim;
    size_t kv = (size_t)attention->n_kv_heads * attention->key_dim;
    double *x = reference_new(n * d);
    double *q = reference_new(n * heads);
    double *k = reference_new(n * kv);
    double *v = reference_new(n * kv);
    double *mixed = reference_new(n * heads);
    reference_norm(hidden, n, d, &layer->input_norm.weight, config->norm_eps, x);
    reference_linear(x, n, d, &tensors->q, &tensors->q_bias, q);
    reference_linear(x, n, d, &tensors->k, &tensors->k_bias, k);
    reference_linear(x, n, d, &tensors->v, &tensors->v_bias, v);
    reference_rotate(config, step, attention->n_heads, &tensors->q_norm, q);
    reference_rotate(config, step, attention->n_kv_heads, &tensors->k_norm, k);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t h = 0; h < attention->n_heads; h++)
            reference_attend(config, step, i, h, q, k, v, mixed);
    reference_linear(mixed, n, heads, &tensors->o, &tensors->o_bias, x);
    for (size_t i = 0; i < n * d; i++)
        hidden[i] += x[i];
    free(x);
    free(q);
    free(k);
    free(v);
    free(mixed);
}

/* sum[d] += weight * down(silu(gate x) . up x) */
static inline void reference_expert(const FfnTensors *expert, const double *x, size_t d,
                                    double weight, double *sum)
{
    size_t ff = expert->up.rows;
    double *gate = reference_new(ff);
    double *up = reference_new(ff);
    double *down = reference_new(d);
    reference_linear(x, 1, d, &expert->gate.tensor, NULL, gate);
    reference_linear(x, 1, d, &expert->up.tensor, NULL, up);
    for (size_t i = 0; i < ff; i++)
        gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    reference_linear(gate, 1, ff, &expert->down.tensor, NULL, down);
    for (size_t i = 0; i < d; i++)
        sum[i] += weight * down[i];
    free(gate);
    free(up);
    free(down);
}

/* The softmax of the router, its K largest in order, and their weights. */
static inline void reference_route(const LayerConfig *layer, double *scores, uint16_t *experts,
                                   double *weights)
{
    double total = 0;
    double kept = 0;
    for (uint32_t e = 0; e < layer->experts; e++)
        total += exp(scores[e]);
    for (uint32_t e = 0; e < layer->experts; e++)
        scores[e] = exp(scores[e]) / total;
    for (uint32_t slot = 0; slot < layer->top_k; slot++) {
        int best = -1;
        for (uint32_t e = 0; e < layer->experts; e++) {
            bool taken = false;
            for (uint32_t s = 0; s < slot; s++)
                taken = taken || experts[s] == e;
            if (!taken && (best < 0 || scores[e] > scores[best]))
                best = (int)e;
        }
        experts[slot] = (uint16_t)best;
        weights[slot] = scores[best];
        kept += weights[slot];
    }
    for (uint32_t slot = 0; layer->router.normalise && slot < layer->top_k; slot++)
        weights[slot] /= kept;
}

/* Keeps the first CAPACITY rows of each expert: all tokens' first choices before any second. */
static inline void reference_drop(const LayerConfig *layer, uint32_t capacity, uint32_t n,
                                  uint16_t *experts, double *weights)
{
    for (uint32_t e = 0; capacity > 0 && e < layer->experts; e++) {
        uint32_t used = 0;
        for (uint32_t slot = 0; slot < layer->top_k; slot++)
            for (uint32_t i = 0; i < n; i++) {
                uint32_t at = i * layer->top_k + slot;
                if (experts[at] != e || ++used <= capacity)
                    continue;
                experts[at] = EXPERT_DROPPED;
                weights[at] = 0;
            }
    }
}

static inline void reference_moe(const LayerConfig *shape, const LayerTensors *layer,
                                 const ReferenceStep *step, const double *x, size_t d,
                                 double *scores, uint16_t *experts, double *weights, double *hidden)
{
    reference_linear(x, step->n, d, &layer->router, NULL, scores);
    for (uint32_t i = 0; i < step->n; i++)
        reference_route(shape, scores + (size_t)i * shape->experts,
                        experts + (size_t)i * shape->top_k, weights + (size_t)i * shape->top_k);
    reference_drop(shape, step->capacity, step->n, experts, weights);
    for (uint32_t at = 0; at < step->n * shape->top_k; at++)
        if (experts[at] != EXPERT_DROPPED)
            reference_expert(&layer->experts[experts[at]], x + at / shape->top_k * d, d,
                             weights[at], hidden + at / shape->top_k * d);
}

static inline void reference_free(ReferenceOutput *output)
{
    free(output->logits);
    free(output->experts);
    free(output->weights);
    free(output->scores);
    free(output->residuals);
}

static inline ReferenceOutput reference_forward(const Checkpoint *checkpoint,
                                                const ReferenceStep *step)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    const ModelTensors *tensors = checkpoint_tensors(checkpoint);
    size_t n = step->n;
    size_t d = config->d_model;
    size_t routed = n * config->n_moe_layers * config->max_top_k;
    ReferenceOutput out = {.logits = reference_new(n * config->vocabulary),
                           .experts = calloc(routed + 1, sizeof(uint16_t)),
                           .weights = reference_new(routed),
                           .scores = reference_new(n * config->n_moe_layers * config->max_experts),
                           .residuals = reference_new(n * config->n_moe_layers * d)};
    double *hidden = reference_new(n * d);
    double *x = reference_new(n * d);
    float *row = malloc(d * sizeof *row);
    size_t at = 0;
    size_t scored = 0;
    double *residual = out.residuals;
    for (size_t i = 0; i < n; i++) {
        tensor_to_f32(&tensors->embedding, step->token[i] * d, d, row);
        for (size_t j = 0; j < d; j++)
            hidden[i * d + j] = row[j];
    }
    for (uint32_t l = 0; l < config->n_layers; l++) {
        const LayerConfig *shape = &config->layers[l];
        const LayerTensors *layer = &tensors->layers[l];
        reference_attention(config, layer, step, hidden);
        reference_norm(hidden, n, d, &layer->ffn_norm.weight, config->norm_eps, x);
        if (!shape->moe) {
            for (size_t i = 0; i < n; i++)
                reference_expert(&layer->dense, x + i * d, d, 1, hidden + i * d);
            continue;
        }
        memcpy(residual, hidden, n * d * sizeof *hidden);
        residual += n * d;
        reference_moe(shape, layer, step, x, d, out.scores + scored, out.experts + at,
                      out.weights + at, hidden);
        at += n * shape->top_k;
        scored += n * shape->experts;
    }
    reference_norm(hidden, n, d, &tensors->final_norm.weight, config->norm_eps, x);
    reference_linear(x, n, d, &tensors->head, NULL, out.logits);
    free(hidden);
    free(x);
    free(row);
    return out;
}

#endif
