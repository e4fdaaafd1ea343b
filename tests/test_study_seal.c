/* Checksums of study.db: what changes is found, what is older still opens. */
#include "tests/sweep_maker.h"

#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "sim/study_pick.h"
#include "sim/study_query.h"

static const PickOptions BEST = {.best = PICK_MISSES, .conditions.misses_at_most = 1};

/* Plans of which half learn, so that no table is empty. */
static const char *make_study_db(const char *name)
{
    const char *path = scratch_path(name);
    PackedTrace trace = make_trace(31, 24);
    Study study = make_study(TRAINED_STUDY);
    SweepTotals totals;
    const SweepOptions options = {.jobs = 2};
    unlink(path);
    assert_ok(sweep_run(&trace, "t", &study, path, &options, &totals));
    study_free(&study);
    packed_trace_free(&trace);
    return path;
}

static void assert_damaged(const char *path, const char *place)
{
    Pick pick;
    StudyCheck found;
    Status status = study_pick(path, &BEST, &pick);
    if (status != ERR_CORRUPT || strstr(error_message(), path) != error_message() ||
        strstr(error_message(), place) == NULL)
        fail_msg("%s: status %d: %s", place, status, error_message());
    assert_int_equal(study_check(path, &found), ERR_CORRUPT);
}

static void every_value_of_every_table_is_under_a_checksum(void **unused)
{
    (void)unused;
    static const char *const tables[] = {"study", "result", "layer_result", "learnt",
                                         "learnt_table"};
    const char *path = make_study_db("values.db");
    char *good;
    size_t bytes;
    uint32_t changed = 0;
    assert_ok(file_read_all(path, 1 << 24, &good, &bytes));
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        char sql[512];
        snprintf(sql, sizeof sql, "SELECT name FROM pragma_table_info('%s')", tables[i]);
        char *names = query(path, sql);
        for (char *name = strtok(names, "|\n"); name != NULL; name = strtok(NULL, "|\n")) {
            snprintf(sql, sizeof sql,
                     "UPDATE %s SET %s = CASE typeof(%s) WHEN 'text' THEN %s || 'x' WHEN 'null'"
                     " THEN 1 ELSE %s + 1000 END WHERE %s = (SELECT max(%s) FROM %s) OR %s IS NULL",
                     tables[i], name, name, name, name, name, name, tables[i], name);
            free(query(path, sql));
            char place[64];
            snprintf(place, sizeof place, ": %s ", tables[i]);
            assert_damaged(path, place);
            assert_non_null(strstr(error_message(), "crc does not match"));
            assert_ok(file_write_all(path, good, bytes));
            changed++;
        }
        free(names);
    }
    assert_int_equal(changed, 13 + 40 + 6 + 4 + 3);
    Pick pick;
    assert_ok(study_pick(path, &BEST, &pick));
    plan_free(&pick.plan);
    mem_free(good);
}

static void a_row_that_lost_its_checksum_is_refused(void **unused)
{
    (void)unused;
    const char *path = make_study_db("lost.db");
    free(query(path, "UPDATE result SET crc = NULL WHERE plan_id = 4"));
    assert_damaged(path, ": result 4: crc does not match");
}

/* Cut anywhere. */
static void a_truncated_study_is_refused_and_left_as_it_is(void **unused)
{
    (void)unused;
    const char *path = make_study_db("cut.db");
    PackedTrace trace = make_trace(31, 24);
    Study study = make_study(TRAINED_STUDY);
    const SweepOptions options = {.jobs = 1};
    char *good;
    size_t bytes;
    assert_ok(file_read_all(path, 1 << 24, &good, &bytes));
    for (size_t left = 97; left < bytes; left += left < 600 ? 97 : 1021) {
        Pick pick;
        SweepTotals totals;
        char *after;
        size_t n;
        assert_ok(file_write_all(path, good, left));
        Status status = study_pick(path, &BEST, &pick);
        if (status != ERR_CORRUPT && status != ERR_INPUT)
            fail_msg("%zu bytes: status %d", left, status);
        assert_non_null(strstr(error_message(), path));
        status = sweep_run(&trace, "t", &study, path, &options, &totals);
        if (status != ERR_CORRUPT && status != ERR_INPUT)
            fail_msg("%zu bytes: sweep: status %d", left, status);
        assert_ok(file_read_all(path, 1 << 24, &after, &n));
        assert_int_equal(n, left);
        assert_memory_equal(after, good, left);
        mem_free(after);
    }
    mem_free(good);
    study_free(&study);
    packed_trace_free(&trace);
}

static void
a_study_of_schema_6_opens_as_it_is_and_gets_checksums_when_it_is_continued(void **unused)
{
    (void)unused;
    const char *path = make_study_db("schema6.db");
    char *rows = dump(path);
    PackedTrace trace = make_trace(31, 24);
    Study study = make_study(TRAINED_STUDY);
    const SweepOptions options = {.jobs = 1};
    SweepTotals totals;
    Pick pick;
    change(path, WITHOUT_SEALS "PRAGMA user_version = 6");
    assert_ok(study_pick(path, &BEST, &pick));
    plan_free(&pick.plan);
    assert_int_equal(query_number(path, "PRAGMA user_version"), 6);
    assert_ok(sweep_run(&trace, "t", &study, path, &options, &totals));
    assert_int_equal(totals.done, 0);
    assert_int_equal(query_number(path, "PRAGMA user_version"), STUDY_SCHEMA);
    char *after = dump(path);
    assert_string_equal(rows, after);
    free(rows);
    free(after);
    free(query(path, "UPDATE result SET hits = hits + 1 WHERE plan_id = 2"));
    assert_damaged(path, ": result 2: crc does not match");
    study_free(&study);
    packed_trace_free(&trace);
}

static void a_schema_that_does_not_go_with_the_columns_is_damage(void **unused)
{
    (void)unused;
    const char *path = make_study_db("version.db");
    free(query(path, "PRAGMA user_version = 6"));
    assert_damaged(path, ": study schema 6, but rows have checksums");
    free(query(path, "PRAGMA user_version = 7; ALTER TABLE layer_result RENAME hits TO hats"));
    assert_damaged(path, ": layer_result: no such column: hits");
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_of_every_table_is_under_a_checksum),
        cmocka_unit_test(a_row_that_lost_its_checksum_is_refused),
        cmocka_unit_test(a_truncated_study_is_refused_and_left_as_it_is),
        cmocka_unit_test(
            a_study_of_schema_6_opens_as_it_is_and_gets_checksums_when_it_is_continued),
        cmocka_unit_test(a_schema_that_does_not_go_with_the_columns_is_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
