#include "base/status.h"
#include "tests/support.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/files.h"
#include "base/memory.h"
#include "tests/random_trace.h"

enum { STEPS = 25 };

/* Beside the folder of this program. */
static const char *extension_path(void)
{
    static char path[512];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
    assert_true(length > 0);
    path[length] = '\0';
    *strrchr(path, '/') = '\0';
    strcpy(strrchr(path, '/'), "/moebius_sqlite.so");
    return path;
}

static sqlite3 *open_database(const char *path)
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

static sqlite3_stmt *query(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    return statement;
}

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

/* SMALL numbers in the records can be summed up. */
static void record_some(const char *path, const RandomTrace *trace, bool small)
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

static void record(const char *path, const RandomTrace *trace)
{
    record_some(path, trace, false);
}

static void assert_route_row(sqlite3_stmt *rows, const TraceStep *step, uint32_t layer,
                             uint32_t token, uint32_t slot, size_t id)
{
    bool dropped = step->experts[id] == EXPERT_DROPPED;
    assert_int_equal(sqlite3_step(rows), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int64(rows, 0), step->step);
    assert_int_equal(sqlite3_column_int64(rows, 1), layer);
    assert_int_equal(sqlite3_column_int64(rows, 2), token);
    assert_int_equal(sqlite3_column_int64(rows, 3), slot);
    assert_int_equal(sqlite3_column_type(rows, 4), dropped ? SQLITE_NULL : SQLITE_INTEGER);
    if (!dropped)
        assert_int_equal(sqlite3_column_int64(rows, 4), step->experts[id]);
    bool weight = step->weights != NULL && !dropped;
    assert_int_equal(sqlite3_column_type(rows, 5), weight ? SQLITE_FLOAT : SQLITE_NULL);
    if (weight)
        assert_true(sqlite3_column_double(rows, 5) == (double)step->weights[id]);
    assert_int_equal(sqlite3_column_int64(rows, 6), step->request[token]);
    assert_int_equal(sqlite3_column_int64(rows, 7), step->position[token]);
}

/* All rows of moe_route that CONDITION leaves, against the reader. WANTED tells which do. */
static void assert_routes(sqlite3 *db, const char *path, const char *condition,
                          bool (*wanted)(uint32_t step, uint32_t layer))
{
    char sql[256];
    snprintf(sql, sizeof sql,
             "SELECT step, layer, token, slot, expert, weight, request, position FROM moe_route %s",
             condition);
    sqlite3_stmt *rows = query(db, sql);
    TraceReader *reader;
    TraceStep step;
    uint32_t n_layers;
    assert_ok(trace_reader_open(path, &reader));
    const TraceLayer *layers = trace_reader_layers(reader, &n_layers);
    while (trace_reader_next_step(reader, &step) == OK) {
        StackSpan span = layers_span(layers, n_layers, step.stack);
        size_t id = 0;
        for (uint32_t i = span.first; i < span.first + span.count; i++)
            for (uint32_t token = 0; token < step.tokens; token++)
                for (uint32_t slot = 0; slot < layers[i].top_k; slot++, id++)
                    if (wanted == NULL || wanted(step.step, layers[i].layer))
                        assert_route_row(rows, &step, layers[i].layer, token, slot, id);
    }
    assert_int_equal(sqlite3_step(rows), SQLITE_DONE);
    sqlite3_finalize(rows);
    trace_reader_close(reader);
}

static void moe_route_gives_every_choice_in_order(void **unused)
{
    (void)unused;
    const char *path = scratch_path("route.db");
    for (uint64_t seed = 0; seed < 30; seed++) {
        RandomTrace trace = random_trace(seed);
        record(path, &trace);
        sqlite3 *db = open_database(path);
        assert_routes(db, path, "", NULL);
        sqlite3_close(db);
    }
}

static bool in_steps(uint32_t step, uint32_t layer)
{
    (void)layer;
    return step > 7 && step <= 20;
}

static bool in_both(uint32_t step, uint32_t layer)
{
    return step >= 11 && step < 40 && layer == 3;
}

static bool in_none(uint32_t step, uint32_t layer)
{
    (void)step;
    (void)layer;
    return false;
}

static bool in_layers(uint32_t step, uint32_t layer)
{
    (void)step;
    return layer >= 2 && layer <= 4;
}

