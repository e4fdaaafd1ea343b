/* The loadable SQLite extension: traces as tables, for SQL.
 *
 *   moe_route(step, layer, token, slot, expert, weight), hidden: request, position, token_id
 *   expert_load(step, layer, expert, tokens)
 *   moe_residency(step, rank, layer, expert, kind, slot, bytes, start_ns, duration_ns)
 *   moe_timing(step, rank, layer, op, start_ns, duration_ns)
 *   moe_prediction(step, distance, layer, token, slot, expert, score)
 *
 * They exist as soon as the extension is loaded and read the trace that is open; of an attached
 * trace with moe_route('its schema'). Rows stream in the order of the columns, one blob at a time;
 * constraints on step and layer reach the trace. Every row's type, lengths and crc are checked
 * before use: damage is an SQL error that names the place, never a crash.
 *
 * This header is shared by the extension's files alone. They call SQLite through the host's table
 * of functions, so that they run inside any program, and allocate with the host's allocator. */
#ifndef TRACES_EXTENSION_H
#define TRACES_EXTENSION_H

#include <sqlite3ext.h>
#include <stdbool.h>

#include "traces/trace.h"

/* One of the tables. */
typedef struct {
    const char *name;
    const char *declaration; /* as CREATE TABLE */
    int layer_column;
    int schema_column;   /* the first hidden one: the argument in moe_route('schema') */
    int ordered;         /* rows ascend by the first so many columns */
    size_t cursor_bytes; /* of a cursor, whose first member is a TableCursor */
    const sqlite3_module *module;
} TableShape;

/* What a query wants of a table. Bounds are inclusive. */
typedef struct {
    const char *schema; /* "main" */
    int64_t step_low, step_high;
    int64_t layer_low, layer_high;
} TableRange;

typedef struct {
    sqlite3_vtab base;
    sqlite3 *db;
    const TableShape *shape;
} TraceTable;

/* How a table's cursor begins. */
typedef struct {
    sqlite3_vtab_cursor base;
    sqlite3_int64 row;
    bool ended;
} TableCursor;

/* What all tables do alike. A module's SHAPE is the pointer that it is made with; cursors are
 * zeroed when they are opened. */
int table_connect(sqlite3 *db, void *shape, int argc, const char *const *argv, sqlite3_vtab **out,
                  char **message);
int table_disconnect(sqlite3_vtab *base);
int table_open_cursor(sqlite3_vtab *base, sqlite3_vtab_cursor **out);
int table_eof(sqlite3_vtab_cursor *cursor);
int table_row_id(sqlite3_vtab_cursor *cursor, sqlite3_int64 *row);
/* Chooses the constraints that table_range() reads; idxNum is the mask of columns used. */
int table_best_index(sqlite3_vtab *base, sqlite3_index_info *info);
/* A module: the four functions in which the tables differ. */
#define TABLE_MODULE(close_cursor, filter, next, column)                                           \
    {                                                                                              \
        .iVersion = 1, .xConnect = table_connect, .xBestIndex = table_best_index,                  \
        .xDisconnect = table_disconnect, .xOpen = table_open_cursor, .xClose = close_cursor,       \
        .xFilter = filter, .xNext = next, .xEof = table_eof, .xColumn = column,                    \
        .xRowid = table_row_id                                                                     \
    }
TableRange table_range(const char *chosen, int argc, sqlite3_value **argv);
/* "NAME: WHY" as the query's error; SQLITE_CORRUPT_VTAB. */
int table_fail(TraceTable *table, const char *format, ...) __attribute__((format(printf, 2, 3)));

typedef struct {
    uint32_t layer;
    uint32_t experts;
    uint32_t top_k;
    Stack stack;
} ViewLayer;

/* A trace being read through the host's connection. */
typedef struct {
    TraceTable *table;
    sqlite3_stmt *rows;
    ViewLayer *layers;
    uint32_t n_layers;
    size_t id_bytes;
    uint64_t top_k[2]; /* by Stack: ids per token */
} TraceView;

/* The I-th id of BLOB, as it stands there. */
static inline uint32_t view_id(const TraceView *view, const unsigned char *blob, size_t i)
{
    const unsigned char *at = blob + i * view->id_bytes;
    return view->id_bytes == 1 ? *at : (uint32_t)at[0] | (uint32_t)at[1] << 8;
}

/* The I-th f16 of BLOB. */
static inline double view_f16(const unsigned char *blob, size_t i)
{
    const unsigned char *at = blob + 2 * i;
    return f32_from_f16((uint16_t)(at[0] | at[1] << 8));
}

/* Reads the layers of RANGE's schema and prepares SQL, in which every %w is the schema; its ?1 and
 * ?2 are the steps. VIEW must be zeroed or closed. */
int view_open(TraceView *view, TraceTable *table, const TableRange *range, const char *sql);
void view_close(TraceView *view);
/* Next row: SQLITE_ROW, SQLITE_DONE or an error, which is set. */
int view_next(TraceView *view);
/* Columns FIRST to FIRST + COUNT - 1 of the row, whose checksum stands behind them. */
int view_check_crc(TraceView *view, const char *name, int first, int count);
/* A whole number of the row. */
int view_number(TraceView *view, const char *name, int column, int64_t least, int64_t most,
                int64_t *value);
/* A blob of BYTES, or of a multiple of UNIT (BYTES is then UINT64_MAX); NULL when it may be NULL.
 */
int view_blob(TraceView *view, const char *name, int column, bool optional, uint64_t bytes,
              size_t unit, const unsigned char **data, size_t *length);

extern const TableShape MOE_ROUTE_TABLE;
extern const TableShape EXPERT_LOAD_TABLE;
extern const TableShape MOE_RESIDENCY_TABLE;
extern const TableShape MOE_TIMING_TABLE;
extern const TableShape MOE_PREDICTION_TABLE;

#endif
