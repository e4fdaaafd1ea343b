#include "exec/text/text_requests.h"

#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "exec/token_loader.h"

static const size_t FILE_BYTES = (size_t)1 << 30;

enum { PLACE_BYTES = 512 };

typedef struct {
    TokenLoader loader;
    const TextOptions *options;
    Tokenizer *tokenizer;
    IdBuffer ids;
    uint64_t bytes;
} Work;

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static Status add_text(Work *work, const char *place, const char *label, Span text)
{
    uint32_t *tokens = NULL;
    work->ids.count = 0;
    work->bytes += text.bytes;
    TRY(fail_in(tokenizer_encode(work->tokenizer, text, work->options->add_special, &work->ids),
                "%s", place));
    TRY(token_loader_add(&work->loader, place, label, work->ids.count, &tokens));
    for (size_t i = 0; i < work->ids.count; i++) {
        tokens[i] = work->ids.ids[i];
        if (tokens[i] < work->options->vocabulary)
            continue;
        char value[16];
        snprintf(value, sizeof value, "%u", tokens[i]);
        return token_loader_bad_token(&work->loader, place, i, value);
    }
    return OK;
}

/* {"text": "...", "label": "..."}, label optional. */
static Status add_object(Work *work, const char *place, const cJSON *object)
{
    static const char *const KEYS[] = {"text", "label", NULL};
    JsonAt root = json_root(object, place);
    JsonAt at;
    const char *text = NULL;
    const char *label = "";
    TRY(json_only_keys(&root, KEYS));
    if (json_find(&root, "label", &at))
        TRY(json_text(&at, &label));
    TRY(json_need(&root, "text", &at));
    TRY(json_text(&at, &text));
    return add_text(work, place, label, span_of(text));
}

static Status add_json_line(Work *work, const char *place, Span line)
{
    cJSON *object = NULL;
    TRY(json_parse_line((const char *)line.data, line.bytes, place, &object));
    Status status = add_object(work, place, object);
    cJSON_Delete(object);
    return status;
}

static Status add_plain_line(Work *work, const char *place, size_t number, Span line)
{
    char label[PLACE_BYTES];
    snprintf(label, sizeof label, "%s:%zu", name_of(work->loader.path), number);
    return add_text(work, place, label, line);
}

/* TEXT[BYTES] is 0, and line ends become it. */
static Status add_lines(Work *work, char *text, size_t bytes, bool json)
{
    size_t number = 1;
    for (size_t from = 0; from < bytes; number++) {
        char place[PLACE_BYTES];
        char *end = memchr(text + from, '\n', bytes - from);
        size_t to = end != NULL ? (size_t)(end - text) : bytes;
        size_t length = to - from;
        if (length > 0 && text[from + length - 1] == '\r')
            length--;
        Span line = {.data = (const unsigned char *)text + from, .bytes = length};
        text[from + length] = '\0';
        from = to + 1;
        if (line.bytes == 0)
            continue;
        snprintf(place, sizeof place, "%s: line %zu", work->loader.path, number);
        TRY(json ? add_json_line(work, place, line) : add_plain_line(work, place, number, line));
    }
    return OK;
}

static Status add_file(Work *work, char *text, size_t bytes)
{
    const char *path = work->loader.path;
    size_t length = strlen(path);
    bool json = length > 6 && strcmp(path + length - 6, ".jsonl") == 0;
    if (json || work->options->lines)
        TRY(add_lines(work, text, bytes, json));
    else if (bytes > 0)
        TRY(add_text(work, path, name_of(path),
                     (Span){.data = (const unsigned char *)text, .bytes = bytes}));
    return work->loader.set.n_requests > 0 ? OK : fail(ERR_INPUT, "%s: holds no text", path);
}

Status text_requests_load(const char *path, const TextOptions *options, Tokenizer *tokenizer,
                          TokenSet *set, uint64_t *bytes)
{
    Work work = {.loader = {.path = path,
                            .vocabulary = options->vocabulary,
                            .allow_empty = options->allow_empty},
                 .options = options,
                 .tokenizer = tokenizer};
    char *text = NULL;
    size_t size = 0;
    TRY(file_read_all(path, FILE_BYTES, &text, &size));
    Status status = add_file(&work, text, size);
    mem_free(text);
    ids_free(&work.ids);
    if (status == OK)
        *set = work.loader.set;
    else
        tokens_free(&work.loader.set);
    *bytes = work.bytes;
    return status;
}
