#include "traces/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"

struct SafeTensors {
    FileMap map;     /* empty for safetensors_view() */
    Tensor *tensors; /* [count], by name */
    size_t count;
    char *names; /* the tensors' names, one after the other */
};

/* What the header claims, while it is being checked. */
typedef struct {
    const char *file;
    const unsigned char *data; /* after the header */
    size_t bytes;
    SafeTensors *into;
    char *next_name;
} Parse;

static Status parse_dtype(const JsonAt *entry, Dtype *dtype)
{
    const char *names[DTYPE_COUNT + 1] = {0};
    for (int i = 0; i < DTYPE_COUNT; i++)
        names[i] = dtype_name((Dtype)i);
    JsonAt at;
    int index = 0;
    TRY(json_need(entry, "dtype", &at));
    TRY(json_choice(&at, names, &index));
    *dtype = (Dtype)index;
    return OK;
}

/* *BYTES is the product of the shape and the element's size. */
static Status parse_shape(const JsonAt *entry, Tensor *tensor, size_t *bytes)
{
    JsonAt at;
    TRY(json_need(entry, "shape", &at));
    if (!cJSON_IsArray(at.node))
        return json_fail(&at, "must be an array");
    *bytes = dtype_bytes(tensor->dtype);
    bool overflow = false;
    for (const cJSON *node = at.node->child; node != NULL; node = node->next) {
        if (tensor->rank == TENSOR_MAX_RANK)
            return json_fail(&at, "more than %d dimensions", TENSOR_MAX_RANK);
        JsonAt item = json_item(&at, node, tensor->rank);
        uint64_t *size = &tensor->shape[tensor->rank++];
        TRY(json_u64(&item, 0, UINT64_MAX, size));
        overflow |= __builtin_mul_overflow(*bytes, *size, bytes);
    }
    return overflow ? json_fail(&at, "the product of the dimensions is too large") : OK;
}

static Status parse_offsets(const Parse *parse, const JsonAt *entry, Tensor *tensor, size_t wanted)
{
    JsonAt at;
    TRY(json_need(entry, "data_offsets", &at));
    if (!cJSON_IsArray(at.node) || cJSON_GetArraySize(at.node) != 2)
        return json_fail(&at, "must be an array of two numbers");
    uint64_t from = 0;
    uint64_t to = 0;
    JsonAt first = json_item(&at, at.node->child, 0);
    JsonAt second = json_item(&at, at.node->child->next, 1);
    TRY(json_u64(&first, 0, UINT64_MAX, &from));
    TRY(json_u64(&second, 0, UINT64_MAX, &to));
    if (from > to)
        return json_fail(&at, "the end %" PRIu64 " is before the start %" PRIu64, to, from);
    if (to > parse->bytes)
        return json_fail(&at,
                         "the data ends at byte %" PRIu64 ", but the file has only %zu data bytes "
                         "(is it truncated?)",
                         to, parse->bytes);
    if (to - from != wanted)
        return json_fail(&at, "%" PRIu64 " bytes, but dtype and shape make %zu", to - from, wanted);
    tensor->data = parse->data + from;
    tensor->bytes = wanted;
    return OK;
}

static Status parse_tensor(Parse *parse, const cJSON *node)
{
    static const char *const KEYS[] = {"dtype", "shape", "data_offsets", NULL};
    JsonAt entry = json_root(node, parse->file);
    int used = snprintf(entry.path, sizeof entry.path, "tensor %s", node->string);
    if (used >= (int)sizeof entry.path)
        memcpy(entry.path + sizeof entry.path - 4, "...", 4);
    Tensor *tensor = &parse->into->tensors[parse->into->count];
    size_t wanted = 0;
    TRY(json_only_keys(&entry, KEYS));
    TRY(parse_dtype(&entry, &tensor->dtype));
    TRY(parse_shape(&entry, tensor, &wanted));
    TRY(parse_offsets(parse, &entry, tensor, wanted));
    size_t length = strlen(node->string) + 1;
    memcpy(parse->next_name, node->string, length);
    tensor->name = parse->next_name;
    parse->next_name += length;
    parse->into->count++;
    return OK;
}

static Status parse_metadata(const char *file, const cJSON *node)
{
    JsonAt metadata = json_root(node, file);
    strcpy(metadata.path, "__metadata__");
    if (!cJSON_IsObject(node))
        return json_fail(&metadata, "must be an object");
    for (const cJSON *child = node->child; child != NULL; child = child->next)
        if (!cJSON_IsString(child))
            return fail(ERR_INPUT, "%s: __metadata__.%s: must be a string", file, child->string);
    return OK;
}

