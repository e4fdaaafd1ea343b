#include "traces/import_sequences.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "traces/csv.h"

enum { MAX_CSV_BYTES = 1 << 30, MAX_LABEL_COLUMNS = 8 };

typedef struct {
    size_t first_token;
    size_t tokens;
    size_t sequence;
    size_t position;
    size_t prompt;
    size_t labels[MAX_LABEL_COLUMNS];
    size_t n_labels;
} Columns;

static Status add_label_column(const Csv *csv, const char *name, Columns *columns)
{
    if (columns->n_labels == MAX_LABEL_COLUMNS)
        return csv_fail(csv, "at most %d columns can make the label", MAX_LABEL_COLUMNS);
    size_t at = csv_find(csv, name);
    if (at == SIZE_MAX)
        return csv_fail(csv, "there is no column \"%s\" for the label", name);
    for (size_t i = 0; i < columns->n_labels; i++)
        if (columns->labels[i] == at)
            return csv_fail(csv, "the label names the column \"%s\" twice", name);
    columns->labels[columns->n_labels++] = at;
    return OK;
}

/* LABEL is "a,b"; each is a column that must be there. */
static Status chosen_labels(const Csv *csv, const char *label, Columns *columns)
{
    char name[64];
    for (const char *at = label;; at++) {
        size_t length = strcspn(at, ",");
        if (length == 0 || length >= sizeof name)
            return fail(ERR_USAGE, "--label: \"%s\" is not a list of column names", label);
        memcpy(name, at, length);
        name[length] = '\0';
        TRY(add_label_column(csv, name, columns));
        at += length;
        if (*at == '\0')
            return OK;
    }
}

static Status usual_labels(const Csv *csv, Columns *columns)
{
    static const char *const USUAL[] = {"dataset", "domain", "category"};
    if (csv_find(csv, "label") != SIZE_MAX)
        return add_label_column(csv, "label", columns);
    for (size_t i = 0; i < sizeof USUAL / sizeof *USUAL; i++)
        if (csv_find(csv, USUAL[i]) != SIZE_MAX)
            TRY(add_label_column(csv, USUAL[i], columns));
    return OK;
}

static Status find_columns(Csv *csv, const char *label, Columns *columns)
{
    *columns = (Columns){0};
    Status status = csv_header(csv);
    if (status == STATUS_END)
        return fail(ERR_INPUT, "%s: is empty, a row of column names is wanted", csv->file);
    TRY(status);
    columns->first_token = csv_find(csv, "first_token");
    columns->tokens = csv_find(csv, "tokens");
    columns->sequence = csv_find(csv, "sequence");
    columns->position = csv_find(csv, "first_token_pos");
    columns->prompt = csv_find(csv, "prompt_tokens");
    if (columns->first_token == SIZE_MAX || columns->tokens == SIZE_MAX)
        return csv_fail(csv, "the columns first_token and tokens are wanted");
    return label != NULL ? chosen_labels(csv, label, columns) : usual_labels(csv, columns);
}

/* Joins the row's label columns at *ROOM and moves it behind the text. */
static const char *join_label(const Csv *csv, const Columns *columns, char **room)
{
    char *label = *room;
    for (size_t i = 0; i < columns->n_labels; i++) {
        size_t at = columns->labels[i];
        if (*room > label)
            *(*room)++ = '/';
        memcpy(*room, csv->fields[at].text, csv->fields[at].length);
        *room += csv->fields[at].length;
    }
    *(*room)++ = '\0';
    return label;
}

static Status read_row(const Csv *csv, const Columns *columns, uint32_t row, ImportSequence *found)
{
    uint32_t tokens;
    *found = (ImportSequence){.request = row};
    TRY(csv_u64(csv, columns->first_token, "first_token", UINT64_MAX, &found->first_token));
    TRY(csv_u32(csv, columns->tokens, "tokens", UINT32_MAX, &tokens));
    if (columns->sequence != SIZE_MAX)
        TRY(csv_u32(csv, columns->sequence, "sequence", UINT32_MAX, &found->request));
    if (columns->position != SIZE_MAX)
        TRY(csv_u32(csv, columns->position, "first_token_pos", UINT32_MAX, &found->first_position));
    if (tokens == 0)
        return csv_fail(csv, "tokens: 0, a sequence has at least 1");
    if (tokens > UINT32_MAX - found->first_position)
        return csv_fail(csv, "first_token_pos + tokens is above %u", UINT32_MAX);
    found->tokens = tokens;
    if (columns->prompt != SIZE_MAX)
        TRY(csv_u32(csv, columns->prompt, "prompt_tokens", tokens, &found->prompt_here));
    found->prompt_tokens = found->first_position + found->prompt_here;
    found->output_tokens = tokens - found->prompt_here;
    return OK;
}

