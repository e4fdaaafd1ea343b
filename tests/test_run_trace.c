/* Running the steps of a trace again. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "exec/run.h"
#include "tests/checkpoint_maker.h"
#include "traces/reader.h"
#include "tests/run_maker.h"

/* Runs the steps of the trace at FROM again into TO. */
static Status run_again(const Plan *plan, const RunTraceOptions *options, const char *to)
{
    RunTraceShape shape;
    RunTotals totals;
    Executor *executor;
    TRY(run_trace_shape(options, checkpoint_config(checkpoint), &shape));
    const ExecutorOptions sizes = {.plan = plan,
                                   .device = "cpu",
                                   .threads = 2,
                                   .max_requests = shape.max_requests,
                                   .max_length = shape.max_length,
                                   .max_tokens = shape.max_tokens};
    TRY(executor_open(checkpoint, &sizes, &executor));
    Recorder *recorder = open_recorder(executor, to);
    Status status =
        run_trace(executor, checkpoint_config(checkpoint), options, recorder, NULL, NULL, &totals);
    if (status == OK) {
        assert_int_equal(totals.steps, shape.steps);
        assert_int_equal(totals.tokens, shape.tokens);
        assert_ok(recorder_close(recorder));
    } else {
        recorder_abandon(recorder);
    }
    executor_close(executor);
    return status;
}

static void assert_same_steps(const char *path, const char *other, bool exact)
{
    TraceReader *a;
    TraceReader *b;
    TraceStep step;
    TraceStep again;
    assert_ok(trace_reader_open(path, &a));
    assert_ok(trace_reader_open(other, &b));
    assert_int_equal(trace_reader_steps(a), trace_reader_steps(b));
    assert_int_equal(trace_reader_requests(a), trace_reader_requests(b));
    while (trace_reader_next_step(a, &step) == OK) {
        size_t words = step.tokens * sizeof(uint32_t);
        assert_ok(trace_reader_next_step(b, &again));
        assert_int_equal(step.step, again.step);
        assert_int_equal(step.phase, again.phase);
        assert_int_equal(step.tokens, again.tokens);
        assert_memory_equal(step.request, again.request, words);
        assert_memory_equal(step.position, again.position, words);
        assert_memory_equal(step.token, again.token, words);
        assert_memory_equal(step.experts, again.experts, step.tokens * ROUTED * 2);
        for (uint32_t i = 0; i < step.tokens * ROUTED; i++)
            assert_float_equal(step.weights[i], again.weights[i], exact ? 0 : 1e-3);
    }
    trace_reader_close(a);
    trace_reader_close(b);
}

static void running_a_trace_again_routes_as_it_did(void **state)
{
    (void)state;
    const Plan plan = plan_default();
    char from[256];
    char to[256];
    snprintf(from, sizeof from, "%s", scratch_path("from.db"));
    snprintf(to, sizeof to, "%s", scratch_path("to.db"));
    Seen *seen = new_seen();
    run_all(&plan, &USUAL, from, seen);
    for (int forced = 0; forced < 2; forced++) {
        const RunTraceOptions options = {.trace = from, .forced = forced};
        assert_ok(run_again(&plan, &options, to));
        assert_same_steps(from, to, forced);
    }
    mem_free(seen);
}

/* Copies the trace at FROM to TO without its token ids. */
static void copy_without_tokens(const char *from, const char *to)
{
    TraceReader *reader;
    Recorder *recorder;
    TraceStep step;
    TraceRequest request;
    uint32_t n_layers;
    const TraceRun run = {.tool = "test", .model = "random"};
    assert_ok(trace_reader_open(from, &reader));
    const TraceLayer *layers = trace_reader_layers(reader, &n_layers);
    unlink(to);
    assert_ok(recorder_open(to, &run, layers, n_layers, NULL, &recorder));
    while (trace_reader_next_request(reader, &request) == OK)
        assert_ok(recorder_request(recorder, &request));
    while (trace_reader_next_step(reader, &step) == OK) {
        step.token = NULL;
        assert_ok(recorder_step(recorder, &step, NULL, 0, NULL, 0));
    }
    assert_ok(recorder_close(recorder));
    trace_reader_close(reader);
}

