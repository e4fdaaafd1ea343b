/* The writer of tools/capture/moebius_capture.py: what it writes is a trace like any other. Skipped
 * where there is no python3. */
#include "base/status.h"
#include "tests/support.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "traces/reader.h"

enum { LAYERS = 3, STEPS = 400 };

static bool have_python(void)
{
    return system("python3 -c 'import sqlite3' 2>/dev/null") == 0;
}

static void run_python(const char *kind, const char *out)
{
    char command[600];
    snprintf(command, sizeof command, "python3 -B tests/capture_writer.py %s %s", kind, out);
    assert_int_equal(system(command), 0);
}

/* As number() of tests/capture_writer.py. */
static uint32_t number(uint32_t a, uint32_t b, uint32_t c, int parts)
{
    const uint32_t all[3] = {a, b, c};
    uint64_t value = 7;
    for (int i = 0; i < parts; i++)
        value = (value * 31 + all[i]) % 1000003;
    return (uint32_t)value;
}

static void assert_step(const TraceStep *step, const TraceLayer *layers, uint32_t index,
                        uint32_t experts)
{
    static const Phase PHASES[3] = {PHASE_ENCODE, PHASE_PREFILL, PHASE_DECODE};
    Phase phase = PHASES[index % 3];
    uint32_t tokens = phase == PHASE_DECODE ? 1 : 1 + number(index, 0, 0, 1) % 200;
    assert_int_equal(step->step, index);
    assert_int_equal(step->phase, phase);
    assert_int_equal(step->tokens, tokens);
    assert_int_equal(step->start_ns, index);
    assert_int_equal(step->token != NULL, index % 7 != 0);
    assert_int_equal(step->weights != NULL, index % 5 != 0);
    for (uint32_t i = 0; i < tokens; i++) {
        assert_int_equal(step->request[i], index % 4);
        assert_int_equal(step->position[i], index + i);
        if (step->token != NULL)
            assert_int_equal(step->token[i], number(index, i, 0, 2));
    }
    size_t id = 0;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        if ((layers[layer].stack == STACK_ENCODER) != (phase == PHASE_ENCODE))
            continue;
        for (uint32_t i = 0; i < tokens * layers[layer].top_k; i++, id++) {
            uint32_t plus_one = number(index, layers[layer].layer, i, 3) % (experts + 1);
            assert_int_equal(step->experts[id], plus_one == 0 ? EXPERT_DROPPED : plus_one - 1);
            if (step->weights != NULL)
                assert_true(step->weights[id] == (float)(number(index, i, 0, 2) % 64) / 64);
        }
    }
}

static void assert_trace(const char *path, uint32_t experts)
{
    TraceReader *reader;
    TraceStep step;
    TraceRequest request;
    uint32_t n_layers;
    assert_ok(trace_reader_open(path, &reader));
    assert_string_equal(trace_reader_run(reader)->model, "\xC3\xA9"
                                                         "crit");
    const TraceLayer *layers = trace_reader_layers(reader, &n_layers);
    assert_int_equal(n_layers, LAYERS);
    assert_int_equal(layers[2].layer, 4);
    assert_int_equal(layers[2].expert_bytes, 102);
    for (uint32_t i = 0; i < STEPS; i++) {
        assert_ok(trace_reader_next_step(reader, &step));
        assert_step(&step, layers, i, experts);
    }
    assert_int_equal(trace_reader_next_step(reader, &step), STATUS_END);
    assert_ok(trace_reader_next_request(reader, &request));
    assert_string_equal(request.label, "label 0");
    assert_int_equal(request.output_tokens, 396);
    trace_reader_close(reader);
}

static void what_the_python_writer_writes_is_a_trace(void **unused)
{
    (void)unused;
    if (!have_python())
        skip();
    static const char *const KINDS[] = {"narrow", "wide"};
    static const uint32_t EXPERTS[] = {40, 300};
    for (int i = 0; i < 2; i++) {
        TraceCheck found;
        const char *path = scratch_path(KINDS[i]);
        run_python(KINDS[i], path);
        assert_ok(trace_check(path, &found, NULL, NULL));
        assert_int_equal(found.steps, STEPS);
        assert_int_equal(found.requests, 4);
        assert_trace(path, EXPERTS[i]);
    }
}

static void a_killed_capture_leaves_whole_steps(void **unused)
{
    (void)unused;
    if (!have_python())
        skip();
    TraceCheck found;
    const char *path = scratch_path("killed");
    run_python("killed", path);
    assert_ok(trace_check(path, &found, NULL, NULL));
    assert_in_range(found.steps, 1, STEPS);
}

static void steps_that_do_not_fit_are_refused(void **unused)
{
    (void)unused;
    if (!have_python())
        skip();
    TraceCheck found;
    const char *path = scratch_path("refuse");
    run_python("refuse", path);
    assert_ok(trace_check(path, &found, NULL, NULL));
    assert_int_equal(found.steps, 1);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_python_writer_writes_is_a_trace),
        cmocka_unit_test(a_killed_capture_leaves_whole_steps),
        cmocka_unit_test(steps_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
