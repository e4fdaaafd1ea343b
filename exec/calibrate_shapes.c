/* Shape keys: what an operation's cost depends on besides the step. */
#include <stdarg.h>
#include <stdio.h>

#include "exec/calibrate.h"

enum { SHAPE_BYTES = 160 };

typedef struct {
    char *text;
    size_t used;
} Key;

static void add(Key *key, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(Key *key, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(key->text + key->used, SHAPE_BYTES - key->used, format, arguments);
    va_end(arguments);
    key->used += (size_t)n;
    if (key->used >= SHAPE_BYTES)
        key->used = SHAPE_BYTES - 1;
}

/* "q32x128 kv4x128", with the value's width where it differs; "q16x192 latent512+64" */
static void add_heads(Key *key, const AttentionConfig *a)
{
    add(key, "q%ux%u ", a->n_heads, a->key_dim);
    if (a->kv_rank > 0)
        add(key, "latent%u+%u v%u ", a->kv_rank, a->rotary_dims, a->value_dim);
    else if (a->value_dim != a->key_dim)
        add(key, "kv%ux%u+%u ", a->n_kv_heads, a->key_dim, a->value_dim);
    else
        add(key, "kv%ux%u ", a->n_kv_heads, a->key_dim);
}

static void add_project(Key *key, const ModelConfig *config, const AttentionConfig *a)
{
    add(key, "d%u ", config->d_model);
    add_heads(key, a);
    if (a->q_rank > 0)
        add(key, "rank%u ", a->q_rank);
    add(key, "%s%s%s%s%s", a->qkv_bias ? "bias " : "", a->head_norm ? "head-norm " : "",
        a->row_norm ? "row-norm " : "", a->rotary != ROTARY_NONE ? "rotary " : "",
        config->norm == NORM_LAYER ? "layer-norm " : "");
}

static void add_attention(Key *key, const LayerConfig *layer)
{
    const AttentionConfig *a = &layer->attention;
    add_heads(key, a);
    if (a->window > 0)
        add(key, "window%u ", a->window);
    add(key, "%s%s%s", layer->stack == STACK_ENCODER ? "whole " : "", a->sinks ? "sinks " : "",
        a->relative_bias ? "relative " : "");
}

static void add_ffn(Key *key, const FfnShape *ffn)
{
    static const char *const ACTIVATIONS[] = {"silu", "gelu", "gelu-tanh", "relu", "swiglu"};
    add(key, "d%u ff%u %s%s%s ", ffn->d_model, ffn->d_ff, ffn->gated ? "gated " : "",
        ffn->bias ? "bias " : "", ACTIVATIONS[ffn->activation]);
}

static void add_router(Key *key, const LayerConfig *layer)
{
    static const char *const KINDS[] = {"softmax", "sigmoid", "top-k-softmax", "sparsemixer"};
    const RouterConfig *router = &layer->router;
    add(key, "d%u e%u k%u %s ", layer->ffn.d_model, layer->experts, layer->top_k,
        KINDS[router->kind]);
    if (router->groups > 1)
        add(key, "groups%u/%u ", router->top_groups, router->groups);
    if (router->capacity > 0)
        add(key, "capacity%.9g ", router->capacity);
}

static void add_norm(Key *key, const ModelConfig *config)
{
    add(key, "d%u %s", config->d_model, config->norm == NORM_LAYER ? "layer-norm " : "");
}

static void add_experts(Key *key, const LayerConfig *layer)
{
    add_ffn(key, &layer->ffn);
    add(key, "e%u k%u ", layer->experts, layer->top_k);
}

void calibrate_shape(const ModelConfig *config, uint32_t layer_number, Op op, const char *compute,
                     char shape[160])
{
    const LayerConfig *layer = &config->layers[layer_number];
    const AttentionConfig *a = &layer->attention;
    Key key = {.text = shape};
    shape[0] = '\0';
    switch (op) {
    case OP_EMBED:
        add(&key, "d%u %s", config->d_model, model_adds_positions(config) ? "positions " : "");
        break;
    case OP_ATTENTION_NORM:
    case OP_FFN_NORM:
        add_norm(&key, config);
        break;
    case OP_ATTENTION_PROJECT:
        add_project(&key, config, a);
        break;
    case OP_ATTENTION:
        add_attention(&key, layer);
        break;
    case OP_ATTENTION_OUTPUT:
        add(&key, "d%u from%u %s", config->d_model, a->n_heads * a->value_dim,
            a->o_bias ? "bias " : "");
        break;
    case OP_CROSS_ATTENTION:
    case OP_CROSS_CACHE:
        add_project(&key, config, a);
        break;
    case OP_DENSE_FFN:
        add_ffn(&key, &layer->ffn);
        break;
    case OP_ROUTE:
    case OP_PREDICT:
        add_router(&key, layer);
        add(&key, "%s", config->norm == NORM_LAYER ? "layer-norm " : "");
        break;
    case OP_EXPERTS:
        add_experts(&key, layer);
        break;
    case OP_COMBINE:
        add(&key, "d%u e%u k%u ", layer->ffn.d_model, layer->experts, layer->top_k);
        break;
    case OP_SHARED_EXPERTS:
        add_ffn(&key, &layer->shared);
        add(&key, "%s", layer->shared_gate ? "gate " : "");
        break;
    case OP_HEAD:
        add(&key, "d%u v%u %s", config->d_model, config->vocabulary,
            config->head_bias ? "bias " : "");
        break;
    case OPS:
        break;
    }
    add(&key, "%s", compute);
}
