/* moebius models: what checkpoints and shapes hold, and what of it a GPU has room for. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/table.h"
#include "exec/shape.h"

typedef struct {
    OptionList folders;
    double memory_gib; /* 0: not given */
    bool json;
} Arguments;

/* What one checkpoint comes to. */
typedef struct {
    char *directory;
    Checkpoint *checkpoint;
    const ModelConfig *config;
    uint64_t bytes;          /* of all tensors */
    uint64_t expert_bytes;   /* of all routed experts */
    uint64_t largest_expert; /* of one */
    uint32_t most_experts;   /* of a layer */
    uint32_t experts;        /* of all layers */
    uint32_t resident;       /* slots per MoE layer that --memory has room for */
    uint64_t resident_bytes; /* of the rest and these slots */
} Model;

typedef struct {
    Model *models; /* [count] */
    size_t count;
} ModelList;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        POSITIONALS_OPTION("DIR",
                           "a checkpoint, a folder of them, or shape:NAME (default: every shape)",
                           &arguments->folders),
        F64_OPTION("memory", "GIB", "of a GPU: how many experts of each layer fit beside the rest",
                   0.001, 1e6, &arguments->memory_gib),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "models",
        .summary = "Says what checkpoints hold: architecture, layers, experts, bytes per expert "
                   "and in all, as stored; without DIR, of every model whose shape the program "
                   "knows (shape:NAME stands for a checkpoint with random weights in that shape, "
                   "shape:FILE.json for one in the shape of any config.json). With --memory what "
                   "fits on a GPU of that size, and how many slots a layer's expert buffer can "
                   "have. The KV cache and activations, which depend on the requests, come on top.",
        .example = "moebius models models/ --memory 24",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    return options_parse(&table, argc, argv);
}

static void add_up(Model *model)
{
    const ModelConfig *config = model->config;
    model->bytes = checkpoint_bytes(model->checkpoint);
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const LayerConfig *layer = &config->layers[i];
        if (!layer->moe)
            continue;
        uint64_t bytes = checkpoint_expert_bytes(model->checkpoint, i);
        model->expert_bytes += bytes * layer->experts;
        model->experts += layer->experts;
        model->largest_expert = bytes > model->largest_expert ? bytes : model->largest_expert;
        model->most_experts =
            layer->experts > model->most_experts ? layer->experts : model->most_experts;
    }
}

/* Bytes of all that is no expert, and of SLOTS experts of each MoE layer. */
static uint64_t bytes_with_slots(const Model *model, uint32_t slots)
{
    const ModelConfig *config = model->config;
    uint64_t bytes = model->bytes - model->expert_bytes;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        if (!config->layers[i].moe)
            continue;
        uint32_t n = slots < config->layers[i].experts ? slots : config->layers[i].experts;
        bytes += n * checkpoint_expert_bytes(model->checkpoint, i);
    }
    return bytes;
}

/* The most slots per layer that fit MEMORY, by bisection; 0 also when the rest alone does not. */
static void fit(Model *model, uint64_t memory)
{
    uint32_t low = 0;
    uint32_t high = model->most_experts + 1;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (bytes_with_slots(model, middle) <= memory)
            low = middle;
        else
            high = middle;
    }
    model->resident = low;
    model->resident_bytes = bytes_with_slots(model, low);
}

static uint64_t memory_bytes(const Arguments *arguments)
{
    return (uint64_t)(arguments->memory_gib * (double)((uint64_t)1 << 30));
}

static Status is_checkpoint(const char *folder, bool *is)
{
    char *path = NULL;
    TRY(path_join(folder, "config.json", &path));
    *is = file_exists(path);
    mem_free(path);
    return OK;
}

/* Adds DIRECTORY, which the list takes. */
static Status add_model(const Arguments *arguments, char *directory, ModelList *list)
{
    Status status =
        mem_resize_array(&list->models, list->count + 1, sizeof *list->models, "models");
    if (status != OK) {
        mem_free(directory);
        return status;
    }
    Model *model = &list->models[list->count++];
    *model = (Model){.directory = directory};
    TRY(checkpoint_open_model(directory, &model->checkpoint));
    model->config = checkpoint_config(model->checkpoint);
    add_up(model);
    if (arguments->memory_gib > 0)
        fit(model, memory_bytes(arguments));
    return OK;
}

