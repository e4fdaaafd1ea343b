#include "traces/import_bigmoe.h"

#include <math.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "traces/csv.h"
#include "traces/f16.h"

static const size_t MAX_FILE_BYTES = (size_t)16 << 30;

typedef struct {
    size_t turn, phase, step, layer, slot, expert; /* always there */
    size_t weight, residency, bytes, dropped;      /* SIZE_MAX: not there */
} Columns;

/* The value of KEY in a line of "key=value key=value"; a value ends at a blank, the last at the
 * line's end. NULL when it is not there. */
static char *find_value(char *line, const char *key)
{
    size_t length = strlen(key);
    for (char *at = line; (at = strstr(at, key)) != NULL; at += length)
        if (at > line && at[-1] == ' ' && at[length] == '=')
            return at + length + 1;
    return NULL;
}

static Status take_number(const Csv *csv, char *line, const char *key, uint64_t most,
                          uint64_t *value)
{
    char *at = find_value(line, key);
    if (at == NULL)
        return csv_fail(csv, "preamble: %s= is missing", key);
    Csv field = *csv; /* the number's own little row */
    field.count = 1;
    field.fields[0].text = at;
    field.fields[0].length = strcspn(at, " \t");
    return csv_u64(&field, 0, key, most, value);
}

static Status take_u32(const Csv *csv, char *line, const char *key, uint32_t most, uint32_t *value)
{
    uint64_t wide = 0;
    TRY(take_number(csv, line, key, most, &wide));
    if (wide == 0)
        return csv_fail(csv, "preamble: %s: 0, allowed is 1 to %u", key, most);
    *value = (uint32_t)wide;
    return OK;
}

/* "# model=PATH arch=NAME n_layer=N n_expert=N n_expert_used=N"; the path may hold blanks. */
static Status take_model(const Csv *csv, char *line, BigmoeTrace *trace)
{
    TRY(take_u32(csv, line, "n_layer", TRACE_MAX_LAYERS, &trace->n_layer));
    TRY(take_u32(csv, line, "n_expert", TRACE_MAX_EXPERTS, &trace->n_expert));
    TRY(take_u32(csv, line, "n_expert_used", TRACE_MAX_TOP_K, &trace->n_expert_used));
    trace->model = find_value(line, "model");
    trace->architecture = find_value(line, "arch");
    if (trace->model == NULL || trace->architecture == NULL || trace->architecture < trace->model)
        return csv_fail(csv, "preamble: model= and arch= are wanted");
    if (trace->n_expert_used > trace->n_expert)
        return csv_fail(csv, "preamble: n_expert_used: %u, the model has %u experts",
                        trace->n_expert_used, trace->n_expert);
    trace->architecture[-(ptrdiff_t)strlen(" arch=")] = '\0';
    trace->architecture[strcspn(trace->architecture, " ")] = '\0';
    TRY(mem_new(&trace->expert_bytes, trace->n_layer, sizeof *trace->expert_bytes, "route trace"));
    return mem_new(&trace->dense_bytes, trace->n_layer, sizeof *trace->dense_bytes, "route trace");
}

/* "# layer=N expert_bytes=B dense_bytes=B" */
static Status take_layer(const Csv *csv, char *line, BigmoeTrace *trace)
{
    uint64_t layer = 0;
    if (trace->n_layer == 0)
        return csv_fail(csv, "preamble: the line with model= is missing before this one");
    TRY(take_number(csv, line, "layer", trace->n_layer - 1, &layer));
    TRY(take_number(csv, line, "expert_bytes", INT64_MAX, &trace->expert_bytes[layer]));
    return take_number(csv, line, "dense_bytes", INT64_MAX, &trace->dense_bytes[layer]);
}

static Status take_version(const Csv *csv, const char *line)
{
    static const char START[] = "# route_trace v";
    if (strncmp(line, START, strlen(START)) != 0)
        return csv_fail(csv, "\"# route_trace v1\" is wanted: the preamble is missing");
    if (strcmp(line + strlen(START), "1") != 0) {
        csv_fail(csv, "route_trace v%.8s, only v1 is known", line + strlen(START));
        return ERR_UNSUPPORTED;
    }
    return OK;
}

static Status read_preamble(Csv *csv, BigmoeTrace *trace)
{
    char *line;
    size_t length;
    Status status = csv_line(csv, &line, &length);
    if (status == STATUS_END)
        return fail(ERR_INPUT, "%s: is empty", csv->file);
    line[length] = '\0';
    TRY(take_version(csv, line));
    while (csv->at < csv->end && *csv->at == '#') {
        csv_line(csv, &line, &length);
        line[length] = '\0';
        if (find_value(line, "model") != NULL)
            TRY(trace->n_layer == 0 ? take_model(csv, line, trace)
                                    : csv_fail(csv, "preamble: model= stands twice"));
        else if (find_value(line, "layer") != NULL)
            TRY(take_layer(csv, line, trace));
    }
    if (trace->n_layer == 0)
        return csv_fail(csv, "preamble: the line with model= is missing");
    return OK;
}

