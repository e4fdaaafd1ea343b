/* Runs of requests and of traces: how steps are composed, what is recorded, and that neither batch,
 * buffer nor recording changes what the model says. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "exec/best_token.h"
#include "exec/run.h"
#include "tests/checkpoint_maker.h"
#include "traces/f16.h"
#include "traces/reader.h"
#include "tests/run_maker.h"

static void assert_same(const Seen *wanted, const Seen *got)
{
    assert_memory_equal(wanted->n_output, got->n_output, sizeof wanted->n_output);
    assert_memory_equal(wanted->output, got->output, sizeof wanted->output);
    for (uint32_t r = 0; r < REQUESTS; r++)
        for (uint32_t p = 0; p < MAX_PROMPT + GENERATE; p++) {
            const Row *a = &wanted->rows[r][p];
            const Row *b = &got->rows[r][p];
            assert_int_equal(a->seen, b->seen);
            assert_memory_equal(a->experts, b->experts, sizeof a->experts);
            for (uint32_t i = 0; i < ROUTED; i++)
                assert_float_equal(a->weights[i], b->weights[i], 1e-4);
        }
}

static void every_token_of_every_request_runs_once(void **state)
{
    (void)state;
    const Plan plan = plan_default();
    static const uint32_t BATCHES[] = {1, 3, 16, 99};
    static const uint32_t TOKENS[] = {1, 2, 7, 64, 999};
    for (size_t b = 0; b < 4; b++)
        for (size_t t = 0; t < 5; t++) {
            Seen *seen = new_seen();
            RunOptions options = USUAL;
            uint64_t prompt_tokens = 0;
            options.batch = BATCHES[b];
            options.max_tokens = TOKENS[t];
            run_all(&plan, &options, NULL, seen);
            for (uint32_t r = 0; r < REQUESTS; r++) {
                prompt_tokens += requests[r].n_tokens;
                assert_int_equal(seen->n_output[r], GENERATE);
                for (uint32_t p = 0; p < MAX_PROMPT + GENERATE; p++)
                    assert_int_equal(seen->rows[r][p].seen,
                                     p < requests[r].n_tokens + GENERATE - 1);
            }
            assert_true(seen->largest_step <= TOKENS[t]);
            assert_int_equal(seen->totals.prefill_tokens, prompt_tokens);
            assert_int_equal(seen->totals.decode_tokens, REQUESTS * (GENERATE - 1));
            assert_int_equal(seen->totals.tokens, seen->n_rows);
            assert_int_equal(seen->totals.generated, REQUESTS * GENERATE);
            mem_free(seen);
        }
}

static void batch_step_size_buffer_and_recording_change_nothing(void **state)
{
    (void)state;
    const Plan all = plan_default();
    Seen *wanted = new_seen();
    RunOptions one = USUAL;
    one.batch = 1;
    run_all(&all, &one, NULL, wanted);
    static const struct {
        uint32_t batch, max_tokens, slots;
        const char *evict;
        bool recorded;
    } variants[] = {
        {16, 999, 0, "", false},  {16, 5, 0, "", true},      {1, 64, 0, "", true},
        {16, 64, 1, "lru", true}, {7, 64, 3, "lfu", false},  {16, 9, 2, "random", true},
        {2, 64, 8, "fifo", true}, {16, 64, 5, "mru", false},
    };
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        Seen *got = new_seen();
        Plan plan = plan_default();
        RunOptions options = USUAL;
        options.batch = variants[i].batch;
        options.max_tokens = variants[i].max_tokens;
        plan.buffer.on = variants[i].slots > 0;
        if (plan.buffer.on) {
            plan.buffer.slots = variants[i].slots;
            plan.buffer.order = i % 2 ? ORDER_SERIAL : ORDER_BATCH;
            plan.buffer.scope = i % 3 ? SCOPE_LAYER : SCOPE_DEVICE;
            snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", variants[i].evict);
        }
        run_all(&plan, &options, variants[i].recorded ? scratch_path("variant.db") : NULL, got);
        assert_same(wanted, got);
        mem_free(got);
    }
    mem_free(wanted);
}

static uint32_t largest(const float *logits)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < VOCABULARY; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

static void generation_with_the_cache_equals_computing_everything_again(void **state)
{
    (void)state;
    const Plan plan = plan_default();
    Seen *seen = new_seen();
    run_all(&plan, &USUAL, NULL, seen);
    Executor *executor = open_executor(&plan, MAX_PROMPT + GENERATE);
    for (uint32_t r = 0; r < REQUESTS; r++) {
        uint32_t token[MAX_PROMPT + GENERATE];
        uint32_t position[MAX_PROMPT + GENERATE];
        uint32_t kv_slot[MAX_PROMPT + GENERATE] = {0};
        uint32_t n = requests[r].n_tokens;
        memcpy(token, prompts[r], n * sizeof *token);
        for (uint32_t i = 0; i < MAX_PROMPT + GENERATE; i++)
            position[i] = i;
        for (uint32_t g = 0; g < GENERATE; g++, n++) {
            StepOutput output;
            const StepInput input = {.tokens = n,
                                     .token = token,
                                     .kv_slot = kv_slot,
                                     .position = position,
                                     .logits = LOGITS_LAST};
            assert_ok(executor_step(executor, &input, &output));
            executor_release(executor, 0);
            assert_int_equal(largest(output.logits), seen->output[r][g]);
            token[n] = seen->output[r][g];
        }
    }
    executor_close(executor);
    mem_free(seen);
}

static void generation_ends_at_the_end_token_unless_told_to_go_on(void **state)
{
    (void)state;
    const Plan plan = plan_default();
    Seen *on = new_seen();
    run_all(&plan, &USUAL, NULL, on);
    /* Some token that the model does say becomes the end token. */
    uint32_t end = on->output[2][3];
    CheckpointSpec spec = {.seed = 11, .eos = end};
    Checkpoint *usual = checkpoint;
    make_checkpoint(scratch_path("model-eos"), &spec);
    assert_ok(checkpoint_open(scratch_path("model-eos"), &checkpoint));
    for (int ignore = 0; ignore < 2; ignore++) {
        Seen *got = new_seen();
        RunOptions options = USUAL;
        options.ignore_eos = ignore;
        run_all(&plan, &options, NULL, got);
        for (uint32_t r = 0; r < REQUESTS; r++) {
            uint32_t n = 0;
            while (n < GENERATE && (n == 0 || ignore || on->output[r][n - 1] != end))
                n++;
            assert_int_equal(got->n_output[r], n);
            assert_memory_equal(got->output[r], on->output[r], n * sizeof(uint32_t));
        }
        assert_true(ignore || got->n_output[2] <= 4);
        mem_free(got);
    }
    checkpoint_close(checkpoint);
    checkpoint = usual;
    mem_free(on);
}

