#include <string.h>

#include "traces/extension.h"

SQLITE_EXTENSION_INIT3

/* moe_residency and moe_timing: a row per record of the tables residency and timing. */

enum { R_STEP, R_RANK, R_LAYER, R_EXPERT, R_KIND, R_SLOT, R_BYTES, R_START, R_DURATION, R_COLUMNS };
enum { T_STEP, T_RANK, T_LAYER, T_OP, T_START, T_DURATION, T_COLUMNS };

static const char RESIDENCY_SQL[] = "SELECT step, rank, events, crc FROM \"%w\".residency "
                                    "WHERE step BETWEEN ?1 AND ?2 ORDER BY step, rank";
static const char TIMING_SQL[] = "SELECT step, rank, ops, crc FROM \"%w\".timing "
                                 "WHERE step BETWEEN ?1 AND ?2 ORDER BY step, rank";

typedef struct {
    TableCursor at;
    TraceView view;
    TableRange range;
    bool timing;
    int64_t step;
    int64_t rank;
    const unsigned char *records; /* of the blob that the view stands on; may lie unaligned */
    size_t left;                  /* bytes behind the current record */
    union {
        ResidencyRecord residency;
        TimingRecord timing;
    } record;
} RecordCursor;

static int close_cursor(sqlite3_vtab_cursor *base)
{
    RecordCursor *cursor = (RecordCursor *)base;
    view_close(&cursor->view);
    sqlite3_free(cursor);
    return SQLITE_OK;
}

static size_t record_bytes(const RecordCursor *cursor)
{
    return cursor->timing ? sizeof(TimingRecord) : sizeof(ResidencyRecord);
}

/* The row of the table that the view stands on. */
static int take_row(RecordCursor *cursor)
{
    TraceView *view = &cursor->view;
    const char *name = cursor->timing ? "ops" : "events";
    int code = view_number(view, "step", 0, 0, UINT32_MAX, &cursor->step);
    if (code == SQLITE_OK)
        code = view_number(view, "rank", 1, 0, UINT8_MAX, &cursor->rank);
    if (code == SQLITE_OK)
        code = view_check_crc(view, cursor->timing ? "timing" : "residency", 0, 3);
    if (code == SQLITE_OK)
        code = view_blob(view, name, 2, false, UINT64_MAX, record_bytes(cursor), &cursor->records,
                         &cursor->left);
    return code;
}

static bool in_range(const RecordCursor *cursor)
{
    uint32_t layer = cursor->timing ? cursor->record.timing.layer : cursor->record.residency.layer;
    return layer >= cursor->range.layer_low && layer <= cursor->range.layer_high;
}

static int next_record(RecordCursor *cursor)
{
    size_t bytes = record_bytes(cursor);
    do {
        while (cursor->left == 0) {
            int code = view_next(&cursor->view);
            cursor->at.ended = code == SQLITE_DONE;
            if (cursor->at.ended)
                return SQLITE_OK;
            if (code == SQLITE_ROW)
                code = take_row(cursor);
            if (code != SQLITE_OK)
                return code;
        }
        memcpy(&cursor->record, cursor->records, bytes);
        cursor->records += bytes;
        cursor->left -= bytes;
    } while (!in_range(cursor));
    return SQLITE_OK;
}

static int filter(sqlite3_vtab_cursor *base, int used, const char *chosen, int argc,
                  sqlite3_value **argv)
{
    (void)used;
    RecordCursor *cursor = (RecordCursor *)base;
    TableRange range = table_range(chosen, argc, argv);
    view_close(&cursor->view);
    cursor->timing = ((const TraceTable *)base->pVtab)->shape == &MOE_TIMING_TABLE;
    cursor->at.row = 0;
    cursor->left = 0;
    cursor->at.ended = false;
    cursor->range = range;
    cursor->range.schema = NULL;
    int code = view_open(&cursor->view, (TraceTable *)base->pVtab, &range,
                         cursor->timing ? TIMING_SQL : RESIDENCY_SQL);
    return code == SQLITE_OK ? next_record(cursor) : code;
}

static int next(sqlite3_vtab_cursor *base)
{
    RecordCursor *cursor = (RecordCursor *)base;
    cursor->at.row++;
    return next_record(cursor);
}

static void give_kind(uint32_t kind, sqlite3_context *context)
{
    if (kind < RESIDENCY_KINDS)
        sqlite3_result_text(context, residency_kind_name((ResidencyKind)kind), -1, SQLITE_STATIC);
    else
        sqlite3_result_null(context);
}

static int residency_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int i)
{
    const RecordCursor *cursor = (const RecordCursor *)base;
    const ResidencyRecord *record = &cursor->record.residency;
    const int64_t numbers[R_COLUMNS] = {
        [R_STEP] = cursor->step,
        [R_RANK] = cursor->rank,
        [R_LAYER] = record->layer,
        [R_EXPERT] = record->expert,
        [R_SLOT] = record->slot,
        [R_BYTES] = (int64_t)record->bytes,
        [R_START] = (int64_t)record->start_ns,
        [R_DURATION] = (int64_t)record->duration_ns,
    };
    if (i == R_KIND)
        give_kind(record->kind, context);
    else if (i < R_COLUMNS && !(i == R_SLOT && record->slot == SLOT_UNKNOWN))
        sqlite3_result_int64(context, numbers[i]);
    return SQLITE_OK;
}

static int timing_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int i)
{
    const RecordCursor *cursor = (const RecordCursor *)base;
    const TimingRecord *record = &cursor->record.timing;
    const int64_t numbers[T_COLUMNS] = {
        [T_STEP] = cursor->step,
        [T_RANK] = cursor->rank,
        [T_LAYER] = record->layer,
        [T_OP] = record->op,
        [T_START] = (int64_t)record->start_ns,
        [T_DURATION] = (int64_t)record->duration_ns,
    };
    if (i < T_COLUMNS)
        sqlite3_result_int64(context, numbers[i]);
    return SQLITE_OK;
}

static const sqlite3_module RESIDENCY_MODULE =
    TABLE_MODULE(close_cursor, filter, next, residency_column);

const TableShape MOE_RESIDENCY_TABLE = {
    .name = "moe_residency",
    .declaration = "CREATE TABLE x(step INTEGER, rank INTEGER, layer INTEGER, expert INTEGER, "
                   "kind TEXT, slot INTEGER, bytes INTEGER, start_ns INTEGER, "
                   "duration_ns INTEGER, schema TEXT HIDDEN)",
    .layer_column = R_LAYER,
    .schema_column = R_COLUMNS,
    .ordered = 2,
    .cursor_bytes = sizeof(RecordCursor),
    .module = &RESIDENCY_MODULE,
};

static const sqlite3_module TIMING_MODULE = TABLE_MODULE(close_cursor, filter, next, timing_column);

const TableShape MOE_TIMING_TABLE = {
    .name = "moe_timing",
    .declaration = "CREATE TABLE x(step INTEGER, rank INTEGER, layer INTEGER, op INTEGER, "
                   "start_ns INTEGER, duration_ns INTEGER, schema TEXT HIDDEN)",
    .layer_column = T_LAYER,
    .schema_column = T_COLUMNS,
    .ordered = 2,
    .cursor_bytes = sizeof(RecordCursor),
    .module = &TIMING_MODULE,
};
