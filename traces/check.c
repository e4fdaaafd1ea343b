#include <string.h>

#include "base/memory.h"
#include "traces/reader_state.h"

enum { PROGRESS_STEPS = 64 };

typedef struct {
    void (*call)(void *argument, uint64_t done, uint64_t total);
    void *argument;
} CheckProgress;

/* SQLite's own check: the first line of what it reports, which is also of pages that found no
 * memory. */
static Status check_integrity(const Store *store)
{
    sqlite3_stmt *statement;
    uint64_t failures = mem_failures();
    TRY(store_prepare(store, "PRAGMA integrity_check(1)", &statement));
    Status status = store_step(store, statement);
    if (status == OK) {
        const char *line = (const char *)sqlite3_column_text(statement, 0);
        if (line == NULL || (strcmp(line, "ok") != 0 && mem_failures() != failures))
            status = fail(ERR_MEMORY, "%s: out of memory in SQLite", store->path);
        else if (strcmp(line, "ok") != 0)
            status = fail(ERR_CORRUPT, "%s: integrity_check: %.*s", store->path,
                          (int)strcspn(line, "\n"), line);
    } else if (status == STATUS_END) {
        status = fail(ERR_CORRUPT, "%s: integrity_check: no answer", store->path);
    }
    sqlite3_finalize(statement);
    return status;
}

static Status check_count(const TraceReader *reader, const char *table, uint64_t found,
                          uint64_t expected)
{
    if (!reader->head.digest.present || found == expected)
        return OK;
    return fail(ERR_CORRUPT, "%s: %s: %llu rows, the digest says %llu", reader->store.path, table,
                (unsigned long long)found, (unsigned long long)expected);
}

static Status check_steps(TraceReader *reader, const CheckProgress *progress, TraceCheck *found)
{
    TraceStep step;
    for (;;) {
        Status status = trace_reader_next_step(reader, &step);
        if (status == STATUS_END)
            return OK;
        TRY(status);
        found->tokens += step.tokens;
        if (++found->steps % PROGRESS_STEPS == 0 && progress->call != NULL)
            progress->call(progress->argument, found->steps, reader->steps);
    }
}

static Status check_requests(TraceReader *reader, TraceCheck *found)
{
    const Digest *digest = &reader->head.digest;
    uint32_t sum = 0;
    Row row = {.store = &reader->store, .statement = reader->request_rows, .subject = "request"};
    for (;;) {
        TraceRequest request;
        Status status = trace_reader_next_request(reader, &request);
        if (status == STATUS_END)
            break;
        TRY(status);
        uint32_t crc = 0;
        row.number = request.request;
        TRY(row_crc(&row, 5, &crc));
        sum += crc;
        found->requests++;
    }
    TRY(check_count(reader, "request", found->requests, digest->request_rows));
    if (digest->present && sum != digest->requests)
        return fail(ERR_CORRUPT, "%s: request: the rows do not match their digest",
                    reader->store.path);
    return OK;
}

/* One of the tables residency and timing. */
typedef struct {
    const char *name;
    const char *rows;
    const char *orphan; /* selects a step that has records but is not there */
} RecordTable;

static const RecordTable RESIDENCY = {
    .name = "residency",
    .rows = "SELECT step, rank, events, crc FROM residency ORDER BY step, rank",
    .orphan = "SELECT step FROM residency WHERE step NOT IN (SELECT step FROM step) LIMIT 1",
};
static const RecordTable TIMING = {
    .name = "timing",
    .rows = "SELECT step, rank, ops, crc FROM timing ORDER BY step, rank",
    .orphan = "SELECT step FROM timing WHERE step NOT IN (SELECT step FROM step) LIMIT 1",
};

typedef struct {
    uint64_t rows;
    uint64_t records;
} RecordCount;

static Status check_record_rows(TraceReader *reader, const RecordTable *table, Row *row,
                                RecordCount *found)
{
    for (;;) {
        Status status = store_step(row->store, row->statement);
        if (status == STATUS_END)
            return OK;
        TRY(status);
        const ResidencyRecord *events;
        const TimingRecord *ops;
        size_t count;
        TRY(table == &RESIDENCY ? reader_take_residency(reader, row, &events, &count)
                                : reader_take_timing(reader, row, &ops, &count));
        found->rows++;
        found->records += count;
    }
}

static Status check_orphans(const Store *store, const RecordTable *table)
{
    sqlite3_stmt *statement;
    TRY(store_prepare(store, table->orphan, &statement));
    Status status = store_step(store, statement);
    if (status == OK)
        status = fail(ERR_CORRUPT, "%s: step %lld: %s: there is no such step", store->path,
                      (long long)sqlite3_column_int64(statement, 0), table->name);
    sqlite3_finalize(statement);
    return status == STATUS_END ? OK : status;
}

/* The tokens and the stack of the step that ROW, of a prediction, says it is of. */
static Status find_step(TraceReader *reader, sqlite3_stmt *shape, Row *row, uint32_t *tokens,
                        Stack *stack)
{
    sqlite3_reset(shape);
    SQL_TRY(&reader->store, sqlite3_bind_int64(shape, 1, row->number));
    Status status = store_step(&reader->store, shape);
    if (status == STATUS_END)
        return row_fail(row, -1, "there is no such step");
    TRY(status);
    *tokens = (uint32_t)sqlite3_column_int64(shape, 0); /* the steps have been checked */
    *stack = sqlite3_column_int(shape, 1) ? STACK_ENCODER : STACK_DECODER;
    return OK;
}

