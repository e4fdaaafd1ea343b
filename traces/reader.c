#include "traces/reader.h"

#include <string.h>

#include "base/memory.h"
#include "traces/f16.h"
#include "traces/reader_state.h"

static const char STEP_SQL[] = "SELECT step, phase, start_ns, duration_ns, tokens, request, "
                               "position, token, rank, crc FROM step ORDER BY step";
static const char ROUTING_SQL[] =
    "SELECT step, experts, weights, scores, crc FROM routing ORDER BY step";
static const char ROUTING_ROW_SQL[] =
    "SELECT step, experts, weights, scores, crc FROM routing WHERE step = ?";
static const char REQUEST_SQL[] = "SELECT request, label, arrival_ns, prompt_tokens, "
                                  "output_tokens FROM request ORDER BY request";
static const char RESIDENCY_SQL[] =
    "SELECT step, rank, events, crc FROM residency WHERE step = ? AND rank = ?";
static const char TIMING_SQL[] =
    "SELECT step, rank, ops, crc FROM timing WHERE step = ? AND rank = ?";
static const char PREDICTION_SQL[] =
    "SELECT step, distance, experts, scores, crc FROM prediction WHERE step = ? AND distance = ?";

static Status count_rows(const Store *store, const char *sql, uint64_t *count)
{
    int64_t number;
    TRY(store_number(store, sql, &number));
    *count = (uint64_t)number;
    return OK;
}

/* Traces of other recorders may have no table of predictions. */
static Status open_predictions(TraceReader *reader)
{
    const Store *store = &reader->store;
    bool there;
    int64_t most;
    TRY(store_has_table(store, "prediction", &there));
    if (!there && reader->head.digest.has_predictions)
        return fail(ERR_CORRUPT, "%s: prediction: the table is missing", store->path);
    if (!there)
        return OK;
    TRY(store_number(store, "SELECT coalesce(max(distance), 0) FROM prediction", &most));
    if (most < 0 || most >= TRACE_MAX_LAYERS)
        return fail(ERR_CORRUPT, "%s: prediction: distance: %lld, allowed is 1 to %d", store->path,
                    (long long)most, TRACE_MAX_LAYERS - 1);
    reader->distances = (uint32_t)most;
    return store_prepare(store, PREDICTION_SQL, &reader->prediction_row);
}

static Status open_tables(TraceReader *reader)
{
    const Store *store = &reader->store;
    TRY(head_check_schema(store));
    TRY(head_read(store, &reader->head));
    const TraceHead *head = &reader->head;
    reader->spans[STACK_DECODER] = layers_span(head->layers, head->n_layers, STACK_DECODER);
    reader->spans[STACK_ENCODER] = layers_span(head->layers, head->n_layers, STACK_ENCODER);
    reader->id_bytes = layers_id_bytes(head->layers, head->n_layers);
    TRY(active_set_new(&reader->active, layers_max_experts(head->layers, head->n_layers)));
    TRY(count_rows(store, "SELECT count(*) FROM step", &reader->steps));
    TRY(count_rows(store, "SELECT count(*) FROM request", &reader->requests));
    if (head->digest.present && reader->requests != head->digest.request_rows)
        return fail(ERR_CORRUPT, "%s: request: %llu rows, the digest says %llu", store->path,
                    (unsigned long long)reader->requests,
                    (unsigned long long)head->digest.request_rows);
    TRY(store_prepare(store, STEP_SQL, &reader->step_rows));
    TRY(store_prepare(store, ROUTING_SQL, &reader->routing_rows));
    TRY(store_prepare(store, ROUTING_ROW_SQL, &reader->routing_row));
    TRY(store_prepare(store, REQUEST_SQL, &reader->request_rows));
    TRY(store_prepare(store, RESIDENCY_SQL, &reader->residency_row));
    TRY(store_prepare(store, TIMING_SQL, &reader->timing_row));
    return open_predictions(reader);
}

Status trace_reader_open(const char *path, TraceReader **out)
{
    TraceReader *reader;
    TRY(mem_new(&reader, 1, sizeof *reader, "trace reader"));
    Status status = store_open(path, &reader->store);
    if (status == OK)
        status = open_tables(reader);
    if (status != OK) {
        trace_reader_close(reader);
        return status;
    }
    *out = reader;
    return OK;
}

void trace_reader_close(TraceReader *reader)
{
    if (reader == NULL)
        return;
    sqlite3_finalize(reader->step_rows);
    sqlite3_finalize(reader->routing_rows);
    sqlite3_finalize(reader->routing_row);
    sqlite3_finalize(reader->ids_rows);
    sqlite3_finalize(reader->request_rows);
    sqlite3_finalize(reader->residency_row);
    sqlite3_finalize(reader->timing_row);
    sqlite3_finalize(reader->prediction_row);
    store_close(&reader->store);
    head_free(&reader->head);
    step_buffer_free(&reader->arrays);
    active_set_free(&reader->active);
    mem_free(reader->records);
    mem_free(reader->predicted);
    mem_free(reader);
}