static Status find_columns(Csv *csv, Columns *columns)
{
    Status status = csv_header(csv);
    if (status == STATUS_END)
        return fail(ERR_INPUT, "%s: ends before the row of column names", csv->file);
    TRY(status);
    const struct {
        const char *name;
        size_t *column;
        bool needed;
    } wanted[] = {
        {"turn", &columns->turn, true},           {"phase", &columns->phase, true},
        {"step", &columns->step, true},           {"layer", &columns->layer, true},
        {"slot", &columns->slot, true},           {"expert", &columns->expert, true},
        {"weight", &columns->weight, false},      {"residency", &columns->residency, false},
        {"expert_bytes", &columns->bytes, false}, {"dropped", &columns->dropped, false}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        *wanted[i].column = csv_find(csv, wanted[i].name);
        if (wanted[i].needed && *wanted[i].column == SIZE_MAX)
            return csv_fail(csv, "the column %s is missing", wanted[i].name);
    }
    return OK;
}

static Status read_optional(const Csv *csv, const Columns *columns, BigmoeRow *row)
{
    uint32_t value = 0;
    row->weight = NAN;
    if (columns->weight != SIZE_MAX)
        TRY(csv_f32(csv, columns->weight, "weight", &row->weight));
    if (!isnan(row->weight) && !f16_holds(row->weight))
        return csv_fail(csv, "weight: is beyond what half precision holds");
    if (columns->residency != SIZE_MAX)
        TRY(csv_u32(csv, columns->residency, "residency", 2, &value));
    row->residency = (uint8_t)value;
    if (columns->bytes != SIZE_MAX)
        TRY(csv_u64(csv, columns->bytes, "expert_bytes", INT64_MAX, &row->bytes));
    value = 0;
    if (columns->dropped != SIZE_MAX)
        TRY(csv_u32(csv, columns->dropped, "dropped", 1, &value));
    row->dropped = value == 1;
    return OK;
}

static Status read_row(const Csv *csv, const Columns *columns, const BigmoeTrace *trace,
                       BigmoeRow *row)
{
    uint32_t phase;
    uint32_t layer;
    uint32_t slot;
    uint32_t expert;
    *row = (BigmoeRow){.line = (uint32_t)csv->line};
    TRY(csv_u32(csv, columns->turn, "turn", UINT32_MAX, &row->turn));
    TRY(csv_u32(csv, columns->phase, "phase", 1, &phase));
    TRY(csv_u32(csv, columns->step, "step", UINT32_MAX, &row->step));
    TRY(csv_u32(csv, columns->layer, "layer", trace->n_layer - 1, &layer));
    TRY(csv_u32(csv, columns->slot, "slot", trace->n_expert_used - 1, &slot));
    TRY(csv_u32(csv, columns->expert, "expert", trace->n_expert - 1, &expert));
    row->phase = (uint8_t)phase;
    row->layer = (uint16_t)layer;
    row->slot = (uint16_t)slot;
    row->expert = (uint16_t)expert;
    return read_optional(csv, columns, row);
}

static Status append(BigmoeTrace *trace, size_t *room, const BigmoeRow *row)
{
    TRY(mem_grow(&trace->rows, room, trace->n_rows, sizeof *trace->rows, "route trace"));
    trace->rows[trace->n_rows++] = *row;
    return OK;
}

static Status read_rows(Csv *csv, BigmoeTrace *trace)
{
    Columns columns;
    size_t room = 0;
    TRY(find_columns(csv, &columns));
    trace->has_residency = columns.residency != SIZE_MAX;
    for (;;) {
        BigmoeRow row;
        Status status = csv_next(csv);
        if (status == STATUS_END)
            return OK;
        TRY(status);
        TRY(read_row(csv, &columns, trace, &row));
        TRY(append(trace, &room, &row));
    }
}

/* The engine writes NaN where it knows no weight at all; in between it is an error. */
static Status check_weights(BigmoeTrace *trace)
{
    size_t unknown = 0;
    const BigmoeRow *first = NULL;
    for (size_t i = 0; i < trace->n_rows; i++) {
        if (!isnan(trace->rows[i].weight))
            continue;
        if (unknown++ == 0)
            first = &trace->rows[i];
    }
    if (unknown > 0 && unknown < trace->n_rows)
        return fail(ERR_INPUT, "%s: line %u: weight: NaN, while other rows have one", trace->file,
                    first->line);
    trace->has_weights = unknown == 0;
    return OK;
}

Status bigmoe_read(const char *path, BigmoeTrace *trace)
{
    size_t bytes;
    *trace = (BigmoeTrace){.file = path};
    TRY(file_read_all(path, MAX_FILE_BYTES, &trace->text, &bytes));
    Csv csv = csv_begin(path, trace->text, bytes);
    Status status = read_preamble(&csv, trace);
    if (status == OK)
        status = read_rows(&csv, trace);
    if (status == OK && trace->n_rows == 0)
        status = fail(ERR_INPUT, "%s: has no row of routing", path);
    if (status == OK)
        status = check_weights(trace);
    if (status != OK)
        bigmoe_free(trace);
    return status;
}

void bigmoe_free(BigmoeTrace *trace)
{
    mem_free(trace->expert_bytes);
    mem_free(trace->dense_bytes);
    mem_free(trace->rows);
    mem_free(trace->text);
    *trace = (BigmoeTrace){0};
}
