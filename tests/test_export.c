#include "base/status.h"
#include "tests/support.h"

#include <stdio.h>
#include <string.h>

#include "tests/import_maker.h"
#include "tests/random_trace.h"
#include "traces/export.h"
#include "traces/npy.h"

enum { STEPS = 20 };

static const RecorderOptions SCRATCH = {.durability = DURABLE_NOT};

static ExportReport export_to(ExportFormat to, const char *trace, const char *out, Stack stack)
{
    const ExportOptions options = {.to = to, .trace = trace, .out = out, .stack = stack};
    ExportReport report;
    assert_ok(trace_export(&options, &report));
    return report;
}

static void csv_has_a_row_for_every_choice(void **unused)
{
    (void)unused;
    const char *out = scratch_name("out.csv");
    for (uint64_t seed = 0; seed < 12; seed++) {
        RandomTrace trace = random_trace(seed);
        char name[32];
        snprintf(name, sizeof name, "csv%u.db", (unsigned)seed);
        const char *path = scratch_name(name);
        assert_ok(record_random(path, &trace, STEPS, &SCRATCH));
        ExportReport report = export_to(EXPORT_CSV, path, out, STACK_DECODER);
        assert_int_equal(report.steps, STEPS);
        FILE *stream = fopen(out, "r");
        char line[256];
        char wanted[256];
        assert_non_null(fgets(line, sizeof line, stream));
        assert_string_equal(line, "step,phase,layer,token,slot,expert,weight,request,position\n");
        for (uint32_t i = 0; i < STEPS; i++) {
            RandomStep made;
            random_step(&trace, i, &made);
            StackSpan span = layers_span(trace.layers, trace.n_layers, made.step.stack);
            size_t id = 0;
            for (uint32_t l = span.first; l < span.first + span.count; l++)
                for (uint32_t token = 0; token < made.step.tokens; token++)
                    for (uint32_t slot = 0; slot < trace.layers[l].top_k; slot++, id++) {
                        char expert[8] = "";
                        char weight[32] = "";
                        if (made.experts[id] != EXPERT_DROPPED)
                            snprintf(expert, sizeof expert, "%u", made.experts[id]);
                        if (made.experts[id] != EXPERT_DROPPED && trace.weights)
                            snprintf(weight, sizeof weight, "%.9g",
                                     (double)f32_from_f16(f16_from_f32(made.weights[id])));
                        snprintf(wanted, sizeof wanted, "%u,%s,%u,%u,%u,%s,%s,%u,%u\n",
                                 made.step.step, phase_name(made.step.phase), trace.layers[l].layer,
                                 token, slot, expert, weight, made.request[token],
                                 made.position[token]);
                        assert_non_null(fgets(line, sizeof line, stream));
                        assert_string_equal(line, wanted);
                    }
        }
        assert_null(fgets(line, sizeof line, stream));
        fclose(stream);
    }
}

static void npy_comes_back_the_same_through_import(void **unused)
{
    (void)unused;
    const char *first = scratch_name("first.npy");
    const char *second = scratch_name("second.npy");
    const char *again = scratch_name("again.db");
    for (uint64_t seed = 0; seed < 12; seed++) {
        RandomTrace trace = random_trace(seed);
        char name[32];
        snprintf(name, sizeof name, "npy%u.db", (unsigned)seed);
        const char *path = scratch_name(name);
        for (uint32_t i = 0; i < trace.n_layers; i++)
            trace.layers[i].top_k = 3;
        assert_ok(record_random(path, &trace, STEPS, &SCRATCH));
        ExportReport report = export_to(EXPORT_NPY, path, first, STACK_DECODER);
        ImportReport imported =
            import_to((ImportOptions){.from = IMPORT_NPY, .path = first}, again);
        assert_int_equal(imported.tokens, report.tokens);
        assert_int_equal(imported.ids, report.ids);
        export_to(EXPORT_NPY, again, second, STACK_DECODER);
        FileMap a;
        FileMap b;
        assert_ok(file_map_open(first, &a));
        assert_ok(file_map_open(second, &b));
        assert_int_equal(a.bytes, b.bytes);
        assert_memory_equal(a.data, b.data, a.bytes);
        file_map_close(&a);
        file_map_close(&b);
    }
}

