/* The tables of the SQLite extension have every record of a trace. */
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
        cmocka_unit_test(the_documented_queries_run_and_find_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
