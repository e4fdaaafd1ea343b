/* A plain forward pass of any architecture in double precision, straight from a checkpoint's
 * tensors and its ModelConfig: whole sequences, no cache, no batching, latent attention expanded as
 * it is written down. What exec/ computes is compared with it. */
#ifndef TESTS_PLAIN_MODEL_H
#define TESTS_PLAIN_MODEL_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "exec/checkpoint.h"
#include "tests/support.h"

/* What came of one sequence. Routing is per MoE layer of the stack, one after the other. */
typedef struct {
    double *hidden;  /* [n][d_model], normed */
    double *logits;  /* [n][vocabulary], decoder only */
    int *experts;    /* [n][top_k], -1 where dropped */
    double *weights; /* same shape */
    size_t routed;
    double least_gap; /* by which a choice won */
} PlainOutput;

typedef struct {
    const ModelConfig *config;
    const ModelTensors *tensors;
    Stack stack;
    uint32_t n;
    const uint32_t *tokens;
    const double *source; /* [n_source][d_model], or NULL */
    uint32_t n_source;
    double *hidden;
    PlainOutput *out;
} Plain;

static inline double *plain_new(size_t count)
{
    double *block = calloc(count + 1, sizeof *block);
    assert_non_null(block);
    return block;
}

static inline double plain_at(const Tensor *tensor, size_t i)
{
    float value;
    tensor_to_f32(tensor, i, 1, &value);
    return value;
}

/* Element (R, C) of PART. */
static inline double plain_part(const Part *part, size_t r, size_t c)
{
    return plain_at(&part->tensor, part->first + r * part->row_step + c * part->column_step);
}

/* out[n][rows] = in[n][columns] W^T + b; rows and columns are W's. */
static inline double *plain_linear(const double *in, size_t n, const Part *w, const Part *bias)
{
    double *out = plain_new(n * w->rows);
    for (size_t r = 0; r < w->rows; r++)
        for (size_t i = 0; i < n; i++) {
            double sum = bias != NULL && bias->tensor.data != NULL ? plain_part(bias, 0, r) : 0;
            for (size_t c = 0; c < w->columns; c++)
                sum += in[i * w->columns + c] * plain_part(w, r, c);
            out[i * w->rows + r] = sum;
        }
    return out;
}

static inline double *plain_project(const double *in, size_t n, const Tensor *w, const Tensor *bias)
{
    Part weight = part_of(w);
    Part biases = bias->data != NULL ? part_of(bias) : (Part){0};
    return plain_linear(in, n, &weight, &biases);
}

static inline void plain_norm(NormKind kind, double eps, const Tensor *weight, const Tensor *bias,
                              size_t rows, size_t d, double *x)
{
    for (size_t r = 0; r < rows; r++) {
        double *row = x + r * d;
        double mean = 0;
        double square = 0;
        for (size_t i = 0; kind == NORM_LAYER && i < d; i++)
            mean += row[i] / (double)d;
        for (size_t i = 0; i < d; i++)
            square += (row[i] - mean) * (row[i] - mean) / (double)d;
        for (size_t i = 0; i < d; i++) {
            row[i] = (row[i] - mean) / sqrt(square + eps) * plain_at(weight, i);
            if (bias != NULL && bias->data != NULL)
                row[i] += plain_at(bias, i);
        }
    }
}

static inline double *plain_normed(const Plain *plain, const NormTensors *norm)
{
    size_t d = plain->config->d_model;
    double *x = plain_new(plain->n * d);
    memcpy(x, plain->hidden, plain->n * d * sizeof *x);
    plain_norm(plain->config->norm, plain->config->norm_eps, &norm->weight, &norm->bias, plain->n,
               d, x);
    return x;
}

