#include "exec/token_loader.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/number_text.h"

static const size_t FILE_BYTES = (size_t)4 << 30;

enum { PLACE_BYTES = 512, MOST_OUTPUT = 1 << 20 };

static const double MOST_MS = 1e12; /* thirty years */

static bool is_blank(const char *line, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return false;
    return true;
}

/* NUMBERS is the array "tokens" of the line at PLACE. */
static Status add_numbers(TokenLoader *loader, const char *place, const char *label,
                          const cJSON *numbers)
{
    uint64_t count = 0;
    uint64_t position = 0;
    uint32_t *tokens = NULL;
    for (const cJSON *node = numbers->child; node != NULL; node = node->next)
        count++;
    TRY(token_loader_add(loader, place, label, count, &tokens));
    for (const cJSON *node = numbers->child; node != NULL; node = node->next, position++) {
        double value = node->valuedouble;
        if (!cJSON_IsNumber(node) || value != floor(value))
            return fail(ERR_INPUT, "%s: position %llu: a token must be a whole number", place,
                        (unsigned long long)position);
        if (!(value >= 0 && value < loader->vocabulary)) {
            char text[NUMBER_BYTES];
            return token_loader_bad_token(loader, place, position, real_text(value, text));
        }
        tokens[position] = (uint32_t)value;
    }
    return OK;
}

/* What the newest request has besides tokens. Arrivals are of all requests, or of none. */
static Status note_service(TokenLoader *loader, const char *place, const JsonAt *root)
{
    TokenSet *set = &loader->set;
    TokenRequest *request = &set->requests[set->n_requests - 1];
    uint64_t output = 0;
    double ms = 0;
    JsonAt at;
    bool arrives = json_find(root, "arrival_ms", &at);
    if (arrives)
        TRY(json_f64(&at, 0, MOST_MS, &ms));
    if (json_find(root, "output_tokens", &at))
        TRY(json_u64(&at, 1, MOST_OUTPUT, &output));
    if (set->n_requests > 1 && arrives != set->has_arrivals)
        return fail(ERR_INPUT, "%s: arrival_ms: all requests have one, or none", place);
    set->has_arrivals = arrives;
    request->arrival_ns = (uint64_t)(ms * 1e6 + 0.5);
    request->output_tokens = (uint32_t)output;
    return OK;
}

/* {"label": "...", "tokens": [...], "arrival_ms": ..., "output_tokens": ...}, all but the tokens
 * optional. */
static Status add_object(TokenLoader *loader, const char *place, const cJSON *object)
{
    static const char *const KEYS[] = {"label", "tokens", "arrival_ms", "output_tokens", NULL};
    JsonAt root = json_root(object, place);
    JsonAt at;
    const char *label = "";
    TRY(json_only_keys(&root, KEYS));
    if (json_find(&root, "label", &at))
        TRY(json_text(&at, &label));
    TRY(json_need(&root, "tokens", &at));
    if (!cJSON_IsArray(at.node))
        return json_fail(&at, "must be an array");
    if (label[0] != '\0')
        token_loader_note_key(loader, label);
    if (loader->key != NULL && strcmp(loader->key, label) != 0)
        return OK;
    TRY(add_numbers(loader, place, label, at.node));
    return note_service(loader, place, &root);
}

/* LINE [BYTES] is followed by a zero. */
static Status add_line(TokenLoader *loader, size_t number, const char *line, size_t bytes)
{
    char place[PLACE_BYTES];
    cJSON *object = NULL;
    snprintf(place, sizeof place, "%s: line %zu", loader->path, number);
    TRY(json_parse_line(line, bytes, place, &object));
    Status status = add_object(loader, place, object);
    cJSON_Delete(object);
    return status;
}

Status token_loader_read_jsonl(TokenLoader *loader)
{
    char *text = NULL;
    size_t bytes = 0;
    TRY(file_read_all(loader->path, FILE_BYTES, &text, &bytes));
    Status status = OK;
    size_t number = 1;
    for (size_t from = 0; from < bytes && status == OK; number++) {
        char *end = memchr(text + from, '\n', bytes - from);
        size_t to = end != NULL ? (size_t)(end - text) : bytes;
        text[to] = '\0';
        if (!is_blank(text + from, to - from))
            status = add_line(loader, number, text + from, to - from);
        from = to + 1;
    }
    mem_free(text);
    return status;
}