/* The rows of a trace, as a run saw them. */
static void read_rows(const char *path, Seen *seen)
{
    TraceReader *reader;
    TraceStep step;
    Status status;
    assert_ok(trace_reader_open(path, &reader));
    assert_true(trace_reader_complete(reader));
    while ((status = trace_reader_next_step(reader, &step)) == OK) {
        const StepInput input = {.tokens = step.tokens};
        const StepOutput output = {.experts = step.experts, .weights = step.weights};
        for (uint32_t i = 0; i < step.tokens; i++) {
            uint32_t r = step.request[i];
            uint32_t p = step.position[i];
            if (p < requests[r].n_tokens)
                assert_int_equal(step.token[i], prompts[r][p]);
            else
                seen->output[r][p - requests[r].n_tokens] = step.token[i];
        }
        assert_ok(observe(seen, &step, &input, &output));
    }
    assert_int_equal(status, STATUS_END);
    trace_reader_close(reader);
}

static void the_trace_holds_what_the_run_did(void **state)
{
    (void)state;
    const Plan plan = plan_default();
    const char *path = scratch_path("run.db");
    Seen *seen = new_seen();
    Seen *read = new_seen();
    run_all(&plan, &USUAL, path, seen);
    read_rows(path, read);
    assert_int_equal(seen->n_rows, read->n_rows);
    for (uint32_t r = 0; r < REQUESTS; r++) {
        assert_memory_equal(seen->output[r], read->output[r], (GENERATE - 1) * sizeof(uint32_t));
        for (uint32_t p = 0; p < requests[r].n_tokens + GENERATE - 1; p++) {
            assert_memory_equal(seen->rows[r][p].experts, read->rows[r][p].experts,
                                sizeof seen->rows[r][p].experts);
            for (uint32_t i = 0; i < ROUTED; i++)
                assert_true(read->rows[r][p].weights[i] ==
                            f32_from_f16(f16_from_f32(seen->rows[r][p].weights[i])));
        }
    }
    TraceReader *reader;
    TraceRequest request;
    assert_ok(trace_reader_open(path, &reader));
    assert_int_equal(trace_reader_requests(reader), REQUESTS);
    for (uint32_t r = 0; r < REQUESTS; r++) {
        assert_ok(trace_reader_next_request(reader, &request));
        assert_int_equal(request.request, r);
        assert_int_equal(request.prompt_tokens, requests[r].n_tokens);
        assert_int_equal(request.output_tokens, GENERATE);
        assert_true(r % 2 ? strcmp(request.label, "odd") == 0 : request.label == NULL);
    }
    trace_reader_close(reader);
    mem_free(seen);
    mem_free(read);
}

