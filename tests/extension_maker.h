/* A recorded trace in a connection that has the extension. */
#ifndef TESTS_EXTENSION_MAKER_H
#define TESTS_EXTENSION_MAKER_H

#include "base/status.h"
#include "tests/support.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/random_trace.h"

enum { STEPS = 25 };

/* Beside the folder of this program. */
static inline const char *extension_path(void)
{
    static char path[512];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
    assert_true(length > 0);
    path[length] = '\0';
    *strrchr(path, '/') = '\0';
    strcpy(strrchr(path, '/'), "/moebius_sqlite.so");
    return path;
}

static inline sqlite3 *open_database(const char *path)
{
    sqlite3 *db;
    char *message = NULL;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL),
                     SQLITE_OK);
    if (sqlite3_load_extension(db, extension_path(), NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", extension_path(), message);
    return db;
}

static inline sqlite3_stmt *query(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    return statement;
}

/* SMALL numbers in the records can be summed up. */
static inline void record_some(const char *path, const RandomTrace *trace, bool small)
{
    const TraceRun run = {.tool = "test"};
    const RecorderOptions options = {.durability = DURABLE_NOT};
    Recorder *recorder;
    unlink(path);
    assert_ok(recorder_open(path, &run, trace->layers, trace->n_layers, &options, &recorder));
    for (uint32_t i = 0; i < RANDOM_TOKENS; i++)
        assert_ok(recorder_request(recorder, &(TraceRequest){.request = i, .label = "some"}));
    for (uint32_t i = 0; i < STEPS; i++) {
        RandomStep made;
        random_step(trace, i, &made);
        for (uint32_t j = 0; j < made.step.tokens; j++)
            made.request[j] %= RANDOM_TOKENS;
        for (size_t j = 0; j < made.n_timing; j++)
            made.timing[j].layer = trace->layers[0].layer;
        for (size_t j = 0; j < made.n_residency && small; j++)
            made.residency[j].bytes >>= 32;
        assert_ok(recorder_step(recorder, &made.step, made.residency, made.n_residency, made.timing,
                                made.n_timing));
    }
    assert_ok(recorder_close(recorder));
}

static inline void record(const char *path, const RandomTrace *trace)
{
    record_some(path, trace, false);
}

#endif
