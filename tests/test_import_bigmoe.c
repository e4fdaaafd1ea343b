#include "base/status.h"
#include "tests/support.h"

#include "base/memory.h"
#include "tests/import_maker.h"

/* Three layers, the first dense; two tokens of prompt, of which only the second reaches the last
 * layer; two generated tokens. */
#define PREAMBLE                                                                                   \
    "# route_trace v1\n"                                                                           \
    "# model=/data/my models/a.gguf arch=qwen3moe n_layer=3 n_expert=8 n_expert_used=2\n"          \
    "# layer=0 expert_bytes=0 dense_bytes=500\n"                                                   \
    "# layer=1 expert_bytes=100 dense_bytes=50\n"                                                  \
    "# layer=2 expert_bytes=200 dense_bytes=60\n"
#define COLUMNS "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes\n"
#define PROMPT                                                                                     \
    "0,0,0,1,0,5,0.75,0,100\n0,0,0,1,1,3,0.25,0,100\n"                                             \
    "0,0,1,1,0,5,0.5,0,0\n0,0,1,1,1,7,0.5,1,0\n"                                                   \
    "0,0,1,2,0,2,0.5,0,200\n0,0,1,2,1,0,0.5,0,200\n"
#define DECODE                                                                                     \
    "0,1,2,1,0,5,0.5,1,0\n0,1,2,1,1,1,0.5,0,100\n0,1,2,2,0,2,0.5,2,0\n0,1,2,2,1,4,0.5,0,200\n"     \
    "0,1,3,1,0,1,0.5,1,0\n0,1,3,1,1,5,0.5,1,0\n0,1,3,2,0,4,0.5,1,0\n0,1,3,2,1,2,0.5,1,0\n"

static ImportOptions options_for(const char *text)
{
    return (ImportOptions){.from = IMPORT_BIGMOE_CSV, .path = text_file("route.csv", text)};
}

static void a_prompt_is_one_step_and_each_generated_token_another(void **unused)
{
    (void)unused;
    const char *out = scratch_name("route.db");
    ImportReport report = import_to(options_for(PREAMBLE COLUMNS PROMPT DECODE), out);
    assert_int_equal(report.steps, 3);
    assert_int_equal(report.tokens, 4);
    assert_int_equal(report.layers, 2);
    assert_int_equal(report.dropped, 2);
    static const uint16_t PROMPT_IDS[] = {5, 3, 5, 7, EXPERT_DROPPED, EXPERT_DROPPED, 2, 0};
    static const float PROMPT_WEIGHTS[] = {0.75F, 0.25F, 0.5F, 0.5F, 0, 0, 0.5F, 0.5F};
    static const uint16_t DECODE_IDS[2][4] = {{5, 1, 2, 4}, {1, 5, 4, 2}};
    TraceReader *reader;
    TraceStep step;
    uint32_t count;
    assert_ok(trace_reader_open(out, &reader));
    assert_string_equal(trace_reader_run(reader)->model, "/data/my models/a.gguf");
    assert_non_null(strstr(trace_reader_run(reader)->notes, "\"dense_bytes\":[500,50,60]"));
    const TraceLayer *layers = trace_reader_layers(reader, &count);
    assert_int_equal(layers[0].layer, 1);
    assert_int_equal(layers[0].expert_bytes, 100);
    assert_int_equal(layers[1].layer, 2);
    assert_int_equal(layers[1].expert_bytes, 200);
    assert_int_equal(layers[1].experts, 8);
    assert_ok(trace_reader_next_step(reader, &step));
    assert_int_equal(step.phase, PHASE_PREFILL);
    assert_int_equal(step.tokens, 2);
    assert_memory_equal(step.experts, PROMPT_IDS, sizeof PROMPT_IDS);
    assert_memory_equal(step.weights, PROMPT_WEIGHTS, sizeof PROMPT_WEIGHTS);
    for (int i = 0; i < 2; i++) {
        assert_ok(trace_reader_next_step(reader, &step));
        assert_int_equal(step.phase, PHASE_DECODE);
        assert_int_equal(step.position[0], 2 + i);
        assert_memory_equal(step.experts, DECODE_IDS[i], sizeof DECODE_IDS[i]);
    }
    trace_reader_close(reader);
}