static void a_stop_ends_after_the_step_and_leaves_a_complete_trace(void **state)
{
    (void)state;
    const Plan plan = plan_default();
    static const uint64_t AT[] = {0, 1, 3, 12, 30};
    for (size_t i = 0; i < sizeof AT / sizeof AT[0]; i++) {
        int stop = 0;
        Seen *seen = new_seen();
        Seen *read = new_seen();
        RunOptions options = USUAL;
        options.stop = &stop;
        seen->stop = &stop;
        seen->stop_at = AT[i];
        run_all(&plan, &options, scratch_path("stopped.db"), seen);
        assert_true(seen->totals.stopped);
        assert_int_equal(seen->totals.steps, AT[i] + 1);
        read_rows(scratch_path("stopped.db"), read);
        assert_int_equal(seen->n_rows, read->n_rows);
        mem_free(seen);
        mem_free(read);
    }
}

static void scores_are_recorded_whole_or_the_largest(void **state)
{
    (void)state;
    enum { EXPERTS = 8 };
    const Plan plan = plan_default();
    const uint32_t keeps[] = {SCORES_ALL, 1, 3, EXPERTS};
    for (size_t i = 0; i < sizeof keeps / sizeof keeps[0]; i++) {
        TraceReader *reader;
        TraceStep step;
        Status status;
        RunOptions options = USUAL;
        Seen *seen = new_seen();
        options.scores = keeps[i];
        uint32_t m = keeps[i] < EXPERTS ? keeps[i] : EXPERTS;
        run_all(&plan, &options, scratch_path("scores.db"), seen);
        assert_ok(trace_reader_open(scratch_path("scores.db"), &reader));
        while ((status = trace_reader_next_step(reader, &step)) == OK) {
            assert_int_equal(step.score_count, (size_t)LAYERS * step.tokens * m);
            for (size_t row = 0; row < (size_t)LAYERS * step.tokens; row++) {
                const uint16_t *scores = step.scores + row * m;
                /* Without normalisation the weights are the chosen experts' scores. */
                for (uint32_t k = 0; k < TOP_K && k < m; k++) {
                    uint32_t at = keeps[i] == SCORES_ALL ? step.experts[row * TOP_K + k] : k;
                    assert_float_equal(f32_from_f16(scores[at]), step.weights[row * TOP_K + k],
                                       1e-6);
                }
                float sum = 0;
                for (uint32_t e = 0; e < m; e++) {
                    sum += f32_from_f16(scores[e]);
                    if (keeps[i] != SCORES_ALL && e > 0)
                        assert_true(f32_from_f16(scores[e]) <= f32_from_f16(scores[e - 1]));
                }
                if (m == EXPERTS)
                    assert_float_equal(sum, 1, 4e-3);
            }
        }
        assert_int_equal(status, STATUS_END);
        trace_reader_close(reader);
        mem_free(seen);
    }
}

static void a_request_that_does_not_fit_is_refused_before_any_step(void **state)
{
    (void)state;
    const Plan plan = plan_default();
    Executor *executor = open_executor(&plan, 64);
    const ModelConfig *config = checkpoint_config(checkpoint);
    RunTotals totals;
    RunOptions options = USUAL;
    options.generate = 400;
    assert_int_equal(
        run_requests(executor, config, &set, &options, NULL, NULL, NULL, NULL, NULL, &totals),
        ERR_INPUT);
    assert_int_equal(totals.steps, 0);
    options = USUAL;
    options.max_tokens = 65;
    assert_int_equal(
        run_requests(executor, config, &set, &options, NULL, NULL, NULL, NULL, NULL, &totals),
        ERR_INPUT);
    options = USUAL;
    options.batch = 0;
    assert_int_equal(
        run_requests(executor, config, &set, &options, NULL, NULL, NULL, NULL, NULL, &totals),
        ERR_INPUT);
    executor_close(executor);
}

static void the_best_token_has_the_largest_logit_and_the_lowest_id(void **unused)
{
    (void)unused;
    static float logits[3000];
    uint64_t random = 3;
    for (uint32_t n = 1; n < 3000; n += 1 + n / 3) {
        for (int round = 0; round < 200; round++) {
            uint32_t best = 0;
            for (uint32_t i = 0; i < n; i++) {
                /* Few values, so that there are equals; sometimes all below 0. */
                logits[i] = (float)random_below(&random, round % 40 + 1) - (float)(round % 60);
                best = logits[i] > logits[best] ? i : best;
            }
            assert_int_equal(best_token(logits, n), best);
        }
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_token_has_the_largest_logit_and_the_lowest_id),
        cmocka_unit_test(every_token_of_every_request_runs_once),
        cmocka_unit_test(batch_step_size_buffer_and_recording_change_nothing),
        cmocka_unit_test(generation_with_the_cache_equals_computing_everything_again),
        cmocka_unit_test(generation_ends_at_the_end_token_unless_told_to_go_on),
        cmocka_unit_test(the_trace_holds_what_the_run_did),
        cmocka_unit_test(a_stop_ends_after_the_step_and_leaves_a_complete_trace),
        cmocka_unit_test(scores_are_recorded_whole_or_the_largest),
        cmocka_unit_test(a_request_that_does_not_fit_is_refused_before_any_step),
    };
    return cmocka_run_group_tests(tests, make_model, close_model);
}
