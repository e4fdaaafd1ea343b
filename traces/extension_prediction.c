#include <string.h>

#include "traces/extension.h"

SQLITE_EXTENSION_INIT3

/* moe_prediction: a row per (step, distance, predicted layer, token, slot). */

enum { STEP, DISTANCE, LAYER, TOKEN, SLOT, EXPERT, SCORE, SCHEMA };

static const char SQL[] =
    "SELECT p.step, p.distance, p.experts, p.scores, p.crc, s.tokens, s.phase "
    "FROM \"%w\".prediction p LEFT JOIN \"%w\".step s ON s.step = p.step "
    "WHERE p.step BETWEEN ?1 AND ?2 ORDER BY p.step, p.distance";

enum { COLUMN_EXPERTS = 2, COLUMN_SCORES = 3, COLUMN_TOKENS = 5, COLUMN_PHASE = 6 };

typedef struct {
    TableCursor at;
    TraceView view;
    TableRange range;
    int64_t step;
    int64_t distance;
    uint32_t tokens;
    Stack stack;
    const unsigned char *experts; /* of the row that the view stands on */
    const unsigned char *scores;
    uint32_t next_layer; /* index of the layer after the present one */
    const ViewLayer *layer;
    size_t id;      /* of the row's ids */
    size_t next_id; /* where the next layer's begin */
    uint32_t token;
    uint32_t slot;
} PredictionCursor;

static int close_cursor(sqlite3_vtab_cursor *base)
{
    PredictionCursor *cursor = (PredictionCursor *)base;
    view_close(&cursor->view);
    sqlite3_free(cursor);
    return SQLITE_OK;
}

/* The layers of the stack from the DISTANCE-th on: the index of the first, and their ids a token.
 */
static uint64_t layers_ahead_of(const PredictionCursor *cursor, uint32_t *first)
{
    uint64_t ids = 0;
    int64_t passed = 0;
    *first = cursor->view.n_layers;
    for (uint32_t i = 0; i < cursor->view.n_layers; i++) {
        const ViewLayer *layer = &cursor->view.layers[i];
        if (layer->stack != cursor->stack || passed++ < cursor->distance)
            continue;
        *first = i < *first ? i : *first;
        ids += layer->top_k;
    }
    return ids;
}

static int take_blobs(PredictionCursor *cursor)
{
    TraceView *view = &cursor->view;
    size_t length;
    uint64_t ids = layers_ahead_of(cursor, &cursor->next_layer) * cursor->tokens;
    if (ids == 0)
        return table_fail(view->table, "step %lld: distance: %lld is too far",
                          (long long)cursor->step, (long long)cursor->distance);
    int code = view_blob(view, "experts", COLUMN_EXPERTS, false, ids * view->id_bytes, 1,
                         &cursor->experts, &length);
    if (code == SQLITE_OK)
        code =
            view_blob(view, "scores", COLUMN_SCORES, false, 2 * ids, 1, &cursor->scores, &length);
    return code;
}

/* The row of the table that the view stands on. */
static int take_row(PredictionCursor *cursor)
{
    TraceView *view = &cursor->view;
    int64_t tokens = 0;
    int code = view_number(view, "step", STEP, 0, UINT32_MAX, &cursor->step);
    if (code == SQLITE_OK)
        code = view_check_crc(view, "prediction", 0, 4);
    if (code == SQLITE_OK)
        code = view_number(view, "distance", DISTANCE, 1, TRACE_MAX_LAYERS, &cursor->distance);
    if (code == SQLITE_OK)
        code = view_number(view, "tokens", COLUMN_TOKENS, 1, TRACE_MAX_TOKENS, &tokens);
    if (code != SQLITE_OK)
        return code;
    const char *phase = (const char *)sqlite3_column_text(view->rows, COLUMN_PHASE);
    cursor->tokens = (uint32_t)tokens;
    cursor->stack = phase != NULL && strcmp(phase, "encode") == 0 ? STACK_ENCODER : STACK_DECODER;
    cursor->next_id = 0;
    return take_blobs(cursor);
}

/* To the row's next layer in the range; false when there is none. */
static bool next_layer(PredictionCursor *cursor)
{
    while (cursor->experts != NULL && cursor->next_layer < cursor->view.n_layers) {
        const ViewLayer *layer = &cursor->view.layers[cursor->next_layer++];
        if (layer->stack != cursor->stack)
            continue;
        cursor->layer = layer;
        cursor->id = cursor->next_id;
        cursor->next_id += (size_t)cursor->tokens * layer->top_k;
        cursor->token = 0;
        cursor->slot = 0;
        if (layer->layer >= cursor->range.layer_low && layer->layer <= cursor->range.layer_high)
            return true;
    }
    return false;
}

static int next_event(PredictionCursor *cursor)
{
    while (!next_layer(cursor)) {
        int code = view_next(&cursor->view);
        cursor->at.ended = code == SQLITE_DONE;
        if (cursor->at.ended)
            return SQLITE_OK;
        if (code == SQLITE_ROW)
            code = take_row(cursor);
        if (code != SQLITE_OK)
            return code;
    }
    return SQLITE_OK;
}

static int filter(sqlite3_vtab_cursor *base, int used, const char *chosen, int argc,
                  sqlite3_value **argv)
{
    (void)used;
    PredictionCursor *cursor = (PredictionCursor *)base;
    TableRange range = table_range(chosen, argc, argv);
    view_close(&cursor->view);
    cursor->at.row = 0;
    cursor->experts = NULL;
    cursor->at.ended = false;
    cursor->range = range;
    cursor->range.schema = NULL;
    int code = view_open(&cursor->view, (TraceTable *)base->pVtab, &range, SQL);
    return code == SQLITE_OK ? next_event(cursor) : code;
}

static int next(sqlite3_vtab_cursor *base)
{
    PredictionCursor *cursor = (PredictionCursor *)base;
    cursor->at.row++;
    cursor->id++;
    if (++cursor->slot < cursor->layer->top_k)
        return SQLITE_OK;
    cursor->slot = 0;
    return ++cursor->token < cursor->tokens ? SQLITE_OK : next_event(cursor);
}

static int column(sqlite3_vtab_cursor *base, sqlite3_context *context, int i)
{
    const PredictionCursor *cursor = (const PredictionCursor *)base;
    const int64_t numbers[SCORE] = {
        [STEP] = cursor->step,
        [DISTANCE] = cursor->distance,
        [LAYER] = cursor->layer->layer,
        [TOKEN] = cursor->token,
        [SLOT] = cursor->slot,
        [EXPERT] = view_id(&cursor->view, cursor->experts, cursor->id),
    };
    if (i == SCORE)
        sqlite3_result_double(context, view_f16(cursor->scores, cursor->id));
    else if (i < SCORE)
        sqlite3_result_int64(context, numbers[i]);
    return SQLITE_OK;
}

static const sqlite3_module MODULE = TABLE_MODULE(close_cursor, filter, next, column);

const TableShape MOE_PREDICTION_TABLE = {
    .name = "moe_prediction",
    .declaration = "CREATE TABLE x(step INTEGER, distance INTEGER, layer INTEGER, token INTEGER, "
                   "slot INTEGER, expert INTEGER, score REAL, schema TEXT HIDDEN)",
    .layer_column = LAYER,
    .schema_column = SCHEMA,
    .ordered = 5,
    .cursor_bytes = sizeof(PredictionCursor),
    .module = &MODULE,
};
