/* What is no trace is refused; what is one reads as it was written. */
#define _XOPEN_SOURCE 700
#include "base/status.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "tests/random_trace.h"
#include "tests/trace_file_maker.h"
#include "traces/packed.h"
#include "traces/rowcrc.h"

/* STATUS and a text of the message, from the reader or, when it notices nothing, from check. */
static void assert_refused(const char *path, Status status, const char *message)
{
    Status got = read_everything(path);
    if (got == OK)
        got = check(path);
    if (got != status || strstr(error_message(), message) == NULL)
        fail_msg("status %d, wanted %d; \"%s\", wanted \"%s\"", got, status, error_message(),
                 message);
    assert_int_not_equal(check(path), OK);
    assert_true(strncmp(error_message(), path, strlen(path)) == 0);
}

static void what_is_no_trace_is_refused(void **unused)
{
    (void)unused;
    const char *path = scratch_path("none.db");
    assert_refused(path, ERR_INPUT, "none.db: cannot open: No such file");
    assert_refused(scratch_path(""), ERR_INPUT, "not a regular file");
    assert_ok(file_write_all(path, "", 0));
    assert_refused(path, ERR_NOT_A_TRACE, "not a trace");
    assert_ok(file_write_all(path, "hello, this is a text and no trace", 34));
    assert_refused(path, ERR_NOT_A_TRACE, "not a trace");
    unlink(path);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_exec(db, "CREATE TABLE step(a)", NULL, NULL, NULL);
    sqlite3_close(db);
    assert_refused(path, ERR_NOT_A_TRACE, "application_id");
    execute(path, "PRAGMA application_id = 0x4D6F4265");
    assert_refused(path, ERR_NOT_A_TRACE, "schema 0");
    execute(path, "PRAGMA user_version = 1");
    assert_refused(path, ERR_CORRUPT, "1 of the 7 tables");
}

static void a_newer_schema_is_refused(void **unused)
{
    (void)unused;
    const char *path = make_trace("newer.db", 3);
    execute(path, "PRAGMA user_version = 2");
    assert_refused(path, ERR_SCHEMA, "newer.db: schema 2, this program knows up to 1");
}

/* Gives the row of prediction the checksum that its columns now have. */
static void mend_prediction_crc(const char *path, int step, int distance)
{
    sqlite3 *db;
    sqlite3_stmt *row;
    char sql[160];
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    snprintf(sql, sizeof sql,
             "SELECT experts, scores FROM prediction WHERE step = %d AND distance = %d", step,
             distance);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    uint32_t crc = rowcrc_integer(rowcrc_integer(0, step), distance);
    for (int i = 0; i < 2; i++)
        crc = rowcrc_blob(crc, sqlite3_column_blob(row, i), (size_t)sqlite3_column_bytes(row, i));
    sqlite3_finalize(row);
    sqlite3_close(db);
    snprintf(sql, sizeof sql, "UPDATE prediction SET crc = %u WHERE step = %d AND distance = %d",
             crc, step, distance);
    execute(path, sql);
}

static void a_predicted_expert_out_of_range_is_refused_though_its_checksum_holds(void **unused)
{
    (void)unused;
    const char *path = make_predicted_trace("range.db", 10);
    execute(path, "UPDATE prediction SET experts = CAST(x'40' || substr(experts, 2) AS BLOB) "
                  "WHERE step = 4 AND distance = 1");
    mend_prediction_crc(path, 4, 1);
    assert_refused(path, ERR_CORRUPT, "step 4: prediction: experts: an expert that its");
}

static void a_trace_without_the_table_of_predictions_reads(void **unused)
{
    (void)unused;
    const char *path = make_trace("older.db", 6);
    execute(path, "DROP TABLE prediction; UPDATE run SET notes = NULL;"
                  "PRAGMA writable_schema = 1;"
                  "UPDATE sqlite_master SET sql = replace(sql, '/* with digest */', '')");
    assert_ok(check(path));
    assert_ok(read_everything(path));
}

static void an_expert_out_of_range_is_refused_though_its_checksum_holds(void **unused)
{
    (void)unused;
    const char *path = make_trace("range.db", 10);
    mend_routing_crc(path, 4);
    assert_ok(check(path));
    execute(path, "UPDATE routing SET experts = CAST(x'80' || substr(experts, 2) AS BLOB) "
                  "WHERE step = 4");
    mend_routing_crc(path, 4);
    assert_refused(path, ERR_CORRUPT, "range.db: step 4: layer 3: expert 128, the model has 128");
    PackedTrace packed; /* which looks at ids as they are stored */
    assert_int_equal(packed_trace_load(path, &packed), ERR_CORRUPT);
    assert_non_null(
        strstr(error_message(), "range.db: step 4: layer 3: expert 128, the model has 128"));
}