const TraceRun *trace_reader_run(const TraceReader *reader)
{
    return &reader->head.run;
}

const TraceLayer *trace_reader_layers(const TraceReader *reader, uint32_t *count)
{
    *count = reader->head.n_layers;
    return reader->head.layers;
}

uint64_t trace_reader_steps(const TraceReader *reader)
{
    return reader->steps;
}

uint64_t trace_reader_requests(const TraceReader *reader)
{
    return reader->requests;
}

uint32_t trace_reader_distances(const TraceReader *reader)
{
    return reader->distances;
}

bool trace_reader_complete(const TraceReader *reader)
{
    return !reader->head.digest.present || reader->head.digest.complete;
}

Status trace_reader_next_request(TraceReader *reader, TraceRequest *request)
{
    if (reader->requests_ended)
        return STATUS_END;
    sqlite3_stmt *statement = reader->request_rows;
    Status status = store_step(&reader->store, statement);
    reader->requests_ended = status == STATUS_END;
    if (status != OK)
        return status;
    Row row = {.store = &reader->store, .statement = statement, .subject = "request"};
    row.number = sqlite3_column_int64(statement, 0);
    TraceRequest found;
    TRY(row_u32(&row, 0, 0, UINT32_MAX, &found.request));
    TRY(row_text(&row, 1, true, &found.label));
    TRY(row_u64(&row, 2, 0, INT64_MAX, &found.arrival_ns));
    TRY(row_u32(&row, 3, 0, UINT32_MAX, &found.prompt_tokens));
    TRY(row_u32(&row, 4, 0, UINT32_MAX, &found.output_tokens));
    *request = found;
    return OK;
}

static Status parse_phase(const Row *row, Phase *phase)
{
    const char *text;
    TRY(row_text(row, 1, false, &text));
    for (int i = PHASE_PREFILL; i <= PHASE_MIXED; i++)
        if (strcmp(text, phase_name((Phase)i)) == 0) {
            *phase = (Phase)i;
            return OK;
        }
    return row_fail(row, 1, "\"%.32s\", allowed are prefill, decode, encode, mixed", text);
}

/* The arrays of the row step_rows stands on; step.tokens is known and the buffer is large enough.
 */
static Status take_token_columns(TraceReader *reader, const Row *row)
{
    TraceStep *step = &reader->step;
    const void *request;
    const void *position;
    const void *token;
    const void *rank;
    size_t words = sizeof(uint32_t) * (size_t)step->tokens;
    TRY(row_blob(row, 5, false, words, &request));
    TRY(row_blob(row, 6, false, words, &position));
    TRY(row_blob(row, 7, true, words, &token));
    TRY(row_blob(row, 8, true, step->tokens, &rank));
    TRY(row_check_crc(row, 9));
    step->request = memcpy(reader->arrays.request, request, words);
    step->position = memcpy(reader->arrays.position, position, words);
    step->token = token != NULL ? memcpy(reader->arrays.token, token, words) : NULL;
    step->rank = rank != NULL ? memcpy(reader->arrays.rank, rank, step->tokens) : NULL;
    return OK;
}

/* The plain columns of the row step_rows stands on. */
static Status take_step_row(TraceReader *reader, const Row *row)
{
    TraceStep step = {0};
    TRY(row_u32(row, 0, 0, UINT32_MAX, &step.step));
    TRY(parse_phase(row, &step.phase));
    TRY(row_u64(row, 2, 0, INT64_MAX, &step.start_ns));
    TRY(row_u64(row, 3, 0, INT64_MAX, &step.duration_ns));
    TRY(row_u32(row, 4, 1, TRACE_MAX_TOKENS, &step.tokens));
    step.stack = phase_stack(step.phase);
    if (reader->spans[step.stack].count == 0)
        return row_fail(row, 1, "%s, but the trace has no %s layer", phase_name(step.phase),
                        stack_name(step.stack));
    reader->step = step;
    return OK;
}

/* IDS of them, as they are stored. */
static Status take_experts(TraceReader *reader, const void *experts, size_t ids)
{
    TraceStep *step = &reader->step;
    StackSpan span = reader->spans[step->stack];
    const char *path = reader->store.path;
    if (reader->id_bytes == 1 && reader->routing_bytes) {
        step->expert_bytes = experts;
        return layers_check_bytes(path, reader->head.layers, span, step->step, step->tokens,
                                  step->expert_bytes, ERR_CORRUPT);
    }
    if (reader->id_bytes == 1)
        layers_widen_ids(experts, ids, reader->arrays.experts);
    else
        memcpy(reader->arrays.experts, experts, 2 * ids);
    step->experts = reader->arrays.experts;
    return layers_check_experts(path, reader->head.layers, span, step->step, step->tokens,
                                step->experts, ERR_CORRUPT);
}

