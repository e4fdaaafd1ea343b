#include "traces/import_jsonl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "traces/f16.h"

enum { MAX_DEPTH = 64, MAX_NUMBER = 64 };

static const size_t MAX_FILE_BYTES = (size_t)64 << 30;

/* One line being read. Lines of these files are short and many, so they are scanned in place. */
typedef struct {
    const char *file;
    uint32_t line;
    const char *begin;
    const char *at;
    const char *end;
    bool has_layer, has_token, has_ids, has_weights;
    uint32_t layer;
    uint32_t token;
    uint32_t n_ids;
    uint32_t n_weights;
    uint32_t experts;
    int32_t ids[TRACE_MAX_TOP_K];
    float weights[TRACE_MAX_TOP_K];
} Line;

static Status line_fail(const Line *line, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static Status line_fail(const Line *line, const char *format, ...)
{
    char why[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    return fail(ERR_INPUT, "%s: line %u: %s", line->file, line->line, why);
}

static void skip_blanks(Line *line)
{
    while (line->at < line->end && (*line->at == ' ' || *line->at == '\t' || *line->at == '\r'))
        line->at++;
}

static bool take(Line *line, char c)
{
    skip_blanks(line);
    if (line->at == line->end || *line->at != c)
        return false;
    line->at++;
    return true;
}

/* A string, which is left as it is written; keys that matter have no escapes. */
static Status take_string(Line *line, const char **text, size_t *length)
{
    if (!take(line, '"'))
        return line_fail(line, "column %td: a string is wanted", line->at - line->begin + 1);
    *text = line->at;
    while (line->at < line->end && *line->at != '"') {
        if ((unsigned char)*line->at < 0x20)
            return line_fail(line, "a string holds a control character");
        line->at += *line->at == '\\' && line->at + 1 < line->end ? 2 : 1;
    }
    if (line->at >= line->end)
        return line_fail(line, "a string does not end");
    *length = (size_t)(line->at++ - *text);
    return OK;
}

/* The next number as text, by JSON's grammar. */
static Status take_number(Line *line, char text[MAX_NUMBER])
{
    skip_blanks(line);
    size_t length = 0;
    while (line->at + length < line->end && length < MAX_NUMBER - 1 &&
           memchr("0123456789+-.eE", line->at[length], 15) != NULL)
        length++;
    memcpy(text, line->at, length);
    text[length] = '\0';
    const char *digits = text + (text[0] == '-');
    if (*digits < '0' || *digits > '9' ||
        (digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9')) {
        size_t shown = strcspn(line->at, ",]} \n");
        return line_fail(line, "\"%.*s\" is not a JSON number", (int)(shown < 24 ? shown : 24),
                         line->at);
    }
    line->at += length;
    return OK;
}

static Status take_integer(Line *line, const char *key, int64_t least, int64_t most, int64_t *value)
{
    char text[MAX_NUMBER];
    char *end;
    TRY(take_number(line, text));
    *value = strtoll(text, &end, 10);
    if (*end != '\0')
        return line_fail(line, "%s: %s is not a whole number", key, text);
    if (*value < least || *value > most)
        return line_fail(line, "%s: %s, allowed is %lld to %lld", key, text, (long long)least,
                         (long long)most);
    return OK;
}

static Status take_weight(Line *line, float *weight)
{
    char text[MAX_NUMBER];
    char *end;
    TRY(take_number(line, text));
    *weight = strtof(text, &end);
    if (*end != '\0' || !f16_holds(*weight))
        return line_fail(line, "gate_weights: %s is not a number that half precision holds", text);
    return OK;
}

/* "[...]": ids, or weights when KEY is theirs. */
static Status take_list(Line *line, const char *key, bool ids, uint32_t *count)
{
    if (!take(line, '['))
        return line_fail(line, "%s: a list is wanted", key);
    for (*count = 0; !take(line, ']'); ++*count) {
        int64_t id = 0;
        if (*count > 0 && !take(line, ','))
            return line_fail(line, "%s: ',' or ']' is wanted", key);
        if (*count == TRACE_MAX_TOP_K)
            return line_fail(line, "%s: more than %d", key, TRACE_MAX_TOP_K);
        TRY(ids ? take_integer(line, key, -1, (int64_t)line->experts - 1, &id)
                : take_weight(line, &line->weights[*count]));
        if (ids)
            line->ids[*count] = (int32_t)id;
    }
    return OK;
}

/* Any value, unread: its brackets match and its strings end. */
static Status skip_value(Line *line)
{
    int depth = 0;
    do {
        skip_blanks(line);
        if (line->at == line->end)
            return line_fail(line, "ends inside a value");
        char c = *line->at;
        if (c == '"') {
            const char *text;
            size_t length;
            TRY(take_string(line, &text, &length));
        } else {
            depth += (c == '[' || c == '{') - (c == ']' || c == '}');
            if (depth > MAX_DEPTH)
                return line_fail(line, "nested more than %d deep", MAX_DEPTH);
            line->at++;
        }
        skip_blanks(line);
    } while (depth > 0 ||
             (line->at < line->end && *line->at != ',' && *line->at != '}' && depth == 0));
    return depth == 0 ? OK : line_fail(line, "a bracket too many");
}

static Status take_key(Line *line, const char *key, bool *seen)
{
    if (*seen)
        return line_fail(line, "%s stands twice", key);
    *seen = true;
    return OK;
}

static Status take_pair(Line *line)
{
    const char *key;
    size_t length;
    int64_t value = 0;
    TRY(take_string(line, &key, &length));
    if (!take(line, ':'))
        return line_fail(line, "':' is wanted behind a key");
    if (length == 9 && memcmp(key, "layer_idx", 9) == 0) {
        TRY(take_key(line, "layer_idx", &line->has_layer));
        TRY(take_integer(line, "layer_idx", 0, UINT32_MAX, &value));
        line->layer = (uint32_t)value;
    } else if (length == 9 && memcmp(key, "token_idx", 9) == 0) {
        TRY(take_key(line, "token_idx", &line->has_token));
        TRY(take_integer(line, "token_idx", 0, UINT32_MAX - 1, &value));
        line->token = (uint32_t)value;
    } else if (length == 12 && memcmp(key, "selected_ids", 12) == 0) {
        TRY(take_key(line, "selected_ids", &line->has_ids));
        TRY(take_list(line, "selected_ids", true, &line->n_ids));
    } else if (length == 12 && memcmp(key, "gate_weights", 12) == 0) {
        TRY(take_key(line, "gate_weights", &line->has_weights));
        TRY(take_list(line, "gate_weights", false, &line->n_weights));
    } else {
        TRY(skip_value(line));
    }
    return OK;
}

static Status read_line(Line *line)
{
    if (!take(line, '{'))
        return line_fail(line, "a JSON object is wanted");
    for (bool first = true; !take(line, '}'); first = false) {
        if (!first && !take(line, ','))
            return line_fail(line, "',' or '}' is wanted");
        TRY(take_pair(line));
    }
    skip_blanks(line);
    if (line->at != line->end)
        return line_fail(line, "text behind the object");
    if (!line->has_layer || !line->has_token || !line->has_ids)
        return line_fail(line, "layer_idx, token_idx and selected_ids are wanted");
    if (line->n_ids == 0)
        return line_fail(line, "selected_ids: is empty");
    if (line->has_weights && line->n_weights != line->n_ids)
        return line_fail(line, "gate_weights: %u of them for %u selected_ids", line->n_weights,
                         line->n_ids);
    return OK;
}

static Status grow(JsonlRouting *routing)
{
    size_t room = routing->room > 0 ? routing->room + routing->room / 2 : 4096;
    size_t values = room * routing->top_k;
    TRY(mem_resize_array(&routing->rows, room, sizeof *routing->rows, "routing lines"));
    TRY(mem_resize_array(&routing->ids, values, sizeof *routing->ids, "routing lines"));
    if (routing->has_weights)
        TRY(mem_resize_array(&routing->weights, values, sizeof *routing->weights, "routing lines"));
    routing->room = room;
    return OK;
}

static Status keep_line(JsonlRouting *routing, const Line *line)
{
    if (routing->n_rows == 0) {
        routing->top_k = line->n_ids;
        routing->has_weights = line->has_weights;
    }
    if (line->n_ids != routing->top_k)
        return line_fail(line, "selected_ids: %u of them, line %u has %u", line->n_ids,
                         routing->rows[0].line, routing->top_k);
    if (line->has_weights != routing->has_weights)
        return line_fail(line, "gate_weights: %s, unlike line %u",
                         line->has_weights ? "there" : "missing", routing->rows[0].line);
    if (routing->n_rows == routing->room)
        TRY(grow(routing));
    size_t at = routing->n_rows * routing->top_k;
    routing->rows[routing->n_rows++] =
        (JsonlRow){.line = line->line, .layer = line->layer, .token = line->token};
    memcpy(routing->ids + at, line->ids, routing->top_k * sizeof *line->ids);
    if (routing->has_weights)
        memcpy(routing->weights + at, line->weights, routing->top_k * sizeof *line->weights);
    return OK;
}

static Status read_lines(JsonlRouting *routing, uint32_t experts, const char *text, size_t bytes)
{
    Line line = {.file = routing->file, .experts = experts};
    const char *end = text + bytes;
    for (const char *at = text; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop != NULL ? stop : end;
        line.line++;
        line.begin = line.at = at;
        line.end = stop;
        line.has_layer = line.has_token = line.has_ids = line.has_weights = false;
        at = stop < end ? stop + 1 : end;
        skip_blanks(&line);
        if (line.at == line.end)
            continue;
        TRY(read_line(&line));
        TRY(keep_line(routing, &line));
    }
    if (routing->n_rows == 0)
        return fail(ERR_INPUT, "%s: is empty", routing->file);
    return OK;
}

Status jsonl_routing_read(const char *path, uint32_t experts, JsonlRouting *routing)
{
    char *text;
    size_t bytes;
    *routing = (JsonlRouting){.file = path};
    TRY(file_read_all(path, MAX_FILE_BYTES, &text, &bytes));
    Status status = read_lines(routing, experts > 0 ? experts : TRACE_MAX_EXPERTS, text, bytes);
    mem_free(text);
    if (status != OK)
        jsonl_routing_free(routing);
    return status;
}

void jsonl_routing_free(JsonlRouting *routing)
{
    mem_free(routing->rows);
    mem_free(routing->ids);
    mem_free(routing->weights);
    *routing = (JsonlRouting){0};
}
