/* Experts on the host in the executor: simulator and executor say the same of every expert, and the
 * model gives the same numbers wherever its experts run. */
#include "tests/validate_maker.h"

#include <math.h>

#include "base/memory.h"
#include "exec/executor.h"
#include "policies/buffer.h"

static int make_files(void **state)
{
    (void)state;
    make_files_of(8, 12, "12");
    return 0;
}

static const char HOST_NS[] =
    "compute.host_ns={\"0\": [[1, 100], [3, 150], [9, 900]], \"1\": [[1, 100], [2, 110]],"
    " \"2\": [[2, 250]]}";
static const char LOAD_NS[] = "compute.load_ns={\"0\": 240, \"1\": 240, \"2\": 240}";
static const char INITIAL[] = "buffer.initial={\"0\": [1, 2], \"1\": [0, 5, 7], \"2\": [3]}";

/* Returns how many experts the host computed. */
static double validate_one(const char *mode, const char *evict, const char *order,
                           const char *scope, const char *predictor)
{
    char sets[6][64];
    cJSON *json = NULL;
    bool split = strcmp(mode, "split") == 0;
    snprintf(sets[0], sizeof sets[0], "buffer.evict=%s", evict);
    snprintf(sets[1], sizeof sets[1], "buffer.order=%s", order);
    snprintf(sets[2], sizeof sets[2], "buffer.scope=%s", scope);
    snprintf(sets[3], sizeof sets[3], "buffer.slots=%d", strcmp(scope, "device") == 0 ? 11 : 4);
    snprintf(sets[4], sizeof sets[4], "prefetch.predictor=%s", predictor);
    snprintf(sets[5], sizeof sets[5], "compute.mode=%s", mode);
    RUN("validate", "--trace", trace, "--set", sets[0], "--set", sets[1], "--set", sets[2], "--set",
        sets[3], "--set", sets[4], "--set", sets[5], "--set", INITIAL, "--set",
        split ? HOST_NS : "seed=1", "--set", split ? LOAD_NS : "seed=1", "--threads", "2",
        "--json");
    assert_run_done(&run);
    assert_ok(json_parse(run.out, strlen(run.out), "stdout", &json));
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "agreed")));
    double computed = number_in(json, "measured", "host_computed");
    assert_true(number_in(json, "predicted", "host_computed") == computed);
    assert_true(number_in(json, "predicted", "misses") == number_in(json, "measured", "misses"));
    assert_true(number_in(json, "measured", "loads") + computed ==
                number_in(json, "measured", "misses"));
    if (split)
        assert_true(number_in(json, "measured", "loads") > 0);
    cJSON_Delete(json);
    return computed;
}

static void every_order_and_scope_agrees_event_by_event(void **state)
{
    (void)state;
    static const char *const ORDERS[] = {"batch", "staged", "serial"};
    static const char *const SCOPES[] = {"layer", "device"};
    static const char *const EVICTS[] = {"lru", "lfu-aged", "arc"};
    for (int kind = 0; kind < 6; kind++)
        for (size_t e = 0; e < sizeof EVICTS / sizeof EVICTS[0]; e++) {
            const char *order = ORDERS[kind / 2];
            const char *scope = SCOPES[kind % 2];
            const char *predictor = e == 1 ? "next-gate" : "none";
            assert_true(validate_one("host", EVICTS[e], order, scope, predictor) > 0);
            if (kind / 2 < 2)
                assert_true(validate_one("split", EVICTS[e], order, scope, predictor) > 0);
        }
}

static void a_plan_that_lacks_costs_is_refused(void **state)
{
    (void)state;
    RUN("validate", "--trace", trace, "--set", "buffer.slots=4", "--set", "compute.mode=split");
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "compute.host_ns: must be measured before"));
}

static void simulate_says_what_the_host_computes(void **state)
{
    (void)state;
    RUN("simulate", "--trace", trace, "--set", "buffer.slots=4", "--set", "compute.mode=host");
    assert_run_done(&run);
    assert_non_null(strstr(run.out, "Compute host: the host computes "));
    RUN("simulate", "--trace", trace, "--set", "buffer.slots=4", "--set", "compute.mode=split",
        "--set", HOST_NS, "--set", LOAD_NS, "--json");
    assert_run_done(&run);
    cJSON *json = NULL;
    assert_ok(json_parse(run.out, strlen(run.out), "stdout", &json));
    const cJSON *computed = cJSON_GetObjectItemCaseSensitive(json, "host_computed");
    const cJSON *rows = cJSON_GetObjectItemCaseSensitive(json, "host_rows");
    assert_true(computed->valuedouble > 0 && rows->valuedouble >= computed->valuedouble);
    cJSON_Delete(json);
    RUN("simulate", "--trace", trace, "--set", "buffer.slots=4");
    assert_run_done(&run);
    assert_null(strstr(run.out, "Compute "));
}

enum { TOKENS = 24, VOCABULARY = 96 };

/* The host's cores are timed before the step of a plan that they compute experts of, and of no
 * other. */
static void time_host(Executor *executor, const Plan *plan)
{
    uint64_t ns;
    for (int i = 0; i < 40; i++) {
        assert_ok(executor_time_host(executor, &ns));
        assert_true((ns > 0) == (plan->compute.mode == COMPUTE_ON_HOST));
    }
}