/* By start, then end: a tensor without bytes comes before the one that starts where it lies. */
static int compare_places(const void *left, const void *right)
{
    const Tensor *a = *(const Tensor *const *)left;
    const Tensor *b = *(const Tensor *const *)right;
    const unsigned char *a_from = a->data;
    const unsigned char *b_from = b->data;
    if (a_from != b_from)
        return a_from < b_from ? -1 : 1;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

/* PLACES[count] are the tensors in the order of their data. */
static Status check_tiling(const Parse *parse, const Tensor *const *places, size_t count)
{
    const unsigned char *reached = parse->data;
    const unsigned char *end = parse->data + parse->bytes;
    for (size_t i = 0; i < count; i++) {
        const unsigned char *from = places[i]->data;
        if (from < reached)
            return fail(ERR_INPUT, "%s: tensor %s: its data overlaps that of tensor %s",
                        parse->file, places[i]->name, places[i - 1]->name);
        if (from > reached)
            return fail(ERR_INPUT, "%s: tensor %s: %zu bytes in front of its data are no tensor's",
                        parse->file, places[i]->name, (size_t)(from - reached));
        reached = from + places[i]->bytes;
    }
    if (reached != end)
        return fail(ERR_INPUT, "%s: %zu bytes after the last tensor are no tensor's", parse->file,
                    (size_t)(end - reached));
    return OK;
}

static Status check_places(const Parse *parse)
{
    size_t count = parse->into->count;
    const Tensor **places = NULL;
    TRY(mem_new(&places, count, sizeof *places, parse->file));
    for (size_t i = 0; i < count; i++)
        places[i] = &parse->into->tensors[i];
    qsort(places, count, sizeof *places, compare_places);
    Status status = check_tiling(parse, places, count);
    mem_free(places);
    return status;
}

static int compare_names(const void *left, const void *right)
{
    return strcmp(((const Tensor *)left)->name, ((const Tensor *)right)->name);
}

/* The header's children are walked once: a look-up by key would walk all of them for each tensor.
 */
static Status parse_header(Parse *parse, const cJSON *root)
{
    if (!cJSON_IsObject(root))
        return fail(ERR_INPUT, "%s: the header must be a JSON object", parse->file);
    size_t entries = 0;
    size_t name_bytes = 0;
    for (const cJSON *child = root->child; child != NULL; child = child->next) {
        entries++;
        name_bytes += strlen(child->string) + 1;
    }
    TRY(mem_new(&parse->into->tensors, entries, sizeof(Tensor), parse->file));
    TRY(mem_new(&parse->into->names, name_bytes, 1, parse->file));
    parse->next_name = parse->into->names;
    for (const cJSON *child = root->child; child != NULL; child = child->next)
        TRY(strcmp(child->string, "__metadata__") == 0 ? parse_metadata(parse->file, child)
                                                       : parse_tensor(parse, child));
    TRY(check_places(parse));
    qsort(parse->into->tensors, parse->into->count, sizeof(Tensor), compare_names);
    return OK;
}

/* Splits DATA into header text (a zero-terminated copy) and data. */
static Status split_file(const char *file, const unsigned char *data, size_t bytes, char **header,
                         size_t *header_bytes)
{
    uint64_t claimed = 0;
    if (bytes < sizeof claimed)
        return fail(ERR_INPUT, "%s: %zu bytes are too short for a safetensors file", file, bytes);
    for (size_t i = 0; i < sizeof claimed; i++)
        claimed |= (uint64_t)data[i] << 8 * i;
    if (claimed > bytes - sizeof claimed)
        return fail(ERR_INPUT,
                    "%s: the header claims %" PRIu64 " bytes, the file has %zu after its size",
                    file, claimed, bytes - sizeof claimed);
    if (claimed > SAFETENSORS_MAX_HEADER)
        return fail(ERR_INPUT, "%s: the header claims %" PRIu64 " bytes, at most %d are allowed",
                    file, claimed, SAFETENSORS_MAX_HEADER);
    if (claimed == 0 || data[sizeof claimed] != '{')
        return fail(ERR_INPUT, "%s: the header does not begin with '{'", file);
    TRY(fail_in(mem_new(header, (size_t)claimed + 1, 1, "header"), "%s", file));
    memcpy(*header, data + sizeof claimed, (size_t)claimed);
    *header_bytes = (size_t)claimed;
    return OK;
}

Status safetensors_view(const char *name, const void *data, size_t bytes, SafeTensors **file)
{
    char *header = NULL;
    size_t header_bytes = 0;
    cJSON *root = NULL;
    Parse parse = {.file = name};
    Status status = split_file(name, data, bytes, &header, &header_bytes);
    if (status == OK)
        status = mem_new(&parse.into, 1, sizeof *parse.into, name);
    if (status == OK)
        status = json_parse(header, header_bytes, name, &root);
    mem_free(header);
    if (status == OK) {
        parse.data = (const unsigned char *)data + sizeof(uint64_t) + header_bytes;
        parse.bytes = bytes - sizeof(uint64_t) - header_bytes;
        status = parse_header(&parse, root);
    }
    cJSON_Delete(root);
    if (status != OK) {
        safetensors_close(parse.into);
        return status;
    }
    *file = parse.into;
    return OK;
}

Status safetensors_open(const char *path, SafeTensors **file)
{
    FileMap map;
    TRY(file_map_open(path, &map));
    Status status = safetensors_view(path, map.data, map.bytes, file);
    if (status == OK)
        (*file)->map = map;
    else
        file_map_close(&map);
    return status;
}

void safetensors_close(SafeTensors *file)
{
    if (file == NULL)
        return;
    file_map_close(&file->map);
    mem_free(file->tensors);
    mem_free(file->names);
    mem_free(file);
}

size_t safetensors_count(const SafeTensors *file)
{
    return file->count;
}

const Tensor *safetensors_at(const SafeTensors *file, size_t i)
{
    return &file->tensors[i];
}

const Tensor *safetensors_find(const SafeTensors *file, const char *name)
{
    Tensor key = {.name = name};
    return bsearch(&key, file->tensors, file->count, sizeof key, compare_names);
}
