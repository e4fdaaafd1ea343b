/* Files of random traces, and reading all that one has. */
#ifndef TESTS_TRACE_FILE_MAKER_H
#define TESTS_TRACE_FILE_MAKER_H

#include "base/status.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/random_trace.h"
#include "traces/packed.h"
#include "traces/rowcrc.h"

/* From the start. */
static inline Status read_predictions(TraceReader *reader)
{
    TraceStep step;
    Status status = trace_reader_rewind(reader);
    while (status == OK) {
        const uint16_t *experts;
        const uint16_t *scores;
        status = trace_reader_next_step(reader, &step);
        for (uint32_t d = 1; status == OK && d <= trace_reader_distances(reader); d++)
            status = trace_reader_prediction(reader, d, &experts, &scores);
    }
    return status == STATUS_END ? OK : status;
}

/* Everything a program does with a trace; the first failure. */
static inline Status read_everything(const char *path)
{
    TraceReader *reader;
    TRY(trace_reader_open(path, &reader));
    Status status = OK;
    TraceEvent event;
    TraceRequest request;
    const ResidencyRecord *residency;
    const TimingRecord *timing;
    size_t count;
    while (status == OK) {
        status = trace_reader_next_event(reader, &event);
        if (status == OK)
            status = trace_reader_residency(reader, event.step, 0, &residency, &count);
        if (status == OK)
            status = trace_reader_timing(reader, event.step, 0, &timing, &count);
    }
    if (status == STATUS_END)
        status = OK;
    if (status == OK)
        status = read_predictions(reader);
    while (status == OK)
        status = trace_reader_next_request(reader, &request);
    trace_reader_close(reader);
    return status == STATUS_END ? OK : status;
}

static inline Status check(const char *path)
{
    TraceCheck found;
    return trace_check(path, &found, NULL, NULL);
}

static inline void execute(const char *path, const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_close(db);
}

/* Gives the row of routing the checksum that its columns now have. */
static inline void mend_routing_crc(const char *path, int step)
{
    sqlite3 *db;
    sqlite3_stmt *row;
    char sql[160];
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    snprintf(sql, sizeof sql, "SELECT experts, weights, scores FROM routing WHERE step = %d", step);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    uint32_t crc = rowcrc_integer(0, step);
    for (int i = 0; i < 3; i++)
        crc = sqlite3_column_type(row, i) == SQLITE_NULL
                  ? rowcrc_null(crc)
                  : rowcrc_blob(crc, sqlite3_column_blob(row, i),
                                (size_t)sqlite3_column_bytes(row, i));
    sqlite3_finalize(row);
    sqlite3_close(db);
    snprintf(sql, sizeof sql, "UPDATE routing SET crc = %u WHERE step = %d", crc, step);
    execute(path, sql);
}

/* A small good trace under NAME: one layer of 128 experts, number 3, top-2; steps 0, 2, 4 ... */
static inline const char *make_trace(const char *name, uint32_t steps)
{
    const char *path = scratch_path(name);
    RandomTrace trace = {.seed = 6, .n_layers = 1, .max_tokens = 4, .weights = true};
    trace.layers[0] = (TraceLayer){.layer = 3, .experts = 128, .top_k = 2, .name = "l"};
    unlink(path);
    assert_ok(record_random(path, &trace, steps, NULL));
    return path;
}

/* The same with three layers, 3, 5 and 6, and predictions one and two of them ahead. */
static inline const char *make_predicted_trace(const char *name, uint32_t steps)
{
    const char *path = scratch_path(name);
    RandomTrace trace = {.seed = 6, .n_layers = 3, .max_tokens = 4, .distances = 2};
    trace.layers[0] = (TraceLayer){.layer = 3, .experts = 128, .top_k = 2, .name = "l"};
    trace.layers[1] = (TraceLayer){.layer = 5, .experts = 64, .top_k = 3, .name = "m"};
    trace.layers[2] = (TraceLayer){.layer = 6, .experts = 32, .top_k = 1, .name = "n"};
    unlink(path);
    assert_ok(record_random(path, &trace, steps, NULL));
    return path;
}

#endif
