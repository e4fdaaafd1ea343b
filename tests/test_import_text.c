/* JSON lines and expert counts. */
#include "base/status.h"
#include "tests/support.h"

#include "tests/import_maker.h"
#include "traces/import_counts.h"

static ImportOptions jsonl(const char *text)
{
    return (ImportOptions){.from = IMPORT_JSONL, .path = text_file("routing.jsonl", text)};
}

static ImportOptions counts(const char *text)
{
    return (ImportOptions){.from = IMPORT_COUNTS, .path = text_file("counts.csv", text)};
}

#define LINE(LAYER, TOKEN, IDS, WEIGHTS)                                                           \
    "{\"layer_idx\": " #LAYER ", \"token_idx\": " #TOKEN ", \"selected_ids\": [" IDS               \
    "], \"gate_weights\": [" WEIGHTS "]}\n"

static void json_lines_may_stand_in_any_order(void **unused)
{
    (void)unused;
    static const char *const ORDERS[] = {
        LINE(3, 10, "5, 1", "0.75, 0.25") LINE(7, 10, "2, 0", "0.5, 5e-1")
            LINE(3, 11, "4, 1", "1, -0.0") LINE(7, 11, "-1, 3", "0, 1"),
        "\n{\"note\": {\"a\": [1, \"}\"]}, \"gate_weights\":[0,1.0],\"selected_ids\":[-1,3],"
        "\"token_idx\":11,\"layer_idx\":7}\r\n" LINE(3, 11, "4, 1", "1, -0.0")
            LINE(7, 10, "2, 0", "0.5, 5e-1") LINE(3, 10, "5, 1", "0.75, 0.25")};
    static const uint16_t IDS[2][4] = {{5, 1, 2, 0}, {4, 1, EXPERT_DROPPED, 3}};
    static const float WEIGHTS[2][4] = {{0.75F, 0.25F, 0.5F, 0.5F}, {1, 0, 0, 1}};
    const char *out = scratch_name("lines.db");
    for (int order = 0; order < 2; order++) {
        ImportReport report = import_to(jsonl(ORDERS[order]), out);
        assert_int_equal(report.layers, 2);
        assert_int_equal(report.dropped, 1);
        TraceReader *reader;
        TraceStep step;
        uint32_t count;
        assert_ok(trace_reader_open(out, &reader));
        const TraceLayer *layers = trace_reader_layers(reader, &count);
        assert_int_equal(layers[0].layer, 3);
        assert_int_equal(layers[1].layer, 7);
        assert_int_equal(layers[1].experts, 6);
        for (uint32_t i = 0; i < 2; i++) {
            assert_ok(trace_reader_next_step(reader, &step));
            assert_int_equal(step.position[0], 10 + i);
            assert_memory_equal(step.experts, IDS[i], sizeof IDS[i]);
            for (int j = 0; j < 4; j++)
                assert_true(step.weights[j] == WEIGHTS[i][j]);
        }
        trace_reader_close(reader);
    }
}

static void json_lines_without_weights_make_a_trace_without_weights(void **unused)
{
    (void)unused;
    const char *out = scratch_name("bare.db");
    import_to(jsonl("{\"layer_idx\":0,\"token_idx\":0,\"selected_ids\":[1]}"), out);
    TraceReader *reader;
    TraceStep step;
    assert_ok(trace_reader_open(out, &reader));
    assert_ok(trace_reader_next_step(reader, &step));
    assert_null(step.weights);
    trace_reader_close(reader);
}