/* The row routing_rows stands on. The blobs' lengths are known to fit before room is made. */
static Status take_routing_row(TraceReader *reader, const Row *row, const Row *step_row)
{
    TraceStep *step = &reader->step;
    StackSpan span = reader->spans[step->stack];
    uint64_t ids = span.top_k * step->tokens; /* below 2^20 * 2^24 */
    const void *experts;
    const void *weights;
    const void *scores;
    size_t score_bytes;
    TRY(row_blob(row, 1, false, ids * reader->id_bytes, &experts));
    TRY(row_blob(row, 2, true, 2 * ids, &weights));
    TRY(row_blob_of(row, 3, true, 2, &scores, &score_bytes));
    TRY(row_check_crc(row, 4));
    TRY(step_buffer_fit(&reader->arrays, step->tokens, ids, score_bytes / 2));
    TRY(take_token_columns(reader, step_row));
    TRY(take_experts(reader, experts, ids));
    if (weights != NULL && !reader->routing_only) {
        f16_decode(weights, ids, reader->arrays.weights);
        step->weights = reader->arrays.weights;
    }
    if (scores != NULL && !reader->routing_only) {
        step->scores = memcpy(reader->arrays.scores, scores, score_bytes);
        step->score_count = score_bytes / 2;
    }
    return OK;
}

/* The whole row of the step on which ids_rows stands. */
static Status take_whole_row(TraceReader *reader, const Row *row, const Row *step_row)
{
    sqlite3_value *values[ROW_COLUMNS] = {NULL};
    Row whole = *row;
    whole.statement = reader->routing_row;
    whole.values = values;
    sqlite3_reset(whole.statement);
    SQL_TRY(&reader->store, sqlite3_bind_int64(whole.statement, 1, row->number));
    Status status = store_step(&reader->store, whole.statement);
    if (status == STATUS_END)
        return row_fail(row, -1, "missing");
    TRY(status);
    return take_routing_row(reader, &whole, step_row);
}

/* The same as take_routing_row(), without reading weights and scores where that suffices. */
static Status take_ids_row(TraceReader *reader, const Row *row, const Row *step_row)
{
    const TraceStep *step = &reader->step;
    uint64_t ids = reader->spans[step->stack].top_k * step->tokens;
    const void *experts;
    if (!reader_take_ids(reader, ids, &experts))
        return take_whole_row(reader, row, step_row);
    TRY(step_buffer_fit(&reader->arrays, step->tokens, ids, 0));
    TRY(take_token_columns(reader, step_row));
    return take_experts(reader, experts, ids);
}

static sqlite3_stmt *routing_statement(const TraceReader *reader)
{
    return reader->ids_rows != NULL ? reader->ids_rows : reader->routing_rows;
}

/* Both tables have ended, or one has more than the other. */
static Status end_of_steps(TraceReader *reader)
{
    const Digest *digest = &reader->head.digest;
    sqlite3_stmt *statement = routing_statement(reader);
    Status status = store_step(&reader->store, statement);
    if (status == OK)
        return fail(ERR_CORRUPT, "%s: step %lld: routing: there is no such step",
                    reader->store.path, (long long)sqlite3_column_int64(statement, 0));
    if (status != STATUS_END)
        return status;
    if (digest->present && digest->steps != reader->steps_read)
        return fail(ERR_CORRUPT, "%s: %llu steps, the digest says %llu", reader->store.path,
                    (unsigned long long)reader->steps_read, (unsigned long long)digest->steps);
    reader->steps_ended = true;
    return STATUS_END;
}

/* The next row of step, of which reader->step becomes what its plain columns say. */
static Status next_step_row(TraceReader *reader, Row *row)
{
    Status status = store_step(&reader->store, reader->step_rows);
    if (status == STATUS_END)
        return end_of_steps(reader);
    TRY(status);
    row->number = sqlite3_column_int64(reader->step_rows, 0);
    uint32_t before = reader->step.step;
    TRY(take_step_row(reader, row));
    if (reader->steps_read > 0 && reader->step.step <= before)
        return row_fail(row, -1, "comes after step %u", before);
    return OK;
}