static Status check_cover(const Csv *csv, const ImportSequence *found, uint64_t next,
                          uint64_t tokens)
{
    if (found->first_token != next)
        return csv_fail(csv,
                        "first_token: %" PRIu64 ", but the sequences before it end at %" PRIu64,
                        found->first_token, next);
    if (found->tokens > tokens - next)
        return csv_fail(csv, "%" PRIu64 " tokens from token %" PRIu64 " on, the array has %" PRIu64,
                        found->tokens, next, tokens);
    return OK;
}

static int compare_requests(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left;
    uint32_t b = *(const uint32_t *)right;
    return a < b ? -1 : a > b;
}

static Status check_distinct(const char *path, const ImportSequences *sequences)
{
    uint32_t *sorted;
    Status status = OK;
    TRY(mem_new(&sorted, sequences->count, sizeof *sorted, "sequences"));
    for (size_t i = 0; i < sequences->count; i++)
        sorted[i] = sequences->items[i].request;
    qsort(sorted, sequences->count, sizeof *sorted, compare_requests);
    for (size_t i = 1; i < sequences->count && status == OK; i++)
        if (sorted[i] == sorted[i - 1])
            status = fail(ERR_INPUT, "%s: sequence: %" PRIu32 " stands twice", path, sorted[i]);
    mem_free(sorted);
    return status;
}

static Status append(ImportSequences *sequences, size_t *room, const ImportSequence *found)
{
    TRY(mem_grow(&sequences->items, room, sequences->count, sizeof *sequences->items, "sequences"));
    sequences->items[sequences->count++] = *found;
    return OK;
}

static Status read_rows(Csv *csv, const char *label, uint64_t tokens, ImportSequences *sequences)
{
    Columns columns;
    uint64_t next = 0;
    size_t room = 0;
    char *labels = sequences->labels;
    TRY(find_columns(csv, label, &columns));
    for (;;) {
        ImportSequence found;
        Status status = csv_next(csv);
        if (status == STATUS_END)
            break;
        TRY(status);
        TRY(read_row(csv, &columns, (uint32_t)sequences->count, &found));
        TRY(check_cover(csv, &found, next, tokens));
        if (columns.n_labels > 0)
            found.label = join_label(csv, &columns, &labels);
        TRY(append(sequences, &room, &found));
        next += found.tokens;
    }
    if (next != tokens)
        return fail(ERR_INPUT, "%s: the sequences end at token %" PRIu64 ", the array has %" PRIu64,
                    csv->file, next, tokens);
    return check_distinct(csv->file, sequences);
}

Status import_sequences_read(const char *path, const char *label, uint64_t tokens,
                             ImportSequences *sequences)
{
    char *text;
    size_t bytes;
    *sequences = (ImportSequences){0};
    TRY(file_read_all(path, MAX_CSV_BYTES, &text, &bytes));
    /* A label joins different fields of its row, so together they are no longer than the text. */
    Status status = mem_new(&sequences->labels, bytes + 1, 1, "sequences");
    if (status == OK) {
        Csv csv = csv_begin(path, text, bytes);
        status = read_rows(&csv, label, tokens, sequences);
    }
    mem_free(text);
    if (status != OK)
        import_sequences_free(sequences);
    return status;
}

Status import_sequences_one(uint64_t tokens, ImportSequences *sequences)
{
    *sequences = (ImportSequences){.count = 1};
    TRY(mem_new(&sequences->items, 1, sizeof *sequences->items, "sequences"));
    sequences->items[0].tokens = tokens;
    sequences->items[0].output_tokens = tokens < UINT32_MAX ? (uint32_t)tokens : UINT32_MAX;
    return OK;
}

void import_sequences_free(ImportSequences *sequences)
{
    mem_free(sequences->items);
    mem_free(sequences->labels);
    *sequences = (ImportSequences){0};
}
