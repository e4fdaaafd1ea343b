#include "exec/architecture.h"

#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"

enum { CONFIG_BYTES = 16 << 20 };

static Status summarise_layers(const char *file, ModelConfig *config)
{
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const LayerConfig *layer = &config->layers[i];
        if (!layer->moe)
            continue;
        config->n_moe_layers++;
        if (layer->experts > config->max_experts)
            config->max_experts = layer->experts;
        if (layer->top_k > config->max_top_k)
            config->max_top_k = layer->top_k;
    }
    return config->n_moe_layers > 0
               ? OK
               : fail(ERR_UNSUPPORTED, "%s: none of its layers has experts", file);
}

static Status read_config(const char *path, const cJSON *json, ModelConfig *config,
                          const Architecture **architecture)
{
    JsonAt root = json_root(json, path);
    JsonAt model_type;
    TRY(json_need(&root, "model_type", &model_type));
    TRY(architecture_find(&model_type, architecture));
    snprintf(config->architecture, sizeof config->architecture, "%s", (*architecture)->model_type);
    TRY((*architecture)->read_config(&root, config));
    return summarise_layers(path, config);
}

static Status model_config_parse(const char *name, size_t bytes, ModelConfig *config,
                                 const Architecture **architecture)
{
    cJSON *json = NULL;
    TRY(json_parse(config->json, bytes, name, &json));
    Status status = read_config(name, json, config, architecture);
    cJSON_Delete(json);
    return status;
}

Status model_config_read(const char *name, ModelConfig *config, const Architecture **architecture)
{
    return model_config_parse(name, strlen(config->json), config, architecture);
}

Status model_config_load(const char *directory, ModelConfig *config,
                         const Architecture **architecture)
{
    static const char NAME[] = "/config.json";
    char *path = NULL;
    size_t bytes = 0;
    TRY(mem_new(&path, strlen(directory) + sizeof NAME, 1, "path"));
    sprintf(path, "%s%s", directory, NAME);
    Status status = file_read_all(path, CONFIG_BYTES, &config->json, &bytes);
    if (status == OK)
        status = model_config_parse(path, bytes, config, architecture);
    mem_free(path);
    return status;
}

void model_config_free(ModelConfig *config)
{
    mem_free(config->layers);
    mem_free(config->json);
    *config = (ModelConfig){0};
}