/* The row of routing that belongs to STEP_ROW. */
static Status next_routing_row(TraceReader *reader, const Row *step_row)
{
    sqlite3_value *values[ROW_COLUMNS] = {NULL};
    Row row = {.store = &reader->store,
               .statement = routing_statement(reader),
               .subject = "step",
               .table = "routing",
               .number = step_row->number,
               .values = values};
    Status status = store_step(&reader->store, row.statement);
    if (status == STATUS_END)
        return row_fail(step_row, -1, "routing: missing");
    TRY(status);
    int64_t number = sqlite3_column_int64(row.statement, 0);
    if (number != step_row->number)
        return row_fail(&row, -1, "missing; the next row is of step %lld", (long long)number);
    return reader->ids_rows != NULL ? take_ids_row(reader, &row, step_row)
                                    : take_routing_row(reader, &row, step_row);
}

/* Both rows of a step, of which but the ids are wanted. */
static Status load_ids(TraceReader *reader, Row *step_row)
{
    read_ahead_row(reader->ahead, 0);
    Status status = next_step_row(reader, step_row);
    const TraceStep *step = &reader->step;
    if (status == OK) {
        uint64_t ids = reader->spans[step->stack].top_k * step->tokens;
        read_ahead_row(reader->ahead, ids * reader->id_bytes);
        status = next_routing_row(reader, step_row);
    }
    read_ahead_all(reader->ahead);
    return status;
}

static Status load_step(TraceReader *reader)
{
    sqlite3_value *values[ROW_COLUMNS] = {NULL};
    Row row = {.store = &reader->store,
               .statement = reader->step_rows,
               .subject = "step",
               .values = values};
    reader->next_event = UINT32_MAX; /* until the whole step is there */
    if (reader->steps_ended)
        return STATUS_END;
    if (reader->ids_rows != NULL) {
        TRY(load_ids(reader, &row));
    } else {
        TRY(next_step_row(reader, &row));
        TRY(next_routing_row(reader, &row));
    }
    reader->steps_read++;
    reader->next_event = 0;
    reader->next_id = 0;
    return OK;
}

Status trace_reader_next_step(TraceReader *reader, TraceStep *step)
{
    Status status = load_step(reader);
    if (status == OK) {
        *step = reader->step;
        reader->next_event = UINT32_MAX; /* its events are not given again */
    }
    return status;
}

Status trace_reader_routing_bytes(TraceReader *reader)
{
    reader->routing_only = true;
    reader->routing_bytes = true;
    return reader_open_ids(reader);
}

static uint64_t least_of(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

Status trace_reader_bounds(const TraceReader *reader, uint64_t *events, uint64_t *lookups)
{
    const StackSpan *decoder = &reader->spans[STACK_DECODER];
    const StackSpan *encoder = &reader->spans[STACK_ENCODER];
    int64_t pages;
    int64_t page_bytes;
    TRY(store_number(&reader->store, "PRAGMA page_count", &pages));
    TRY(store_number(&reader->store, "PRAGMA page_size", &page_bytes));
    uint64_t file_bytes = (uint64_t)pages * (uint64_t)page_bytes;
    uint64_t steps = least_of(reader->steps, file_bytes);
    uint64_t count = decoder->count > encoder->count ? decoder->count : encoder->count;
    uint64_t ids = decoder->top_k > encoder->top_k ? decoder->top_k : encoder->top_k;
    *lookups = least_of(steps * ids, file_bytes);  /* an id takes a byte or more, */
    *events = least_of(steps * count, file_bytes); /* an event an id or more */
    return OK;
}

Status trace_reader_next_event(TraceReader *reader, TraceEvent *event)
{
    const TraceStep *step = &reader->step;
    if (reader->steps_read == 0 || reader->next_event >= reader->spans[step->stack].count)
        TRY(load_step(reader));
    uint32_t index = reader->spans[step->stack].first + reader->next_event;
    const TraceLayer *layer = &reader->head.layers[index];
    size_t ids = (size_t)step->tokens * layer->top_k;
    const uint16_t *experts = step->experts + reader->next_id;
    *event = (TraceEvent){
        .step = step->step,
        .phase = step->phase,
        .layer_index = index,
        .tokens = step->tokens,
        .routing = experts,
        .weights = step->weights != NULL ? step->weights + reader->next_id : NULL,
        .n_active = active_set_count(&reader->active, experts, ids, layer->experts),
        .active = reader->active.active,
        .active_tokens = reader->active.tokens,
    };
    reader->next_event++;
    reader->next_id += ids;
    return OK;
}

Status trace_reader_rewind(TraceReader *reader)
{
    sqlite3_reset(reader->step_rows);
    sqlite3_reset(reader->routing_rows);
    sqlite3_reset(reader->ids_rows);
    sqlite3_reset(reader->request_rows);
    reader->steps_read = 0;
    reader->steps_ended = false;
    reader->requests_ended = false;
    return OK;
}