static void the_engines_hits_and_loads_are_kept_once_per_expert_and_step(void **unused)
{
    (void)unused;
    const char *out = scratch_name("residency.db");
    import_to(options_for(PREAMBLE COLUMNS PROMPT DECODE), out);
    static const struct {
        uint32_t layer, expert, kind;
        uint64_t bytes;
    } WANTED[] = {{1, 5, RESIDENCY_LOAD, 100},
                  {1, 3, RESIDENCY_LOAD, 100},
                  {1, 7, RESIDENCY_HIT, 0},
                  {2, 2, RESIDENCY_LOAD, 200},
                  {2, 0, RESIDENCY_LOAD, 200}};
    TraceReader *reader;
    const ResidencyRecord *records;
    size_t n_records;
    assert_ok(trace_reader_open(out, &reader));
    assert_ok(trace_reader_residency(reader, 0, 0, &records, &n_records));
    assert_int_equal(n_records, 5);
    for (size_t i = 0; i < n_records; i++) {
        assert_int_equal(records[i].layer, WANTED[i].layer);
        assert_int_equal(records[i].expert, WANTED[i].expert);
        assert_int_equal(records[i].kind, WANTED[i].kind);
        assert_int_equal(records[i].bytes, WANTED[i].bytes);
        assert_int_equal(records[i].slot, SLOT_UNKNOWN);
    }
    trace_reader_close(reader);
}

static void turns_are_requests(void **unused)
{
    (void)unused;
    const char *out = scratch_name("turns.db");
    import_to(options_for(PREAMBLE COLUMNS PROMPT DECODE
                          "3,0,4,1,0,1,0.5,1,0\n3,0,4,1,1,5,0.5,1,0\n"
                          "3,0,4,2,0,4,0.5,1,0\n3,0,4,2,1,2,0.5,1,0\n"),
              out);
    TraceReader *reader;
    TraceRequest request;
    assert_ok(trace_reader_open(out, &reader));
    assert_ok(trace_reader_next_request(reader, &request));
    assert_int_equal(request.prompt_tokens, 2);
    assert_int_equal(request.output_tokens, 2);
    assert_ok(trace_reader_next_request(reader, &request));
    assert_int_equal(request.request, 3);
    assert_string_equal(request.label, "turn 3");
    assert_int_equal(request.prompt_tokens, 1);
    trace_reader_close(reader);
}

static void columns_are_found_by_name_and_dropped_rows_are_not_computed(void **unused)
{
    (void)unused;
    const char *out = scratch_name("names.db");
    ImportReport report = import_to(
        options_for(PREAMBLE
                    "expert,slot,layer,step,phase,turn,dropped,new\n"
                    "5,0,1,0,1,0,0,x\n3,1,1,0,1,0,1,x\n2,0,2,0,1,0,0,x\n4,1,2,0,1,0,0,x\n"),
        out);
    assert_int_equal(report.dropped, 1);
    static const uint16_t IDS[] = {5, EXPERT_DROPPED, 2, 4};
    TraceReader *reader;
    TraceStep step;
    const ResidencyRecord *records;
    size_t n_records;
    assert_ok(trace_reader_open(out, &reader));
    assert_ok(trace_reader_next_step(reader, &step));
    assert_memory_equal(step.experts, IDS, sizeof IDS);
    assert_null(step.weights);
    assert_ok(trace_reader_residency(reader, 0, 0, &records, &n_records));
    assert_int_equal(n_records, 0);
    trace_reader_close(reader);
}

static void weights_that_the_engine_did_not_know_are_absent(void **unused)
{
    (void)unused;
    const char *out = scratch_name("nan.db");
    import_to(options_for(PREAMBLE COLUMNS "0,1,0,1,0,5,nan,1,0\n0,1,0,1,1,1,nan,0,100\n"
                                           "0,1,0,2,0,2,nan,2,0\n0,1,0,2,1,4,nan,0,200\n"),
              out);
    TraceReader *reader;
    TraceStep step;
    assert_ok(trace_reader_open(out, &reader));
    assert_ok(trace_reader_next_step(reader, &step));
    assert_null(step.weights);
    trace_reader_close(reader);
}