static Status check_prediction_rows(TraceReader *reader, sqlite3_stmt *shape, Row *row,
                                    uint64_t *rows)
{
    for (;;) {
        const uint16_t *experts;
        const uint16_t *scores;
        uint32_t tokens = 0;
        Stack stack = STACK_DECODER;
        Status status = store_step(row->store, row->statement);
        if (status == STATUS_END)
            return OK;
        TRY(status);
        row->number = sqlite3_column_int64(row->statement, 0);
        TRY(find_step(reader, shape, row, &tokens, &stack));
        TRY(reader_take_prediction(reader, row, tokens, stack, &experts, &scores));
        ++*rows;
    }
}

static Status check_predictions(TraceReader *reader, uint64_t *rows)
{
    Row row = {.store = &reader->store, .subject = "step", .table = "prediction"};
    sqlite3_stmt *shape = NULL;
    *rows = 0;
    if (reader->prediction_row == NULL)
        return OK;
    Status status = store_prepare(row.store,
                                  "SELECT step, distance, experts, scores, crc FROM prediction "
                                  "ORDER BY step, distance",
                                  &row.statement);
    if (status == OK)
        status = store_prepare(row.store,
                               "SELECT tokens, phase = 'encode' FROM step WHERE step = ?", &shape);
    if (status == OK)
        status = check_prediction_rows(reader, shape, &row, rows);
    sqlite3_finalize(shape);
    sqlite3_finalize(row.statement);
    TRY(status);
    return check_count(reader, "prediction", *rows, reader->head.digest.prediction_rows);
}

static Status check_records(TraceReader *reader, const RecordTable *table, uint64_t expected,
                            RecordCount *found)
{
    *found = (RecordCount){0};

    Row row = {.store = &reader->store, .subject = "step", .table = table->name};
    TRY(store_prepare(row.store, table->rows, &row.statement));
    Status status = check_record_rows(reader, table, &row, found);
    sqlite3_finalize(row.statement);
    TRY(status);
    TRY(check_orphans(row.store, table));
    return check_count(reader, table->name, found->rows, expected);
}

Status trace_reader_count_records(TraceReader *reader, uint64_t *residency, uint64_t *timing)
{
    const Digest *digest = &reader->head.digest;
    uint64_t predictions;
    RecordCount events;
    RecordCount ops;
    TRY(check_records(reader, &RESIDENCY, digest->residency_rows, &events));
    TRY(check_records(reader, &TIMING, digest->timing_rows, &ops));
    *residency = events.records;
    *timing = ops.records;
    return check_predictions(reader, &predictions);
}

/* The checksums of ids alone, each of a step that is there. */
static Status check_experts_crc(const Store *store)
{
    bool there;
    Row row = {.store = store, .subject = "step", .table = "experts_crc"};
    TRY(store_has_table(store, row.table, &there));
    if (!there)
        return OK;
    TRY(store_prepare(store,
                      "SELECT c.step, r.experts, c.crc FROM experts_crc c LEFT JOIN routing r "
                      "ON r.step = c.step ORDER BY c.step",
                      &row.statement));
    Status status;
    while ((status = store_step(store, row.statement)) == OK) {
        row.number = sqlite3_column_int64(row.statement, 0);
        if (sqlite3_column_type(row.statement, 1) != SQLITE_BLOB)
            status = row_fail(&row, -1, "there is no such step");
        else
            status = row_check_crc(&row, 2);
        if (status != OK)
            break;
    }
    sqlite3_finalize(row.statement);
    return status == STATUS_END ? OK : status;
}

static Status check_all(TraceReader *reader, const CheckProgress *progress, TraceCheck *found)
{
    TRY(check_steps(reader, progress, found));
    TRY(check_experts_crc(&reader->store));
    TRY(check_requests(reader, found));
    RecordCount events;
    RecordCount ops;
    TRY(check_records(reader, &RESIDENCY, reader->head.digest.residency_rows, &events));
    TRY(check_records(reader, &TIMING, reader->head.digest.timing_rows, &ops));
    TRY(check_predictions(reader, &found->prediction_rows));
    found->residency_rows = events.rows;
    found->timing_rows = ops.rows;
    if (progress->call != NULL)
        progress->call(progress->argument, found->steps, reader->steps);
    return OK;
}

Status trace_check(const char *path, TraceCheck *found,
                   void (*progress)(void *argument, uint64_t done, uint64_t total), void *argument)
{
    Store store;
    TraceReader *reader;
    TraceCheck result = {0};
    CheckProgress report = {.call = progress, .argument = argument};
    TRY(store_open(path, &store));
    Status status = head_check_schema(&store);
    if (status == OK)
        status = check_integrity(&store);
    store_close(&store);
    TRY(status);
    TRY(trace_reader_open(path, &reader));
    status = check_all(reader, &report, &result);
    trace_reader_close(reader);
    if (status == OK)
        *found = result;
    return status;
}
