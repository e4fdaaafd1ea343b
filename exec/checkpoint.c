#include "exec/checkpoint.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "exec/architecture.h"
#include "exec/resolve.h"
#include "exec/shape.h"

struct Checkpoint {
    ModelConfig config;
    ModelTensors tensors;
    Shards shards;
    const Architecture *architecture;
};

Status checkpoint_open(const char *directory, Checkpoint **checkpoint)
{
    Checkpoint *made = NULL;
    TRY(mem_new(&made, 1, sizeof *made, "checkpoint"));
    Status status = model_config_load(directory, &made->config, &made->architecture);
    if (status == OK)
        status = shards_open(directory, &made->shards);
    if (status == OK)
        status = resolve_model(made->architecture, &made->config, &made->shards, &made->tensors);
    if (status != OK) {
        checkpoint_close(made);
        return status;
    }
    *checkpoint = made;
    return OK;
}

static Status open_shape(const char *name, Checkpoint *made)
{
    TRY(shape_config(name, &made->config, &made->architecture));
    TRY(shape_tensors(name, made->architecture, &made->config, &made->shards));
    return resolve_model(made->architecture, &made->config, &made->shards, &made->tensors);
}

static const char SHAPE_PREFIX[] = "shape:";

bool checkpoint_is_shape(const char *model)
{
    return strncmp(model, SHAPE_PREFIX, sizeof SHAPE_PREFIX - 1) == 0;
}

Status checkpoint_open_model(const char *model, Checkpoint **checkpoint)
{
    Checkpoint *made = NULL;
    if (!checkpoint_is_shape(model))
        return checkpoint_open(model, checkpoint);
    TRY(mem_new(&made, 1, sizeof *made, "checkpoint"));
    Status status = open_shape(model + sizeof SHAPE_PREFIX - 1, made);
    if (status == OK)
        *checkpoint = made;
    else
        checkpoint_close(made);
    return status;
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
    const FfnTensors *expert = &checkpoint->tensors.layers[layer].experts[0];
    return part_bytes(&expert->gate) + part_bytes(&expert->up) + part_bytes(&expert->down) +
           part_bytes(&expert->gate_bias) + part_bytes(&expert->up_bias) +
           part_bytes(&expert->down_bias);
}

uint64_t checkpoint_bytes(const Checkpoint *checkpoint)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < checkpoint->shards.n_tensors; i++)
        bytes += checkpoint->shards.tensors[i].tensor->bytes;
    return bytes;
}

void checkpoint_moe_name(const Checkpoint *checkpoint, uint32_t layer, char name[96])
{
    const ModelConfig *config = &checkpoint->config;
    Stack stack = config->layers[layer].stack;
    const StackRules *rules = architecture_stack(checkpoint->architecture, stack);
    uint32_t first;
    uint32_t end;
    model_stack(config, stack, &first, &end);
    char prefix[64];
    snprintf(prefix, sizeof prefix, rules->layer_prefix, layer - first);
    snprintf(name, 96, "%.63s%.32s", prefix, rules->moe_name);
}
