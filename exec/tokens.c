#include "exec/tokens.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "traces/npy.h"
#include "traces/safetensors.h"
#include "exec/token_loader.h"

enum { PLACE_BYTES = 512 };

/* Element I of an integer tensor; *NEGATIVE tells that the bits are those of a negative number. */
static uint64_t integer_at(const Tensor *tensor, uint64_t i, bool *negative)
{
    size_t size = dtype_bytes(tensor->dtype);
    const unsigned char *bytes = (const unsigned char *)tensor->data + i * size;
    uint64_t value = 0;
    for (size_t b = 0; b < size; b++)
        value |= (uint64_t)bytes[b] << 8 * b;
    bool is_signed = tensor->dtype == DTYPE_I8 || tensor->dtype == DTYPE_I16 ||
                     tensor->dtype == DTYPE_I32 || tensor->dtype == DTYPE_I64;
    *negative = is_signed && bytes[size - 1] >= 0x80;
    if (*negative && size < sizeof value)
        value |= UINT64_MAX << 8 * size;
    return value;
}

static bool is_integer(Dtype dtype)
{
    switch (dtype) {
    case DTYPE_U8:
    case DTYPE_I8:
    case DTYPE_I16:
    case DTYPE_U16:
    case DTYPE_I32:
    case DTYPE_U32:
    case DTYPE_I64:
    case DTYPE_U64:
        return true;
    default:
        return false;
    }
}

/* COUNT elements from FIRST on as one request. */
static Status add_row(TokenLoader *loader, const char *place, const Tensor *tensor, uint64_t first,
                      uint64_t count)
{
    uint32_t *tokens = NULL;
    TRY(token_loader_add(loader, place, tensor->name, count, &tokens));
    for (uint64_t i = 0; i < count; i++) {
        bool negative = false;
        uint64_t value = integer_at(tensor, first + i, &negative);
        if (negative || value >= loader->vocabulary) {
            char text[32];
            if (negative)
                snprintf(text, sizeof text, "-%" PRIu64, 0 - value);
            else
                snprintf(text, sizeof text, "%" PRIu64, value);
            return token_loader_bad_token(loader, place, i, text);
        }
        tokens[i] = (uint32_t)value;
    }
    return OK;
}

/* A vector is one request, a matrix one per row. */
static Status add_tensor(TokenLoader *loader, const char *place, const Tensor *tensor)
{
    if (!is_integer(tensor->dtype))
        return fail(ERR_INPUT, "%s: dtype %s, tokens must be integers", place,
                    dtype_name(tensor->dtype));
    if (tensor->rank != 1 && tensor->rank != 2)
        return fail(ERR_INPUT, "%s: %u dimensions, wanted 1 (a stream) or 2 (a request per row)",
                    place, tensor->rank);
    if (tensor->bytes == 0)
        return fail(ERR_INPUT, "%s: holds no tokens", place);
    if (tensor->rank == 1)
        return add_row(loader, place, tensor, 0, tensor->shape[0]);
    for (uint64_t row = 0; row < tensor->shape[0]; row++) {
        char row_place[PLACE_BYTES];
        snprintf(row_place, sizeof row_place, "%s: row %" PRIu64, place, row);
        TRY(add_row(loader, row_place, tensor, row * tensor->shape[1], tensor->shape[1]));
    }
    return OK;
}

static Status read_npy(TokenLoader *loader)
{
    FileMap map;
    Tensor tensor;
    if (loader->key != NULL)
        return fail(ERR_INPUT, "%s: key \"%s\": a .npy file has no keys", loader->path,
                    loader->key);
    TRY(file_map_open(loader->path, &map));
    Status status = npy_view(loader->path, map.data, map.bytes, &tensor);
    if (status == OK)
        status = add_tensor(loader, loader->path, &tensor);
    if (status == OK)
        loader->set.is_batch = tensor.rank == 2;
    file_map_close(&map);
    return status;
}

/* Lines of IDS between one element of OFFSETS and the next. */
static Status add_lines(TokenLoader *loader, const Tensor *ids, const Tensor *offsets)
{
    char place[PLACE_BYTES];
    uint64_t first = 0;
    snprintf(place, sizeof place, "%s: key %s", loader->path, offsets->name);
    if (!is_integer(ids->dtype) || ids->rank != 1 || !is_integer(offsets->dtype) ||
        offsets->rank != 1 || offsets->shape[0] < 2)
        return fail(ERR_INPUT, "%s: ids and offsets of lines must be integer vectors", place);
    for (uint64_t i = 0; i < offsets->shape[0]; i++) {
        bool negative = false;
        uint64_t end = integer_at(offsets, i, &negative);
        if (negative || end < first || end > ids->shape[0])
            return fail(ERR_INPUT,
                        "%s: element %" PRIu64 ": offsets must ascend to at most %" PRIu64, place,
                        i, ids->shape[0]);
        char line[PLACE_BYTES + 32];
        snprintf(line, sizeof line, "%s: line %" PRIu64, place, i);
        if (i > 0)
            TRY(add_row(loader, line, ids, first, end - first));
        first = end;
    }
    return OK;
}

/* The lines of loader->key, if FILE has them; else nothing. They are labelled by the key. */
static Status read_lines(TokenLoader *loader, const SafeTensors *file)
{
    char name[PLACE_BYTES];
    snprintf(name, sizeof name, "%s.ids", loader->key);
    const Tensor *ids = safetensors_find(file, name);
    snprintf(name, sizeof name, "%s.offsets", loader->key);
    const Tensor *offsets = safetensors_find(file, name);
    if (ids == NULL || offsets == NULL)
        return OK;
    Tensor named = *ids;
    named.name = loader->key;
    return add_lines(loader, &named, offsets);
}

