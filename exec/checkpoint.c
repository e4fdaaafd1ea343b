#include "exec/checkpoint.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "exec/architecture.h"
#include "exec/shards.h"

enum { NAME_BYTES = 256 };

struct Checkpoint {
    ModelConfig config;
    ModelTensors tensors;
    Shards shards;
};

/* What the shape and the presence of a tensor depend on. LAYER is NULL outside the layers. */
typedef struct {
    const Shards *shards;
    const ModelConfig *config;
    const LayerConfig *layer;
} Context;

static uint64_t size_of(const Context *context, SizeOf size)
{
    const ModelConfig *config = context->config;
    switch (size) {
    case SIZE_NONE:
        break;
    case SIZE_VOCABULARY:
        return config->vocabulary;
    case SIZE_MODEL:
        return config->d_model;
    case SIZE_HEADS:
        return (uint64_t)config->n_heads * config->head_dim;
    case SIZE_KV_HEADS:
        return (uint64_t)config->n_kv_heads * config->head_dim;
    case SIZE_HEAD:
        return config->head_dim;
    case SIZE_EXPERTS:
        return context->layer->experts;
    case SIZE_FF:
        return context->layer->d_ff;
    }
    return 0;
}

static bool is_wanted(const Context *context, When when)
{
    switch (when) {
    case WHEN_ALWAYS:
        return true;
    case WHEN_MOE:
        return context->layer->moe;
    case WHEN_BIAS:
        return context->config->attention_bias;
    case WHEN_UNTIED:
        return !context->config->tied_head;
    }
    return false;
}

static void shape_text(char text[128], const uint64_t *shape, uint32_t rank)
{
    size_t used = 0;
    for (uint32_t i = 0; i < rank && used < 128; i++)
        used += (size_t)snprintf(text + used, 128 - used, "%s%" PRIu64, i ? ", " : "", shape[i]);
    if (rank == 0)
        text[0] = '\0';
}

static Status check_shape(const Context *context, const ShardTensor *found, const TensorRule *rule)
{
    const Tensor *tensor = found->tensor;
    uint64_t wanted[2];
    uint32_t rank = 0;
    for (; rank < 2 && rule->shape[rank] != SIZE_NONE; rank++)
        wanted[rank] = size_of(context, rule->shape[rank]);
    if (tensor->rank == rank && memcmp(tensor->shape, wanted, rank * sizeof *wanted) == 0)
        return OK;
    char is_text[128];
    char wanted_text[128];
    shape_text(is_text, tensor->shape, tensor->rank);
    shape_text(wanted_text, wanted, rank);
    return fail(ERR_INPUT, "%s: tensor %s: shape [%s], wanted [%s]", found->file, tensor->name,
                is_text, wanted_text);
}

/* Finds the tensor of RULE and checks it: dtype, shape, then every value. */
static Status resolve(const Context *context, const char *prefix, const TensorRule *rule,
                      Tensor *into)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s%s", prefix, rule->name);
    const ShardTensor *found = shards_find(context->shards, name);
    if (found == NULL)
        return fail(ERR_INPUT, "%s: tensor %s: missing", context->shards->source, name);
    Dtype dtype = found->tensor->dtype;
    if (dtype != DTYPE_F32 && dtype != DTYPE_F16 && dtype != DTYPE_BF16)
        return fail(ERR_INPUT, "%s: tensor %s: dtype %s, wanted F32, F16 or BF16", found->file,
                    name, dtype_name(dtype));
    TRY(check_shape(context, found, rule));
    TRY(tensor_check_finite(found->tensor, found->file));
    *into = *found->tensor;
    return OK;
}

/* Resolves RULES into the Tensor fields of OWNER. */
static Status resolve_all(const Context *context, const char *prefix, const TensorRule *rules,
                          void *owner)
{
    for (const TensorRule *rule = rules; rule->name != NULL; rule++) {
        Tensor *field = (Tensor *)(void *)((unsigned char *)owner + rule->field);
        if (is_wanted(context, rule->when))
            TRY(resolve(context, prefix, rule, field));
    }
    return OK;
}

