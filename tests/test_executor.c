/* The executor's edges: what it refuses, what it logs, and what it holds. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include <string.h>

#include "base/memory.h"
#include "tests/small_executor.h"
#include "tests/executor_maker.h"

static void a_bad_step_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    static const Small good = {3, {5, 6, 7}, {0, 0, 2}, {0, 1, 0}};
    static const struct {
        Small step;
        const char *wanted;
    } cases[] = {
        {{0, {0}, {0}, {0}}, "0 tokens, allowed are 1 to 32"},
        {{33, {0}, {0}, {0}}, "33 tokens"},
        {{2, {1, 96}, {1, 1}, {0, 1}}, "token 1: id 96, the vocabulary has 96"},
        {{1, {1}, {4}, {0}}, "token 0: KV slot 4, there are 4"},
        {{1, {1}, {1}, {64}}, "token 0: position 64, a request has room for 64"},
        {{1, {1}, {0}, {0}}, "position 0, KV slot 0 goes on at 2"},
        {{1, {1}, {0}, {3}}, "position 3, KV slot 0 goes on at 2"},
        {{2, {1, 1}, {1, 1}, {0, 2}}, "token 1: position 2 after 0"},
        {{3, {1, 1, 1}, {1, 3, 1}, {0, 0, 1}}, "token 2: KV slot 1 appears twice"},
    };
    const Plan plan = plan_default();
    static const Small next = {2, {8, 9}, {0, 2}, {2, 1}};
    float wanted[2 * VOCABULARY];
    StepOutput output;
    for (int bad = 0; bad < 2; bad++) {
        Executor *executor = open_executor(&plan);
        StepInput input = small_input(&good);
        assert_ok(executor_step(executor, &input, &output));
        for (size_t i = 0; bad && i < sizeof cases / sizeof cases[0]; i++) {
            StepInput wrong = small_input(&cases[i].step);
            assert_int_equal(executor_step(executor, &wrong, &output), ERR_INPUT);
            if (strstr(error_message(), cases[i].wanted) == NULL)
                fail_msg("wanted \"%s\", got \"%s\"", cases[i].wanted, error_message());
        }
        input = small_input(&next);
        assert_ok(executor_step(executor, &input, &output));
        if (bad)
            assert_memory_equal(output.logits, wanted, sizeof wanted);
        else
            memcpy(wanted, output.logits, sizeof wanted);
        executor_close(executor);
    }
}

static void forced_routing_is_checked_against_the_layer(void **state)
{
    (void)state;
    static const Small one = {1, {5}, {0}, {0}};
    static const struct {
        uint16_t experts[LAYERS * TOP_K];
        const char *wanted;
    } cases[] = {
        {{0, 1, 2, 8, 0, 1}, "layer 1: token 0: expert 8, the layer has 8"},
        {{0, 1, 2, 3, 6, 6}, "layer 2: token 0: expert 6 twice"},
    };
    const Plan plan = plan_default();
    Executor *executor = open_executor(&plan);
    StepInput input = small_input(&one);
    StepOutput output;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        input.forced_experts = cases[i].experts;
        assert_int_equal(executor_step(executor, &input, &output), ERR_INPUT);
        assert_non_null(strstr(error_message(), cases[i].wanted));
    }
    /* All dropped: the layers add nothing, and that is no error. */
    const uint16_t none[] = {EXPERT_DROPPED, EXPERT_DROPPED, EXPERT_DROPPED,
                             EXPERT_DROPPED, EXPERT_DROPPED, EXPERT_DROPPED};
    input.forced_experts = none;
    assert_ok(executor_step(executor, &input, &output));
    assert_int_equal(output.n_residency, 0);
    assert_memory_equal(output.experts, none, sizeof none);
    executor_close(executor);
}

