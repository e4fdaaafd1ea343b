#include "traces/csv.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Csv csv_begin(const char *file, char *text, size_t bytes)
{
    static const char BYTE_ORDER_MARK[] = "\xEF\xBB\xBF";
    size_t mark = sizeof BYTE_ORDER_MARK - 1;
    bool marked = bytes >= mark && memcmp(text, BYTE_ORDER_MARK, mark) == 0;
    return (Csv){
        .file = file, .at = text + (marked ? mark : 0), .end = text + bytes, .next_line = 1};
}

Status csv_fail(const Csv *csv, const char *format, ...)
{
    char why[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    return fail(ERR_INPUT, "%s: line %" PRIu64 ": %s", csv->file, csv->line, why);
}

Status csv_line(Csv *csv, char **line, size_t *length)
{
    if (csv->at == csv->end)
        return STATUS_END;
    char *end = memchr(csv->at, '\n', (size_t)(csv->end - csv->at));
    char *next = end != NULL ? end + 1 : csv->end;
    if (end == NULL)
        end = csv->end;
    if (end > csv->at && end[-1] == '\r')
        end--;
    *line = csv->at;
    *length = (size_t)(end - csv->at);
    csv->at = next;
    csv->line = csv->next_line++;
    return OK;
}

/* A field in quotes, from the character behind the first one; "" stands for ". */
static Status take_quoted(Csv *csv, char **from, size_t *length)
{
    char *to = csv->at;
    *from = to;
    for (char *at = csv->at; at < csv->end; at++) {
        if (*at == '\n')
            csv->next_line++;
        if (*at != '"') {
            *to++ = *at;
        } else if (at + 1 < csv->end && at[1] == '"') {
            *to++ = *at++;
        } else {
            csv->at = at + 1;
            *length = (size_t)(to - *from);
            return OK;
        }
    }
    return csv_fail(csv, "a quote does not end");
}

static void take_plain(Csv *csv, char **from, size_t *length)
{
    char *at = csv->at;
    while (at < csv->end && *at != ',' && *at != '\n')
        at++;
    *from = csv->at;
    *length = (size_t)(at - csv->at);
    if ((at == csv->end || *at == '\n') && *length > 0 && at[-1] == '\r')
        --*length;
    csv->at = at;
}

/* One field and what ends it; *LAST when that is the row's end. */
static Status take_field(Csv *csv, bool *last)
{
    if (csv->count == CSV_MAX_FIELDS)
        return csv_fail(csv, "more than %d fields", CSV_MAX_FIELDS);
    char **text = &csv->fields[csv->count].text;
    size_t *length = &csv->fields[csv->count].length;
    csv->count++;
    if (csv->at < csv->end && *csv->at == '"') {
        csv->at++;
        TRY(take_quoted(csv, text, length));
        if (csv->at < csv->end && *csv->at == '\r')
            csv->at++;
    } else {
        take_plain(csv, text, length);
    }
    *last = csv->at == csv->end || *csv->at == '\n';
    if (!*last && *csv->at != ',')
        return csv_fail(csv, "field %zu: text behind the closing quote", csv->count);
    if (csv->at < csv->end)
        csv->at++;
    return OK;
}

Status csv_next(Csv *csv)
{
    bool empty = true;
    while (empty) {
        if (csv->at == csv->end)
            return STATUS_END;
        csv->line = csv->next_line++;
        csv->count = 0;
        for (bool last = false; !last;)
            TRY(take_field(csv, &last));
        empty = csv->count == 1 && csv->fields[0].length == 0;
    }
    if (csv->width > 0 && csv->count != csv->width)
        return csv_fail(csv, "%zu fields, the row of column names has %zu", csv->count, csv->width);
    return OK;
}

Status csv_header(Csv *csv)
{
    TRY(csv_next(csv));
    for (size_t i = 1; i < csv->count; i++)
        for (size_t j = 0; j < i; j++)
            if (csv->fields[i].length > 0 && csv->fields[i].length == csv->fields[j].length &&
                memcmp(csv->fields[i].text, csv->fields[j].text, csv->fields[i].length) == 0)
                return csv_fail(csv, "the column \"%.*s\" stands twice", (int)csv->fields[i].length,
                                csv->fields[i].text);
    csv->width = csv->count;
    return OK;
}

size_t csv_find(const Csv *csv, const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < csv->count; i++)
        if (csv->fields[i].length == length && memcmp(csv->fields[i].text, name, length) == 0)
            return i;
    return SIZE_MAX;
}

static Status bad_field(const Csv *csv, size_t i, const char *name, const char *wanted)
{
    size_t length = csv->fields[i].length;
    return csv_fail(csv, "%s: \"%.*s\" is not %s", name, length < 40 ? (int)length : 40,
                    csv->fields[i].text, wanted);
}

Status csv_u64(const Csv *csv, size_t i, const char *name, uint64_t most, uint64_t *value)
{
    if (i >= csv->count)
        return csv_fail(csv, "%s: missing, the row has %zu fields", name, csv->count);
    const char *text = csv->fields[i].text;
    size_t length = csv->fields[i].length;
    uint64_t sum = 0;
    for (size_t j = 0; j < length; j++) {
        unsigned digit = (unsigned)(text[j] - '0');
        if (digit > 9)
            return bad_field(csv, i, name, "a whole number");
        if (sum > (UINT64_MAX - digit) / 10)
            return bad_field(csv, i, name, "a number that fits 64 bits");
        sum = 10 * sum + digit;
    }
    if (length == 0)
        return bad_field(csv, i, name, "a whole number");
    if (sum > most)
        return csv_fail(csv, "%s: %" PRIu64 ", allowed is 0 to %" PRIu64, name, sum, most);
    *value = sum;
    return OK;
}

Status csv_u32(const Csv *csv, size_t i, const char *name, uint32_t most, uint32_t *value)
{
    uint64_t wide = 0;
    TRY(csv_u64(csv, i, name, most, &wide));
    *value = (uint32_t)wide;
    return OK;
}

Status csv_f32(const Csv *csv, size_t i, const char *name, float *value)
{
    char copy[64];
    char *end;
    if (i >= csv->count)
        return csv_fail(csv, "%s: missing, the row has %zu fields", name, csv->count);
    size_t length = csv->fields[i].length;
    if (length == 0 || length >= sizeof copy)
        return bad_field(csv, i, name, "a number");
    memcpy(copy, csv->fields[i].text, length);
    copy[length] = '\0';
    *value = strtof(copy, &end);
    if (end != copy + length || copy[0] == ' ')
        return bad_field(csv, i, name, "a number");
    return OK;
}
