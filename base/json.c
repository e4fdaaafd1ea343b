#include "base/json.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/json_scan.h"
#include "base/memory.h"
#include "base/number_text.h"

/* cJSON makes up to so many bytes of a byte of text: a list of numbers is many small nodes. */
enum { TREE_BYTES = 24 };

enum { FEW_KEYS = 12 };

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

static JsonAt member_at(const JsonAt *parent, const cJSON *member)
{
    size_t used;
    JsonAt at = below(parent, member, &used);
    add_to_path(&at, &used, ".", used > 0);
    add_to_path(&at, &used, member->string, strlen(member->string));
    return at;
}

bool json_find(const JsonAt *parent, const char *key, JsonAt *member)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(parent->node, key);
    if (node == NULL)
        return false;
    *member = member_at(parent, node);
    return true;
}

bool json_given(const JsonAt *parent, const char *key, JsonAt *member)
{
    return json_find(parent, key, member) && !json_is_null(member);
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

/* Where WANTED stands below AT. */
static bool find_node(const JsonAt *at, const cJSON *wanted, JsonAt *found)
{
    size_t index = 0;
    *found = *at;
    if (at->node == wanted)
        return true;
    for (const cJSON *child = at->node->child; child != NULL; child = child->next, index++) {
        JsonAt next = child->string != NULL ? member_at(at, child) : json_item(at, child, index);
        if (find_node(&next, wanted, found))
            return true;
    }
    return false;
}

static Status fail_twice(const cJSON *root, const cJSON *object, const char *key, const char *file)
{
    JsonAt at;
    JsonAt top = json_root(root, file);
    find_node(&top, object, &at);
    json_find(&at, key, &at);
    return json_fail(&at, "the key stands twice in one object");
}

static int compare_names(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

/* Of a few keys, which need no sorting. */
static bool all_differ(const cJSON *object)
{
    for (const cJSON *child = object->child; child != NULL; child = child->next)
        for (const cJSON *other = child->next; other != NULL; other = other->next)
            if (strcmp(child->string, other->string) == 0)
                return false;
    return true;
}

static Status check_unique_keys(const cJSON *root, const cJSON *object, const char *file)
{
    size_t count = 0;
    for (const cJSON *child = object->child; child != NULL; child = child->next)
        count++;
    if (count <= FEW_KEYS && all_differ(object))
        return OK;
    const char **names;
    TRY(mem_new(&names, count, sizeof *names, file));
    size_t next = 0;
    for (const cJSON *child = object->child; child != NULL; child = child->next)
        names[next++] = child->string;
    qsort(names, count, sizeof *names, compare_names);
    Status status = OK;
    for (size_t i = 1; i < count && status == OK; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            status = fail_twice(root, object, names[i], file);
    mem_free(names);
    return status;
}

static Status check_tree(const cJSON *root, const cJSON *node, const char *file)
{
    if (cJSON_IsObject(node))
        TRY(check_unique_keys(root, node, file));
    for (const cJSON *child = node->child; child != NULL; child = child->next)
        if (child->child != NULL)
            TRY(check_tree(root, child, file));
    return OK;
}

static size_t line_of(const char *text, const char *end)
{
    size_t line = 1;
    for (const char *c = text; c < end; c++)
        line += *c == '\n';
    return line;
}

static bool continues_a_character(char c)
{
    return (c & 0xC0) == 0x80;
}

/* TEXT, which ends with END, is not JSON at AT or close before it; what lists hold is not shown,
 * which json_scan_numbers() may have taken out. LINE as make_tree()'s. */
static Status fail_near(const char *text, const char *at, const char *end, const char *file,
                        size_t line)
{
    enum { BEFORE = 12, AFTER = 8 };
    char why[64] = "not JSON";
    const char *first = at;
    const char *last = at;
    while (first > text && at - first < BEFORE && first[-1] != '\n' && first[-1] != ']')
        first--;
    while (last < end && last - at < AFTER && *last != '\n' && (last == text || last[-1] != '['))
        last++;
    while (first < last && continues_a_character(*first))
        first++;
    while (last > first && last < end && continues_a_character(*last))
        last--;
    if (last > first)
        snprintf(why, sizeof why, "not JSON near: %.*s", (int)(last - first), first);
    return json_scan_fail(file, line > 0 ? line_of(text, at) : 0, why);
}

/* TEXT has been scanned. LINE is of its first, or 0: json_scan() says what that means. */
static Status make_tree(const char *text, size_t bytes, const char *file, size_t line, cJSON **root)
{
    const char *end = text;
    uint64_t failures = mem_failures();
    memory_json_begin(bytes * TREE_BYTES);
    cJSON *parsed = cJSON_ParseWithLengthOpts(text, bytes + 1, &end, true);
    memory_json_end();
    if (parsed == NULL) {
        if (mem_failures() != failures)
            return fail_memory(file, bytes);
        return fail_near(text, end < text + bytes ? end : text + bytes, text + bytes, file, line);
    }
    Status status = check_tree(parsed, parsed, file);
    if (status != OK)
        cJSON_Delete(parsed);
    else
        *root = parsed;
    return status;
}

static Status parse(const char *text, size_t bytes, const char *file, size_t line, cJSON **root)
{
    *root = NULL;
    TRY(json_scan(text, bytes, file, line));
    return make_tree(text, bytes, file, line, root);
}

Status json_parse_numbers(char *text, size_t bytes, const char *file, cJSON **root,
                          JsonNumbers *numbers)
{
    *root = NULL;
    *numbers = (JsonNumbers){0};
    Status status = json_scan_numbers(text, &bytes, file, numbers);
    if (status == OK)
        status = make_tree(text, bytes, file, 1, root);
    if (status == OK)
        json_numbers_bind(numbers, *root);
    else
        json_numbers_free(numbers);
    return status;
}

Status json_parse(const char *text, size_t bytes, const char *file, cJSON **root)
{
    return parse(text, bytes, file, 1, root);
}

Status json_parse_line(const char *line, size_t bytes, const char *place, cJSON **root)
{
    return parse(line, bytes, place, 0, root);
}

Status json_load(const char *path, size_t limit, cJSON **root)
{
    char *text;
    size_t bytes;
    *root = NULL;
    TRY(file_read_all(path, limit, &text, &bytes));
    Status status = json_parse(text, bytes, path, root);
    mem_free(text);
    return status;
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
    char text[NUMBER_BYTES];
    char range[NUMBER_BYTES] = "";
    if (!cJSON_IsNumber(at->node))
        return json_fail(at, "must be a whole number");
    double number = at->node->valuedouble;
    if (number != floor(number))
        return json_fail(at, "%s, must be a whole number", real_text(number, text));
    if (number >= 0 && number < limit && (uint64_t)number >= least && (uint64_t)number <= most) {
        *value = (uint64_t)number;
        return OK;
    }
    if (least < most)
        snprintf(range, sizeof range, " to %llu", (unsigned long long)most);
    return json_fail(at, "%s, allowed is %llu%s", real_text(number, text),
                     (unsigned long long)least, range);
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
    char text[3][NUMBER_BYTES];
    double number = at->node->valuedouble;
    if (!(number >= least && number <= most))
        return json_fail(at, "%s, allowed is %s to %s", real_text(number, text[0]),
                         real_text(least, text[1]), real_text(most, text[2]));
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
