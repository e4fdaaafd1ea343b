#include "traces/writer.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "traces/digest.h"
#include "traces/f16.h"
#include "traces/layers.h"
#include "traces/rowcrc.h"
#include "traces/step_buffer.h"
#include "traces/store.h"

static const char SCHEMA[] = {
#include "schema_sql.h"
};

/* Weights and scores of a step that are worth a checksum of its ids alone, in bytes. */
enum { MANY_BYTES = 8192 };

/* The end of the run table's definition; DIGEST_MARK goes behind it. */
static const char NOTES_COLUMN[] = "notes TEXT";

typedef enum {
    SQL_BEGIN,
    SQL_COMMIT,
    SQL_STEP,
    SQL_ROUTING,
    SQL_EXPERTS_CRC,
    SQL_RESIDENCY,
    SQL_TIMING,
    SQL_PREDICTION,
    SQL_REQUEST_OLD,
    SQL_REQUEST,
    SQL_NOTES,
    SQL_COUNT
} Sql;

static const char *const SQL_TEXTS[SQL_COUNT] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_STEP] = "INSERT INTO step(step, phase, start_ns, duration_ns, tokens, request, position, "
                 "token, rank, crc) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    [SQL_ROUTING] = "INSERT INTO routing(step, experts, weights, scores, crc) "
                    "VALUES(?, ?, ?, ?, ?)",
    [SQL_EXPERTS_CRC] = "INSERT INTO experts_crc(step, crc) VALUES(?, ?)",
    [SQL_RESIDENCY] = "INSERT INTO residency(step, rank, events, crc) VALUES(?, ?, ?, ?)",
    [SQL_TIMING] = "INSERT INTO timing(step, rank, ops, crc) VALUES(?, ?, ?, ?)",
    [SQL_PREDICTION] = "INSERT INTO prediction(step, distance, experts, scores, crc) "
                       "VALUES(?, ?, ?, ?, ?)",
    [SQL_REQUEST_OLD] = "SELECT request, label, arrival_ns, prompt_tokens, output_tokens "
                        "FROM request WHERE request = ?",
    [SQL_REQUEST] = "INSERT OR REPLACE INTO request(request, label, arrival_ns, prompt_tokens, "
                    "output_tokens) VALUES(?, ?, ?, ?, ?)",
    [SQL_NOTES] = "UPDATE run SET notes = ?",
};

struct Writer {
    Store store;
    TraceLayer *layers; /* [n_layers] */
    sqlite3_stmt *sql[SQL_COUNT];
    StackSpan spans[2]; /* by Stack */
    size_t id_bytes;
    Digest digest;
    DigestNotes notes;
    uint64_t committed_steps;
    void *ids; /* [ids] of a step, narrowed */
    size_t ids_bytes;
    void *weights; /* [ids] f16 */
    size_t weights_bytes;
    bool in_transaction;
};

/* A row being inserted: binds its columns one after the other and sums them up. */
typedef struct {
    Writer *writer;
    sqlite3_stmt *statement;
    int column;
    int code; /* of the first bind that failed */
    uint32_t crc;
} NewRow;

static NewRow new_row(Writer *writer, Sql sql)
{
    return (NewRow){.writer = writer, .statement = writer->sql[sql]};
}

static void keep_code(NewRow *row, int code)
{
    if (row->code == SQLITE_OK)
        row->code = code;
}

static void put_integer(NewRow *row, uint64_t value)
{
    row->crc = rowcrc_integer(row->crc, (int64_t)value);
    keep_code(row, sqlite3_bind_int64(row->statement, ++row->column, (int64_t)value));
}

static void put_text(NewRow *row, const char *text)
{
    row->crc = rowcrc_text_or_null(row->crc, text);
    keep_code(row, sqlite3_bind_text(row->statement, ++row->column, text, -1, SQLITE_STATIC));
}

static void put_blob(NewRow *row, const void *data, size_t bytes)
{
    row->crc = data == NULL ? rowcrc_null(row->crc) : rowcrc_blob(row->crc, data, bytes);
    keep_code(row, sqlite3_bind_blob64(row->statement, ++row->column, data, bytes, SQLITE_STATIC));
}

static Status put_done(NewRow *row)
{
    const Store *store = &row->writer->store;
    return row->code == SQLITE_OK ? store_run(store, row->statement) : store_fail(store, row->code);
}

/* The same, with the checksum as the last column. */
static Status put_done_crc(NewRow *row)
{
    keep_code(row, sqlite3_bind_int64(row->statement, ++row->column, (int64_t)row->crc));
    return put_done(row);
}