/* Frequency of pair I of DIMS for a sequence of N tokens. */
static inline double plain_frequency(const RopeConfig *rope, uint32_t dims, uint32_t i, uint32_t n)
{
    double base = pow(rope->theta, -2.0 * i / dims);
    double wave = 2 * acos(-1) / base;
    if (rope->type == ROPE_LINEAR)
        return base / rope->factor;
    if (rope->type == ROPE_LONGROPE)
        return base / (n > rope->original_positions ? rope->long_factor[i] : rope->short_factor[i]);
    if (rope->type == ROPE_LLAMA3) {
        double turns = rope->original_positions / wave;
        double mix = (turns - rope->low_frequency_factor) /
                     (rope->high_frequency_factor - rope->low_frequency_factor);
        mix = mix < 0 ? 0 : mix > 1 ? 1 : mix;
        return mix * base + (1 - mix) * base / rope->factor;
    }
    if (rope->type != ROPE_YARN)
        return base;
    double scale = dims / (2 * log(rope->theta));
    double low = scale * log(rope->original_positions / (rope->beta_fast * 2 * acos(-1)));
    double high = scale * log(rope->original_positions / (rope->beta_slow * 2 * acos(-1)));
    low = fmax(rope->truncate ? floor(low) : low, 0);
    high = fmin(rope->truncate ? ceil(high) : high, dims - 1);
    double mix = fmin(fmax((i - low) / (high - low == 0 ? 0.001 : high - low), 0), 1);
    return mix * base / rope->factor + (1 - mix) * base;
}

static inline double plain_rope_scale(const RopeConfig *rope, uint32_t n)
{
    double mscale = n > rope->original_positions ? rope->long_mscale : rope->short_mscale;
    if (rope->type == ROPE_LONGROPE && mscale > 0)
        return mscale;
    if (rope->attention_factor > 0)
        return rope->attention_factor;
    if (rope->type == ROPE_LONGROPE)
        return sqrt(1 + log(rope->factor) / log(rope->original_positions));
    if (rope->type != ROPE_YARN)
        return 1;
    double over = 0.1 * rope->mscale * log(rope->factor) + 1;
    double under = 0.1 * rope->mscale_all_dim * log(rope->factor) + 1;
    return rope->mscale > 0 && rope->mscale_all_dim > 0 ? over / under
                                                        : 0.1 * log(rope->factor) + 1;
}

static inline void plain_rotate(const Plain *plain, RotaryKind kind, uint32_t dims,
                                uint32_t position, double *x)
{
    const RopeConfig *rope = &plain->config->rope;
    for (uint32_t i = 0; kind != ROTARY_NONE && i < dims / 2; i++) {
        double angle = position * plain_frequency(rope, dims, i, plain->n);
        double scale = plain_rope_scale(rope, plain->n);
        double *a = kind == ROTARY_HALVES ? &x[i] : &x[2 * i];
        double *b = kind == ROTARY_HALVES ? &x[dims / 2 + i] : &x[2 * i + 1];
        double turned = (*a * cos(angle) - *b * sin(angle)) * scale;
        *b = (*b * cos(angle) + *a * sin(angle)) * scale;
        *a = turned;
    }
}

/* T5's bucket, from the paper's description: half for near distances one by one, the rest for
 * logarithmically wider ones. */
static inline uint32_t plain_bucket(const ModelConfig *config, bool both_ways, long distance)
{
    uint32_t buckets = both_ways ? config->relative_buckets / 2 : config->relative_buckets;
    uint32_t offset = both_ways && distance > 0 ? buckets : 0;
    double away = both_ways ? labs(distance) : distance < 0 ? -distance : 0;
    double half = buckets / 2;
    if (away < half)
        return offset + (uint32_t)away;
    double far =
        half + log(away / half) / log(config->relative_max_distance / half) * (buckets - half);
    return offset + (uint32_t)fmin(floor(far + 1e-9), buckets - 1);
}