/* All experts of a layer fill slots of one size. */
static Status check_same_dtypes(const Context *context, const ExpertTensors *first,
                                const ExpertTensors *other)
{
    const Tensor *const firsts[] = {&first->gate, &first->up, &first->down};
    const Tensor *const others[] = {&other->gate, &other->up, &other->down};
    for (size_t i = 0; i < 3; i++)
        if (firsts[i]->dtype != others[i]->dtype)
            return fail(ERR_INPUT, "%s: tensor %s: dtype %s, but that of %s is %s",
                        context->shards->source, others[i]->name, dtype_name(others[i]->dtype),
                        firsts[i]->name, dtype_name(firsts[i]->dtype));
    return OK;
}

static Status resolve_experts(const Context *context, const Architecture *architecture,
                              const char *layer_prefix, LayerTensors *layer)
{
    uint32_t count = context->layer->experts;
    TRY(mem_new(&layer->experts, count, sizeof *layer->experts, "experts"));
    for (uint32_t i = 0; i < count; i++) {
        char prefix[NAME_BYTES];
        int used = snprintf(prefix, sizeof prefix, "%s", layer_prefix);
        snprintf(prefix + used, sizeof prefix - (size_t)used, architecture->expert_prefix, i);
        TRY(resolve_all(context, prefix, architecture->expert, &layer->experts[i]));
        TRY(check_same_dtypes(context, &layer->experts[0], &layer->experts[i]));
    }
    return OK;
}

/* The router comes first: its shape bounds the experts that memory is taken for. */
static Status resolve_layer(const Context *context, const Architecture *architecture,
                            uint32_t number, LayerTensors *layer)
{
    char prefix[NAME_BYTES / 2];
    char dense_prefix[NAME_BYTES];
    snprintf(prefix, sizeof prefix, architecture->layer_prefix, number);
    TRY(resolve_all(context, prefix, architecture->layer, layer));
    if (context->layer->moe)
        return resolve_experts(context, architecture, prefix, layer);
    snprintf(dense_prefix, sizeof dense_prefix, "%s%s", prefix, architecture->dense_prefix);
    return resolve_all(context, dense_prefix, architecture->expert, &layer->dense);
}

static Status resolve_model(Checkpoint *checkpoint, const Architecture *architecture)
{
    ModelTensors *tensors = &checkpoint->tensors;
    Context context = {.shards = &checkpoint->shards, .config = &checkpoint->config};
    TRY(resolve_all(&context, "", architecture->model, tensors));
    if (checkpoint->config.tied_head)
        tensors->head = tensors->embedding;
    uint32_t count = checkpoint->config.n_layers;
    TRY(mem_new(&tensors->layers, count, sizeof *tensors->layers, "layers"));
    for (uint32_t i = 0; i < count; i++) {
        context.layer = &checkpoint->config.layers[i];
        TRY(resolve_layer(&context, architecture, i, &tensors->layers[i]));
    }
    return OK;
}

Status checkpoint_open(const char *directory, Checkpoint **checkpoint)
{
    Checkpoint *made = NULL;
    const Architecture *architecture = NULL;
    TRY(mem_new(&made, 1, sizeof *made, "checkpoint"));
    Status status = model_config_load(directory, &made->config, &architecture);
    if (status == OK)
        status = shards_open(directory, &made->shards);
    if (status == OK)
        status = resolve_model(made, architecture);
    if (status != OK) {
        checkpoint_close(made);
        return status;
    }
    *checkpoint = made;
    return OK;
}

void checkpoint_close(Checkpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    LayerTensors *layers = checkpoint->tensors.layers;
    for (uint32_t i = 0; layers != NULL && i < checkpoint->config.n_layers; i++)
        mem_free(layers[i].experts);
    mem_free(layers);
    shards_close(&checkpoint->shards);
    model_config_free(&checkpoint->config);
    mem_free(checkpoint);
}

const ModelConfig *checkpoint_config(const Checkpoint *checkpoint)
{
    return &checkpoint->config;
}

const ModelTensors *checkpoint_tensors(const Checkpoint *checkpoint)
{
    return &checkpoint->tensors;
}

uint64_t checkpoint_expert_bytes(const Checkpoint *checkpoint, uint32_t layer)
{
    assert(layer < checkpoint->config.n_layers && checkpoint->config.layers[layer].moe);
    const ExpertTensors *expert = &checkpoint->tensors.layers[layer].experts[0];
    return expert->gate.bytes + expert->up.bytes + expert->down.bytes;
}