static void bad_json_lines_are_refused(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        const char *wanted;
    } CASES[] = {
        {"", "is empty"},
        {"layer,token\n", "line 1: a JSON object is wanted"},
        {"{\"layer_idx\":0,\"token_idx\":0}\n", "layer_idx, token_idx and selected_ids are wanted"},
        {"{\"layer_idx\":0,\"token_idx\":0,\"selected_ids\":[]}\n", "selected_ids: is empty"},
        {"{\"layer_idx\":0,\"token_idx\":0,\"selected_ids\":[1.5]}\n", "1.5 is not a whole number"},
        {"{\"layer_idx\":0,\"token_idx\":0,\"selected_ids\":[-2]}\n", "selected_ids: -2, allowed"},
        {"{\"layer_idx\":0,\"token_idx\":0,\"selected_ids\":[70000]}\n", "selected_ids: 70000"},
        {"{\"layer_idx\":0,\"token_idx\":0,\"selected_ids\":7}\n", "a list is wanted"},
        {"{\"layer_idx\":0,\"token_idx\":0,\"selected_ids\":[1]} x\n", "text behind the object"},
        {"{\"layer_idx\":0,\"layer_idx\":0,\"token_idx\":0}\n", "layer_idx stands twice"},
        {"{\"layer_idx\":-1,\"token_idx\":0}\n", "layer_idx: -1"},
        {"{\"layer_idx\":01,\"token_idx\":0}\n", "is not a JSON number"},
        {"{\"layer_idx\":0,\"token_idx\":99999999999999999999}\n", "token_idx: 99999"},
        {"{\"layer_idx\":0,\"token_idx\":0,\"selected_ids\":[1\n", "',' or ']' is wanted"},
        {"{\"layer_idx\":0,\"x\":[[[\n", "ends inside a value"},
        {"{\"layer_idx\":0,\"x\":\"ab\n", "a string does not end"},
        {LINE(0, 0, "1", "NaN"), "\"NaN\" is not a JSON number"},
        {LINE(0, 0, "1", "1e99"), "1e99 is not a number that half precision holds"},
        {LINE(0, 0, "1", "65520"), "65520 is not a number that half precision holds"},
        {"{\"layer_idx\":0, 5}\n", "line 1: column 17: a string is wanted"},
        {LINE(0, 0, "1, 2", "0.5"), "1 of them for 2 selected_ids"},
        {LINE(0, 0, "1, 2", "1, 0") LINE(0, 1, "1", "1"),
         "line 2: selected_ids: 1 of them, line 1"},
        {LINE(0, 0, "1", "1") "{\"layer_idx\":0,\"token_idx\":1,\"selected_ids\":[1]}\n",
         "line 2: gate_weights: missing, unlike line 1"},
        {LINE(0, 0, "1", "1") LINE(0, 0, "1", "1"), "line 2: token_idx 0, layer_idx 0 stands"},
        {LINE(0, 0, "1", "1") LINE(1, 1, "1", "1") LINE(0, 1, "1", "1"),
         "token_idx 0: layer_idx 1: no line"},
        {LINE(0, 0, "1", "1") LINE(0, 4000000000, "1", "1"), "would need 4000000001 lines"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        assert_import_refused(jsonl(CASES[i].text), CASES[i].wanted);
    ImportOptions options = jsonl(LINE(0, 0, "4", "1"));
    options.experts = 4;
    assert_import_refused(options, "selected_ids: 4, allowed is -1 to 3");
}

/* Reads the next event: its layer's tokens per expert. */
static void assert_event(TraceReader *reader, uint32_t step, uint32_t layer_index,
                         const uint32_t *wanted, uint32_t experts)
{
    TraceEvent event;
    uint32_t active = 0;
    assert_ok(trace_reader_next_event(reader, &event));
    assert_int_equal(event.step, step);
    assert_int_equal(event.layer_index, layer_index);
    for (uint32_t expert = 0; expert < experts; expert++) {
        if (wanted[expert] == 0)
            continue;
        assert_true(active < event.n_active);
        assert_int_equal(event.active[active], expert);
        assert_int_equal(event.active_tokens[active++], wanted[expert]);
    }
    assert_int_equal(active, event.n_active);
}

static void counts_give_events_with_exactly_these_loads(void **unused)
{
    (void)unused;
    static const uint32_t LOADS[2][2][4] = {{{3, 0, 1, 0}, {0, 0, 0, 2}},
                                            {{0, 0, 0, 0}, {1, 1, 1, 1}}};
    const char *out = scratch_name("loads.db");
    ImportOptions options = counts("step,layer,expert,count\n"
                                   "4,1,0,3\n4,1,2,1\n4,9,3,2\n"
                                   "6,1,0,0\n7,9,0,1\n7,9,1,1\n7,9,2,1\n7,9,3,1\n");
    ImportReport report = import_to(options, out);
    assert_int_equal(report.steps, 2);
    TraceReader *reader;
    assert_ok(trace_reader_open(out, &reader));
    assert_true(trace_counts_only(trace_reader_run(reader)));
    assert_event(reader, 4, 0, LOADS[0][0], 4);
    assert_event(reader, 4, 1, LOADS[0][1], 4);
    assert_event(reader, 7, 0, LOADS[1][0], 4);
    assert_event(reader, 7, 1, LOADS[1][1], 4);
    trace_reader_close(reader);
}

static void a_count_array_gives_the_same_as_the_table(void **unused)
{
    (void)unused;
    static const int64_t ARRAY[2][2][3] = {{{3, 0, 1}, {0, 2, 0}}, {{0, 0, 0}, {1, 1, 7}}};
    const char *out = scratch_name("array.db");
    ImportOptions options = {.from = IMPORT_COUNTS,
                             .path = npy_file("c.npy", "<i8", "(2, 2, 3)", ARRAY, sizeof ARRAY),
                             .first_layer = 3};
    import_to(options, out);
    TraceReader *reader;
    assert_ok(trace_reader_open(out, &reader));
    for (uint32_t step = 0; step < 2; step++)
        for (uint32_t layer = 0; layer < 2; layer++) {
            uint32_t wanted[3];
            for (int i = 0; i < 3; i++)
                wanted[i] = (uint32_t)ARRAY[step][layer][i];
            assert_event(reader, step, layer, wanted, 3);
        }
    trace_reader_close(reader);
}

static void a_trace_of_tokens_is_not_counts_only(void **unused)
{
    (void)unused;
    const char *out = scratch_name("tokens.db");
    import_to(jsonl(LINE(0, 0, "1", "1")), out);
    TraceReader *reader;
    assert_ok(trace_reader_open(out, &reader));
    assert_false(trace_counts_only(trace_reader_run(reader)));
    trace_reader_close(reader);
}

static void bad_counts_are_refused(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        const char *wanted;
    } CASES[] = {
        {"", "is empty"},
        {"layer,expert\n", "layer, expert and count are wanted"},
        {"layer,expert,count\n", "has no counts"},
        {"layer,expert,count\n0,0,0\n", "holds no token"},
        {"layer,expert,count\n0,0,-1\n", "count: \"-1\" is not a whole number"},
        {"layer,expert,count\n0,0,1.5\n", "is not a whole number"},
        {"layer,expert,count\n0,70000,1\n", "line 2: expert: 70000"},
        {"layer,expert,count\n0,1\n", "line 2: 2 fields, the row of column names has 3"},
        {"layer,expert,count\n0,1,1\n0,1,1\n",
         "line 3: layer 0, expert 1 stands already in line 2"},
        {"layer,expert,count\n0,1,99999999\n", "this is the sum of many steps"},
        {"layer,expert,count\n0,1,18446744073709551615\n0,2,9\n", "this is the sum of many steps"},
        {"step,layer,expert,count\n2,0,0,1\n1,0,0,1\n", "line 3: step 1 comes after step 2"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        assert_import_refused(counts(CASES[i].text), CASES[i].wanted);
    static const float FLOATS[4] = {1};
    static const int32_t NEGATIVE[4] = {1, -5};
    ImportOptions options = {.from = IMPORT_COUNTS};
    options.path = npy_file("c.npy", "<f4", "(2, 2)", FLOATS, sizeof FLOATS);
    assert_import_refused(options, "counts are integers");
    options.path = npy_file("c.npy", "<i4", "(4,)", NEGATIVE, sizeof NEGATIVE);
    assert_import_refused(options, "1 dimensions");
    options.path = npy_file("c.npy", "<i4", "(2, 2)", NEGATIVE, sizeof NEGATIVE);
    assert_import_refused(options, "step 0: layer 0: expert 1: count -5");
    options.experts = 3;
    assert_import_refused(options, "2 experts, --experts says 3");
}

static void every_failed_allocation_leaves_nothing(void **unused)
{
    (void)unused;
    ImportOptions options = jsonl(LINE(0, 0, "1", "1") LINE(1, 0, "1", "1"));
    options.out = scratch_name("lines-memory.db");
    assert_survives_lost_memory(&options);
    options = counts("step,layer,expert,count\n0,1,0,3\n1,1,2,1\n");
    options.out = scratch_name("counts-memory.db");
    assert_survives_lost_memory(&options);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_lines_may_stand_in_any_order),
        cmocka_unit_test(json_lines_without_weights_make_a_trace_without_weights),
        cmocka_unit_test(bad_json_lines_are_refused),
        cmocka_unit_test(counts_give_events_with_exactly_these_loads),
        cmocka_unit_test(a_count_array_gives_the_same_as_the_table),
        cmocka_unit_test(a_trace_of_tokens_is_not_counts_only),
        cmocka_unit_test(bad_counts_are_refused),
        cmocka_unit_test(every_failed_allocation_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