static void tokens_that_a_trace_lacks_come_from_the_set_or_routing_is_forced(void **state)
{
    (void)state;
    const Plan plan = plan_default();
    char from[256];
    char bare[256];
    char to[256];
    snprintf(from, sizeof from, "%s", scratch_path("prompts.db"));
    snprintf(bare, sizeof bare, "%s", scratch_path("bare.db"));
    snprintf(to, sizeof to, "%s", scratch_path("again.db"));
    Seen *seen = new_seen();
    RunOptions prefill = USUAL;
    prefill.generate = 0;
    run_all(&plan, &prefill, from, seen);
    copy_without_tokens(from, bare);
    assert_ok(run_again(&plan, &(RunTraceOptions){.trace = bare, .forced = true}, to));
    assert_int_equal(run_again(&plan, &(RunTraceOptions){.trace = bare}, to), ERR_INPUT);
    assert_non_null(strstr(error_message(), "its id is not in the trace"));
    assert_ok(run_again(&plan, &(RunTraceOptions){.trace = bare, .tokens = &set}, to));
    assert_same_steps(from, to, false);
    /* What the trace has must be what the set says. */
    prompts[3][0] ^= 1;
    Status status = run_again(&plan, &(RunTraceOptions){.trace = from, .tokens = &set}, to);
    prompts[3][0] ^= 1;
    assert_int_equal(status, ERR_INPUT);
    assert_non_null(strstr(error_message(), "of request 3"));
    mem_free(seen);
}

static void a_policy_that_needs_the_future_runs_only_under_forced_routing(void **state)
{
    (void)state;
    Plan plan = plan_default();
    char from[256];
    snprintf(from, sizeof from, "%s", scratch_path("future.db"));
    Seen *seen = new_seen();
    run_all(&plan, &USUAL, from, seen);
    plan.buffer.on = true;
    plan.buffer.slots = 3;
    strcpy(plan.buffer.evict, "belady");
    assert_int_equal(
        run_again(&plan, &(RunTraceOptions){.trace = from}, scratch_path("future-to.db")),
        ERR_PLAN);
    assert_ok(run_again(&plan, &(RunTraceOptions){.trace = from, .forced = true},
                        scratch_path("future-to.db")));
    Executor *executor = open_executor(&plan, 64);
    assert_int_equal(run_requests(executor, checkpoint_config(checkpoint), &set, &USUAL, NULL, NULL,
                                  NULL, NULL, NULL, &seen->totals),
                     ERR_PLAN);
    executor_close(executor);
    mem_free(seen);
}

static void a_trace_of_another_model_is_refused(void **state)
{
    (void)state;
    static const struct {
        CheckpointSpec spec;
        const char *wanted;
    } others[] = {
        {{.n_layers = 2}, "3 MoE layers, the model 2"},
        {{.experts = 9}, "8 experts top-2, the model has 9 top-2"},
        {{.top_k = 1}, "8 experts top-2, the model has 8 top-1"},
        {{.dense_layers = 1, .n_layers = 4}, "the model's next MoE layer is 1"},
        {{.max_positions = 4}, "the model allows 4"},
        {{.vocabulary = 20}, "the model's vocabulary has 20"},
    };
    const Plan plan = plan_default();
    char from[256];
    snprintf(from, sizeof from, "%s", scratch_path("mine.db"));
    Seen *seen = new_seen();
    run_all(&plan, &USUAL, from, seen);
    mem_free(seen);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        Checkpoint *other;
        RunTraceShape shape;
        char name[32];
        snprintf(name, sizeof name, "other-%zu", i);
        make_checkpoint(scratch_path(name), &others[i].spec);
        assert_ok(checkpoint_open(scratch_path(name), &other));
        const RunTraceOptions options = {.trace = from};
        assert_int_equal(run_trace_shape(&options, checkpoint_config(other), &shape), ERR_INPUT);
        if (strstr(error_message(), others[i].wanted) == NULL)
            fail_msg("wanted \"%s\", got \"%s\"", others[i].wanted, error_message());
        checkpoint_close(other);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(running_a_trace_again_routes_as_it_did),
        cmocka_unit_test(tokens_that_a_trace_lacks_come_from_the_set_or_routing_is_forced),
        cmocka_unit_test(a_policy_that_needs_the_future_runs_only_under_forced_routing),
        cmocka_unit_test(a_trace_of_another_model_is_refused),
    };
    return cmocka_run_group_tests(tests, make_model, close_model);
}
