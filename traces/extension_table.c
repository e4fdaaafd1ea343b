#include <stdarg.h>
#include <string.h>

#include "traces/extension.h"

SQLITE_EXTENSION_INIT3

int table_connect(sqlite3 *db, void *shape, int argc, const char *const *argv, sqlite3_vtab **out,
                  char **message)
{
    (void)argc;
    (void)argv;
    (void)message;
    int code = sqlite3_declare_vtab(db, ((const TableShape *)shape)->declaration);
    if (code != SQLITE_OK)
        return code;
    TraceTable *table = sqlite3_malloc64(sizeof *table);
    if (table == NULL)
        return SQLITE_NOMEM;
    *table = (TraceTable){.db = db, .shape = shape};
    sqlite3_vtab_config(db, SQLITE_VTAB_INNOCUOUS);
    *out = &table->base;
    return SQLITE_OK;
}

int table_open_cursor(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    size_t bytes = ((const TraceTable *)base)->shape->cursor_bytes;
    TableCursor *cursor = sqlite3_malloc64(bytes);
    if (cursor == NULL)
        return SQLITE_NOMEM;
    memset(cursor, 0, bytes);
    *out = &cursor->base;
    return SQLITE_OK;
}

int table_eof(sqlite3_vtab_cursor *cursor)
{
    return ((const TableCursor *)cursor)->ended;
}

int table_row_id(sqlite3_vtab_cursor *cursor, sqlite3_int64 *row)
{
    *row = ((const TableCursor *)cursor)->row;
    return SQLITE_OK;
}

int table_disconnect(sqlite3_vtab *base)
{
    sqlite3_free(base);
    return SQLITE_OK;
}

int table_fail(TraceTable *table, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *why = sqlite3_vmprintf(format, arguments);
    va_end(arguments);
    sqlite3_free(table->base.zErrMsg);
    table->base.zErrMsg = why != NULL ? sqlite3_mprintf("%s: %s", table->shape->name, why) : NULL;
    sqlite3_free(why);
    return SQLITE_CORRUPT_VTAB;
}

/* One letter per kind of bound: '=', '<', 'l' (<=), '>', 'g' (>=); 0 for others. */
static char bound_letter(unsigned char op)
{
    switch (op) {
    case SQLITE_INDEX_CONSTRAINT_EQ:
        return '=';
    case SQLITE_INDEX_CONSTRAINT_LT:
        return '<';
    case SQLITE_INDEX_CONSTRAINT_LE:
        return 'l';
    case SQLITE_INDEX_CONSTRAINT_GT:
        return '>';
    case SQLITE_INDEX_CONSTRAINT_GE:
        return 'g';
    default:
        return 0;
    }
}

/* What the chosen constraints leave of a trace, as a share, for the planner. */
typedef struct {
    double rows;
    int chosen;
    bool one_step;
} Estimate;

static void choose(sqlite3_index_info *info, int i, char column, char letter, char *text,
                   Estimate *estimate)
{
    text[2 * estimate->chosen] = column;
    text[2 * estimate->chosen + 1] = letter;
    info->aConstraintUsage[i].argvIndex = ++estimate->chosen;
    if (column == 't')
        return;
    bool equal = letter == '=';
    estimate->rows *= column == 's' ? (equal ? 1e-4 : 0.3) : (equal ? 0.05 : 0.5);
    estimate->one_step |= column == 's' && equal;
}

/* The rows ascend by the first columns of the table: an ORDER BY that asks for no more needs no
 * sorting. */
static bool is_ordered(const TraceTable *table, const sqlite3_index_info *info)
{
    for (int i = 0; i < info->nOrderBy; i++)
        if (i >= table->shape->ordered || info->aOrderBy[i].iColumn != i || info->aOrderBy[i].desc)
            return false;
    return true;
}

int table_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    TraceTable *table = (TraceTable *)base;
    Estimate estimate = {.rows = 1e7};
    char *text = sqlite3_malloc64(2 * (sqlite3_uint64)info->nConstraint + 1);
    if (text == NULL)
        return SQLITE_NOMEM;
    for (int i = 0; i < info->nConstraint; i++) {
        int column = info->aConstraint[i].iColumn;
        char letter = bound_letter(info->aConstraint[i].op);
        bool schema = column == table->shape->schema_column;
        if (schema && letter == '=' && !info->aConstraint[i].usable) {
            sqlite3_free(text);
            return SQLITE_CONSTRAINT; /* which trace it reads must be known before */
        }
        if (letter == 0 || !info->aConstraint[i].usable)
            continue;
        if (schema && letter == '=') {
            choose(info, i, 't', letter, text, &estimate);
            info->aConstraintUsage[i].omit = 1;
        } else if (column == 0) {
            choose(info, i, 's', letter, text, &estimate);
        } else if (column == table->shape->layer_column) {
            choose(info, i, 'l', letter, text, &estimate);
        }
    }
    text[2 * estimate.chosen] = '\0';
    info->idxStr = text;
    info->needToFreeIdxStr = 1;
    info->idxNum = (int)(info->colUsed & 0x7FFFFFFF);
    info->orderByConsumed = is_ordered(table, info);
    info->estimatedRows = (sqlite3_int64)estimate.rows + 1;
    info->estimatedCost = estimate.rows + (estimate.one_step ? 1 : 1000);
    return SQLITE_OK;
}

static void narrow(char letter, int64_t value, int64_t *low, int64_t *high)
{
    if ((letter == '=' || letter == 'g') && value > *low)
        *low = value;
    if (letter == '>' && value >= *low)
        *low = value < INT64_MAX ? value + 1 : value;
    if ((letter == '=' || letter == 'l') && value < *high)
        *high = value;
    if (letter == '<' && value <= *high)
        *high = value > INT64_MIN ? value - 1 : value;
}

/* Only whole numbers narrow the range. SQLite looks at every row again, so that others, and NULL,
 * compare as they always do. */
TableRange table_range(const char *chosen, int argc, sqlite3_value **argv)
{
    TableRange range = {.schema = "main",
                        .step_low = 0,
                        .step_high = UINT32_MAX,
                        .layer_low = 0,
                        .layer_high = UINT32_MAX};
    for (int i = 0; i < argc; i++) {
        char column = chosen[2 * i];
        char letter = chosen[2 * i + 1];
        if (column == 't') {
            const char *schema = (const char *)sqlite3_value_text(argv[i]);
            range.schema = schema != NULL ? schema : "";
        } else if (sqlite3_value_type(argv[i]) == SQLITE_INTEGER) {
            int64_t value = sqlite3_value_int64(argv[i]);
            narrow(letter, value, column == 's' ? &range.step_low : &range.layer_low,
                   column == 's' ? &range.step_high : &range.layer_high);
        }
    }
    return range;
}