static void a_greedy_step_chooses_the_largest_logit_of_each_request(void **state)
{
    (void)state;
    static const Small step = {4, {5, 6, 7, 9}, {1, 1, 0, 3}, {0, 1, 0, 0}};
    const Plan plan = plan_default();
    Executor *executor = open_executor(&plan);
    StepInput input = small_input(&step);
    StepOutput output;
    uint32_t wanted[3];
    assert_ok(executor_step(executor, &input, &output));
    assert_null(output.best);
    for (uint32_t row = 0; row < 3; row++) {
        const float *logits = output.logits + (size_t)row * VOCABULARY;
        wanted[row] = 0;
        for (uint32_t i = 1; i < VOCABULARY; i++)
            if (logits[i] > logits[wanted[row]])
                wanted[row] = i;
    }
    for (uint32_t slot = 0; slot < 4; slot++)
        executor_release(executor, slot);
    input.greedy = true;
    assert_ok(executor_step(executor, &input, &output));
    assert_null(output.logits);
    assert_int_equal(output.n_logits, 3);
    assert_memory_equal(output.best, wanted, sizeof wanted);
    executor_close(executor);
}

static void a_released_slot_begins_again(void **state)
{
    (void)state;
    static const Small one = {2, {5, 6}, {1, 1}, {0, 1}};
    const Plan plan = plan_default();
    float first[VOCABULARY];
    Executor *executor = open_executor(&plan);
    StepInput input = small_input(&one);
    StepOutput output;
    assert_ok(executor_step(executor, &input, &output));
    memcpy(first, output.logits, sizeof first);
    assert_int_equal(executor_step(executor, &input, &output), ERR_INPUT);
    executor_release(executor, 1);
    assert_ok(executor_step(executor, &input, &output));
    assert_memory_equal(first, output.logits, sizeof first);
    executor_close(executor);
}

static void a_request_that_is_wound_back_goes_on_as_if_it_had_not_gone_further(void **state)
{
    (void)state;
    static const Small begin = {2, {5, 6}, {1, 1}, {0, 1}};
    static const Small away = {3, {9, 3, 8}, {1, 1, 1}, {2, 3, 4}};
    static const Small on = {1, {7}, {1}, {2}};
    const Plan plan = plan_default();
    float first[VOCABULARY];
    Executor *executor = open_executor(&plan);
    const StepInput beginning = small_input(&begin);
    const StepInput further = small_input(&away);
    const StepInput again = small_input(&on);
    StepOutput output;
    assert_ok(executor_step(executor, &beginning, &output));
    assert_ok(executor_step(executor, &again, &output));
    memcpy(first, output.logits, sizeof first);
    executor_rewind(executor, 1, 2);
    assert_ok(executor_step(executor, &further, &output));
    assert_int_equal(executor_step(executor, &again, &output), ERR_INPUT);
    executor_rewind(executor, 1, 2);
    assert_ok(executor_step(executor, &again, &output));
    assert_memory_equal(first, output.logits, sizeof first);
    executor_close(executor);
}

