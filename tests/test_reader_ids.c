/* Steps of which but the ids are wanted: they come as from whole rows, and what comes was checked.
 */
#include "base/status.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/trace_file_maker.h"

enum {
    LAYERS = 5,
    TOP_K = 8,
    MOST_TOKENS = 400,
    STEPS = 60,
    MOST_IDS = LAYERS * TOP_K * MOST_TOKENS
};

typedef struct {
    TraceStep step;
    uint32_t request[MOST_TOKENS];
    uint16_t experts[MOST_IDS];
    float weights[MOST_IDS];
    uint16_t scores[7000];
} LargeStep;

/* Of a trace of wide ids a layer has 300 experts, else 128. */
static void make_step(uint32_t number, bool is_wide, LargeStep *made)
{
    uint64_t state = number + 1;
    uint32_t tokens = 200 + random_below(&state, MOST_TOKENS - 200);
    uint32_t ids = tokens * LAYERS * TOP_K;
    for (uint32_t i = 0; i < tokens; i++)
        made->request[i] = random_below(&state, 1000);
    for (uint32_t i = 0; i < ids; i++) {
        made->experts[i] = random_below(&state, 50) == 0
                               ? EXPERT_DROPPED
                               : (uint16_t)random_below(&state, is_wide ? 300 : 128);
        made->weights[i] = random_float(&state);
    }
    bool scored = number % 3 == 0;
    made->step = (TraceStep){.step = 3 * number,
                             .phase = PHASE_DECODE,
                             .tokens = tokens,
                             .request = made->request,
                             .position = made->request,
                             .experts = made->experts,
                             .weights = number % 5 < 4 ? made->weights : NULL,
                             .scores = scored ? made->scores : NULL,
                             .score_count = scored ? 7000 : 0};
}

static const char *make_large(const char *name, uint32_t steps, bool is_wide)
{
    const char *path = scratch_path(name);
    TraceLayer layers[LAYERS] = {0};
    const TraceRun run = {.tool = "test", .model = "large"};
    Recorder *recorder;
    LargeStep *made = calloc(1, sizeof *made);
    assert_non_null(made);
    for (uint32_t i = 0; i < LAYERS; i++)
        layers[i] =
            (TraceLayer){.layer = i, .experts = is_wide ? 300 : 128, .top_k = TOP_K, .name = "l"};
    unlink(path);
    assert_ok(recorder_open(path, &run, layers, LAYERS, NULL, &recorder));
    for (uint32_t i = 0; i < steps; i++) {
        make_step(i, is_wide, made);
        assert_ok(recorder_step(recorder, &made->step, NULL, 0, NULL, 0));
    }
    assert_ok(recorder_close(recorder));
    free(made);
    return path;
}

static bool same_ids(const TraceStep *read, const TraceStep *made)
{
    for (size_t i = 0; i < (size_t)made->tokens * LAYERS * TOP_K; i++) {
        uint16_t id = read->expert_bytes == NULL           ? read->experts[i]
                      : read->expert_bytes[i] == UINT8_MAX ? EXPERT_DROPPED
                                                           : read->expert_bytes[i];
        if (id != made->experts[i])
            return false;
    }
    return true;
}

/* As they come to a simulation: from the start, twice. */
static Status read_ids(const char *path, bool is_wide)
{
    TraceReader *reader;
    TraceStep step;
    LargeStep *made = calloc(1, sizeof *made);
    assert_non_null(made);
    Status status = trace_reader_open(path, &reader);
    if (status == OK)
        status = trace_reader_routing_bytes(reader);
    for (uint32_t i = 0; i < 2 * STEPS && status == OK; i++) {
        if (i == STEPS) {
            assert_int_equal(trace_reader_next_step(reader, &step), STATUS_END);
            assert_ok(trace_reader_rewind(reader));
        }
        status = trace_reader_next_step(reader, &step);
        make_step(i % STEPS, is_wide, made);
        if (status == OK) {
            assert_int_equal(step.step, made->step.step);
            assert_int_equal(step.tokens, made->step.tokens);
            assert_memory_equal(step.request, made->request, 4 * step.tokens);
            assert_true(step.weights == NULL && step.scores == NULL);
            assert_true(same_ids(&step, &made->step));
        }
    }
    trace_reader_close(reader);
    free(made);
    return status;
}

static void assert_ids_refused(const char *path, const char *message)
{
    Status status = read_ids(path, false);
    if (status != ERR_CORRUPT || strstr(error_message(), message) == NULL)
        fail_msg("status %d, \"%s\", wanted \"%s\"", status, error_message(), message);
}