/* The logits of all tokens of a prompt, and what was done. */
static void run_prompt(const Checkpoint *checkpoint, const Plan *plan, float *logits,
                       uint32_t kinds[RESIDENCY_KINDS])
{
    uint32_t token[TOKENS];
    uint32_t slot[TOKENS] = {0};
    uint32_t position[TOKENS];
    Executor *executor;
    StepOutput output;
    const ExecutorOptions options = {.plan = plan,
                                     .device = "cpu",
                                     .threads = 2,
                                     .max_requests = 1,
                                     .max_length = TOKENS,
                                     .max_tokens = TOKENS,
                                     .logits = LOGITS_ALL};
    for (uint32_t i = 0; i < TOKENS; i++) {
        token[i] = (7 * i + 3) % VOCABULARY;
        position[i] = i;
    }
    const StepInput input = {.tokens = TOKENS,
                             .token = token,
                             .kv_slot = slot,
                             .position = position,
                             .logits = LOGITS_ALL};
    assert_ok(executor_open(checkpoint, &options, &executor));
    time_host(executor, plan);
    assert_ok(executor_step(executor, &input, &output));
    memcpy(logits, output.logits, sizeof(float) * TOKENS * VOCABULARY);
    for (size_t i = 0; i < output.n_residency; i++) {
        const ResidencyRecord *record = &output.residency[i];
        kinds[record->kind]++;
        assert_true(record->kind != RESIDENCY_HOST ||
                    (record->slot == UINT32_MAX && record->duration_ns > 0 && record->bytes == 0));
    }
    executor_close(executor);
}

static void logits_do_not_depend_on_where_experts_run(void **state)
{
    (void)state;
    static float wanted[TOKENS * VOCABULARY];
    static float is[TOKENS * VOCABULARY];
    Checkpoint *checkpoint;
    Plan plan = plan_default();
    uint32_t kinds[2][RESIDENCY_KINDS] = {{0}};
    assert_ok(checkpoint_open(model, &checkpoint));
    plan.buffer.on = true;
    plan.buffer.slots = 2;
    run_prompt(checkpoint, &plan, wanted, kinds[0]);
    plan.compute.mode = COMPUTE_ON_HOST;
    run_prompt(checkpoint, &plan, is, kinds[1]);
    assert_true(kinds[0][RESIDENCY_LOAD] > 0 && kinds[0][RESIDENCY_HOST] == 0);
    assert_true(kinds[1][RESIDENCY_LOAD] == 0 && kinds[1][RESIDENCY_HOST] > 0);
    for (size_t i = 0; i < TOKENS * VOCABULARY; i++)
        if (!(fabsf(is[i] - wanted[i]) <= 1e-4f * (1 + fabsf(wanted[i]))))
            fail_msg("logit %zu: %g for %g", i, (double)is[i], (double)wanted[i]);
    checkpoint_close(checkpoint);
}

static void an_executor_takes_a_plan_of_the_host_if_it_was_opened_for_one(void **state)
{
    (void)state;
    Checkpoint *checkpoint;
    Executor *executor;
    Plan plans[2] = {plan_default(), plan_default()};
    plans[0].buffer.on = plans[1].buffer.on = true;
    plans[0].buffer.slots = plans[1].buffer.slots = 2;
    plans[1].compute.mode = COMPUTE_ON_HOST;
    ExecutorOptions options = {.plan = &plans[0],
                               .device = "cpu",
                               .threads = 1,
                               .max_requests = 1,
                               .max_length = 8,
                               .max_tokens = 8};
    assert_ok(checkpoint_open(model, &checkpoint));
    assert_ok(executor_open(checkpoint, &options, &executor));
    assert_int_equal(executor_set_plan(executor, &plans[1]), ERR_UNSUPPORTED);
    assert_non_null(strstr(error_message(), "compute.mode is host"));
    executor_close(executor);
    options.others = &plans[1];
    options.n_others = 1;
    assert_ok(executor_open(checkpoint, &options, &executor));
    assert_ok(executor_set_plan(executor, &plans[1]));
    assert_ok(executor_set_plan(executor, &plans[0]));
    executor_close(executor);
    checkpoint_close(checkpoint);
}

static void every_failing_allocation_of_opening_is_an_error_without_a_leak(void **state)
{
    (void)state;
    Checkpoint *checkpoint;
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.slots = 2;
    plan.compute.mode = COMPUTE_ON_HOST;
    const ExecutorOptions options = {.plan = &plan,
                                     .device = "cpu",
                                     .threads = 1,
                                     .max_requests = 1,
                                     .max_length = 8,
                                     .max_tokens = 8};
    assert_ok(checkpoint_open(model, &checkpoint));
    FailingAllocation failing = {0};
    while (failing_next(&failing)) {
        Executor *executor;
        Status status = executor_open(checkpoint, &options, &executor);
        failing_end(&failing, status);
        if (status == OK)
            executor_close(executor);
    }
    assert_true(failing.k > 15);
    checkpoint_close(checkpoint);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_order_and_scope_agrees_event_by_event),
        cmocka_unit_test(a_plan_that_lacks_costs_is_refused),
        cmocka_unit_test(simulate_says_what_the_host_computes),
        cmocka_unit_test(logits_do_not_depend_on_where_experts_run),
        cmocka_unit_test(an_executor_takes_a_plan_of_the_host_if_it_was_opened_for_one),
        cmocka_unit_test(every_failing_allocation_of_opening_is_an_error_without_a_leak),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
