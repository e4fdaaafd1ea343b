#include "exec/shape.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"

enum { CONFIG_BYTES = 16 << 20 };

static Status copy_text(const char *text, const char *what, char **copy)
{
    size_t bytes = strlen(text) + 1;
    TRY(mem_new(copy, bytes, 1, what));
    memcpy(*copy, text, bytes);
    return OK;
}

/* A shape's name, taken apart. */
typedef struct {
    char name[512];
    uint32_t layers; /* of each stack; 0: all */
} Wanted;

static Status take_apart(const char *text, Wanted *wanted)
{
    const char *colon = strrchr(text, ':');
    size_t length = colon != NULL ? (size_t)(colon - text) : strlen(text);
    char *end = NULL;
    *wanted = (Wanted){.layers = 0};
    if (length >= sizeof wanted->name)
        return fail(ERR_INPUT, "shape: the name is longer than %zu", sizeof wanted->name - 1);
    memcpy(wanted->name, text, length);
    if (colon == NULL)
        return OK;
    unsigned long layers = strspn(colon + 1, "0123456789") > 0 ? strtoul(colon + 1, &end, 10) : 0;
    if (end == NULL || *end != '\0' || layers < 1 || layers > TRACE_MAX_LAYERS)
        return fail(ERR_INPUT, "shape:%s: \"%s\" is no number of layers from 1 to %d", text,
                    colon + 1, TRACE_MAX_LAYERS);
    wanted->layers = (uint32_t)layers;
    return OK;
}

static bool is_path(const char *name)
{
    size_t length = strlen(name);
    return strchr(name, '/') != NULL || (length > 5 && strcmp(name + length - 5, ".json") == 0);
}

static Status no_such_shape(const char *name)
{
    char known[256] = "";
    size_t used = 0;
    size_t count;
    const Shape *shapes = shape_list(&count);
    for (size_t i = 0; i < count && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "",
                                 shapes[i].name);
    return fail(ERR_INPUT, "shape:%s: there are %s, and shape:FILE.json", name, known);
}

static Status load_text(const char *name, char **text)
{
    size_t count;
    size_t bytes;
    const Shape *shapes = shape_list(&count);
    if (is_path(name))
        return file_read_all(name, CONFIG_BYTES, text, &bytes);
    for (size_t i = 0; i < count; i++)
        if (strcmp(shapes[i].name, name) == 0)
            return copy_text(shapes[i].config, "config of a shape", text);
    return no_such_shape(name);
}

/* Lowers the number of layers at KEY to LAYERS. */
static Status cut_key(const char *name, cJSON *json, const char *key, uint32_t layers)
{
    cJSON *node = cJSON_GetObjectItemCaseSensitive(json, key);
    if (!cJSON_IsNumber(node))
        return OK;
    if (node->valuedouble < layers)
        return fail(ERR_INPUT, "%s: %s: %.0f, but %" PRIu32 " layers are asked for", name, key,
                    node->valuedouble, layers);
    cJSON_SetNumberValue(node, layers);
    return OK;
}

/* Replaces *TEXT, which has been read once, so that it says LAYERS. */
static Status cut_layers(const char *name, const Architecture *architecture, uint32_t layers,
                         char **text)
{
    cJSON *json = NULL;
    TRY(json_parse(*text, strlen(*text), name, &json));
    Status status = OK;
    for (const char *const *key = architecture->layer_keys; *key != NULL && status == OK; key++)
        status = cut_key(name, json, *key, layers);
    char *printed = status == OK ? cJSON_Print(json) : NULL;
    cJSON_Delete(json);
    if (status == OK && printed == NULL)
        status = fail_memory("config of a shape", 0);
    if (status == OK) {
        mem_free(*text);
        *text = NULL;
        status = copy_text(printed, "config of a shape", text);
    }
    cJSON_free(printed);
    return status;
}

/* Reads CONFIG's text, cuts it, and reads it again. */
static Status cut_config(const Wanted *wanted, ModelConfig *config,
                         const Architecture **architecture)
{
    char *text = config->json;
    config->json = NULL;
    model_config_free(config);
    config->json = text;
    TRY(cut_layers(wanted->name, *architecture, wanted->layers, &config->json));
    return model_config_read(wanted->name, config, architecture);
}

Status shape_config(const char *name, ModelConfig *config, const Architecture **architecture)
{
    Wanted wanted;
    TRY(take_apart(name, &wanted));
    TRY(load_text(wanted.name, &config->json));
    TRY(model_config_read(wanted.name, config, architecture));
    return wanted.layers > 0 ? cut_config(&wanted, config, architecture) : OK;
}