/* Queries [n][heads][key_dim], keys and values of N_KEYS with the same number of heads. */
static inline double *plain_attend(const Plain *plain, const LayerConfig *layer,
                                   const AttentionTensors *tensors, bool cross, const double *q,
                                   const double *k, const double *v, uint32_t n_keys)
{
    const AttentionConfig *a = &layer->attention;
    uint32_t first;
    uint32_t end;
    model_stack(plain->config, plain->stack, &first, &end);
    const Tensor *bias = &plain->tensors->layers[first].attention.relative_bias;
    double *out = plain_new((size_t)plain->n * a->n_heads * a->value_dim);
    double *p = plain_new(n_keys);
    for (uint32_t i = 0; i < plain->n; i++)
        for (uint32_t h = 0; h < a->n_heads; h++) {
            double sum = !cross && a->sinks ? exp(plain_at(&tensors->sinks, h)) : 0;
            for (uint32_t j = 0; j < n_keys; j++) {
                p[j] = 0;
                if (!cross && plain->stack == STACK_DECODER && j > i)
                    continue;
                if (!cross && a->window > 0 && j + a->window <= i)
                    continue;
                double dot = 0;
                for (uint32_t x = 0; x < a->key_dim; x++)
                    dot += q[((size_t)i * a->n_heads + h) * a->key_dim + x] *
                           k[((size_t)j * a->n_heads + h) * a->key_dim + x];
                dot *= a->scale;
                if (!cross && a->relative_bias)
                    dot += plain_at(bias, plain_bucket(plain->config, plain->stack == STACK_ENCODER,
                                                       (long)j - (long)i) *
                                                  (size_t)a->n_heads +
                                              h);
                p[j] = exp(dot);
                sum += p[j];
            }
            for (uint32_t j = 0; j < n_keys; j++)
                for (uint32_t x = 0; x < a->value_dim; x++)
                    out[((size_t)i * a->n_heads + h) * a->value_dim + x] +=
                        p[j] / sum * v[((size_t)j * a->n_heads + h) * a->value_dim + x];
        }
    free(p);
    return out;
}

/* X [n][kv_heads][dim] with each head repeated for its group; frees X. */
static inline double *plain_repeat(double *x, size_t n, const AttentionConfig *a, uint32_t dim)
{
    double *out = plain_new(n * a->n_heads * dim);
    uint32_t group = a->n_heads / a->n_kv_heads;
    for (size_t i = 0; i < n; i++)
        for (uint32_t h = 0; h < a->n_heads; h++)
            memcpy(out + (i * a->n_heads + h) * dim, x + (i * a->n_kv_heads + h / group) * dim,
                   dim * sizeof *out);
    free(x);
    return out;
}

/* Norm, clip and rotation of the heads of X. */
static inline void plain_heads(const Plain *plain, const AttentionConfig *a, const Tensor *norm,
                               uint32_t heads, double *x)
{
    size_t rows = a->row_norm ? plain->n : (size_t)plain->n * heads;
    if (norm->data != NULL)
        plain_norm(NORM_RMS, a->norm_eps, norm, NULL, rows,
                   a->row_norm ? (size_t)heads * a->key_dim : a->key_dim, x);
    for (size_t i = 0; a->clip > 0 && i < (size_t)plain->n * heads * a->key_dim; i++)
        x[i] = fmin(fmax(x[i], -a->clip), a->clip);
    for (size_t i = 0; i < (size_t)plain->n * heads; i++)
        plain_rotate(plain, a->rotary, a->rotary_dims, (uint32_t)(i / heads), x + i * a->key_dim);
}

