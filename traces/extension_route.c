#include "traces/extension_step.h"

SQLITE_EXTENSION_INIT3

/* moe_route: a row per (step, layer, token, slot). */

enum { STEP, LAYER, TOKEN, SLOT, EXPERT, WEIGHT, SCHEMA, REQUEST, POSITION, TOKEN_ID };

typedef struct {
    TableCursor at;
    StepWalk walk;
    size_t id; /* of the step */
    uint32_t token;
    uint32_t slot;
    uint32_t top_k;
} RouteCursor;

static int close_cursor(sqlite3_vtab_cursor *base)
{
    RouteCursor *cursor = (RouteCursor *)base;
    step_walk_close(&cursor->walk);
    sqlite3_free(cursor);
    return SQLITE_OK;
}

static int next_event(RouteCursor *cursor)
{
    int code = step_walk_next(&cursor->walk);
    cursor->at.ended = cursor->walk.ended;
    if (code != SQLITE_OK || cursor->walk.ended)
        return code;
    cursor->id = cursor->walk.first_id;
    cursor->token = 0;
    cursor->slot = 0;
    cursor->top_k = cursor->walk.layer->top_k;
    return SQLITE_OK;
}

static int filter(sqlite3_vtab_cursor *base, int used, const char *chosen, int argc,
                  sqlite3_value **argv)
{
    (void)used;
    RouteCursor *cursor = (RouteCursor *)base;
    TableRange range = table_range(chosen, argc, argv);
    cursor->at.row = 0;
    int code = step_walk_open(&cursor->walk, (TraceTable *)base->pVtab, &range);
    return code == SQLITE_OK ? next_event(cursor) : code;
}

static int next(sqlite3_vtab_cursor *base)
{
    RouteCursor *cursor = (RouteCursor *)base;
    cursor->at.row++;
    cursor->id++;
    if (++cursor->slot < cursor->top_k)
        return SQLITE_OK;
    cursor->slot = 0;
    return ++cursor->token < cursor->walk.tokens ? SQLITE_OK : next_event(cursor);
}

static void give_expert(const RouteCursor *cursor, sqlite3_context *context)
{
    uint32_t expert = step_walk_expert(&cursor->walk, cursor->id);
    if (expert == EXPERT_DROPPED)
        sqlite3_result_null(context);
    else
        sqlite3_result_int(context, (int)expert);
}

static void give_weight(const RouteCursor *cursor, sqlite3_context *context)
{
    const unsigned char *at = cursor->walk.weights;
    if (at == NULL || step_walk_expert(&cursor->walk, cursor->id) == EXPERT_DROPPED) {
        sqlite3_result_null(context);
        return;
    }
    sqlite3_result_double(context, view_f16(at, cursor->id));
}

static void give_u32(const unsigned char *words, uint32_t i, sqlite3_context *context)
{
    if (words == NULL || step_walk_u32(words, i) == TOKEN_UNKNOWN)
        sqlite3_result_null(context);
    else
        sqlite3_result_int64(context, step_walk_u32(words, i));
}

static int column(sqlite3_vtab_cursor *base, sqlite3_context *context, int i)
{
    const RouteCursor *cursor = (const RouteCursor *)base;
    switch (i) {
    case STEP:
        sqlite3_result_int64(context, cursor->walk.step);
        break;
    case LAYER:
        sqlite3_result_int64(context, cursor->walk.layer->layer);
        break;
    case TOKEN:
        sqlite3_result_int(context, (int)cursor->token);
        break;
    case SLOT:
        sqlite3_result_int(context, (int)cursor->slot);
        break;
    case EXPERT:
        give_expert(cursor, context);
        break;
    case WEIGHT:
        give_weight(cursor, context);
        break;
    case REQUEST:
        sqlite3_result_int64(context, step_walk_u32(cursor->walk.request, cursor->token));
        break;
    case POSITION:
        sqlite3_result_int64(context, step_walk_u32(cursor->walk.position, cursor->token));
        break;
    case TOKEN_ID:
        give_u32(cursor->walk.token, cursor->token, context);
        break;
    default:
        break;
    }
    return SQLITE_OK;
}

static const sqlite3_module MODULE = TABLE_MODULE(close_cursor, filter, next, column);

const TableShape MOE_ROUTE_TABLE = {
    .name = "moe_route",
    .declaration = "CREATE TABLE x(step INTEGER, layer INTEGER, token INTEGER, slot INTEGER, "
                   "expert INTEGER, weight REAL, schema TEXT HIDDEN, request INTEGER HIDDEN, "
                   "position INTEGER HIDDEN, token_id INTEGER HIDDEN)",
    .layer_column = LAYER,
    .schema_column = SCHEMA,
    .ordered = 4,
    .cursor_bytes = sizeof(RouteCursor),
    .module = &MODULE,
};