static Status begin(Writer *writer)
{
    if (writer->in_transaction)
        return OK;
    TRY(store_run(&writer->store, writer->sql[SQL_BEGIN]));
    writer->in_transaction = true;
    return OK;
}

static Status put_step_row(Writer *writer, const TraceStep *step)
{
    NewRow row = new_row(writer, SQL_STEP);
    size_t words = sizeof(uint32_t) * (size_t)step->tokens;
    put_integer(&row, step->step);
    put_text(&row, phase_name(step->phase));
    put_integer(&row, step->start_ns);
    put_integer(&row, step->duration_ns);
    put_integer(&row, step->tokens);
    put_blob(&row, step->request, words);
    put_blob(&row, step->position, words);
    put_blob(&row, step->token, words);
    put_blob(&row, step->rank, step->tokens);
    return put_done_crc(&row);
}

/* EXPERTS[ids] as the trace has them. */
static Status store_ids(Writer *writer, const uint16_t *experts, size_t ids, const void **stored)
{
    *stored = experts;
    if (writer->id_bytes == 2)
        return OK;
    TRY(block_fit(&writer->ids, &writer->ids_bytes, ids, "step"));
    uint8_t *narrow = writer->ids;
    for (size_t i = 0; i < ids; i++)
        narrow[i] = (uint8_t)experts[i]; /* EXPERT_DROPPED becomes 0xFF */
    *stored = narrow;
    return OK;
}

/* WEIGHTS[ids] as f16, in writer->weights. */
static Status store_weights(Writer *writer, const float *weights, size_t ids)
{
    TRY(block_fit(&writer->weights, &writer->weights_bytes, 2 * ids, "step"));
    f16_encode(weights, ids, writer->weights);
    return OK;
}

static Status put_experts_crc(Writer *writer, uint32_t step, uint32_t crc)
{
    NewRow row = new_row(writer, SQL_EXPERTS_CRC);
    put_integer(&row, step);
    put_integer(&row, crc);
    return put_done(&row);
}

static Status put_routing_row(Writer *writer, const TraceStep *step)
{
    size_t ids = (size_t)step->tokens * writer->spans[step->stack].top_k;
    const void *experts;
    TRY(store_ids(writer, step->experts, ids, &experts));
    if (step->weights != NULL)
        TRY(store_weights(writer, step->weights, ids));
    NewRow row = new_row(writer, SQL_ROUTING);
    put_integer(&row, step->step);
    put_blob(&row, experts, ids * writer->id_bytes);
    uint32_t experts_crc = row.crc;
    put_blob(&row, step->weights != NULL ? writer->weights : NULL, 2 * ids);
    put_blob(&row, step->scores, 2 * step->score_count);
    TRY(put_done_crc(&row));
    size_t others = 2 * ((step->weights != NULL ? ids : 0) + step->score_count);
    return others >= MANY_BYTES ? put_experts_crc(writer, step->step, experts_crc) : OK;
}

static Status put_records(Writer *writer, Sql sql, uint32_t step, const void *records, size_t bytes)
{
    NewRow row = new_row(writer, sql);
    put_integer(&row, step);
    put_integer(&row, 0);
    put_blob(&row, records, bytes);
    return put_done_crc(&row);
}

static Status put_prediction_row(Writer *writer, const TraceStep *step, uint32_t distance)
{
    StackSpan span = writer->spans[step->stack];
    size_t first = (size_t)(distance - 1) * step->tokens * span.top_k;
    size_t ids = step->tokens * layers_ahead(writer->layers, span, distance).top_k;
    const void *experts;
    TRY(store_ids(writer, step->predicted + first, ids, &experts));
    TRY(store_weights(writer, step->predicted_weights + first, ids));
    NewRow row = new_row(writer, SQL_PREDICTION);
    put_integer(&row, step->step);
    put_integer(&row, distance);
    put_blob(&row, experts, ids * writer->id_bytes);
    put_blob(&row, writer->weights, 2 * ids);
    return put_done_crc(&row);
}

static Status put_predictions(Writer *writer, const TraceStep *step)
{
    for (uint32_t d = 1; d <= step->n_distances && d < writer->spans[step->stack].count; d++) {
        TRY(put_prediction_row(writer, step, d));
        writer->digest.prediction_rows++;
    }
    return OK;
}

Status writer_put_step(Writer *writer, const StepRows *rows)
{
    TRY(begin(writer));
    TRY(put_step_row(writer, &rows->step));
    TRY(put_routing_row(writer, &rows->step));
    writer->digest.steps++;
    if (rows->n_residency > 0) {
        TRY(put_records(writer, SQL_RESIDENCY, rows->step.step, rows->residency,
                        rows->n_residency * sizeof *rows->residency));
        writer->digest.residency_rows++;
    }
    if (rows->n_timing > 0) {
        TRY(put_records(writer, SQL_TIMING, rows->step.step, rows->timing,
                        rows->n_timing * sizeof *rows->timing));
        writer->digest.timing_rows++;
    }
    return put_predictions(writer, &rows->step);
}