static inline double *plain_self_attention(const Plain *plain, const LayerConfig *layer,
                                           const AttentionTensors *t, const double *x)
{
    const AttentionConfig *a = &layer->attention;
    double *q = plain_project(x, plain->n, &t->q, &t->q_bias);
    double *k = plain_project(x, plain->n, &t->k, &t->k_bias);
    double *v = plain_project(x, plain->n, &t->v, &t->v_bias);
    plain_heads(plain, a, &t->q_norm, a->n_heads, q);
    plain_heads(plain, a, &t->k_norm, a->n_kv_heads, k);
    for (size_t i = 0; a->clip > 0 && i < (size_t)plain->n * a->n_kv_heads * a->value_dim; i++)
        v[i] = fmin(fmax(v[i], -a->clip), a->clip);
    k = plain_repeat(k, plain->n, a, a->key_dim);
    v = plain_repeat(v, plain->n, a, a->value_dim);
    double *mixed = plain_attend(plain, layer, t, false, q, k, v, plain->n);
    free(q);
    free(k);
    free(v);
    return mixed;
}

/* DeepSeek-V2, section 2.1.2, not absorbed: every head's key and value is made from the latent. */
static inline double *plain_latent_attention(const Plain *plain, const LayerConfig *layer,
                                             const AttentionTensors *t, const double *x)
{
    const AttentionConfig *a = &layer->attention;
    const Tensor none = {0};
    size_t n = plain->n;
    size_t nope = a->key_dim - a->rotary_dims;
    double *low = NULL;
    if (a->q_rank > 0) {
        low = plain_project(x, n, &t->q_a, &t->q_a_bias);
        plain_norm(NORM_RMS, a->norm_eps, &t->q_a_norm, NULL, n, a->q_rank, low);
    }
    double *q = plain_project(low != NULL ? low : x, n, &t->q, &none);
    double *kv = plain_project(x, n, &t->kv_a, &t->kv_a_bias);
    double *latent = plain_new(n * a->kv_rank);
    double *k = plain_new(n * a->n_heads * a->key_dim);
    double *v = plain_new(n * a->n_heads * a->value_dim);
    for (size_t i = 0; i < n; i++)
        memcpy(latent + i * a->kv_rank, kv + i * (a->kv_rank + a->rotary_dims),
               a->kv_rank * sizeof *latent);
    plain_norm(NORM_RMS, a->norm_eps, &t->kv_a_norm, NULL, n, a->kv_rank, latent);
    double *expanded = plain_project(latent, n, &t->kv_b, &none);
    for (size_t i = 0; i < n; i++) {
        double *shared = kv + i * (a->kv_rank + a->rotary_dims) + a->kv_rank;
        plain_rotate(plain, a->rotary, a->rotary_dims, (uint32_t)i, shared);
        for (size_t h = 0; h < a->n_heads; h++) {
            size_t head = i * a->n_heads + h;
            const double *from = expanded + head * (nope + a->value_dim);
            plain_rotate(plain, a->rotary, a->rotary_dims, (uint32_t)i,
                         q + head * a->key_dim + nope);
            memcpy(k + head * a->key_dim, from, nope * sizeof *k);
            memcpy(k + head * a->key_dim + nope, shared, a->rotary_dims * sizeof *k);
            memcpy(v + head * a->value_dim, from + nope, a->value_dim * sizeof *v);
        }
    }
    double *mixed = plain_attend(plain, layer, t, false, q, k, v, plain->n);
    free(low);
    free(q);
    free(kv);
    free(latent);
    free(expanded);
    free(k);
    free(v);
    return mixed;
}

static inline double *plain_cross_attention(const Plain *plain, const LayerConfig *layer,
                                            const AttentionTensors *t, const double *x)
{
    double *q = plain_project(x, plain->n, &t->q, &t->q_bias);
    double *k = plain_project(plain->source, plain->n_source, &t->k, &t->k_bias);
    double *v = plain_project(plain->source, plain->n_source, &t->v, &t->v_bias);
    double *mixed = plain_attend(plain, layer, t, true, q, k, v, plain->n_source);
    free(q);
    free(k);
    free(v);
    return mixed;
}