/* Adds FOLDER/NAME if it is a checkpoint. */
static Status add_entry(const Arguments *arguments, const char *folder, const char *name,
                        ModelList *list)
{
    char *path = NULL;
    bool is = false;
    TRY(path_join(folder, name, &path));
    Status status = is_checkpoint(path, &is);
    if (is)
        return add_model(arguments, path, list);
    mem_free(path);
    return status;
}

/* Every checkpoint in FOLDER, by name. */
static Status add_folder(const Arguments *arguments, const char *folder, ModelList *list)
{
    struct dirent **entries = NULL;
    size_t before = list->count;
    int n = scandir(folder, &entries, NULL, alphasort);
    if (n < 0)
        return fail(ERR_INPUT, "%s: cannot open: %s", folder, strerror(errno));
    Status status = OK;
    for (int i = 0; i < n; i++) {
        if (status == OK && entries[i]->d_name[0] != '.')
            status = add_entry(arguments, folder, entries[i]->d_name, list);
        free(entries[i]);
    }
    free(entries);
    if (status == OK && list->count == before)
        return fail(ERR_INPUT, "%s: neither it nor a folder in it has a config.json", folder);
    return status;
}

static Status add_copy(const Arguments *arguments, const char *name, ModelList *list)
{
    char *copy = NULL;
    TRY(mem_new(&copy, strlen(name) + 1, 1, "path"));
    strcpy(copy, name);
    return add_model(arguments, copy, list);
}

static Status add_shapes(const Arguments *arguments, ModelList *list)
{
    size_t count;
    const Shape *shapes = shape_list(&count);
    for (size_t i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "shape:%s", shapes[i].name);
        TRY(add_copy(arguments, name, list));
    }
    return OK;
}

static Status add_models(const Arguments *arguments, ModelList *list)
{
    if (arguments->folders.count == 0)
        return add_shapes(arguments, list);
    for (size_t i = 0; i < arguments->folders.count; i++) {
        const char *folder = arguments->folders.items[i];
        bool is = checkpoint_is_shape(folder);
        if (!is)
            TRY(is_checkpoint(folder, &is));
        TRY(is ? add_copy(arguments, folder, list) : add_folder(arguments, folder, list));
    }
    return OK;
}

/* "fits", "12 of 64 experts a layer", "does not fit" */
static const char *fit_text(const Model *model, uint64_t memory, char text[NUMBER_BYTES])
{
    if (model->bytes - model->expert_bytes > memory)
        snprintf(text, NUMBER_BYTES, "not without experts");
    else if (model->resident == model->most_experts)
        snprintf(text, NUMBER_BYTES, "all of it");
    else
        snprintf(text, NUMBER_BYTES, "%" PRIu32 " of %" PRIu32 " a layer", model->resident,
                 model->most_experts);
    return text;
}

/* "8", or "4+4" of encoder and decoder. */
static const char *layers_text(const ModelConfig *config, char text[NUMBER_BYTES])
{
    if (model_is_encoder_decoder(config))
        snprintf(text, NUMBER_BYTES, "%" PRIu32 "+%" PRIu32, config->n_encoder_layers,
                 config->n_layers - config->n_encoder_layers);
    else
        snprintf(text, NUMBER_BYTES, "%" PRIu32, config->n_layers);
    return text;
}

static void add_row(const Arguments *arguments, const Model *model, Table *table)
{
    char text[NUMBER_BYTES];
    const ModelConfig *config = model->config;
    uint64_t memory = memory_bytes(arguments);
    uint64_t missing = model->bytes - model->resident_bytes;
    table_cell(table, "%s", model->directory);
    table_cell(table, "%s", config->architecture);
    table_cell(table, "%s", layers_text(config, text));
    table_cell(table, "%" PRIu32, config->n_moe_layers);
    table_cell(table, "%" PRIu32, model->most_experts);
    table_cell(table, "%" PRIu32, config->max_top_k);
    table_cell(table, "%s", bytes_text(model->largest_expert, text));
    table_cell(table, "%s", bytes_text(model->expert_bytes, text));
    table_cell(table, "%s", bytes_text(model->bytes, text));
    if (arguments->memory_gib == 0)
        return;
    table_cell(table, "%s", fit_text(model, memory, text));
    table_cell(table, "%s", missing > 0 ? bytes_text(missing, text) : "nothing");
}

