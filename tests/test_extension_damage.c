/* The SQLite extension on other databases and damaged traces. */
#include "base/status.h"
#include "tests/support.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "tests/random_trace.h"
#include "tests/extension_maker.h"

static int64_t number(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement = query(db, sql);
    if (sqlite3_step(statement) != SQLITE_ROW)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    int64_t value = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return value;
}

/* Runs SQL to its end or its first error. */
static int run_sql(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement;
    int code = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
    if (code == SQLITE_OK)
        do {
            code = sqlite3_step(statement);
        } while (code == SQLITE_ROW);
    sqlite3_finalize(statement);
    return code;
}

static void an_attached_trace_is_read_by_its_schema(void **unused)
{
    (void)unused;
    char first[256];
    char second[256];
    char sql[600];
    snprintf(first, sizeof first, "%s", scratch_path("first.db"));
    snprintf(second, sizeof second, "%s", scratch_path("second.db"));
    RandomTrace one = random_trace(1);
    RandomTrace two = random_trace(2);
    record(first, &one);
    record(second, &two);
    sqlite3 *db = open_database(second);
    int64_t alone = number(db, "SELECT count(*) FROM moe_route");
    sqlite3_close(db);
    db = open_database(first);
    snprintf(sql, sizeof sql, "ATTACH '%s' AS \"the \"\" other\"", second);
    assert_int_equal(run_sql(db, sql), SQLITE_DONE);
    assert_int_equal(number(db, "SELECT count(*) FROM moe_route('the \" other')"), alone);
    assert_int_equal(number(db, "SELECT count(*) FROM moe_route WHERE schema = 'the \" other'"),
                     alone);
    assert_int_equal(run_sql(db, "SELECT count(*) FROM moe_route('nowhere')"), SQLITE_ERROR);
    sqlite3_close(db);
}

static void a_database_that_is_no_trace_is_an_error(void **unused)
{
    (void)unused;
    const char *path = scratch_path("other.db");
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "CREATE TABLE x(y)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    db = open_database(path);
    assert_int_equal(run_sql(db, "SELECT * FROM moe_route"), SQLITE_ERROR);
    assert_non_null(strstr(sqlite3_errmsg(db), "moe_route: no such table"));
    sqlite3_close(db);
}

/* Changes that keep the file a good database and the trace a bad one. */
static void damage_is_an_error_that_names_the_step(void **unused)
{
    (void)unused;
    static const struct {
        const char *change;
        const char *sql;
        const char *wanted;
    } CASES[] = {
        {"UPDATE routing SET experts = x'00' WHERE step = 1", "SELECT * FROM moe_route",
         "moe_route: step 1: routing: crc does not match"},
        {"UPDATE routing SET experts = 7 WHERE step = 1", "SELECT * FROM moe_route", "step 1"},
        {"UPDATE routing SET experts = NULL, crc = 5 WHERE step = 1", "SELECT * FROM expert_load",
         "NOT NULL"},
        {"DELETE FROM routing WHERE step = 1", "SELECT * FROM moe_route",
         "step 1: routing: missing"},
        {"UPDATE step SET tokens = 16777216 WHERE step = 1", "SELECT * FROM moe_route",
         "step 1: step: crc does not match"},
        {"UPDATE step SET crc = 'x' WHERE step = 1", "SELECT * FROM moe_route", "step 1: crc"},
        {"UPDATE step SET request = x'0000' WHERE step = 1", "SELECT * FROM moe_route",
         "step 1: step: crc"},
        {"UPDATE layer SET experts = 0", "SELECT * FROM moe_route", "out of range"},
        {"UPDATE layer SET top_k = top_k + 1", "SELECT * FROM moe_route", "does not fit the step"},
        {"DELETE FROM layer", "SELECT * FROM expert_load", "the trace has none"},
        {"UPDATE residency SET events = zeroblob(39)", "SELECT * FROM moe_residency",
         "residency: crc does not match"},
        {"UPDATE timing SET ops = 'text'", "SELECT * FROM moe_timing", "timing: crc"},
        {"UPDATE prediction SET scores = experts", "SELECT * FROM moe_prediction",
         "prediction: crc does not match"},
        {"UPDATE step SET tokens = tokens + 1", "SELECT * FROM moe_prediction", "experts"},
        {"DELETE FROM step", "SELECT * FROM moe_prediction", "tokens"},
        {"DELETE FROM layer WHERE layer > (SELECT min(layer) FROM layer)",
         "SELECT * FROM moe_prediction", "distance: 1 is too far"},
    };
    char path[256];
    snprintf(path, sizeof path, "%s", scratch_path("damaged.db"));
    RandomTrace trace = random_trace(4); /* steps are 1, 3, 5 ... */
    trace.distances = 2;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        record(path, &trace);
        sqlite3 *db = open_database(path);
        assert_int_equal(sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 0, NULL), SQLITE_OK);
        int changed = run_sql(db, CASES[i].change);
        if (changed == SQLITE_DONE)
            assert_int_equal(run_sql(db, CASES[i].sql), SQLITE_CORRUPT);
        if (strstr(sqlite3_errmsg(db), CASES[i].wanted) == NULL)
            fail_msg("%s: wanted \"%s\", got \"%s\"", CASES[i].change, CASES[i].wanted,
                     sqlite3_errmsg(db));
        sqlite3_close(db);
    }
}

/* Any bytes changed: rows or an error, never a crash. */
static void flipped_bytes_never_crash(void **unused)
{
    (void)unused;
    char path[256];
    char *good;
    size_t bytes;
    uint64_t state = 11;
    snprintf(path, sizeof path, "%s", scratch_path("flipped.db"));
    RandomTrace trace = random_trace(7);
    trace.distances = 2;
    record(path, &trace);
    assert_ok(file_read_all(path, 1 << 26, &good, &bytes));
    for (int round = 0; round < 300; round++) {
        FILE *stream = fopen(path, "wb");
        assert_non_null(stream);
        assert_int_equal(fwrite(good, 1, bytes, stream), bytes);
        for (int i = 0; i < 3; i++) {
            fseek(stream, (long)(random_next(&state) % bytes), SEEK_SET);
            fputc((int)random_below(&state, 256), stream);
        }
        fclose(stream);
        sqlite3 *db;
        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
        if (sqlite3_load_extension(db, extension_path(), NULL, NULL) == SQLITE_OK) {
            run_sql(db, "SELECT * FROM moe_route");
            run_sql(db, "SELECT * FROM expert_load WHERE layer > 1");
            run_sql(db, "SELECT * FROM moe_residency");
            run_sql(db, "SELECT * FROM moe_timing WHERE step < 9");
            run_sql(db, "SELECT * FROM moe_prediction");
        }
        sqlite3_close(db);
    }
    mem_free(good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_attached_trace_is_read_by_its_schema),
        cmocka_unit_test(a_database_that_is_no_trace_is_an_error),
        cmocka_unit_test(damage_is_an_error_that_names_the_step),
        cmocka_unit_test(flipped_bytes_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