/* hidden += MIXED projected; frees MIXED. */
static inline void plain_add_output(const Plain *plain, const AttentionTensors *t, double *mixed)
{
    double *y = plain_project(mixed, plain->n, &t->o, &t->o_bias);
    for (size_t i = 0; i < (size_t)plain->n * plain->config->d_model; i++)
        plain->hidden[i] += y[i];
    free(mixed);
    free(y);
}

static inline double plain_activation(const FfnShape *shape, double x)
{
    switch (shape->activation) {
    case ACTIVATION_GELU:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case ACTIVATION_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case ACTIVATION_RELU:
        return x > 0 ? x : 0;
    default:
        return x / (1 + exp(-x));
    }
}

/* to[d] += weight * FFN(x[d]) */
static inline void plain_ffn(const FfnShape *shape, const FfnTensors *t, const double *x,
                             double weight, double *to)
{
    double *up = plain_linear(x, 1, &t->up, &t->up_bias);
    double *gate = shape->gated ? plain_linear(x, 1, &t->gate, &t->gate_bias) : NULL;
    for (uint32_t i = 0; i < shape->d_ff; i++) {
        if (shape->activation == ACTIVATION_CLAMPED_SWIGLU) {
            double g = fmin(gate[i], shape->limit);
            double u = fmin(fmax(up[i], -shape->limit), shape->limit);
            up[i] = g / (1 + exp(-shape->alpha * g)) * (u + 1);
        } else {
            up[i] = shape->gated ? plain_activation(shape, gate[i]) * up[i]
                                 : plain_activation(shape, up[i]);
        }
    }
    double *down = plain_linear(up, 1, &t->down, &t->down_bias);
    for (uint32_t i = 0; i < shape->d_model; i++)
        to[i] += weight * down[i];
    free(up);
    free(gate);
    free(down);
}

/* True when EXPERT may be chosen: its group is among the best. */
static inline bool plain_is_open(const LayerConfig *layer, const double *choice, uint32_t expert)
{
    const RouterConfig *router = &layer->router;
    uint32_t size = layer->experts / router->groups;
    double own = 0;
    uint32_t better = 0;
    for (uint32_t pass = 0; pass <= router->groups; pass++) {
        uint32_t g = pass == 0 ? expert / size : pass - 1;
        double best = -INFINITY;
        double second = -INFINITY;
        for (uint32_t e = g * size; e < (g + 1) * size; e++) {
            if (choice[e] > best) {
                second = best;
                best = choice[e];
            } else if (choice[e] > second) {
                second = choice[e];
            }
        }
        double score = router->group_best == 2 ? best + second : best;
        if (pass == 0)
            own = score;
        else
            better += score > own;
    }
    return router->groups == 1 || better < router->top_groups;
}

/* Sparsemixer's share of CHOICE when OUT (or -1) is taken. */
static inline double plain_share(const LayerConfig *layer, const double *logits, int out,
                                 int choice)
{
    double most = -INFINITY;
    double sum = 0;
    for (int e = 0; e < (int)layer->experts; e++)
        most = e != out && logits[e] > most ? logits[e] : most;
    for (int e = 0; e < (int)layer->experts; e++)
        if (e != out &&
            (most - logits[e]) / fmax(fabs(logits[e]), most) <= 2 * (double)layer->router.jitter)
            sum += exp(logits[e]);
    return exp(logits[choice]) / sum;
}