static void bad_route_traces_are_refused(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        const char *wanted;
    } CASES[] = {
        {"", "is empty"},
        {COLUMNS PROMPT, "line 1: \"# route_trace v1\" is wanted: the preamble is missing"},
        {"# route_trace v2\n", "only v1 is known"},
        {"# route_trace v1\n" COLUMNS PROMPT, "the line with model= is missing"},
        {"# route_trace v1\n# layer=0 expert_bytes=1 dense_bytes=1\n", "line 2: preamble"},
        {"# route_trace v1\n# model=a arch=b n_layer=3 n_expert=8\n", "n_expert_used= is missing"},
        {"# route_trace v1\n# model=a arch=b n_layer=9999 n_expert=8 n_expert_used=2\n",
         "n_layer: 9999, allowed is 0 to 1024"},
        {"# route_trace v1\n# model=a arch=b n_layer=3 n_expert=2 n_expert_used=4\n",
         "the model has 2 experts"},
        {PREAMBLE, "ends before the row of column names"},
        {PREAMBLE COLUMNS, "has no row of routing"},
        {PREAMBLE "turn,phase,step,layer,slot\n", "the column expert is missing"},
        {PREAMBLE COLUMNS "0,2,0,1,0,5,0.5,0,100\n", "line 7: phase: 2"},
        {PREAMBLE COLUMNS "0,1,0,3,0,5,0.5,0,100\n", "layer: 3, allowed is 0 to 2"},
        {PREAMBLE COLUMNS "0,1,0,1,2,5,0.5,0,100\n", "slot: 2, allowed is 0 to 1"},
        {PREAMBLE COLUMNS "0,1,0,1,0,8,0.5,0,100\n", "line 7: expert: 8, allowed is 0 to 7"},
        {PREAMBLE COLUMNS "0,1,0,1,0,-1,0.5,0,100\n", "expert: \"-1\" is not a whole number"},
        {PREAMBLE COLUMNS "0,1,0,1,0,5,abc,0,100\n", "weight: \"abc\" is not a number"},
        {PREAMBLE COLUMNS "0,1,0,1,0,5,inf,0,100\n", "weight: is beyond what half precision holds"},
        {PREAMBLE COLUMNS "0,1,0,1,0,5,70000,0,100\n", "weight: is beyond what half precision"},
        {PREAMBLE COLUMNS "0,1,0,1,0,5,0.5,0,100\n0,1,0,1,1,3,nan,0,100\n",
         "line 8: weight: NaN, while other rows have one"},
        {PREAMBLE COLUMNS "0,1,0,1,0,5,0.5\n", "line 7: 7 fields, the row of column names has 9"},
        {PREAMBLE COLUMNS "0,1,0,1,0,5,0.5,0,100,1\n", "line 7: 10 fields, the row of column"},
        {PREAMBLE "turn,phase,step,layer,slot,expert,layer\n", "the column \"layer\" stands twice"},
        {PREAMBLE COLUMNS "0,1,0,1,0,5,0.5,3,100\n", "residency: 3"},
        {PREAMBLE COLUMNS "0,1,0,1,0,5,0.5,0,100\n0,1,0,1,0,3,0.5,0,100\n",
         "line 8: turn 0, step 0, layer 1, slot 0 stands already in line 7"},
        {PREAMBLE COLUMNS "0,1,0,1,0,5,0.5,0,100\n", "1 slots, n_expert_used says 2"},
        {PREAMBLE COLUMNS "0,1,0,1,0,5,0.5,0,100\n0,1,0,1,1,3,0.5,0,100\n"
                          "0,1,1,2,0,5,0.5,0,100\n0,1,1,2,1,3,0.5,0,100\n",
         "step 0, layer 2: 0 slots"},
        {PREAMBLE COLUMNS PROMPT DECODE "0,0,9,1,0,5,0.5,0,100\n", "comes after later rows"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        assert_import_refused(options_for(CASES[i].text), CASES[i].wanted);
}

static void options_that_mean_nothing_here_are_refused(void **unused)
{
    (void)unused;
    ImportOptions options = options_for(PREAMBLE COLUMNS PROMPT);
    options.experts = 8;
    assert_import_refused(options, "--experts has no meaning with --from bigmoe-csv");
    options = options_for(PREAMBLE COLUMNS PROMPT);
    options.step_given = true;
    assert_import_refused(options, "--step has no meaning");
    options = options_for(PREAMBLE COLUMNS PROMPT);
    options.sequences = "x.csv";
    assert_import_refused(options, "--sequences has no meaning");
}

static void every_failed_allocation_leaves_nothing(void **unused)
{
    (void)unused;
    char *out = scratch_name("memory.db");
    ImportOptions options = options_for(PREAMBLE COLUMNS PROMPT DECODE);
    options.out = out;
    assert_survives_lost_memory(&options);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_is_one_step_and_each_generated_token_another),
        cmocka_unit_test(the_engines_hits_and_loads_are_kept_once_per_expert_and_step),
        cmocka_unit_test(turns_are_requests),
        cmocka_unit_test(columns_are_found_by_name_and_dropped_rows_are_not_computed),
        cmocka_unit_test(weights_that_the_engine_did_not_know_are_absent),
        cmocka_unit_test(bad_route_traces_are_refused),
        cmocka_unit_test(options_that_mean_nothing_here_are_refused),
        cmocka_unit_test(every_failed_allocation_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
