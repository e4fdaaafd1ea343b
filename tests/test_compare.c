#include "tests/support.h"

#include <stdio.h>
#include <string.h>

#include "analysis/compare.h"
#include "base/memory.h"

typedef struct {
    uint32_t step;
    ResidencyRecord record;
} Entry;

static void random_log(uint64_t *state, Entry *log, size_t count)
{
    for (size_t i = 0; i < count; i++)
        log[i] = (Entry){.step = (uint32_t)i / 7,
                         .record = {.layer = random_below(state, 5),
                                    .expert = random_below(state, 60),
                                    .kind = random_below(state, RESIDENCY_KINDS),
                                    .slot = random_below(state, 9)}};
}

/* Pushes both logs in a random interleaving, in which one may run far ahead. */
static void push_both(uint64_t *state, Compare *compare, const Entry *expected, size_t n_expected,
                      const Entry *actual, size_t n_actual)
{
    size_t e = 0;
    size_t a = 0;
    while (e < n_expected || a < n_actual) {
        size_t burst = 1 + random_below(state, 40);
        bool first = a == n_actual || (e < n_expected && random_below(state, 2) == 0);
        for (; burst > 0 && first && e < n_expected; burst--, e++)
            assert_ok(compare_expect(compare, expected[e].step, &expected[e].record));
        for (; burst > 0 && !first && a < n_actual; burst--, a++)
            assert_ok(compare_actual(compare, actual[a].step, &actual[a].record));
    }
}

static CompareReport compare_logs(uint64_t *state, const Entry *expected, size_t n_expected,
                                  const Entry *actual, size_t n_actual)
{
    Compare *compare;
    assert_ok(compare_new(&compare));
    push_both(state, compare, expected, n_expected, actual, n_actual);
    CompareReport report = compare_finish(compare);
    compare_free(compare);
    return report;
}

static void equal_logs_agree_in_any_interleaving(void **unused)
{
    (void)unused;
    uint64_t state = 1;
    enum { COUNT = 400 };
    Entry log[COUNT];
    for (int round = 0; round < 50; round++) {
        size_t count = random_below(&state, COUNT + 1);
        random_log(&state, log, count);
        CompareReport report = compare_logs(&state, log, count, log, count);
        uint64_t kinds[RESIDENCY_KINDS] = {0};
        for (size_t i = 0; i < count; i++)
            kinds[log[i].record.kind]++;
        assert_true(report.agreed);
        assert_int_equal(report.compared, count);
        assert_int_equal(report.expected, count);
        assert_int_equal(report.actual, count);
        assert_memory_equal(report.by_kind, kinds, sizeof kinds);
        assert_int_equal(compare_status(&report), OK);
    }
}

static void bytes_and_times_are_not_compared(void **unused)
{
    (void)unused;
    uint64_t state = 2;
    Entry log[9];
    Entry other[9];
    random_log(&state, log, 9);
    memcpy(other, log, sizeof log);
    for (size_t i = 0; i < 9; i++) {
        other[i].record.bytes = 77;
        other[i].record.start_ns = i;
        other[i].record.duration_ns = 5;
    }
    assert_true(compare_logs(&state, log, 9, other, 9).agreed);
}

static void change_field(Entry *entry, uint32_t field)
{
    uint32_t *const fields[] = {&entry->step, &entry->record.layer, &entry->record.expert,
                                &entry->record.kind, &entry->record.slot};
    *fields[field] += 1;
}

static void assert_side(const CompareSide *side, const Entry *log, size_t count, size_t at)
{
    size_t n_before = at < COMPARE_AROUND ? at : COMPARE_AROUND;
    size_t left = at < count ? count - at - 1 : 0;
    size_t n_after = left < COMPARE_AROUND ? left : COMPARE_AROUND;
    assert_int_equal(side->n_before, n_before);
    assert_int_equal(side->has_here, at < count);
    assert_int_equal(side->n_after, n_after);
    for (size_t i = 0; i < n_before; i++)
        assert_memory_equal(&side->before[i].record, &log[at - n_before + i].record,
                            sizeof(ResidencyRecord));
    if (at < count) {
        assert_int_equal(side->here.step, log[at].step);
        assert_memory_equal(&side->here.record, &log[at].record, sizeof(ResidencyRecord));
    }
    for (size_t i = 0; i < n_after; i++)
        assert_memory_equal(&side->after[i].record, &log[at + 1 + i].record,
                            sizeof(ResidencyRecord));
}

static void the_first_difference_in_any_field_is_found_with_its_surroundings(void **unused)
{
    (void)unused;
    uint64_t state = 3;
    enum { COUNT = 60 };
    Entry expected[COUNT];
    Entry actual[COUNT];
    for (uint32_t round = 0; round < 300; round++) {
        size_t count = 1 + random_below(&state, COUNT);
        size_t at = random_below(&state, (uint32_t)count);
        random_log(&state, expected, count);
        memcpy(actual, expected, sizeof expected);
        change_field(&actual[at], round % 5);
        if (random_below(&state, 2) == 0) /* later differences do not matter */
            change_field(&actual[at + random_below(&state, (uint32_t)(count - at))], 4);
        CompareReport report = compare_logs(&state, expected, count, actual, count);
        assert_false(report.agreed);
        assert_int_equal(report.at, at);
        assert_int_equal(report.compared, at);
        assert_side(&report.expected_side, expected, count, at);
        assert_side(&report.actual_side, actual, count, at);
        assert_int_equal(compare_status(&report), ERR_MISMATCH);
    }
}

