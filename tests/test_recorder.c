/* What is recorded reads back as it was. */
#define _XOPEN_SOURCE 700
#include <math.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/files.h"
#include "base/memory.h"
#include "tests/random_trace.h"
#include "traces/f16.h"
#include "traces/rowcrc.h"
#include "tests/recorder_files.h"

static long long query_number(const char *path, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *statement;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    long long number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return number;
}

/* Rounds with the C library's arithmetic instead of bits. */
static double nearest_half(float value)
{
    int exponent;
    frexp(fabs((double)value), &exponent);
    int unit = (exponent < -13 ? -13 : exponent) - 11;
    double rounded = ldexp(nearbyint(ldexp((double)value, -unit)), unit);
    return fabs(rounded) > 65504 ? copysign(INFINITY, rounded) : rounded;
}

static void halves_round_to_nearest_even(void **unused)
{
    (void)unused;
    uint64_t state = 5;
    for (int i = 0; i < 400000; i++) {
        uint32_t bits = (uint32_t)random_next(&state);
        if (i % 2) /* near the range of halves, and near ties */
            bits = (bits & 0x807FE000u) | (0x60u + random_below(&state, 0x34)) << 23 |
                   (0xFFFu + random_below(&state, 3));
        float value;
        memcpy(&value, &bits, sizeof value);
        if (isnan(value))
            assert_true(isnan(f32_from_f16(f16_from_f32(value))));
        else
            assert_true((double)f32_from_f16(f16_from_f32(value)) == nearest_half(value));
    }
}

static void array_conversion_equals_one_by_one(void **unused)
{
    (void)unused;
    enum { N = 65536 + 5 };
    static uint16_t halves[N];
    static float values[N];
    uint64_t state = 9;
    for (uint32_t i = 0; i < N; i++)
        halves[i] = (uint16_t)i;
    f16_decode(halves, N, values);
    for (uint32_t i = 0; i < N; i++) {
        float one = f32_from_f16(halves[i]);
        assert_memory_equal(&one, &values[i], sizeof one);
        assert_true(isnan(one) || f16_from_f32(one) == (uint16_t)i);
    }
    for (uint32_t i = 0; i < N; i++) {
        uint32_t bits = (uint32_t)random_next(&state);
        memcpy(&values[i], &bits, sizeof bits);
    }
    f16_encode(values, N, halves);
    for (uint32_t i = 0; i < N; i++)
        assert_int_equal(halves[i], f16_from_f32(values[i]));
}

static void row_checksum_tells_columns_and_types_apart(void **unused)
{
    (void)unused;
    assert_int_equal(rowcrc_integer(0, 258), crc32c(0, "\1\2\1\0\0\0\0\0\0", 9));
    assert_int_equal(rowcrc_text(0, "abc", 3), crc32c(0, "\2\3\0\0\0\0\0\0\0abc", 12));
    assert_int_not_equal(rowcrc_null(0), rowcrc_integer(0, 0));
    assert_int_not_equal(rowcrc_text(0, "a", 1), rowcrc_blob(0, "a", 1));
    assert_int_not_equal(rowcrc_text(rowcrc_text(0, "ab", 2), "c", 1),
                         rowcrc_text(rowcrc_text(0, "a", 1), "bc", 2));
    assert_int_equal(rowcrc_text_or_null(0, NULL), rowcrc_null(0));
}

static void recorded_steps_read_back_as_they_were(void **unused)
{
    (void)unused;
    for (uint64_t seed = 0; seed < 60; seed++) {
        const char *path = scratch_path("roundtrip.db");
        RandomTrace trace = random_trace(seed);
        RecorderOptions options = {.ring_slots = 1 + (uint32_t)seed % 5,
                                   .transaction_steps = 1 + (uint32_t)seed % 7};
        uint32_t steps = 1 + (uint32_t)(seed * 13 % 40);
        assert_ok(record_random(path, &trace, steps, seed % 2 ? &options : NULL));
        assert_one_file(path);
        assert_int_equal(assert_reads_back(path, &trace, steps), steps);
        TraceCheck found;
        assert_ok(trace_check(path, &found, NULL, NULL));
        assert_int_equal(found.steps, steps);
        assert_int_equal(found.requests, 2);
        unlink(path);
    }
}

