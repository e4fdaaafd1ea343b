/* Picking a plan from a study.db. */
#include "base/status.h"
#include "tests/support.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "sim/study_pick.h"
#include "tests/sweep_maker.h"

/* A study.db whose rows say what WRITE_ROWS says, and not what a replay would. */
static void make_study_db(const char *path, const char *changes)
{
    PackedTrace trace = make_trace(22, 10);
    Study study =
        make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.evict\": [\"lru\", \"fifo\","
                   " \"lifo\", \"belady\"], \"buffer.slots\": [4]}}");
    SweepTotals totals;
    unlink(path);
    sweep_once(&trace, &study, path, 1, &totals);
    change(path, changes);
    study_free(&study);
    packed_trace_free(&trace);
}

static const char FOUR_ROWS[] =
    "UPDATE result SET bytes_loaded = 500, misses = 50, miss_ratio = 0.5, memory_bytes = 900;"
    "UPDATE result SET bytes_loaded = 400, misses = 40, miss_ratio = 0.4 WHERE evict = 'fifo';"
    "UPDATE result SET memory_bytes = 800 WHERE evict = 'lifo';"
    "UPDATE result SET bytes_loaded = 100, misses = 10, miss_ratio = 0.1, memory_bytes = 100"
    " WHERE evict = 'belady'";

static const char *picked(const char *path, PickOptions options)
{
    static char evict[32];
    Pick pick;
    if (options.conditions.misses_at_most == 0)
        options.conditions.misses_at_most = 1;
    assert_ok(study_pick(path, &options, &pick));
    memcpy(evict, pick.plan.buffer.evict, sizeof evict);
    return evict;
}

static void the_pick_has_the_fewest_bytes_or_the_least_memory(void **unused)
{
    (void)unused;
    const char *path = scratch_path("pick.db");
    make_study_db(path, FOUR_ROWS);
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MISSES}), "fifo");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MEMORY}), "lifo");
    assert_string_equal(
        picked(path, (PickOptions){.best = PICK_MEMORY, .conditions.misses_at_most = 0.45}),
        "fifo");
    assert_string_equal(
        picked(path, (PickOptions){.best = PICK_MISSES, .conditions.where = "evict <> 'fifo'"}),
        "lifo");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MISSES,
                                                   .conditions.where = "evict IN ('lru')"
                                                                       " OR misses > 1e9"}),
                        "lru");
    Pick pick;
    const PickOptions options = {.best = PICK_MISSES, .conditions.misses_at_most = 1};
    assert_ok(study_pick(path, &options, &pick));
    assert_int_equal(pick.candidates, 3);
    assert_int_equal(pick.bytes_loaded, 400);
    assert_int_equal(pick.misses, 40);
    assert_int_equal(pick.memory_bytes, 900);
}

/* Imported traces seldom say how large experts are: all take 0 bytes of memory. */
static void where_sizes_are_unknown_the_fewest_slots_are_the_least_memory(void **unused)
{
    (void)unused;
    const char *path = scratch_path("pick-slots.db");
    make_study_db(path, "UPDATE result SET bytes_loaded = 0, memory_bytes = 0, misses = 50;"
                        "UPDATE result SET slots = 3, misses = 60 WHERE evict = 'fifo';"
                        "UPDATE result SET slots = 5, misses = 40, scope = 'device'"
                        " WHERE evict = 'lifo'");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MISSES}), "lifo");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MEMORY}), "lifo");
    assert_string_equal(
        picked(path, (PickOptions){.best = PICK_MEMORY, .conditions.where = "scope = 'layer'"}),
        "fifo");
}

static void ties_go_to_misses_then_memory_then_the_first_row(void **unused)
{
    (void)unused;
    const char *path = scratch_path("ties.db");
    make_study_db(path, "UPDATE result SET bytes_loaded = 5, misses = 6, memory_bytes = 7");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MISSES}), "lru");
    change(path, "UPDATE result SET memory_bytes = 6 WHERE evict = 'lifo'");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MISSES}), "lifo");
    change(path, "UPDATE result SET misses = 5 WHERE evict = 'fifo'");
    assert_string_equal(picked(path, (PickOptions){.best = PICK_MISSES}), "fifo");
}

static void policies_of_the_future_are_picked_only_on_request(void **unused)
{
    (void)unused;
    const char *path = scratch_path("future.db");
    make_study_db(path, FOUR_ROWS);
    assert_string_equal(
        picked(path, (PickOptions){.best = PICK_MISSES, .conditions.with_bounds = true}), "belady");
    Pick pick;
    const PickOptions options = {.best = PICK_MISSES,
                                 .conditions.where = "evict = 'belady'",
                                 .conditions.misses_at_most = 1};
    assert_int_equal(study_pick(path, &options, &pick), ERR_INPUT);
}

