#include <string.h>

#include "traces/extension.h"
#include "traces/rowcrc.h"

SQLITE_EXTENSION_INIT3

/* The connection's own error, as the query's. */
static int pass_on(TraceView *view, int code)
{
    TraceTable *table = view->table;
    table_fail(table, "%s", sqlite3_errmsg(table->db));
    return code;
}

static int prepare(TraceView *view, const char *schema, const char *sql, sqlite3_stmt **statement)
{
    char *text = sqlite3_mprintf(sql, schema, schema);
    if (text == NULL)
        return SQLITE_NOMEM;
    int code = sqlite3_prepare_v2(view->table->db, text, -1, statement, NULL);
    sqlite3_free(text);
    return code == SQLITE_OK ? code : pass_on(view, code);
}

/* The name of the trace's stack, or -1. */
static int parse_stack(const char *text)
{
    if (text != NULL && strcmp(text, "decoder") == 0)
        return STACK_DECODER;
    return text != NULL && strcmp(text, "encoder") == 0 ? STACK_ENCODER : -1;
}

static int add_layer(TraceView *view, sqlite3_stmt *statement)
{
    int64_t layer = sqlite3_column_int64(statement, 0);
    int stack = parse_stack((const char *)sqlite3_column_text(statement, 1));
    int64_t experts = sqlite3_column_int64(statement, 2);
    int64_t top_k = sqlite3_column_int64(statement, 3);
    if (view->n_layers == TRACE_MAX_LAYERS)
        return table_fail(view->table, "layer: more than %d", TRACE_MAX_LAYERS);
    if (layer < 0 || layer > UINT32_MAX || stack < 0 || experts < 1 ||
        experts > TRACE_MAX_EXPERTS || top_k < 1 || top_k > TRACE_MAX_TOP_K || top_k > experts)
        return table_fail(view->table, "layer %lld: stack, experts or top_k out of range",
                          (long long)layer);
    view->layers[view->n_layers++] = (ViewLayer){.layer = (uint32_t)layer,
                                                 .experts = (uint32_t)experts,
                                                 .top_k = (uint32_t)top_k,
                                                 .stack = (Stack)stack};
    view->top_k[stack] += (uint64_t)top_k;
    if (experts > UINT8_MAX)
        view->id_bytes = 2;
    return SQLITE_OK;
}

static int read_layers(TraceView *view, const char *schema)
{
    sqlite3_stmt *statement = NULL;
    view->id_bytes = 1;
    view->layers = sqlite3_malloc64(TRACE_MAX_LAYERS * sizeof *view->layers);
    if (view->layers == NULL)
        return SQLITE_NOMEM;
    int code =
        prepare(view, schema,
                "SELECT layer, stack, experts, top_k FROM \"%w\".layer ORDER BY layer", &statement);
    while (code == SQLITE_OK) {
        code = sqlite3_step(statement);
        if (code == SQLITE_ROW)
            code = add_layer(view, statement);
        else if (code != SQLITE_DONE)
            code = pass_on(view, code);
    }
    sqlite3_finalize(statement);
    if (code == SQLITE_DONE && view->n_layers == 0)
        return table_fail(view->table, "layer: the trace has none");
    return code == SQLITE_DONE ? SQLITE_OK : code;
}

int view_open(TraceView *view, TraceTable *table, const TableRange *range, const char *sql)
{
    view->table = table;
    int code = read_layers(view, range->schema);
    if (code == SQLITE_OK)
        code = prepare(view, range->schema, sql, &view->rows);
    if (code == SQLITE_OK)
        code = sqlite3_bind_int64(view->rows, 1, range->step_low);
    if (code == SQLITE_OK)
        code = sqlite3_bind_int64(view->rows, 2, range->step_high);
    return code;
}

void view_close(TraceView *view)
{
    sqlite3_finalize(view->rows);
    sqlite3_free(view->layers);
    *view = (TraceView){0};
}

int view_next(TraceView *view)
{
    int code = sqlite3_step(view->rows);
    return code == SQLITE_ROW || code == SQLITE_DONE ? code : pass_on(view, code);
}

static int64_t step_of(const TraceView *view)
{
    return sqlite3_column_int64(view->rows, 0);
}

int view_number(TraceView *view, const char *name, int column, int64_t least, int64_t most,
                int64_t *value)
{
    *value = sqlite3_column_int64(view->rows, column);
    if (sqlite3_column_type(view->rows, column) != SQLITE_INTEGER || *value < least ||
        *value > most)
        return table_fail(view->table, "step %lld: %s: not a number from %lld to %lld",
                          (long long)step_of(view), name, (long long)least, (long long)most);
    return SQLITE_OK;
}

int view_blob(TraceView *view, const char *name, int column, bool optional, uint64_t bytes,
              size_t unit, const unsigned char **data, size_t *length)
{
    int type = sqlite3_column_type(view->rows, column);
    *data = NULL;
    *length = 0;
    if (type == SQLITE_NULL && optional)
        return SQLITE_OK;
    if (type != SQLITE_BLOB)
        return table_fail(view->table, "step %lld: %s: not a blob", (long long)step_of(view), name);
    *data = sqlite3_column_blob(view->rows, column);
    *length = (size_t)sqlite3_column_bytes(view->rows, column);
    if (*data == NULL && *length > 0)
        return SQLITE_NOMEM;
    if (*length % unit != 0 || (bytes != UINT64_MAX && *length != bytes))
        return table_fail(view->table, "step %lld: %s: a blob of %lld bytes does not fit the step",
                          (long long)step_of(view), name, (long long)*length);
    return SQLITE_OK;
}

static uint32_t crc_column(sqlite3_stmt *rows, int column, uint32_t crc)
{
    int type = sqlite3_column_type(rows, column);
    if (type == SQLITE_INTEGER)
        return rowcrc_integer(crc, sqlite3_column_int64(rows, column));
    if (type == SQLITE_NULL || type == SQLITE_FLOAT)
        return rowcrc_null(crc);
    const void *data = type == SQLITE_TEXT ? (const void *)sqlite3_column_text(rows, column)
                                           : sqlite3_column_blob(rows, column);
    size_t bytes = data != NULL ? (size_t)sqlite3_column_bytes(rows, column) : 0;
    return type == SQLITE_TEXT ? rowcrc_text(crc, data, bytes) : rowcrc_blob(crc, data, bytes);
}

int view_check_crc(TraceView *view, const char *name, int first, int count)
{
    uint32_t crc = 0;
    int64_t stored = 0;
    int code = view_number(view, "crc", first + count, 0, UINT32_MAX, &stored);
    if (code != SQLITE_OK)
        return code;
    for (int i = 0; i < count; i++)
        crc = crc_column(view->rows, first + i, crc);
    if (crc != (uint32_t)stored)
        return table_fail(view->table, "step %lld: %s: crc does not match",
                          (long long)step_of(view), name);
    return SQLITE_OK;
}