static void run_and_layers_read_back_and_the_callers_notes_stay(void **unused)
{
    (void)unused;
    const char *path = scratch_path("run.db");
    RandomTrace trace = random_trace(3);
    const TraceRun run = {.created = "2026-01-02T03:04:05Z",
                          .tool = "t",
                          .source = "s",
                          .model = "m",
                          .model_config = "{\"a\":1}",
                          .plan = "{}",
                          .notes = "{\"mine\": [1, 2], \"complete\": 7, \"digest\": 1}"};
    Recorder *recorder;
    TraceReader *reader;
    uint32_t count;
    assert_ok(recorder_open(path, &run, trace.layers, trace.n_layers, NULL, &recorder));
    assert_int_equal(query_number(path, "SELECT notes ->> 'complete' FROM run"), 0);
    assert_ok(recorder_close(recorder));
    assert_ok(trace_reader_open(path, &reader));
    const TraceRun *got = trace_reader_run(reader);
    assert_string_equal(got->created, run.created);
    assert_string_equal(got->source, run.source);
    assert_string_equal(got->model_config, run.model_config);
    assert_null(got->device);
    assert_memory_equal(got->notes, "{\"mine\":[1,2],\"complete\":true,", 30);
    const TraceLayer *layers = trace_reader_layers(reader, &count);
    assert_int_equal(count, trace.n_layers);
    for (uint32_t i = 0; i < count; i++) {
        assert_string_equal(layers[i].name, trace.layers[i].name);
        assert_string_equal(layers[i].gate, trace.layers[i].gate);
        assert_int_equal(layers[i].layer, trace.layers[i].layer);
        assert_int_equal(layers[i].experts, trace.layers[i].experts);
        assert_true(layers[i].expert_bytes == trace.layers[i].expert_bytes);
    }
    trace_reader_close(reader);
}

static void notes_that_are_no_object_are_refused(void **unused)
{
    (void)unused;
    const char *path = scratch_path("notes.db");
    RandomTrace trace = random_trace(3);
    Recorder *recorder;
    const char *bad[] = {"[]", "{", "", "3"};
    for (size_t i = 0; i < 4; i++) {
        TraceRun run = {.notes = bad[i]};
        assert_int_equal(recorder_open(path, &run, trace.layers, trace.n_layers, NULL, &recorder),
                         ERR_INPUT);
        assert_no_file(path);
    }
}

static void replaced_request_keeps_only_its_last_values(void **unused)
{
    (void)unused;
    const char *path = scratch_path("requests.db");
    RandomTrace trace = random_trace(8);
    assert_ok(record_random(path, &trace, 2, NULL));
    TraceReader *reader;
    TraceRequest request;
    assert_ok(trace_reader_open(path, &reader));
    assert_ok(trace_reader_next_request(reader, &request));
    assert_int_equal(request.request, 0);
    assert_int_equal(request.output_tokens, 2);
    assert_string_equal(request.label, "a");
    assert_ok(trace_reader_next_request(reader, &request));
    assert_int_equal(request.request, 1);
    assert_int_equal(trace_reader_next_request(reader, &request), STATUS_END);
    assert_int_equal(trace_reader_next_request(reader, &request), STATUS_END);
    trace_reader_close(reader);
}