static void plans_without_a_result_are_never_picked(void **unused)
{
    (void)unused;
    const char *path = scratch_path("undone.db");
    make_study_db(path, FOUR_ROWS);
    change(path, "UPDATE result SET done = 0 WHERE evict = 'fifo'");
    Pick pick;
    PickOptions options = {.best = PICK_MISSES, .conditions.misses_at_most = 1};
    assert_ok(study_pick(path, &options, &pick));
    assert_string_equal(pick.plan.buffer.evict, "lifo");
    assert_int_equal(pick.missing, 1);
    options.conditions.where = "evict = 'fifo'";
    assert_int_equal(study_pick(path, &options, &pick), ERR_INPUT);
}

static void a_where_that_is_not_one_expression_is_refused_and_changes_nothing(void **unused)
{
    (void)unused;
    const char *path = scratch_path("where.db");
    make_study_db(path, FOUR_ROWS);
    static const char *const bad[] = {
        "1); drop table result; --",
        "1) OR (1",
        "1) UNION SELECT 1,plan,1,1,1,1,1,1,1 FROM result --",
        "1; DELETE FROM result",
        "1, 2",
        "1 /*",
        "1 --",
        "",
        ";",
        "sluts < 4",
        "slots < ",
        "'",
        "1 FROM result",
        "1 ORDER BY misses DESC",
        "(SELECT count(*) FROM study) > 0",
        "(SELECT count(*) FROM sqlite_master) > 0",
        "(SELECT count(*) FROM pragma_table_info('result')) > 0",
        "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n)",
        "load_extension('x')",
        "count(*) > 1",
        "no_such_function(1)",
    };
    char *before = query(path, "SELECT * FROM result");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Pick pick;
        const PickOptions options = {
            .best = PICK_MISSES, .conditions.where = bad[i], .conditions.misses_at_most = 1};
        Status status = study_pick(path, &options, &pick);
        if (status == OK && strcmp(bad[i], "1 --") == 0)
            continue; /* a comment that ends with its line does no harm */
        if (status != ERR_INPUT)
            fail_msg("%s: status %d: %s", bad[i], status, error_message());
    }
    char *after = query(path, "SELECT * FROM result");
    assert_string_equal(before, after);
    free(before);
    free(after);
    Pick pick;
    const PickOptions wrong = {
        .best = PICK_MISSES, .conditions.where = "sluts < 4", .conditions.misses_at_most = 1};
    assert_int_equal(study_pick(path, &wrong, &pick), ERR_INPUT);
    assert_string_equal(error_message(), "--where: no such column: sluts");
}

static void picking_from_what_is_no_study_says_so(void **unused)
{
    (void)unused;
    Pick pick;
    PickOptions options = {.best = PICK_MISSES, .conditions.misses_at_most = 1};
    const char *text = scratch_path("pick-text.db");
    assert_ok(file_write_all(text, "this is certainly not an SQLite file, or is it?", 47));
    assert_int_equal(study_pick(text, &options, &pick), ERR_INPUT);
    assert_int_equal(study_pick(scratch_path("pick-absent.db"), &options, &pick), ERR_INPUT);
    assert_false(file_exists(scratch_path("pick-absent.db")));
    assert_int_equal(study_pick(":memory:", &options, &pick), ERR_INPUT);
    const char *broken = scratch_path("pick-broken.db");
    make_study_db(broken, "UPDATE result SET plan = '{\"moebius_plan\": 1, \"bufer\": {}}'"
                          " WHERE evict = 'lru'");
    options = (PickOptions){
        .best = PICK_MISSES, .conditions.where = "evict = 'lru'", .conditions.misses_at_most = 1};
    assert_int_equal(study_pick(broken, &options, &pick), ERR_INPUT);
    assert_non_null(strstr(error_message(), "result 1: bufer: unknown key"));
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_pick_has_the_fewest_bytes_or_the_least_memory),
        cmocka_unit_test(where_sizes_are_unknown_the_fewest_slots_are_the_least_memory),
        cmocka_unit_test(ties_go_to_misses_then_memory_then_the_first_row),
        cmocka_unit_test(policies_of_the_future_are_picked_only_on_request),
        cmocka_unit_test(plans_without_a_result_are_never_picked),
        cmocka_unit_test(a_where_that_is_not_one_expression_is_refused_and_changes_nothing),
        cmocka_unit_test(picking_from_what_is_no_study_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