static void ids_come_as_from_whole_rows(void **unused)
{
    (void)unused;
    for (int is_wide = 0; is_wide < 2; is_wide++) {
        const char *path = make_large("large.db", STEPS, is_wide);
        assert_ok(read_ids(path, is_wide));
        assert_ok(check(path));
        execute(path, "DELETE FROM experts_crc WHERE step % 9 = 3");
        assert_ok(read_ids(path, is_wide));
        execute(path, "DROP TABLE experts_crc");
        assert_ok(read_ids(path, is_wide));
        assert_ok(check(path));
    }
}

static void weights_that_nobody_wants_are_not_read(void **unused)
{
    (void)unused;
    const char *path = make_large("unread.db", STEPS, false);
    execute(path, "UPDATE routing SET weights = zeroblob(length(weights)) WHERE step = 30");
    assert_ok(read_ids(path, false));
    assert_int_equal(read_everything(path), ERR_CORRUPT);
    assert_non_null(strstr(error_message(), "step 30: routing: crc does not match"));
    assert_int_equal(check(path), ERR_CORRUPT);
}

static void ids_that_changed_are_refused(void **unused)
{
    (void)unused;
    const char *path = make_large("changed.db", STEPS, false);
    execute(path, "UPDATE routing SET experts = CAST(x'05' || substr(experts, 2) AS BLOB) "
                  "WHERE step = 30");
    assert_ids_refused(path, "step 30: routing: crc does not match");
    assert_int_equal(check(path), ERR_CORRUPT);
}

/* A row's own checksum is what counts; the other one spares reading. */
static void a_row_that_holds_reads_whatever_the_checksum_of_its_ids(void **unused)
{
    (void)unused;
    const char *path = make_large("holds.db", STEPS, false);
    execute(path, "UPDATE experts_crc SET crc = crc + 1 WHERE step IN (0, 30, 177)");
    execute(path, "UPDATE experts_crc SET crc = 'none' WHERE step = 33");
    assert_ok(read_ids(path, false));
    assert_ok(read_everything(path));
    assert_int_equal(check(path), ERR_CORRUPT);
    assert_non_null(strstr(error_message(), "step 0: experts_crc: crc does not match"));
}

static void types_and_lengths_of_what_is_not_read_are_checked(void **unused)
{
    (void)unused;
    static const struct {
        const char *sql;
        const char *message;
    } DAMAGES[] = {
        {"UPDATE routing SET weights = substr(weights, 3) WHERE step = 30",
         "step 30: routing: weights: "},
        {"UPDATE routing SET weights = x'' WHERE step = 30", "step 30: routing: weights: 0 bytes"},
        {"UPDATE routing SET weights = 'w' WHERE step = 30", "step 30: routing: weights: a text"},
        {"UPDATE routing SET scores = x'010203' WHERE step = 30",
         "step 30: routing: scores: 3 bytes"},
        {"UPDATE routing SET scores = 2 WHERE step = 30", "step 30: routing: scores: "},
        {"UPDATE routing SET experts = x'01' WHERE step = 30",
         "step 30: routing: experts: 1 bytes"},
        {"DELETE FROM routing WHERE step = 30", "step 30: routing: missing; the next row is of"},
        {"DELETE FROM step WHERE step = 177", "step 177: routing: there is no such step"},
    };
    for (size_t i = 0; i < sizeof DAMAGES / sizeof *DAMAGES; i++) {
        const char *path = make_large("types.db", STEPS, false);
        execute(path, DAMAGES[i].sql);
        assert_ids_refused(path, DAMAGES[i].message);
    }
}

static void an_expert_out_of_range_is_refused_though_its_checksums_hold(void **unused)
{
    (void)unused;
    const char *path = make_large("range.db", STEPS, false);
    execute(path, "UPDATE routing SET experts = CAST(x'80' || substr(experts, 2) AS BLOB) "
                  "WHERE step = 30");
    mend_routing_crc(path, 30);
    assert_ids_refused(path, "step 30: layer 0: expert 128, the model has 128");
}

static void a_checksum_without_its_step_is_refused_by_check(void **unused)
{
    (void)unused;
    const char *path = make_large("orphan.db", STEPS, false);
    execute(path, "INSERT INTO experts_crc VALUES(31, 5)");
    assert_ok(read_ids(path, false));
    assert_int_equal(check(path), ERR_CORRUPT);
    assert_non_null(strstr(error_message(), "step 31: experts_crc: there is no such step"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_come_as_from_whole_rows),
        cmocka_unit_test(weights_that_nobody_wants_are_not_read),
        cmocka_unit_test(ids_that_changed_are_refused),
        cmocka_unit_test(a_row_that_holds_reads_whatever_the_checksum_of_its_ids),
        cmocka_unit_test(types_and_lengths_of_what_is_not_read_are_checked),
        cmocka_unit_test(an_expert_out_of_range_is_refused_though_its_checksums_hold),
        cmocka_unit_test(a_checksum_without_its_step_is_refused_by_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