static Status read_tensors(TokenLoader *loader, const SafeTensors *file)
{
    if (loader->key != NULL && safetensors_find(file, loader->key) == NULL)
        TRY(read_lines(loader, file));
    if (loader->set.n_requests > 0)
        return OK;
    uint32_t read = 0;
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const Tensor *tensor = safetensors_at(file, i);
        token_loader_note_key(loader, tensor->name);
        if (loader->key != NULL && strcmp(loader->key, tensor->name) != 0)
            continue;
        char place[PLACE_BYTES];
        snprintf(place, sizeof place, "%s: key %s", loader->path, tensor->name);
        TRY(add_tensor(loader, place, tensor));
        loader->set.is_batch = read++ == 0 && tensor->rank == 2;
    }
    return OK;
}

static Status read_safetensors(TokenLoader *loader)
{
    SafeTensors *file = NULL;
    TRY(safetensors_open(loader->path, &file));
    Status status = read_tensors(loader, file);
    safetensors_close(file);
    return status;
}

typedef struct {
    const char *ending;
    Status (*read)(TokenLoader *loader);
} Format;

static const Format FORMATS[] = {
    {".npy", read_npy},
    {".safetensors", read_safetensors},
    {".jsonl", token_loader_read_jsonl},
};

static const Format *find_format(const char *path)
{
    size_t length = strlen(path);
    for (size_t i = 0; i < sizeof FORMATS / sizeof *FORMATS; i++) {
        size_t ending = strlen(FORMATS[i].ending);
        if (length > ending && strcmp(path + length - ending, FORMATS[i].ending) == 0)
            return &FORMATS[i];
    }
    return NULL;
}

Status tokens_load(const char *path, const char *key, uint32_t vocabulary, TokenSet *set)
{
    TokenLoader loader = {.path = path, .key = key, .vocabulary = vocabulary};
    const Format *format = find_format(path);
    if (format == NULL)
        return fail(ERR_INPUT, "%s: unknown ending, wanted .npy, .safetensors or .jsonl", path);
    Status status = format->read(&loader);
    if (status == OK && loader.set.n_requests == 0) {
        if (key != NULL)
            status = fail(ERR_INPUT, "%s: key \"%s\": not in the file, which has %s", path, key,
                          loader.n_known > 0 ? loader.known : "no keys");
        else
            status = fail(ERR_INPUT, "%s: holds no tokens", path);
    }
    if (status != OK) {
        tokens_free(&loader.set);
        return status;
    }
    *set = loader.set;
    return OK;
}

/* Into how many requests one of TOKENS tokens is cut. */
static uint32_t pieces_of(uint32_t tokens, uint32_t length, uint32_t limit)
{
    uint32_t pieces = tokens > length ? tokens / length : 1;
    return limit != 0 && pieces > limit ? limit : pieces;
}

/* Appends the first PIECES requests of LENGTH tokens of SOURCE to CUT. */
static Status append_pieces(TokenSet *cut, const TokenRequest *source, uint32_t pieces,
                            uint32_t length)
{
    uint32_t each = source->n_tokens < length ? source->n_tokens : length;
    for (uint32_t i = 0; i < pieces; i++) {
        TokenRequest *request = &cut->requests[cut->n_requests++];
        size_t label_bytes = strlen(source->label) + 1;
        TRY(mem_new(&request->label, label_bytes, 1, "request label"));
        TRY(mem_new(&request->tokens, each, sizeof *request->tokens, "request tokens"));
        request->arrival_ns = source->arrival_ns;
        request->output_tokens = source->output_tokens;
        memcpy(request->label, source->label, label_bytes);
        memcpy(request->tokens, source->tokens + (size_t)i * length, each * sizeof(uint32_t));
        request->n_tokens = each;
    }
    return OK;
}

Status tokens_cut(TokenSet *set, uint32_t length, uint32_t limit, uint64_t *left_out)
{
    assert(length > 0);
    uint64_t total = 0;
    uint64_t skipped = 0;
    for (uint32_t i = 0; i < set->n_requests; i++)
        total += pieces_of(set->requests[i].n_tokens, length, limit);
    if (total > UINT32_MAX)
        return fail(ERR_INPUT, "tokens: %" PRIu64 " requests of %u tokens are too many", total,
                    length);
    TokenSet cut = {.is_batch = set->is_batch, .has_arrivals = set->has_arrivals};
    TRY(mem_new(&cut.requests, total, sizeof *cut.requests, "requests"));
    Status status = OK;
    for (uint32_t i = 0; i < set->n_requests && status == OK; i++) {
        const TokenRequest *request = &set->requests[i];
        uint32_t pieces = pieces_of(request->n_tokens, length, limit);
        if (request->n_tokens > length)
            skipped += request->n_tokens - (uint64_t)pieces * length;
        status = append_pieces(&cut, request, pieces, length);
    }
    if (status != OK) {
        tokens_free(&cut);
        return status;
    }
    tokens_free(set);
    *set = cut;
    *left_out = skipped;
    return OK;
}

Status tokens_has_key(const char *path, const char *key, bool *has)
{
    static const char ENDING[] = ".safetensors";
    size_t length = strlen(path);
    SafeTensors *file = NULL;
    *has = false;
    if (length < sizeof ENDING || strcmp(path + length - (sizeof ENDING - 1), ENDING) != 0)
        return OK;
    TRY(safetensors_open(path, &file));
    *has = safetensors_find(file, key) != NULL;
    safetensors_close(file);
    return OK;
}

void tokens_free(TokenSet *set)
{
    for (uint32_t i = 0; i < set->n_requests; i++) {
        mem_free(set->requests[i].label);
        mem_free(set->requests[i].tokens);
    }
    mem_free(set->requests);
    *set = (TokenSet){0};
}