static void an_existing_path_is_refused_untouched(void **unused)
{
    (void)unused;
    const char *path = scratch_path("exists.db");
    RandomTrace trace = random_trace(1);
    assert_ok(file_write_all(path, "mine", 4));
    assert_int_equal(record_random(path, &trace, 1, NULL), ERR_OUTPUT);
    assert_non_null(strstr(error_message(), "exists already; remove it or choose another name"));
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 4);
    unlink(path);
    assert_ok(file_write_all(suffixed(path, "-wal"), "log", 3));
    assert_int_equal(record_random(path, &trace, 1, NULL), ERR_OUTPUT);
    assert_non_null(strstr(error_message(), "exists.db-wal exists already"));
    assert_false(file_exists(path));
    assert_int_equal(record_random("/nowhere/at/all.db", &trace, 1, NULL), ERR_OUTPUT);
}

static void odd_file_names_are_files(void **unused)
{
    (void)unused;
    char before[512];
    RandomTrace trace = random_trace(1);
    const char *names[] = {":memory:", "file:a?mode=memory", "a#b%41.db"};
    scratch_path("x");
    assert_non_null(getcwd(before, sizeof before));
    char folder[512];
    snprintf(folder, sizeof folder, "%s", scratch_path(""));
    assert_int_equal(chdir(folder), 0);
    for (size_t i = 0; i < 3; i++) {
        assert_ok(record_random(names[i], &trace, 2, NULL));
        assert_one_file(names[i]);
        assert_reads_back(names[i], &trace, 2);
    }
    assert_int_equal(chdir(before), 0);
}

static void a_wrong_step_is_refused_and_the_recording_goes_on(void **unused)
{
    (void)unused;
    const char *path = scratch_path("wrong.db");
    RandomTrace trace = random_trace(4);
    RandomStep made;
    Recorder *recorder;
    trace.layers[0].stack = STACK_DECODER;
    assert_ok(recorder_open(path, &(TraceRun){0}, trace.layers, trace.n_layers, NULL, &recorder));
    random_step(&trace, 5, &made);
    assert_ok(record_random_step(recorder, &made));
    assert_int_equal(record_random_step(recorder, &made), ERR_INPUT);
    assert_non_null(strstr(error_message(), "numbers must ascend"));
    random_step(&trace, 6, &made);
    TraceStep wrong = made.step;
    wrong.tokens = 0;
    assert_int_equal(recorder_step(recorder, &wrong, NULL, 0, NULL, 0), ERR_INPUT);
    wrong = made.step;
    wrong.phase = PHASE_ENCODE;
    assert_int_equal(recorder_step(recorder, &wrong, NULL, 0, NULL, 0), ERR_INPUT);
    uint16_t kept = made.experts[0];
    made.experts[0] = (uint16_t)trace.layers[0].experts;
    assert_int_equal(record_random_step(recorder, &made), ERR_INPUT);
    char expected[128];
    snprintf(expected, sizeof expected, "wrong.db: step %u: layer %u: expert %u, the model has %u",
             made.step.step, trace.layers[0].layer, trace.layers[0].experts,
             trace.layers[0].experts);
    assert_non_null(strstr(error_message(), expected));
    made.experts[0] = kept;
    assert_ok(record_random_step(recorder, &made));
    assert_ok(recorder_close(recorder));
    assert_int_equal(query_number(path, "SELECT count(*) FROM step"), 2);
}

static void impossible_layers_are_refused(void **unused)
{
    (void)unused;
    const char *path = scratch_path("layers.db");
    TraceLayer good[2] = {{.layer = 0, .experts = 4, .top_k = 2},
                          {.layer = 1, .experts = 4, .top_k = 2}};
    TraceLayer bad[5][2];
    for (size_t i = 0; i < 5; i++)
        memcpy(bad[i], good, sizeof good);
    bad[0][1].layer = 0;
    bad[1][1].stack = STACK_ENCODER;
    bad[2][0].experts = 0;
    bad[3][0].top_k = 5;
    bad[4][0].experts = TRACE_MAX_EXPERTS + 1;
    Recorder *recorder;
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(recorder_open(path, &(TraceRun){0}, bad[i], 2, NULL, &recorder),
                         ERR_INPUT);
        assert_no_file(path);
    }
    assert_int_equal(recorder_open(path, &(TraceRun){0}, good, 0, NULL, &recorder), ERR_INPUT);
}

