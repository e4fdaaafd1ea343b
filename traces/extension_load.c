#include "traces/extension_step.h"

#include <string.h>

SQLITE_EXTENSION_INIT3

/* expert_load: a row per (step, layer, expert) with at least one token. */

enum { STEP, LAYER, EXPERT, TOKENS, SCHEMA };

typedef struct {
    TableCursor at;
    StepWalk walk;
    uint32_t expert;
    uint32_t counts[TRACE_MAX_EXPERTS]; /* of the event */
} LoadCursor;

static int close_cursor(sqlite3_vtab_cursor *base)
{
    LoadCursor *cursor = (LoadCursor *)base;
    step_walk_close(&cursor->walk);
    sqlite3_free(cursor);
    return SQLITE_OK;
}

static int count_event(LoadCursor *cursor)
{
    const StepWalk *walk = &cursor->walk;
    const ViewLayer *layer = walk->layer;
    memset(cursor->counts, 0, layer->experts * sizeof *cursor->counts);
    for (size_t i = walk->first_id; i < walk->next_id; i++) {
        uint32_t expert = step_walk_expert(walk, i);
        if (expert < layer->experts)
            cursor->counts[expert]++;
        else if (expert != EXPERT_DROPPED)
            return table_fail((TraceTable *)cursor->at.base.pVtab,
                              "step %lld: layer %u: expert %u, the model has %u",
                              (long long)walk->step, layer->layer, expert, layer->experts);
    }
    return SQLITE_OK;
}

/* To the next expert with a token, from EXPERT on. */
static int find_row(LoadCursor *cursor)
{
    for (;;) {
        if (cursor->walk.layer != NULL)
            for (; cursor->expert < cursor->walk.layer->experts; cursor->expert++)
                if (cursor->counts[cursor->expert] > 0)
                    return SQLITE_OK;
        int code = step_walk_next(&cursor->walk);
        cursor->at.ended = cursor->walk.ended;
        if (code != SQLITE_OK || cursor->walk.ended)
            return code;
        code = count_event(cursor);
        if (code != SQLITE_OK)
            return code;
        cursor->expert = 0;
    }
}

static int filter(sqlite3_vtab_cursor *base, int used, const char *chosen, int argc,
                  sqlite3_value **argv)
{
    (void)used;
    LoadCursor *cursor = (LoadCursor *)base;
    TableRange range = table_range(chosen, argc, argv);
    cursor->at.row = 0;
    int code = step_walk_open(&cursor->walk, (TraceTable *)base->pVtab, &range);
    return code == SQLITE_OK ? find_row(cursor) : code;
}

static int next(sqlite3_vtab_cursor *base)
{
    LoadCursor *cursor = (LoadCursor *)base;
    cursor->at.row++;
    cursor->expert++;
    return find_row(cursor);
}

static int column(sqlite3_vtab_cursor *base, sqlite3_context *context, int i)
{
    const LoadCursor *cursor = (const LoadCursor *)base;
    switch (i) {
    case STEP:
        sqlite3_result_int64(context, cursor->walk.step);
        break;
    case LAYER:
        sqlite3_result_int64(context, cursor->walk.layer->layer);
        break;
    case EXPERT:
        sqlite3_result_int(context, (int)cursor->expert);
        break;
    case TOKENS:
        sqlite3_result_int(context, (int)cursor->counts[cursor->expert]);
        break;
    default:
        break;
    }
    return SQLITE_OK;
}

static const sqlite3_module MODULE = TABLE_MODULE(close_cursor, filter, next, column);

const TableShape EXPERT_LOAD_TABLE = {
    .name = "expert_load",
    .declaration = "CREATE TABLE x(step INTEGER, layer INTEGER, expert INTEGER, tokens INTEGER, "
                   "schema TEXT HIDDEN)",
    .layer_column = LAYER,
    .schema_column = SCHEMA,
    .ordered = 3,
    .cursor_bytes = sizeof(LoadCursor),
    .module = &MODULE,
};