static void constraints_leave_exactly_the_rows_that_meet_them(void **unused)
{
    (void)unused;
    static const struct {
        const char *condition;
        bool (*wanted)(uint32_t step, uint32_t layer);
    } CASES[] = {
        {"WHERE step > 7 AND step <= 20", in_steps},
        {"WHERE step BETWEEN 8 AND 20", in_steps},
        {"WHERE step > 7.5 AND step < '20.5'", in_steps},
        {"WHERE step >= 11 AND step < 40 AND layer = 3", in_both},
        {"WHERE layer = 3 AND step + 0 >= 11 AND +step < 40", in_both},
        {"WHERE layer BETWEEN 2 AND 4", in_layers},
        {"WHERE layer > 1 AND layer < 5 ORDER BY step, layer", in_layers},
        {"WHERE step = 1 AND step = 2", in_none},
        {"WHERE step < 0", in_none},
        {"WHERE step > 9223372036854775807", in_none},
        {"WHERE layer = NULL", in_none},
        {"WHERE layer = -9223372036854775808", in_none},
    };
    const char *path = scratch_path("constraints.db");
    for (uint64_t seed = 0; seed < 10; seed++) {
        RandomTrace trace = random_trace(seed);
        record(path, &trace);
        sqlite3 *db = open_database(path);
        for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
            assert_routes(db, path, CASES[i].condition, CASES[i].wanted);
        sqlite3_close(db);
    }
}

static void expert_load_counts_the_assignments_of_each_event(void **unused)
{
    (void)unused;
    const char *path = scratch_path("load.db");
    for (uint64_t seed = 0; seed < 20; seed++) {
        RandomTrace trace = random_trace(seed);
        record(path, &trace);
        sqlite3 *db = open_database(path);
        sqlite3_stmt *rows = query(db, "SELECT step, layer, expert, tokens FROM expert_load");
        TraceReader *reader;
        TraceEvent event;
        uint32_t n_layers;
        assert_ok(trace_reader_open(path, &reader));
        const TraceLayer *layers = trace_reader_layers(reader, &n_layers);
        while (trace_reader_next_event(reader, &event) == OK)
            for (uint32_t i = 0; i < event.n_active; i++) {
                assert_int_equal(sqlite3_step(rows), SQLITE_ROW);
                assert_int_equal(sqlite3_column_int64(rows, 0), event.step);
                assert_int_equal(sqlite3_column_int64(rows, 1), layers[event.layer_index].layer);
                assert_int_equal(sqlite3_column_int64(rows, 2), event.active[i]);
                assert_int_equal(sqlite3_column_int64(rows, 3), event.active_tokens[i]);
            }
        assert_int_equal(sqlite3_step(rows), SQLITE_DONE);
        sqlite3_finalize(rows);
        trace_reader_close(reader);
        sqlite3_close(db);
    }
}

static void residency_and_timing_give_every_record(void **unused)
{
    (void)unused;
    const char *path = scratch_path("records.db");
    for (uint64_t seed = 0; seed < 10; seed++) {
        RandomTrace trace = random_trace(seed);
        record(path, &trace);
        sqlite3 *db = open_database(path);
        sqlite3_stmt *residency = query(db, "SELECT * FROM moe_residency");
        sqlite3_stmt *timing = query(db, "SELECT * FROM moe_timing");
        for (uint32_t i = 0; i < STEPS; i++) {
            RandomStep made;
            random_step(&trace, i, &made);
            for (size_t j = 0; j < made.n_residency; j++) {
                const ResidencyRecord *record = &made.residency[j];
                assert_int_equal(sqlite3_step(residency), SQLITE_ROW);
                assert_int_equal(sqlite3_column_int64(residency, 0), made.step.step);
                assert_int_equal(sqlite3_column_int64(residency, 1), 0);
                assert_int_equal(sqlite3_column_int64(residency, 2), record->layer);
                assert_int_equal(sqlite3_column_int64(residency, 3), record->expert);
                assert_string_equal(sqlite3_column_text(residency, 4),
                                    residency_kind_name(record->kind));
                assert_int_equal(sqlite3_column_int64(residency, 5), record->slot);
                assert_true(sqlite3_column_int64(residency, 6) == (int64_t)record->bytes);
                assert_true(sqlite3_column_int64(residency, 7) == (int64_t)record->start_ns);
            }
            for (size_t j = 0; j < made.n_timing; j++) {
                assert_int_equal(sqlite3_step(timing), SQLITE_ROW);
                assert_int_equal(sqlite3_column_int64(timing, 3), made.timing[j].op);
                assert_true(sqlite3_column_int64(timing, 4) == (int64_t)made.timing[j].start_ns);
            }
        }
        assert_int_equal(sqlite3_step(residency), SQLITE_DONE);
        assert_int_equal(sqlite3_step(timing), SQLITE_DONE);
        sqlite3_finalize(residency);
        sqlite3_finalize(timing);
        sqlite3_close(db);
    }
}