/* Takes the row that will be replaced out of the digest. */
static Status forget_request(Writer *writer, uint32_t request)
{
    sqlite3_stmt *statement = writer->sql[SQL_REQUEST_OLD];
    SQL_TRY(&writer->store, sqlite3_bind_int64(statement, 1, request));
    Status status = store_step(&writer->store, statement);
    if (status == OK) {
        Row row = {.store = &writer->store,
                   .statement = statement,
                   .subject = "request",
                   .number = request};
        uint32_t crc = 0;
        status = row_crc(&row, 5, &crc);
        if (status == OK) {
            writer->digest.requests -= crc;
            writer->digest.request_rows--;
        }
    }
    sqlite3_reset(statement);
    return status == STATUS_END ? OK : status;
}

Status writer_put_request(Writer *writer, const TraceRequest *request)
{
    TRY(begin(writer));
    TRY(forget_request(writer, request->request));
    NewRow row = new_row(writer, SQL_REQUEST);
    put_integer(&row, request->request);
    put_text(&row, request->label);
    put_integer(&row, request->arrival_ns);
    put_integer(&row, request->prompt_tokens);
    put_integer(&row, request->output_tokens);
    TRY(put_done(&row));
    writer->digest.requests += row.crc;
    writer->digest.request_rows++;
    return OK;
}

uint64_t writer_open_steps(const Writer *writer)
{
    return writer->digest.steps - writer->committed_steps;
}

bool writer_in_transaction(const Writer *writer)
{
    return writer->in_transaction;
}

uint64_t writer_committed_steps(const Writer *writer)
{
    return writer->committed_steps;
}

static Status put_notes(Writer *writer)
{
    size_t length = digest_print(&writer->digest, &writer->notes);
    sqlite3_stmt *statement = writer->sql[SQL_NOTES];
    SQL_TRY(&writer->store, sqlite3_bind_text64(statement, 1, writer->notes.text, length,
                                                SQLITE_STATIC, SQLITE_UTF8));
    return store_run(&writer->store, statement);
}

Status writer_commit(Writer *writer)
{
    if (!writer->in_transaction)
        return OK;
    TRY(put_notes(writer));
    TRY(store_run(&writer->store, writer->sql[SQL_COMMIT]));
    writer->in_transaction = false;
    writer->committed_steps = writer->digest.steps;
    return OK;
}

static Status create_schema(const Store *store)
{
    const char *rest = strstr(SCHEMA, NOTES_COLUMN) + strlen(NOTES_COLUMN);
    char *sql = sqlite3_mprintf("%.*s " DIGEST_MARK "%s", (int)(rest - SCHEMA), SCHEMA, rest);
    if (sql == NULL)
        return fail_memory("schema", sizeof SCHEMA);
    Status status = store_execute(store, sql);
    sqlite3_free(sql);
    return status;
}

static const char *text_or_empty(const char *text)
{
    return text != NULL ? text : "";
}

static Status put_run(Writer *writer, const TraceRun *run)
{
    char now[21];
    sqlite3_stmt *statement;
    clock_wall_text(now);
    TRY(store_prepare(&writer->store,
                      "INSERT INTO run(id, created, tool, source, model, model_config, device, "
                      "plan) VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
                      &statement));
    NewRow row = {.writer = writer, .statement = statement};
    put_integer(&row, 1);
    put_text(&row, run->created != NULL ? run->created : now);
    put_text(&row, text_or_empty(run->tool));
    put_text(&row, text_or_empty(run->source));
    put_text(&row, text_or_empty(run->model));
    put_text(&row, run->model_config);
    put_text(&row, run->device);
    put_text(&row, run->plan);
    Status status = put_done(&row);
    sqlite3_finalize(statement);
    writer->digest.run = row.crc;
    return status;
}