/* LOGITS [experts] of one token -> its experts and weights. */
static inline void plain_route(const LayerConfig *layer, const Tensor *correction,
                               const double *logits, int *experts, double *weights,
                               double *least_gap)
{
    const RouterConfig *router = &layer->router;
    uint32_t n = layer->experts;
    double *score = plain_new(n);
    double *choice = plain_new(n);
    double total = 0;
    double kept = 0;
    for (uint32_t e = 0; e < n; e++)
        total += exp(logits[e]);
    for (uint32_t e = 0; e < n; e++) {
        score[e] =
            router->kind == ROUTER_SIGMOID ? 1 / (1 + exp(-logits[e])) : exp(logits[e]) / total;
        choice[e] = score[e] + (correction->data != NULL ? plain_at(correction, e) : 0);
    }
    for (uint32_t slot = 0; slot < layer->top_k; slot++) {
        int best = -1;
        int second = -1;
        for (uint32_t e = 0; e < n; e++) {
            bool taken = false;
            for (uint32_t s = 0; s < slot; s++)
                taken = taken || experts[s] == (int)e;
            if (taken || !plain_is_open(layer, choice, e))
                continue;
            if (best < 0 || choice[e] > choice[best]) {
                second = best;
                best = (int)e;
            } else if (second < 0 || choice[e] > choice[second]) {
                second = (int)e;
            }
        }
        if (second >= 0)
            *least_gap = fmin(*least_gap, choice[best] - choice[second]);
        experts[slot] = best;
        weights[slot] = router->kind == ROUTER_SPARSEMIXER
                            ? plain_share(layer, logits, slot > 0 ? experts[0] : -1, best)
                            : score[best];
        kept += weights[slot];
    }
    bool divide = router->normalise || router->kind == ROUTER_TOP_K_SOFTMAX;
    for (uint32_t slot = 0; slot < layer->top_k; slot++)
        weights[slot] *= router->scale / (divide ? kept : 1);
    free(score);
    free(choice);
}

/* The model's own capacity over the whole sequence. */
static inline void plain_limit(const LayerConfig *layer, uint32_t n, int *experts, double *weights)
{
    double capacity = ceil(layer->router.capacity * n);
    for (int e = 0; layer->router.capacity > 0 && e < (int)layer->experts; e++) {
        double used = 0;
        for (uint32_t slot = 0; slot < layer->top_k; slot++)
            for (uint32_t i = 0; i < n; i++)
                if (experts[i * layer->top_k + slot] == e && ++used > capacity) {
                    experts[i * layer->top_k + slot] = -1;
                    weights[i * layer->top_k + slot] = 0;
                }
    }
    for (uint32_t i = 0; layer->router.capacity > 0 && layer->router.normalise_kept && i < n; i++) {
        double kept = 0;
        for (uint32_t slot = 0; slot < layer->top_k; slot++)
            kept += weights[i * layer->top_k + slot];
        for (uint32_t slot = 0; kept > 0 && slot < layer->top_k; slot++)
            weights[i * layer->top_k + slot] /= kept;
    }
}

static inline void plain_moe(const Plain *plain, const LayerConfig *layer, const LayerTensors *t,
                             const double *x)
{
    size_t d = plain->config->d_model;
    int *experts = plain->out->experts + plain->out->routed;
    double *weights = plain->out->weights + plain->out->routed;
    double *logits = plain_project(x, plain->n, &t->router, &t->router_bias);
    for (size_t i = 0; i < plain->n; i++)
        plain_route(layer, &t->correction, logits + i * layer->experts, experts + i * layer->top_k,
                    weights + i * layer->top_k, &plain->out->least_gap);
    plain_limit(layer, plain->n, experts, weights);
    for (size_t i = 0; i < plain->n; i++) {
        double *to = plain->hidden + i * d;
        for (size_t slot = i * layer->top_k; slot < (i + 1) * layer->top_k; slot++)
            if (experts[slot] >= 0)
                plain_ffn(&layer->ffn, &t->experts[experts[slot]], x + i * d,
                          weights[slot] * layer->router.output_scale, to);
        if (layer->shared.d_ff == 0)
            continue;
        double gate = 1;
        for (size_t c = 0; layer->shared_gate && c < d; c++)
            gate = (c == 0 ? 0 : gate) + x[i * d + c] * plain_at(&t->shared_gate, c);
        plain_ffn(&layer->shared, &t->shared, x + i * d,
                  layer->shared_gate ? 1 / (1 + exp(-gate)) : 1, to);
    }
    plain->out->routed += (size_t)plain->n * layer->top_k;
    free(logits);
}

