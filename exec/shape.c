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
    uint32_t layers;         /* of each stack; 0: all */
    uint32_t decoder_layers; /* where they are not as many */
} Wanted;

/* Reads a number of layers and moves *AT behind it; 0 where there is none. */
static uint32_t read_layers(const char **at)
{
    char *end;
    unsigned long layers = strspn(*at, "0123456789") > 0 ? strtoul(*at, &end, 10) : 0;
    if (layers < 1 || layers > TRACE_MAX_LAYERS)
        return 0;
    *at = end;
    return (uint32_t)layers;
}

static Status take_apart(const char *text, Wanted *wanted)
{
    const char *colon = strrchr(text, ':');
    size_t length = colon != NULL ? (size_t)(colon - text) : strlen(text);
    *wanted = (Wanted){.layers = 0};
    if (length >= sizeof wanted->name)
        return fail(ERR_INPUT, "shape: the name is longer than %zu", sizeof wanted->name - 1);
    memcpy(wanted->name, text, length);
    if (colon == NULL)
        return OK;
    const char *at = colon + 1;
    wanted->layers = wanted->decoder_layers = read_layers(&at);
    if (wanted->layers > 0 && *at == '+') {
        at++;
        wanted->decoder_layers = read_layers(&at);
    }
    if (wanted->layers == 0 || wanted->decoder_layers == 0 || *at != '\0')
        return fail(ERR_INPUT,
                    "shape:%s: \"%s\" is no number of layers from 1 to %d, nor two like 24+1", text,
                    colon + 1, TRACE_MAX_LAYERS);
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

/* Of the layers without experts, those from LAYERS on are none any more. */
static void cut_dense(cJSON *json, uint32_t layers)
{
    cJSON *list = cJSON_GetObjectItemCaseSensitive(json, "mlp_only_layers");
    cJSON *next;
    for (cJSON *item = cJSON_IsArray(list) ? list->child : NULL; item != NULL; item = next) {
        next = item->next;
        if (item->valuedouble >= layers)
            cJSON_Delete(cJSON_DetachItemViaPointer(list, item));
    }
}

/* Replaces *TEXT, which has been read once, so that it says the layers that are wanted. */
static Status cut_layers(const Wanted *wanted, const Architecture *architecture, char **text)
{
    cJSON *json = NULL;
    TRY(json_parse(*text, strlen(*text), wanted->name, &json));
    Status status = OK;
    for (const char *const *key = architecture->layer_keys; *key != NULL && status == OK; key++) {
        bool decoder = strstr(*key, "decoder") != NULL;
        status =
            cut_key(wanted->name, json, *key, decoder ? wanted->decoder_layers : wanted->layers);
    }
    cut_dense(json, wanted->layers);
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
    TRY(cut_layers(wanted, *architecture, &config->json));
    return model_config_read(wanted->name, config, architecture);
}

Status shape_config(const char *name, ModelConfig *config, const Architecture **architecture)
{
    Wanted wanted;
    TRY(take_apart(name, &wanted));
    TRY(load_text(wanted.name, &config->json));
    TRY(model_config_read(wanted.name, config, architecture));
    if (wanted.decoder_layers != wanted.layers && !model_is_encoder_decoder(config))
        return fail(ERR_INPUT, "shape:%s: the model has one stack of layers", name);
    return wanted.layers > 0 ? cut_config(&wanted, config, architecture) : OK;
}