static void options_that_cannot_be_met_are_refused(void **state)
{
    (void)state;
    Executor *executor;
    Plan plan = plan_default();
    const struct {
        ExecutorOptions change; /* fields that differ from the usual ones */
        const char *wanted;
    } cases[] = {
        {{.max_length = 65}, "65 tokens, the model allows 64"},
        {{.max_tokens = TRACE_MAX_TOKENS + 1}, "tokens a step"},
        {{.device = "abacus"}, "abacus"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ExecutorOptions options = usual_options(&plan);
        if (cases[i].change.max_length != 0)
            options.max_length = cases[i].change.max_length;
        if (cases[i].change.max_tokens != 0)
            options.max_tokens = cases[i].change.max_tokens;
        if (cases[i].change.device != NULL)
            options.device = cases[i].change.device;
        assert_int_not_equal(executor_open(checkpoint, &options, &executor), OK);
        if (strstr(error_message(), cases[i].wanted) == NULL)
            fail_msg("wanted \"%s\", got \"%s\"", cases[i].wanted, error_message());
    }
    plan.buffer.on = true;
    plan.buffer.bytes = 10;
    plan.buffer.slots = 0;
    ExecutorOptions options = usual_options(&plan);
    assert_int_equal(executor_open(checkpoint, &options, &executor), ERR_PLAN);
}

/* Steps of 64 requests with 64 tokens each in a model whose tokens take 32 experts. */
static void large_routings_stay_for_the_steps_that_follow(void **state)
{
    (void)state;
    enum { REQUESTS = 64, LENGTH = 64, TOKENS = REQUESTS * LENGTH, ROUTED = 32 * TOKENS };
    static uint32_t token[TOKENS];
    static uint32_t slot[TOKENS];
    static uint32_t position[TOKENS];
    static uint16_t seen[4][ROUTED];
    const uint16_t *experts[4];
    const Plan plan = plan_default();
    Checkpoint *wide;
    Executor *executor;
    uint64_t random = 17;
    make_checkpoint(scratch_path("wide"),
                    &(CheckpointSpec){.seed = 5, .n_layers = 4, .experts = 16, .top_k = 8});
    assert_ok(checkpoint_open(scratch_path("wide"), &wide));
    ExecutorOptions options = usual_options(&plan);
    options.max_requests = REQUESTS;
    options.max_tokens = TOKENS;
    assert_ok(executor_open(wide, &options, &executor));
    for (int step = 0; step < 4; step++) {
        StepOutput output;
        for (uint32_t i = 0; i < TOKENS; i++) {
            token[i] = random_below(&random, VOCABULARY);
            slot[i] = i / LENGTH;
            position[i] = i % LENGTH;
        }
        const StepInput input = {
            .tokens = TOKENS, .token = token, .kv_slot = slot, .position = position};
        assert_ok(executor_step(executor, &input, &output));
        experts[step] = output.experts;
        memcpy(seen[step], output.experts, sizeof seen[step]);
        assert_int_equal(output.kept_for, 3);
        for (int before = step < 2 ? 0 : step - 2; before < step; before++) {
            assert_memory_equal(experts[before], seen[before], sizeof seen[before]);
            assert_memory_not_equal(seen[before], seen[step], sizeof seen[step]);
        }
        for (uint32_t i = 0; i < REQUESTS; i++)
            executor_release(executor, i);
    }
    const Small one = {1, {5}, {0}, {0}};
    StepInput input = small_input(&one);
    StepOutput output;
    assert_ok(executor_step(executor, &input, &output));
    assert_int_equal(output.kept_for, 1);
    assert_memory_equal(experts[3], seen[3], sizeof seen[3]);
    executor_close(executor);
    checkpoint_close(wide);
}

static void a_step_allocates_nothing(void **state)
{
    (void)state;
    static const Small one = {3, {5, 6, 7}, {0, 0, 2}, {0, 1, 0}};
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.slots = 2;
    Executor *executor = open_executor(&plan);
    StepInput input = small_input(&one);
    StepOutput output;
    mem_fail_at(1);
    Status status = executor_step(executor, &input, &output);
    bool reached = mem_fail_reached();
    mem_fail_at(0);
    assert_ok(status);
    assert_false(reached);
    executor_close(executor);
}

static void every_failing_allocation_of_opening_is_an_error_without_a_leak(void **state)
{
    (void)state;
    Plan plan = plan_default();
    for (int buffered = 0; buffered < 2; buffered++) {
        plan.buffer.on = buffered;
        plan.buffer.slots = buffered ? 3 : 0;
        const ExecutorOptions options = usual_options(&plan);
        for (FailingAllocation failing = {0}; failing_next(&failing);) {
            Executor *executor = NULL;
            Status status = executor_open(checkpoint, &options, &executor);
            failing_end(&failing, status);
            if (status == OK)
                executor_close(executor);
        }
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bad_step_is_refused_and_changes_nothing),
        cmocka_unit_test(forced_routing_is_checked_against_the_layer),
        cmocka_unit_test(a_greedy_step_chooses_the_largest_logit_of_each_request),
        cmocka_unit_test(a_released_slot_begins_again),
        cmocka_unit_test(a_request_that_is_wound_back_goes_on_as_if_it_had_not_gone_further),
        cmocka_unit_test(options_that_cannot_be_met_are_refused),
        cmocka_unit_test(large_routings_stay_for_the_steps_that_follow),
        cmocka_unit_test(a_step_allocates_nothing),
        cmocka_unit_test(every_failing_allocation_of_opening_is_an_error_without_a_leak),
    };
    return cmocka_run_group_tests(tests, make_model, close_model);
}