static inline void plain_layer(const Plain *plain, uint32_t number)
{
    const LayerConfig *layer = &plain->config->layers[number];
    const LayerTensors *t = &plain->tensors->layers[number];
    size_t d = plain->config->d_model;
    double *x = plain_normed(plain, &t->input_norm);
    plain_add_output(plain, &t->attention,
                     layer->attention.kv_rank > 0
                         ? plain_latent_attention(plain, layer, &t->attention, x)
                         : plain_self_attention(plain, layer, &t->attention, x));
    free(x);
    if (layer->cross) {
        x = plain_normed(plain, &t->cross_norm);
        plain_add_output(plain, &t->cross, plain_cross_attention(plain, layer, &t->cross, x));
        free(x);
    }
    x = plain_normed(plain, &t->ffn_norm);
    if (layer->moe)
        plain_moe(plain, layer, t, x);
    for (size_t i = 0; !layer->moe && i < plain->n; i++)
        plain_ffn(&layer->ffn, &t->dense, x + i * d, 1, plain->hidden + i * d);
    free(x);
}

/* Sines and cosines of waves of length 1 to 10000, or stored rows, counted on from the padding
 * id. */
static inline double plain_position(const Plain *plain, uint32_t position, uint32_t i)
{
    const ModelConfig *config = plain->config;
    uint32_t place = config->pad + 1 + position;
    uint32_t half = config->d_model / 2;
    if (config->learned_positions)
        return plain_at(&plain->tensors->positions, (size_t)place * config->d_model + i);
    if (!config->sinusoidal || i >= 2 * half)
        return 0;
    double angle = place * exp(-log(10000) / (half - 1) * (i % half));
    return i < half ? sin(angle) : cos(angle);
}

static inline void plain_embed(Plain *plain)
{
    size_t d = plain->config->d_model;
    for (uint32_t i = 0; i < plain->n; i++)
        for (uint32_t x = 0; x < d; x++)
            plain->hidden[i * d + x] =
                plain_at(&plain->tensors->embedding, plain->tokens[i] * d + x) *
                    plain->config->embedding_scale +
                plain_position(plain, i, x);
}

/* Runs STACK over TOKENS [n] (none of them padding). SOURCE [n_source][d_model] is what an encoder
 * made, for a decoder that looks at one. */
static inline PlainOutput plain_forward(const Checkpoint *checkpoint, Stack stack,
                                        const uint32_t *tokens, uint32_t n, const double *source,
                                        uint32_t n_source)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    const ModelTensors *tensors = checkpoint_tensors(checkpoint);
    size_t d = config->d_model;
    size_t room = (size_t)n * config->n_moe_layers * config->max_top_k;
    PlainOutput out = {.hidden = plain_new(n * d),
                       .experts = calloc(room + 1, sizeof(int)),
                       .weights = plain_new(room),
                       .least_gap = INFINITY};
    Plain plain = {config, tensors, stack, n, tokens, source, n_source, out.hidden, &out};
    uint32_t first;
    uint32_t end;
    model_stack(config, stack, &first, &end);
    plain_embed(&plain);
    for (uint32_t layer = first; layer < end; layer++)
        plain_layer(&plain, layer);
    const NormTensors *norm =
        stack == STACK_ENCODER ? &tensors->encoder_norm : &tensors->final_norm;
    plain_norm(config->norm, config->norm_eps, &norm->weight, &norm->bias, n, d, out.hidden);
    for (size_t i = 0; stack == STACK_DECODER && i < n * d; i++)
        out.hidden[i] *= config->head_scale;
    if (stack == STACK_DECODER)
        out.logits = plain_project(out.hidden, n, &tensors->head, &tensors->head_bias);
    return out;
}

static inline void plain_free(PlainOutput *out)
{
    free(out->hidden);
    free(out->logits);
    free(out->experts);
    free(out->weights);
}

#endif
