/* Strict JSON: a tree, or what is wrong with the text. */
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/json_parts.h"
#include "base/memory.h"

/* A tree takes up to so many bytes of a byte of text: a list of numbers is many small nodes, unless
 * it is a matrix. */
enum { TREE_BYTES = 24, TREE_BYTES_BESIDE_MATRICES = 1 };

/* Where WANTED stands below AT. */
static bool find_node(const JsonAt *at, const cJSON *wanted, JsonAt *found)
{
    size_t index = 0;
    *found = *at;
    if (at->node == wanted)
        return true;
    for (const cJSON *child = at->node->child; child != NULL; child = child->next, index++) {
        JsonAt next = child->string != NULL ? json_member(at, child) : json_item(at, child, index);
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

static Status check_unique_keys(const cJSON *root, const cJSON *object, const char *file)
{
    size_t count = 0;
    for (const cJSON *child = object->child; child != NULL; child = child->next)
        count++;
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

/* LINE is as json_scan() has it. */
static Status parse(const char *text, size_t bytes, const char *file, size_t line, bool matrices,
                    cJSON **root)
{
    const char *end = text;
    bool doubtful = false;
    *root = NULL;
    uint64_t failures = mem_failures();
    memory_json_begin(bytes * (matrices ? TREE_BYTES_BESIDE_MATRICES : TREE_BYTES));
    cJSON *parsed = json_tree(text, bytes, matrices, &end, &doubtful);
    memory_json_end();
    if (parsed == NULL && mem_failures() != failures)
        return fail_memory(file, bytes);
    if (parsed == NULL) {
        TRY(json_scan(text, bytes, file, line));
        return json_scan_fail(file, line > 0 ? line_of(text, end) : 0, "not JSON");
    }
    Status status = doubtful ? check_tree(parsed, parsed, file) : OK;
    if (status != OK)
        cJSON_Delete(parsed);
    else
        *root = parsed;
    return status;
}

Status json_parse(const char *text, size_t bytes, const char *file, cJSON **root)
{
    return parse(text, bytes, file, 1, false, root);
}

Status json_parse_matrices(const char *text, size_t bytes, const char *file, cJSON **root)
{
    return parse(text, bytes, file, 1, true, root);
}

Status json_parse_line(const char *line, size_t bytes, const char *place, cJSON **root)
{
    return parse(line, bytes, place, 0, false, root);
}

static Status load(const char *path, size_t limit, bool matrices, cJSON **root)
{
    char *text;
    size_t bytes;
    *root = NULL;
    TRY(file_read_all(path, limit, &text, &bytes));
    Status status = parse(text, bytes, path, 1, matrices, root);
    mem_free(text);
    return status;
}

Status json_load(const char *path, size_t limit, cJSON **root)
{
    return load(path, limit, false, root);
}

Status json_load_matrices(const char *path, size_t limit, cJSON **root)
{
    return load(path, limit, true, root);
}