static void a_trace_by_others_needs_no_digest(void **unused)
{
    (void)unused;
    static const char schema[] = {
#include "schema_sql.h"
    };
    const char *path = scratch_path("others.db");
    sqlite3 *db;
    unlink(path);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, schema, NULL, NULL, NULL), SQLITE_OK);
    const char *source = make_trace("source.db", 4);
    char sql[1024];
    snprintf(sql, sizeof sql,
             "ATTACH '%s' AS s; INSERT INTO layer SELECT * FROM s.layer;"
             "INSERT INTO step SELECT * FROM s.step; INSERT INTO routing SELECT * FROM s.routing;"
             "INSERT INTO run VALUES(1, '', 'me', '', '', NULL, NULL, NULL, '{\"a\": 1}')",
             source);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_ok(read_everything(path));
    assert_ok(check(path));
    execute(path, "UPDATE run SET notes = NULL");
    assert_ok(check(path));
}

static void active_experts_equal_plain_counting(void **unused)
{
    (void)unused;
    for (uint64_t seed = 100; seed < 120; seed++) {
        const char *path = scratch_path("events.db");
        RandomTrace trace = random_trace(seed);
        TraceReader *reader;
        TraceEvent event;
        RandomStep made;
        assert_ok(record_random(path, &trace, 20, NULL));
        assert_ok(trace_reader_open(path, &reader));
        for (uint32_t i = 0; i < 20; i++) {
            random_step(&trace, i, &made);
            StackSpan span = layers_span(trace.layers, trace.n_layers, made.step.stack);
            const uint16_t *ids = made.experts;
            for (uint32_t j = span.first; j < span.first + span.count; j++) {
                uint32_t counts[2048] = {0};
                size_t n_ids = (size_t)made.step.tokens * trace.layers[j].top_k;
                for (size_t n = 0; n < n_ids; n++)
                    if (ids[n] != EXPERT_DROPPED)
                        counts[ids[n]]++;
                assert_ok(trace_reader_next_event(reader, &event));
                assert_int_equal(event.layer_index, j);
                assert_memory_equal(event.routing, ids, 2 * n_ids);
                uint32_t n = 0;
                for (uint32_t expert = 0; expert < 2048; expert++)
                    if (counts[expert] > 0) {
                        assert_true(n < event.n_active);
                        assert_int_equal(event.active[n], expert);
                        assert_int_equal(event.active_tokens[n++], counts[expert]);
                    }
                assert_int_equal(n, event.n_active);
                ids += n_ids;
            }
        }
        assert_int_equal(trace_reader_next_event(reader, &event), STATUS_END);
        trace_reader_close(reader);
        unlink(path);
    }
}

static void steps_events_and_rewind_mix(void **unused)
{
    (void)unused;
    const char *path = make_trace("mix.db", 6);
    TraceReader *reader;
    TraceEvent event;
    TraceStep step;
    assert_ok(trace_reader_open(path, &reader));
    for (int round = 0; round < 2; round++) {
        assert_ok(trace_reader_next_event(reader, &event));
        assert_int_equal(event.step, 0);
        assert_ok(trace_reader_next_step(reader, &step));
        assert_int_equal(step.step, 2);
        assert_ok(trace_reader_next_event(reader, &event));
        assert_int_equal(event.step, 4);
        assert_ok(trace_reader_rewind(reader));
    }
    trace_reader_close(reader);
}

static void a_file_in_log_mode_without_a_log_reads(void **unused)
{
    (void)unused;
    const char *path = make_trace("logmode.db", 6);
    execute(path, "PRAGMA journal_mode = WAL");
    assert_ok(check(path));
    assert_ok(read_everything(path));
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_trace_is_refused),
        cmocka_unit_test(a_newer_schema_is_refused),
        cmocka_unit_test(a_predicted_expert_out_of_range_is_refused_though_its_checksum_holds),
        cmocka_unit_test(a_trace_without_the_table_of_predictions_reads),
        cmocka_unit_test(an_expert_out_of_range_is_refused_though_its_checksum_holds),
        cmocka_unit_test(a_trace_by_others_needs_no_digest),
        cmocka_unit_test(active_experts_equal_plain_counting),
        cmocka_unit_test(steps_events_and_rewind_mix),
        cmocka_unit_test(a_file_in_log_mode_without_a_log_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
