#include "base/json.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"

JsonAt json_root(const cJSON *node, const char *file)
{
    return (JsonAt){.node = node, .file = file};
}

/* Adds TEXT to a path of *USED bytes, which ends in "..." when it is too long. By hand: a profile
 * has thousands of places, of which a message names one. */
static void add_to_path(JsonAt *at, size_t *used, const char *text, size_t bytes)
{
    size_t room = sizeof at->path - 1 - *used;
    memcpy(at->path + *used, text, bytes < room ? bytes : room);
    *used += bytes < room ? bytes : room;
    at->path[*used] = '\0';
    if (bytes > room)
        memcpy(at->path + sizeof at->path - 4, "...", 4);
}

/* NODE, with the path of PARENT. */
static JsonAt below(const JsonAt *parent, const cJSON *node, size_t *used)
{
    JsonAt at;
    at.node = node;
    at.file = parent->file;
    *used = strlen(parent->path);
    memcpy(at.path, parent->path, *used + 1);
    return at;
}

JsonAt json_member(const JsonAt *object, const cJSON *member)
{
    size_t used;
    JsonAt at = below(object, member, &used);
    add_to_path(&at, &used, ".", used > 0);
    add_to_path(&at, &used, member->string, strlen(member->string));
    return at;
}

bool json_find(const JsonAt *parent, const char *key, JsonAt *member)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(parent->node, key);
    if (node == NULL)
        return false;
    *member = json_member(parent, node);
    return true;
}

JsonAt json_item(const JsonAt *array, const cJSON *item, size_t index)
{
    char digits[24];
    size_t first = sizeof digits;
    size_t used;
    JsonAt at = below(array, item, &used);
    digits[--first] = ']';
    do
        digits[--first] = (char)('0' + index % 10);
    while ((index /= 10) > 0);
    digits[--first] = '[';
    add_to_path(&at, &used, digits + first, sizeof digits - first);
    return at;
}

Status json_save(const cJSON *node, const char *path)
{
    char *text;
    OutputFile output;
    TRY(fail_in(json_print(node, true, &text), "%s", path));
    Status status = output_open(path, &output);
    if (status == OK) {
        fprintf(output.stream, "%s\n", text);
        status = output_commit(&output);
    }
    mem_free(text);
    return status;
}

Status json_need(const JsonAt *parent, const char *key, JsonAt *member)
{
    if (!cJSON_IsObject(parent->node))
        return json_fail(parent, "must be an object");
    if (!json_find(parent, key, member))
        return json_fail(parent, "the key \"%s\" is missing", key);
    return OK;
}

Status json_fail(const JsonAt *at, const char *format, ...)
{
    char why[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    if (at->path[0] == '\0')
        return fail(ERR_INPUT, "%s: %s", at->file, why);
    return fail(ERR_INPUT, "%s: %s: %s", at->file, at->path, why);
}

Status json_only_keys(const JsonAt *at, const char *const *keys)
{
    if (!cJSON_IsObject(at->node))
        return json_fail(at, "must be an object");
    for (const cJSON *child = at->node->child; child != NULL; child = child->next) {
        size_t i = 0;
        while (keys[i] != NULL && strcmp(keys[i], child->string) != 0)
            i++;
        if (keys[i] != NULL)
            continue;
        char allowed[256] = "";
        size_t used = 0;
        for (i = 0; keys[i] != NULL && used < sizeof allowed; i++)
            used += (size_t)snprintf(allowed + used, sizeof allowed - used, "%s%s", i ? ", " : "",
                                     keys[i]);
        JsonAt bad;
        json_find(at, child->string, &bad);
        return json_fail(&bad, "unknown key, allowed are %s", allowed);
    }
    return OK;
}

Status json_u64(const JsonAt *at, uint64_t least, uint64_t most, uint64_t *value)
{
    const double limit = 9007199254740992.0; /* 2^53: above it doubles skip whole numbers */
    if (!cJSON_IsNumber(at->node))
        return json_fail(at, "must be a whole number");
    double number = at->node->valuedouble;
    if (number != floor(number))
        return json_fail(at, "%.17g, must be a whole number", number);
    if (number < 0 || number >= limit || (uint64_t)number < least || (uint64_t)number > most)
        return json_fail(at, "%.17g, allowed is %llu to %llu", number, (unsigned long long)least,
                         (unsigned long long)most);
    *value = (uint64_t)number;
    return OK;
}

Status json_u32(const JsonAt *at, uint32_t least, uint32_t most, uint32_t *value)
{
    uint64_t wide = 0;
    TRY(json_u64(at, least, most, &wide));
    *value = (uint32_t)wide;
    return OK;
}

Status json_f64(const JsonAt *at, double least, double most, double *value)
{
    if (!cJSON_IsNumber(at->node))
        return json_fail(at, "must be a number");
    double number = at->node->valuedouble;
    if (!(number >= least && number <= most))
        return json_fail(at, "%.17g, allowed is %.17g to %.17g", number, least, most);
    *value = number;
    return OK;
}

Status json_bool(const JsonAt *at, bool *value)
{
    if (!cJSON_IsBool(at->node))
        return json_fail(at, "must be true or false");
    *value = cJSON_IsTrue(at->node);
    return OK;
}

Status json_text(const JsonAt *at, const char **value)
{
    if (!cJSON_IsString(at->node))
        return json_fail(at, "must be a string");
    *value = at->node->valuestring;
    return OK;
}

Status json_choice(const JsonAt *at, const char *const *names, int *index)
{
    const char *text = NULL;
    TRY(json_text(at, &text));
    char allowed[384] = "";
    size_t used = 0;
    for (int i = 0; names[i] != NULL; i++) {
        if (strcmp(names[i], text) == 0) {
            *index = i;
            return OK;
        }
        if (used < sizeof allowed)
            used += (size_t)snprintf(allowed + used, sizeof allowed - used, "%s%s", i ? ", " : "",
                                     names[i]);
    }
    return json_fail(at, "\"%.64s\", allowed are %s", text, allowed);
}

bool json_is_null(const JsonAt *at)
{
    return cJSON_IsNull(at->node);
}

static Status made(const void *item)
{
    return item != NULL ? OK : fail_memory("JSON", sizeof(cJSON));
}

Status json_add_u64(cJSON *object, const char *key, uint64_t value)
{
    return made(cJSON_AddNumberToObject(object, key, (double)value));
}

Status json_add_f64(cJSON *object, const char *key, double value)
{
    return made(cJSON_AddNumberToObject(object, key, value));
}

Status json_add_text(cJSON *object, const char *key, const char *value)
{
    return made(cJSON_AddStringToObject(object, key, value));
}

Status json_add_bool(cJSON *object, const char *key, bool value)
{
    return made(cJSON_AddBoolToObject(object, key, value));
}

Status json_add_null(cJSON *object, const char *key)
{
    return made(cJSON_AddNullToObject(object, key));
}

Status json_add_object(cJSON *object, const char *key, cJSON **child)
{
    *child = cJSON_AddObjectToObject(object, key);
    return made(*child);
}

Status json_add_array(cJSON *object, const char *key, cJSON **child)
{
    *child = cJSON_AddArrayToObject(object, key);
    return made(*child);
}

Status json_push(cJSON *array, cJSON *item)
{
    TRY(made(item));
    if (cJSON_AddItemToArray(array, item))
        return OK;
    cJSON_Delete(item);
    return made(NULL);
}

Status json_attach(cJSON *object, const char *key, cJSON *item)
{
    TRY(made(item));
    if (cJSON_AddItemToObject(object, key, item))
        return OK;
    cJSON_Delete(item);
    return made(NULL);
}