static void a_log_that_ends_early_is_a_difference(void **unused)
{
    (void)unused;
    uint64_t state = 4;
    Entry log[20];
    random_log(&state, log, 20);
    for (size_t shorter = 0; shorter < 20; shorter++) {
        CompareReport report = compare_logs(&state, log, 20, log, shorter);
        assert_false(report.agreed);
        assert_int_equal(report.at, shorter);
        assert_side(&report.expected_side, log, 20, shorter);
        assert_side(&report.actual_side, log, shorter, shorter);
        assert_int_equal(compare_status(&report), ERR_MISMATCH);
        assert_non_null(strstr(error_message(), "got nothing more"));
        report = compare_logs(&state, log, shorter, log, 20);
        assert_false(report.agreed);
        assert_side(&report.actual_side, log, 20, shorter);
        assert_int_equal(compare_status(&report), ERR_MISMATCH);
        assert_non_null(strstr(error_message(), "expected nothing more"));
    }
}

static void the_message_names_step_layer_expert_kind_and_slot(void **unused)
{
    (void)unused;
    uint64_t state = 5;
    Entry expected = {.step = 41,
                      .record = {.layer = 3, .expert = 9, .kind = RESIDENCY_LOAD, .slot = 2}};
    Entry actual = expected;
    actual.record.slot = 4;
    CompareReport report = compare_logs(&state, &expected, 1, &actual, 1);
    assert_int_equal(compare_status(&report), ERR_MISMATCH);
    char wanted[160];
    snprintf(wanted, sizeof wanted,
             "event 0: step 41: expected %s of expert 9 of layer 3 in slot 2, got %s of expert 9 "
             "of layer 3 in slot 4",
             residency_kind_name(RESIDENCY_LOAD), residency_kind_name(RESIDENCY_LOAD));
    assert_string_equal(error_message(), wanted);
}

static void text_and_json_say_the_same_as_the_report(void **unused)
{
    (void)unused;
    uint64_t state = 6;
    Entry expected[12];
    Entry actual[12];
    random_log(&state, expected, 12);
    memcpy(actual, expected, sizeof actual);
    actual[6].record.kind = 4000000000u; /* unknown to us, and still shown */
    actual[6].record.expert = UINT32_MAX;
    CompareReport report = compare_logs(&state, expected, 12, actual, 12);
    char *text;
    cJSON *json;
    assert_ok(compare_text(&report, &text));
    assert_non_null(strstr(text, "first difference: event 6"));
    assert_non_null(strstr(text, "> actual"));
    assert_non_null(strstr(text, "4294967295"));
    mem_free(text);
    assert_ok(compare_json(&report, &json));
    const cJSON *difference = cJSON_GetObjectItemCaseSensitive(json, "first_difference");
    const cJSON *side = cJSON_GetObjectItemCaseSensitive(difference, "actual");
    const cJSON *here = cJSON_GetObjectItemCaseSensitive(side, "here");
    assert_true(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(json, "agreed")));
    assert_true(cJSON_GetObjectItemCaseSensitive(difference, "event")->valuedouble == 6);
    assert_true(cJSON_GetObjectItemCaseSensitive(here, "expert")->valuedouble == UINT32_MAX);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(side, "before")), 3);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(side, "after")), 3);
    cJSON_Delete(json);
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    uint64_t state = 7;
    enum { COUNT = 300 };
    Entry log[COUNT];
    random_log(&state, log, COUNT);
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Compare *compare = NULL;
        char *text = NULL;
        cJSON *json = NULL;
        Status status = compare_new(&compare);
        for (size_t i = 0; i < COUNT && status == OK; i++)
            status = compare_expect(compare, log[i].step, &log[i].record);
        log[COUNT - 1].record.slot++;
        for (size_t i = 0; i < COUNT && status == OK; i++)
            status = compare_actual(compare, log[i].step, &log[i].record);
        CompareReport report = {0};
        if (status == OK)
            report = compare_finish(compare);
        if (status == OK)
            status = compare_text(&report, &text);
        if (status == OK)
            status = compare_json(&report, &json);
        failing_end(&failing, status);
        mem_free(text);
        cJSON_Delete(json);
        compare_free(compare);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_logs_agree_in_any_interleaving),
        cmocka_unit_test(bytes_and_times_are_not_compared),
        cmocka_unit_test(the_first_difference_in_any_field_is_found_with_its_surroundings),
        cmocka_unit_test(a_log_that_ends_early_is_a_difference),
        cmocka_unit_test(the_message_names_step_layer_expert_kind_and_slot),
        cmocka_unit_test(text_and_json_say_the_same_as_the_report),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