static void moe_prediction_gives_every_predicted_choice_in_order(void **unused)
{
    (void)unused;
    const char *path = scratch_path("predictions.db");
    static const char *const CONDITIONS[] = {"", "WHERE step > 7 AND step <= 20",
                                             "WHERE layer BETWEEN 2 AND 4"};
    bool (*const wanted[])(uint32_t, uint32_t) = {NULL, in_steps, in_layers};
    int64_t seen = 0;
    for (uint64_t seed = 0; seed < 30; seed++) {
        RandomTrace trace = random_trace(seed);
        char sql[128];
        trace.distances = RANDOM_DISTANCES;
        record(path, &trace);
        sqlite3 *db = open_database(path);
        snprintf(sql, sizeof sql, "SELECT * FROM moe_prediction %s", CONDITIONS[seed % 3]);
        sqlite3_stmt *rows = query(db, sql);
        for (uint32_t s = 0; s < STEPS; s++) {
            static RandomStep made;
            random_step(&trace, s, &made);
            const TraceStep *step = &made.step;
            StackSpan span = layers_span(trace.layers, trace.n_layers, step->stack);
            for (uint32_t d = 1; d <= RANDOM_DISTANCES; d++) {
                size_t at = (d - 1) * step->tokens * span.top_k;
                for (uint32_t i = span.first + d; i < span.first + span.count; i++)
                    for (uint32_t n = 0; n < step->tokens * trace.layers[i].top_k; n++, at++) {
                        uint32_t layer = trace.layers[i].layer;
                        if (wanted[seed % 3] != NULL && !wanted[seed % 3](step->step, layer))
                            continue;
                        const int64_t must[] = {step->step,
                                                d,
                                                layer,
                                                n / trace.layers[i].top_k,
                                                n % trace.layers[i].top_k,
                                                step->predicted[at]};
                        double score = f32_from_f16(f16_from_f32(step->predicted_weights[at]));
                        assert_int_equal(sqlite3_step(rows), SQLITE_ROW);
                        for (int c = 0; c < 6; c++)
                            assert_int_equal(sqlite3_column_int64(rows, c), must[c]);
                        assert_true(isnan(score) || sqlite3_column_double(rows, 6) == score);
                        seen++;
                    }
            }
        }
        assert_int_equal(sqlite3_step(rows), SQLITE_DONE);
        sqlite3_finalize(rows);
        sqlite3_close(db);
    }
    assert_true(seen > 10000);
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

/* Every ```sql block of analysis/queries.md runs and finds something. */
static void the_documented_queries_run_and_find_rows(void **unused)
{
    (void)unused;
    static const char BEGIN[] = "```sql\n";
    char *page;
    size_t bytes;
    int ran = 0;
    const char *path = scratch_path("queries.db");
    RandomTrace trace = random_trace(3);
    trace.weights = true;
    trace.n_layers = 3;
    for (uint32_t i = 0; i < 3; i++)
        trace.layers[i] = (TraceLayer){.layer = 2 * i, .experts = 12, .top_k = 3};
    record_some(path, &trace, true);
    sqlite3 *db = open_database(path);
    assert_ok(file_read_all("analysis/queries.md", 1 << 20, &page, &bytes));
    for (char *at = page; (at = strstr(at, BEGIN)) != NULL; ran++) {
        at += strlen(BEGIN);
        char *end = strstr(at, "```");
        assert_non_null(end);
        *end = '\0';
        sqlite3_stmt *rows = query(db, at);
        int code = sqlite3_step(rows);
        if (code != SQLITE_ROW)
            fail_msg("no row (%s): %s", sqlite3_errmsg(db), at);
        while (code == SQLITE_ROW)
            code = sqlite3_step(rows);
        assert_int_equal(code, SQLITE_DONE);
        sqlite3_finalize(rows);
        at = end + 1;
    }
    assert_true(ran >= 15);
    mem_free(page);
    sqlite3_close(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moe_route_gives_every_choice_in_order),
        cmocka_unit_test(constraints_leave_exactly_the_rows_that_meet_them),
        cmocka_unit_test(expert_load_counts_the_assignments_of_each_event),
        cmocka_unit_test(residency_and_timing_give_every_record),
        cmocka_unit_test(moe_prediction_gives_every_predicted_choice_in_order),
        cmocka_unit_test(an_attached_trace_is_read_by_its_schema),
        cmocka_unit_test(a_database_that_is_no_trace_is_an_error),
        cmocka_unit_test(damage_is_an_error_that_names_the_step),
        cmocka_unit_test(flipped_bytes_never_crash),
        cmocka_unit_test(the_documented_queries_run_and_find_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