static Status print_models(const Arguments *arguments, const ModelList *list)
{
    static const char *const TITLES[] = {"model",   "architecture", "layers",   "MoE",
                                         "experts", "top_k",        "expert",   "all experts",
                                         "in all",  "fits",         "to buffer"};
    static const char *const SHORT_TITLES[] = {"model",  "architecture", "layers",
                                               "MoE",    "experts",      "top_k",
                                               "expert", "all experts",  "in all"};
    Table *table = NULL;
    bool fits = arguments->memory_gib > 0;
    TRY(table_new(fits ? TITLES : SHORT_TITLES, fits ? "llrrrrrrrrr" : "llrrrrrrr", &table));
    for (size_t i = 0; i < list->count; i++)
        add_row(arguments, &list->models[i], table);
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static Status fill_layer_json(cJSON *json, const Model *model, uint32_t number)
{
    const LayerConfig *layer = &model->config->layers[number];
    TRY(json_add_u64(json, "layer", number));
    TRY(json_add_text(json, "stack", stack_name(layer->stack)));
    TRY(json_add_u64(json, "experts", layer->experts));
    TRY(json_add_u64(json, "top_k", layer->top_k));
    TRY(json_add_u64(json, "shared_experts", layer->shared_experts));
    TRY(json_add_u64(json, "d_ff", layer->ffn.d_ff));
    return json_add_u64(json, "expert_bytes", checkpoint_expert_bytes(model->checkpoint, number));
}

static Status fill_model_json(cJSON *json, const Arguments *arguments, const Model *model)
{
    const ModelConfig *config = model->config;
    cJSON *layers;
    TRY(json_add_text(json, "model", model->directory));
    TRY(json_add_text(json, "architecture", config->architecture));
    TRY(json_add_u64(json, "layers", config->n_layers));
    TRY(json_add_u64(json, "encoder_layers", config->n_encoder_layers));
    TRY(json_add_u64(json, "d_model", config->d_model));
    TRY(json_add_u64(json, "vocabulary", config->vocabulary));
    TRY(json_add_u64(json, "experts", model->experts));
    TRY(json_add_u64(json, "expert_bytes", model->expert_bytes));
    TRY(json_add_u64(json, "bytes", model->bytes));
    if (arguments->memory_gib > 0) {
        uint64_t rest = model->bytes - model->expert_bytes;
        TRY(json_add_u64(json, "memory_bytes", memory_bytes(arguments)));
        TRY(json_add_bool(json, "rest_fits", rest <= memory_bytes(arguments)));
        TRY(json_add_u64(json, "slots_per_layer", model->resident));
        TRY(json_add_u64(json, "resident_bytes", model->resident_bytes));
    }
    TRY(json_add_array(json, "moe_layers", &layers));
    for (uint32_t i = 0; i < config->n_layers; i++) {
        if (!config->layers[i].moe)
            continue;
        cJSON *layer = cJSON_CreateObject();
        TRY(json_push(layers, layer));
        TRY(fill_layer_json(layer, model, i));
    }
    return OK;
}

static Status fill_json(cJSON *json, const Arguments *arguments, const ModelList *list)
{
    cJSON *array;
    TRY(json_add_array(json, "models", &array));
    for (size_t i = 0; i < list->count; i++) {
        cJSON *model = cJSON_CreateObject();
        TRY(json_push(array, model));
        TRY(fill_model_json(model, arguments, &list->models[i]));
    }
    return OK;
}

static Status print_models_json(const Arguments *arguments, const ModelList *list)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, arguments, list));
}

Status command_models(int argc, char **argv)
{
    Arguments arguments = {0};
    ModelList list = {0};
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = add_models(&arguments, &list);
    if (status == OK)
        status =
            arguments.json ? print_models_json(&arguments, &list) : print_models(&arguments, &list);
    for (size_t i = 0; i < list.count; i++) {
        checkpoint_close(list.models[i].checkpoint);
        mem_free(list.models[i].directory);
    }
    mem_free(list.models);
    option_list_free(&arguments.folders);
    return status;
}