static void npy_has_the_tokens_in_order_and_minus_one_for_dropped(void **unused)
{
    (void)unused;
    static const int16_t WANTED[2][2][2] = {{{1, 2}, {3, -1}}, {{0, 1}, {2, 3}}};
    const char *path = scratch_name("small.db");
    const char *out = scratch_name("small.npy");
    const TraceLayer layers[2] = {{.layer = 4, .experts = 4, .top_k = 2},
                                  {.layer = 9, .experts = 4, .top_k = 2}};
    const uint32_t zeros[2] = {0};
    const uint16_t ids[8] = {1, 2, 0, 1, 3, EXPERT_DROPPED, 2, 3};
    const TraceStep step = {.tokens = 2, .request = zeros, .position = zeros, .experts = ids};
    Recorder *recorder;
    assert_ok(recorder_open(path, &(TraceRun){0}, layers, 2, NULL, &recorder));
    assert_ok(recorder_step(recorder, &step, NULL, 0, NULL, 0));
    assert_ok(recorder_close(recorder));
    export_to(EXPORT_NPY, path, out, STACK_DECODER);
    FileMap map;
    Tensor tensor;
    assert_ok(file_map_open(out, &map));
    assert_ok(npy_view(out, map.data, map.bytes, &tensor));
    assert_int_equal(tensor.dtype, DTYPE_I16);
    assert_int_equal(tensor.shape[0], 2);
    assert_int_equal(tensor.shape[1], 2);
    assert_int_equal(tensor.shape[2], 2);
    assert_memory_equal(tensor.data, WANTED, sizeof WANTED);
    file_map_close(&map);
}

static void what_cannot_be_written_leaves_no_file(void **unused)
{
    (void)unused;
    RandomTrace trace = random_trace(5);
    ExportReport report;
    const char *path = scratch_name("uneven.db");
    char *out = scratch_name("nothing.npy");
    trace.n_layers = 2;
    for (uint32_t i = 0; i < 2; i++)
        trace.layers[i] = (TraceLayer){.layer = i, .experts = 20, .top_k = 1 + i};
    assert_ok(record_random(path, &trace, STEPS, &SCRATCH));
    ExportOptions options = {.to = EXPORT_NPY, .trace = path, .out = out};
    assert_int_equal(trace_export(&options, &report), ERR_INPUT);
    assert_non_null(strstr(error_message(), "layer 1: top_k 2, layer 0 has 1"));
    assert_nothing_written(out);
    options.stack = STACK_ENCODER;
    assert_int_equal(trace_export(&options, &report), ERR_INPUT);
    assert_nothing_written(out);
    options = (ExportOptions){.to = EXPORT_CSV, .trace = "nowhere.db", .out = out};
    assert_int_equal(trace_export(&options, &report), ERR_INPUT);
    assert_nothing_written(out);
    volatile int stop = 1;
    options = (ExportOptions){.to = EXPORT_CSV, .trace = path, .out = out, .stop = &stop};
    assert_int_equal(trace_export(&options, &report), ERR_INTERRUPTED);
    assert_nothing_written(out);
    options = (ExportOptions){.to = EXPORT_CSV, .trace = path, .out = "/nowhere/x.csv"};
    assert_int_equal(trace_export(&options, &report), ERR_OUTPUT);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(csv_has_a_row_for_every_choice),
        cmocka_unit_test(npy_comes_back_the_same_through_import),
        cmocka_unit_test(npy_has_the_tokens_in_order_and_minus_one_for_dropped),
        cmocka_unit_test(what_cannot_be_written_leaves_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
