#include "traces/extension_step.h"

#include <string.h>

SQLITE_EXTENSION_INIT3

static const char STEP_SQL[] =
    "SELECT s.step, s.phase, s.start_ns, s.duration_ns, s.tokens, s.request, s.position, s.token, "
    "s.rank, s.crc, r.step, r.experts, r.weights, r.scores, r.crc "
    "FROM \"%w\".step s LEFT JOIN \"%w\".routing r ON r.step = s.step "
    "WHERE s.step BETWEEN ?1 AND ?2 ORDER BY s.step";

enum { COLUMN_PHASE = 1, COLUMN_TOKENS = 4, COLUMN_REQUEST = 5, STEP_COLUMNS = 9 };
enum { COLUMN_ROUTING = 10, COLUMN_EXPERTS = 11, COLUMN_WEIGHTS = 12, ROUTING_COLUMNS = 4 };

/* Passes a code that is not SQLITE_OK on. */
#define CODE_TRY(call)                                                                             \
    do {                                                                                           \
        int try_code = (call);                                                                     \
        if (try_code != SQLITE_OK)                                                                 \
            return try_code;                                                                       \
    } while (0)

int step_walk_open(StepWalk *walk, TraceTable *table, const TableRange *range)
{
    step_walk_close(walk);
    walk->range = *range;
    walk->range.schema = NULL; /* the query's, gone after this call */
    walk->ended = false;
    return view_open(&walk->view, table, range, STEP_SQL);
}

void step_walk_close(StepWalk *walk)
{
    view_close(&walk->view);
    *walk = (StepWalk){.ended = true};
}

static int take_ids(StepWalk *walk)
{
    TraceView *view = &walk->view;
    size_t length;
    uint64_t ids = view->top_k[walk->stack] * walk->tokens; /* below 2^20 * 2^24 */
    if (sqlite3_column_type(view->rows, COLUMN_ROUTING) == SQLITE_NULL)
        return table_fail(view->table, "step %lld: routing: missing", (long long)walk->step);
    CODE_TRY(view_check_crc(view, "routing", COLUMN_ROUTING, ROUTING_COLUMNS));
    CODE_TRY(view_blob(view, "routing: experts", COLUMN_EXPERTS, false, ids * view->id_bytes, 1,
                       &walk->experts, &length));
    return view_blob(view, "routing: weights", COLUMN_WEIGHTS, true, 2 * ids, 1, &walk->weights,
                     &length);
}

/* The row that the view stands on. */
static int take_step(StepWalk *walk)
{
    TraceView *view = &walk->view;
    int64_t tokens = 0;
    size_t length;
    CODE_TRY(view_number(view, "step", 0, 0, UINT32_MAX, &walk->step));
    CODE_TRY(view_check_crc(view, "step", 0, STEP_COLUMNS));
    CODE_TRY(view_number(view, "tokens", COLUMN_TOKENS, 1, TRACE_MAX_TOKENS, &tokens));
    walk->tokens = (uint32_t)tokens;
    const char *phase = (const char *)sqlite3_column_text(view->rows, COLUMN_PHASE);
    walk->stack = phase != NULL && strcmp(phase, "encode") == 0 ? STACK_ENCODER : STACK_DECODER;
    if (view->top_k[walk->stack] == 0)
        return table_fail(view->table, "step %lld: the trace has no layer of its stack",
                          (long long)walk->step);
    CODE_TRY(view_blob(view, "request", COLUMN_REQUEST, false, 4 * (uint64_t)tokens, 1,
                       &walk->request, &length));
    CODE_TRY(view_blob(view, "position", COLUMN_REQUEST + 1, false, 4 * (uint64_t)tokens, 1,
                       &walk->position, &length));
    CODE_TRY(view_blob(view, "token", COLUMN_REQUEST + 2, true, 4 * (uint64_t)tokens, 1,
                       &walk->token, &length));
    CODE_TRY(take_ids(walk));
    walk->next_layer = 0;
    walk->next_id = 0;
    return SQLITE_OK;
}

/* To the step's next layer in the range; false when there is none. */
static bool next_layer(StepWalk *walk)
{
    const TraceView *view = &walk->view;
    while (walk->next_layer < view->n_layers) {
        const ViewLayer *layer = &view->layers[walk->next_layer++];
        if (layer->stack != walk->stack)
            continue;
        walk->layer = layer;
        walk->first_id = walk->next_id;
        walk->next_id += (size_t)walk->tokens * layer->top_k;
        if (layer->layer >= walk->range.layer_low && layer->layer <= walk->range.layer_high)
            return true;
    }
    return false;
}

int step_walk_next(StepWalk *walk)
{
    while (walk->experts == NULL || !next_layer(walk)) {
        int code = view_next(&walk->view);
        if (code == SQLITE_DONE) {
            walk->ended = true;
            return SQLITE_OK;
        }
        if (code != SQLITE_ROW)
            return code;
        CODE_TRY(take_step(walk));
    }
    return SQLITE_OK;
}