static Status record_few(const char *path)
{
    RandomTrace trace = random_trace(5);
    RecorderOptions options = {.transaction_steps = 100, .transaction_ns = 3600000000000u};
    return record_random(path, &trace, 6, &options);
}

/* Checks and reads everything; the first failure. */
static Status check_and_read(const char *path)
{
    TraceReader *reader;
    TraceCheck found;
    TraceEvent event;
    const ResidencyRecord *residency;
    size_t count;
    Status status = OK;
    TRY(trace_check(path, &found, NULL, NULL));
    TRY(trace_reader_open(path, &reader));
    while (status == OK)
        status = trace_reader_next_event(reader, &event);
    if (status == STATUS_END)
        status = trace_reader_residency(reader, event.step, 0, &residency, &count);
    trace_reader_close(reader);
    return status;
}

/* Runs WORK with its k-th allocation failing; true when there was a k-th. */
static bool fails_cleanly(Status (*work)(const char *path), const char *path, uint64_t k,
                          int64_t live_before, Status *status)
{
    error_clear();
    mem_fail_at(k);
    *status = work(path);
    bool reached = mem_fail_reached();
    mem_fail_at(0);
    assert_int_equal(mem_live_blocks(), live_before);
    assert_true(*status == OK || (*status == ERR_MEMORY && reached));
    assert_true(*status == OK || error_message()[0] != '\0');
    return reached;
}

static void every_allocation_may_fail_in_recording(void **unused)
{
    (void)unused;
    RandomTrace trace = random_trace(5);
    const char *path = scratch_path("memory.db");
    assert_ok(record_few(path));
    unlink(path);
    int64_t before = mem_live_blocks();
    uint64_t k = 1;
    Status status;
    for (; fails_cleanly(record_few, path, k, before, &status); k++) {
        if (status == OK || file_exists(path)) {
            assert_one_file(path);
            assert_int_equal(assert_reads_back(path, &trace, 6), 6);
        } else {
            assert_no_file(path);
        }
        unlink(path);
    }
    assert_true(k > 100);
}

static void every_allocation_may_fail_in_reading(void **unused)
{
    (void)unused;
    const char *path = scratch_path("memory.db");
    unlink(path);
    assert_ok(record_few(path));
    assert_ok(check_and_read(path));
    int64_t before = mem_live_blocks();
    uint64_t k = 1;
    Status status;
    while (fails_cleanly(check_and_read, path, k, before, &status))
        k++;
    assert_true(k > 100);
}

/* Steps of TOKENS tokens, LAYERS x TOP_K ids each; returns file bytes over bytes of ids and
 * weights. */