static Status put_layers(Writer *writer, const TraceLayer *layers, uint32_t n_layers)
{
    sqlite3_stmt *statement;
    TRY(store_prepare(&writer->store,
                      "INSERT INTO layer(layer, name, stack, experts, top_k, shared_experts, "
                      "d_model, d_ff, expert_bytes, gate) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                      &statement));
    Status status = OK;
    uint32_t crc = 0;
    for (uint32_t i = 0; i < n_layers && status == OK; i++) {
        const TraceLayer *layer = &layers[i];
        NewRow row = {.writer = writer, .statement = statement, .crc = crc};
        put_integer(&row, layer->layer);
        put_text(&row, layer->name);
        put_text(&row, stack_name(layer->stack));
        put_integer(&row, layer->experts);
        put_integer(&row, layer->top_k);
        put_integer(&row, layer->shared_experts);
        put_integer(&row, layer->d_model);
        put_integer(&row, layer->d_ff);
        put_integer(&row, layer->expert_bytes);
        put_text(&row, layer->gate[0] != '\0' ? layer->gate : NULL);
        status = put_done(&row);
        crc = row.crc;
    }
    sqlite3_finalize(statement);
    writer->digest.layers = crc;
    return status;
}

static Status put_head(Writer *writer, const TraceRun *run, const TraceLayer *layers,
                       uint32_t n_layers)
{
    TRY(store_execute(&writer->store, "BEGIN IMMEDIATE"));
    TRY(create_schema(&writer->store));
    for (int i = 0; i < SQL_COUNT; i++)
        TRY(store_prepare(&writer->store, SQL_TEXTS[i], &writer->sql[i]));
    writer->in_transaction = true;
    TRY(put_run(writer, run));
    TRY(put_layers(writer, layers, n_layers));
    return writer_commit(writer);
}

/* Ends statements and transaction, so that the file can be closed. */
static void release(Writer *writer)
{
    for (int i = 0; i < SQL_COUNT; i++)
        sqlite3_finalize(writer->sql[i]);
    memset(writer->sql, 0, sizeof writer->sql);
    if (writer->store.db != NULL && !sqlite3_get_autocommit(writer->store.db))
        sqlite3_exec(writer->store.db, "ROLLBACK", NULL, NULL, NULL);
    mem_free(writer->notes.text);
    mem_free(writer->ids);
    mem_free(writer->weights);
    mem_free(writer->layers);
}

Status writer_open(const char *path, const TraceRun *run, const TraceLayer *layers,
                   uint32_t n_layers, Durability durability, uint32_t page_bytes, Writer **out)
{
    Writer *writer;
    TRY(mem_new(&writer, 1, sizeof *writer, "trace writer"));
    writer->spans[STACK_DECODER] = layers_span(layers, n_layers, STACK_DECODER);
    writer->spans[STACK_ENCODER] = layers_span(layers, n_layers, STACK_ENCODER);
    writer->id_bytes = layers_id_bytes(layers, n_layers);
    Status status = digest_notes_new(run->notes, &writer->notes);
    if (status == OK)
        status = mem_new(&writer->layers, n_layers, sizeof *layers, "trace writer");
    if (status == OK)
        memcpy(writer->layers, layers, n_layers * sizeof *layers);
    if (status == OK)
        status = store_create(path, durability, page_bytes, &writer->store);
    if (status == OK)
        status = put_head(writer, run, layers, n_layers);
    if (status == OK) {
        *out = writer;
        return OK;
    }
    release(writer);
    if (writer->store.db != NULL)
        store_close_and_remove(&writer->store);
    mem_free(writer);
    return status;
}

/* Moves the log into the file. Somebody reading is no failure: the log then stays beside it.
 *
 * From here on SQLite keeps a rollback journal, and with synchronous = NORMAL a power cut in the
 * middle of writing one can damage the file; FULL costs three syncs once. */
static Status fold_log(const Store *store)
{
    TRY(store_execute(store, "PRAGMA synchronous = FULL"));
    int code = sqlite3_wal_checkpoint_v2(store->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_exec(store->db, "PRAGMA journal_mode = DELETE", NULL, NULL, NULL);
    return code == SQLITE_OK || (code & 0xFF) == SQLITE_BUSY ? OK : store_fail(store, code);
}

Status writer_finish(Writer *writer)
{
    Status status = writer_commit(writer);
    sqlite3_busy_timeout(writer->store.db, 100);
    if (status == OK)
        status = fold_log(&writer->store);
    sqlite3_busy_timeout(writer->store.db, 5000);
    if (status == OK) {
        writer->digest.complete = true;
        status = begin(writer);
    }
    if (status == OK)
        status = writer_commit(writer);
    if (status != OK) {
        writer_abandon(writer);
        return status;
    }
    release(writer);
    store_close(&writer->store);
    mem_free(writer);
    return OK;
}

void writer_abandon(Writer *writer)
{
    release(writer);
    if (writer->committed_steps == 0) {
        store_close_and_remove(&writer->store);
    } else {
        if (sqlite3_exec(writer->store.db,
                         "PRAGMA synchronous = FULL; PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL,
                         NULL) == SQLITE_OK)
            sqlite3_exec(writer->store.db, "PRAGMA journal_mode = DELETE", NULL, NULL, NULL);
        store_close(&writer->store);
    }
    mem_free(writer);
}