static double size_ratio(uint32_t n_layers, uint32_t top_k, uint32_t tokens, uint32_t steps,
                         bool rank, double *rows_per_s)
{
    enum { MAX_LAYERS = 32, MAX_TOKENS = 1024, MAX_K = 8 };
    static TraceLayer layers[MAX_LAYERS];
    static uint16_t experts[MAX_LAYERS * MAX_TOKENS * MAX_K];
    static float weights[MAX_LAYERS * MAX_TOKENS * MAX_K];
    static uint32_t words[3][MAX_TOKENS];
    static uint8_t ranks[MAX_TOKENS];
    const char *path = scratch_path("size.db");
    uint64_t state = 1;
    for (uint32_t i = 0; i < n_layers; i++)
        layers[i] = (TraceLayer){.layer = i, .experts = 64, .top_k = top_k};
    for (uint32_t i = 0; i < n_layers * tokens * top_k; i++) {
        experts[i] = (uint16_t)random_below(&state, 64);
        weights[i] = random_float(&state);
    }
    for (uint32_t i = 0; i < tokens; i++) {
        words[0][i] = random_below(&state, 16);
        words[1][i] = random_below(&state, 4096);
        words[2][i] = random_below(&state, 50000);
    }
    Recorder *recorder;
    assert_ok(recorder_open(path, &(TraceRun){0}, layers, n_layers, NULL, &recorder));
    uint64_t start = clock_ns();
    for (uint32_t i = 0; i < steps; i++) {
        TraceStep step = {.step = i,
                          .phase = PHASE_DECODE,
                          .start_ns = clock_wall_ns(),
                          .duration_ns = 1000000 + i,
                          .tokens = tokens,
                          .request = words[0],
                          .position = words[1],
                          .token = words[2],
                          .rank = rank ? ranks : NULL,
                          .experts = experts,
                          .weights = weights};
        assert_ok(recorder_step(recorder, &step, NULL, 0, NULL, 0));
    }
    assert_ok(recorder_close(recorder));
    *rows_per_s = (double)steps * tokens * n_layers / ((double)(clock_ns() - start) / 1e9);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    unlink(path);
    return (double)info.st_size / ((double)steps * tokens * n_layers * top_k * 3);
}

static void files_stay_near_the_size_of_ids_and_weights(void **unused)
{
    (void)unused;
    double rows_per_s;
    assert_true(size_ratio(26, 6, 256, 100, false, &rows_per_s) <= 1.05);
    assert_true(size_ratio(24, 8, 256, 100, true, &rows_per_s) <= 1.05);
    assert_true(size_ratio(26, 6, 1, 4000, false, &rows_per_s) <= 1.6);
    assert_true(size_ratio(24, 8, 1, 4000, true, &rows_per_s) <= 1.6);
}

static int bench(void)
{
    static const struct {
        uint32_t layers, top_k, tokens, steps;
        bool rank;
    } cases[] = {{26, 6, 256, 2000, false}, {26, 6, 256, 2000, true},  {24, 8, 256, 2000, false},
                 {24, 8, 256, 2000, true},  {16, 8, 256, 2000, false}, {24, 8, 16, 20000, false},
                 {26, 6, 1, 200000, false}, {24, 8, 1, 200000, false}, {24, 8, 1, 200000, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double rows_per_s;
        double ratio = size_ratio(cases[i].layers, cases[i].top_k, cases[i].tokens, cases[i].steps,
                                  cases[i].rank, &rows_per_s);
        printf("%u layers x top-%u, %4u tokens%s: %.4f x ids and weights, %.2f M rows/s\n",
               cases[i].layers, cases[i].top_k, cases[i].tokens, cases[i].rank ? " with ranks" : "",
               ratio, rows_per_s / 1e6);
    }
    return 0;
}

int main(int count, char **arguments)
{
    memory_install();
    if (count > 1 && strcmp(arguments[1], "--bench") == 0)
        return bench();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_round_to_nearest_even),
        cmocka_unit_test(array_conversion_equals_one_by_one),
        cmocka_unit_test(row_checksum_tells_columns_and_types_apart),
        cmocka_unit_test(recorded_steps_read_back_as_they_were),
        cmocka_unit_test(run_and_layers_read_back_and_the_callers_notes_stay),
        cmocka_unit_test(notes_that_are_no_object_are_refused),
        cmocka_unit_test(replaced_request_keeps_only_its_last_values),
        cmocka_unit_test(an_existing_path_is_refused_untouched),
        cmocka_unit_test(odd_file_names_are_files),
        cmocka_unit_test(a_wrong_step_is_refused_and_the_recording_goes_on),
        cmocka_unit_test(impossible_layers_are_refused),
        cmocka_unit_test(every_allocation_may_fail_in_recording),
        cmocka_unit_test(every_allocation_may_fail_in_reading),
        cmocka_unit_test(files_stay_near_the_size_of_ids_and_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
