/* One executor under many plans: after executor_set_plan() it does what a fresh one does; and the
 * memory that an executor would take. tests/gpu/test_set_plan.c runs this on the GPU. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include <string.h>

#include "base/memory.h"
#include "policies/buffer.h"
#include "tests/plan_maker.h"
#include "tests/small_executor.h"

enum { MAX_TOKENS = 16, STEPS = 12, MOST_PLANS = 256 };

/* What times that the same clock was asked for differ by at the most. */
static const uint64_t STAMP_NS = 1000;

#ifndef TEST_DEVICE
#define TEST_DEVICE "cpu"
#endif

static ExecutorOptions usual_options(const Plan *plan)
{
    return small_options(plan, TEST_DEVICE, MAX_TOKENS);
}

/* Every eviction that knows no future, order and scope, with predictors in turn; sizes grow and
 * shrink. Static gating by masks, then padded. */
static size_t make_plans(Plan *plans)
{
    static const char *const PREDICTORS[] = {"none",      "frequency",  "previous-step",
                                             "next-gate", "transition", "activation-match:4"};
    static const char *const ORDERS[] = {"serial", "batch", "staged"};
    static const uint32_t SLOTS[] = {3, 8, 1, 5};
    size_t n = 0;
    for (const char *const *evict = eviction_names(); *evict != NULL; evict++)
        for (size_t kind = 0; kind < 6; kind++) {
            char text[512];
            bool suits = !eviction_needs_future(*evict) && !eviction_needs_hot(*evict);
            snprintf(
                text, sizeof text,
                "{\"moebius_plan\":1,\"seed\":%zu,\"buffer\":{\"evict\":\"%s\",\"order\":\"%s\","
                "\"scope\":\"%s\",\"slots\":%u},\"prefetch\":{\"predictor\":\"%s\","
                "\"max_inflight\":%zu}}",
                n, *evict, ORDERS[kind / 2], kind % 2 ? "device" : "layer",
                SLOTS[n % 4] * (kind % 2 ? 2 : 1), PREDICTORS[n % 6], 1 + n % 3);
            if (suits)
                plans[n++] = good_plan(text);
        }
    plans[n++] = good_plan("{\"moebius_plan\":1,\"buffer\":{\"slots\":4,\"evict\":\"lru\","
                           "\"initial\":{\"0\":[1,2],\"2\":[7]}}}");
    plans[n++] = good_plan("{\"moebius_plan\":1,\"buffer\":{\"slots\":4,\"evict\":\"static\","
                           "\"hot\":{\"0\":[1,2],\"1\":[0,3,4],\"2\":[7]}}}");
    plans[n++] = good_plan("{\"moebius_plan\":1,\"compute\":{\"mode\":\"host\"},"
                           "\"buffer\":{\"slots\":3,\"evict\":\"lru\"}}");
    plans[n++] = good_plan("{\"moebius_plan\":1,\"gating\":{\"mode\":\"static\","
                           "\"capacity_factor\":0.5},\"buffer\":{\"slots\":3,\"evict\":\"lru\"}}");
    for (int mask = 1; mask >= 0; mask--) {
        char text[256];
        snprintf(text, sizeof text,
                 "{\"moebius_plan\":1,\"gating\":{\"mode\":\"static\",\"capacity_factor\":0.5,"
                 "\"dispatch\":\"%s\"},\"buffer\":null}",
                 mask ? "mask" : "padded");
        plans[n++] = good_plan(text);
    }
    plans[n++] = plan_default();
    assert_true(n <= MOST_PLANS);
    return n;
}

/* A step of a few random tokens of one request; HELD: stamped, and held. */
static void run_one(Executor *executor, uint32_t step, bool held, uint64_t *random,
                    StepOutput *output)
{
    uint32_t token[MAX_TOKENS];
    uint32_t slot[MAX_TOKENS];
    uint32_t position[MAX_TOKENS];
    uint32_t request[MAX_TOKENS];
    uint32_t n = 1 + random_below(random, 5);
    for (uint32_t i = 0; i < n; i++) {
        token[i] = random_below(random, VOCABULARY);
        slot[i] = step % MAX_REQUESTS;
        position[i] = i;
        request[i] = step;
    }
    const StepInput input = {.tokens = n,
                             .token = token,
                             .kv_slot = slot,
                             .position = position,
                             .request = request,
                             .logits = LOGITS_LAST,
                             .timing = held,
                             .held = held};
    assert_ok(executor_step(executor, &input, output));
    executor_release(executor, step % MAX_REQUESTS);
}

static void run_random(Executor *executor, uint32_t step, uint64_t *random, StepOutput *output)
{
    run_one(executor, step, false, random, output);
}

static void assert_same_step(const StepOutput *a, const StepOutput *b)
{
    assert_int_equal(a->n_residency, b->n_residency);
    for (size_t i = 0; i < a->n_residency; i++) {
        const ResidencyRecord *x = &a->residency[i];
        const ResidencyRecord *y = &b->residency[i];
        assert_true(x->layer == y->layer && x->expert == y->expert && x->kind == y->kind &&
                    x->slot == y->slot && x->bytes == y->bytes);
    }
    assert_memory_equal(a->logits, b->logits, VOCABULARY * sizeof(float));
}

/* Runs the same steps in both. */
static void assert_same_runs(Executor *a, Executor *b, uint32_t steps)
{
    uint64_t random[2] = {11, 11};
    for (uint32_t step = 0; step < (briefest() ? 1 : brief() ? 2 : steps); step++) {
        StepOutput outputs[2];
        run_random(a, step, &random[0], &outputs[0]);
        run_random(b, step, &random[1], &outputs[1]);
        assert_same_step(&outputs[0], &outputs[1]);
    }
}

static void after_set_plan_every_event_is_a_fresh_executors(void **state)
{
    (void)state;
    static Plan plans[MOST_PLANS];
    size_t n = make_plans(plans);
    ExecutorOptions options = usual_options(&plans[0]);
    Executor *executor;
    uint64_t random = 5;
    options.others = plans;
    options.n_others = n;
    assert_ok(executor_open(checkpoint, &options, &executor));
    for (size_t i = 0; i < 2 * n; i++) {
        const Plan *plan = &plans[i < n ? i : random_below(&random, (uint32_t)n)];
        if (brief() && (i % 101 != 0 || (briefest() && i > 0)))
            continue;
        const ExecutorOptions fresh_options = usual_options(plan);
        Executor *fresh;
        assert_ok(executor_open(checkpoint, &fresh_options, &fresh));
        assert_ok(executor_set_plan(executor, plan));
        assert_int_equal(executor_slot_bytes(executor), executor_slot_bytes(fresh));
        assert_same_runs(executor, fresh, STEPS);
        executor_close(fresh);
    }
    executor_close(executor);
    for (size_t i = 0; i < n; i++)
        plan_free(&plans[i]);
}

/* Operations follow each other, and are as many. */
static void assert_stamped(const StepOutput *held, size_t *n_ops)
{
    uint64_t end_ns = 0;
    assert_true(held->n_timing > 0 && (*n_ops == 0 || held->n_timing == *n_ops));
    *n_ops = held->n_timing;
    for (size_t i = 0; i < held->n_timing; i++) {
        assert_true(held->timing[i].start_ns + STAMP_NS >= end_ns);
        end_ns = held->timing[i].start_ns + held->timing[i].duration_ns;
    }
}

static void a_held_step_does_what_any_other_does(void **state)
{
    (void)state;
    static const char *const PLANS[] = {
        "{\"moebius_plan\":1,\"buffer\":{\"slots\":3,\"evict\":\"lru\"}}",
        "{\"moebius_plan\":1,\"buffer\":{\"slots\":5,\"evict\":\"fifo\",\"order\":\"serial\"},"
        "\"prefetch\":{\"predictor\":\"next-gate\",\"max_inflight\":2}}",
        "{\"moebius_plan\":1,\"compute\":{\"mode\":\"host\"},"
        "\"buffer\":{\"slots\":3,\"evict\":\"lru\"}}",
        "{\"moebius_plan\":1}"};
    for (size_t i = 0; i < (briefest() ? 1 : sizeof PLANS / sizeof PLANS[0]); i++) {
        const Plan plan = good_plan(PLANS[i]);
        const ExecutorOptions options = usual_options(&plan);
        Executor *executors[2];
        uint64_t random[2] = {7, 7};
        size_t n_ops = 0;
        for (int e = 0; e < 2; e++)
            assert_ok(executor_open(checkpoint, &options, &executors[e]));
        for (uint32_t step = 0; step < (briefest() ? 1 : brief() ? 2 : STEPS); step++) {
            StepOutput outputs[2];
            for (int e = 0; e < 2; e++)
                run_one(executors[e], step, e == 1, &random[e], &outputs[e]);
            assert_same_step(&outputs[0], &outputs[1]);
            assert_stamped(&outputs[1], &n_ops);
        }
        for (int e = 0; e < 2; e++)
            executor_close(executors[e]);
    }
}

/* A buffer that was laid out for none, and one of the same bytes in another scope. */
static void what_fits_in_the_slots_needs_not_to_be_foretold(void **state)
{
    (void)state;
    if (briefest())
        skip(); /* no kernels of its own */
    const Plan whole = plan_default();
    const Plan shared = good_plan("{\"moebius_plan\":1,\"buffer\":{\"scope\":\"device\","
                                  "\"slots\":24,\"evict\":\"fifo\"},"
                                  "\"prefetch\":{\"predictor\":\"frequency\",\"max_inflight\":8}}");
    const ExecutorOptions options = usual_options(&whole);
    const ExecutorOptions fresh_options = usual_options(&shared);
    Executor *executor;
    Executor *fresh;
    assert_ok(executor_open(checkpoint, &options, &executor));
    assert_ok(executor_open(checkpoint, &fresh_options, &fresh));
    assert_ok(executor_set_plan(executor, &shared));
    assert_same_runs(executor, fresh, STEPS);
    assert_ok(executor_set_plan(executor, &whole));
    assert_ok(executor_set_plan(fresh, &whole));
    assert_same_runs(executor, fresh, STEPS);
    /* Without a buffer before as well, and then with one that overwrites what lay there. */
    for (int i = 0; i < 2; i++)
        assert_ok(executor_set_plan(executor, i == 0 ? &whole : &shared));
    assert_ok(executor_set_plan(fresh, &shared));
    assert_same_runs(executor, fresh, STEPS);
    for (int i = 0; i < 2; i++)
        assert_ok(executor_set_plan(executor, &whole));
    assert_ok(executor_set_plan(fresh, &whole));
    assert_same_runs(executor, fresh, STEPS);
    executor_close(executor);
    executor_close(fresh);
}

static void a_plan_that_does_not_fit_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    if (briefest())
        skip(); /* no kernels of its own */
    static const struct {
        const char *plan;
        Status status;
        const char *wanted;
    } cases[] = {
        {"{\"moebius_plan\":1,\"buffer\":{\"slots\":4,\"evict\":\"lru\"}}", ERR_UNSUPPORTED,
         "expert slots want"},
        {"{\"moebius_plan\":1}", ERR_UNSUPPORTED, "expert slots want"},
        {"{\"moebius_plan\":1,\"buffer\":{\"slots\":3,\"evict\":\"belady\"}}", ERR_UNSUPPORTED,
         "expert slots want"}, /* the staging slot */
        {"{\"moebius_plan\":1,\"gating\":{\"mode\":\"static\",\"capacity_factor\":0.5}}",
         ERR_UNSUPPORTED, "static gating computes 8 rows"},
        {"{\"moebius_plan\":1,\"buffer\":{\"slots\":2,\"evict\":\"lru\"},"
         "\"prefetch\":{\"predictor\":\"next-gate\"}}",
         ERR_UNSUPPORTED, "1 MoE layers ahead, it was opened for 0"},
        {"{\"moebius_plan\":1,\"compute\":{\"mode\":\"host\"},"
         "\"buffer\":{\"slots\":2,\"evict\":\"lru\"}}",
         ERR_UNSUPPORTED, "compute.mode is host"},
        {"{\"moebius_plan\":1,\"batching\":{\"mode\":\"apart\",\"sequences\":2}}", ERR_UNSUPPORTED,
         "batching.mode"},
        {"{\"moebius_plan\":1,\"buffer\":{\"slots\":2,\"evict\":\"lru\",\"initial\":{\"0\":[9]}}}",
         ERR_PLAN, "buffer.initial"},
    };
    const Plan plan = good_plan("{\"moebius_plan\":1,\"buffer\":{\"slots\":3,\"evict\":\"arc\"}}");
    const ExecutorOptions options = usual_options(&plan);
    Executor *executors[2];
    uint64_t random[2] = {7, 7};
    for (int i = 0; i < 2; i++)
        assert_ok(executor_open(checkpoint, &options, &executors[i]));
    for (uint32_t step = 0; step < 4 * sizeof cases / sizeof cases[0]; step += brief() ? 9 : 1) {
        StepOutput outputs[2];
        for (int i = 0; i < 2; i++)
            run_random(executors[i], step, &random[i], &outputs[i]);
        assert_same_step(&outputs[0], &outputs[1]);
        Plan refused = good_plan(cases[step / 4].plan);
        assert_int_equal(executor_set_plan(executors[0], &refused), cases[step / 4].status);
        if (strstr(error_message(), cases[step / 4].wanted) == NULL)
            fail_msg("wanted \"%s\", got \"%s\"", cases[step / 4].wanted, error_message());
        plan_free(&refused);
    }
    for (int i = 0; i < 2; i++)
        executor_close(executors[i]);
}

static float largest_difference(const float *a, const float *b)
{
    float most = 0;
    for (size_t i = 0; i < VOCABULARY; i++) {
        float difference = a[i] > b[i] ? a[i] - b[i] : b[i] - a[i];
        most = difference > most ? difference : most;
    }
    return most;
}

/* What is over the capacity is dropped, wherever the experts lie; then each runs on what it keeps,
 * padded to the capacity or not. */
static void static_gating_gives_the_same_numbers_with_a_buffer(void **state)
{
    (void)state;
    static const char *const BUFFERS[] = {"null", "{\"slots\":3,\"evict\":\"lru\"}",
                                          "{\"slots\":8,\"evict\":\"fifo\"}"};
    const Plan dynamic = plan_default();
    ExecutorOptions options = usual_options(&dynamic);
    Executor *executors[4];
    uint64_t random[4] = {7, 7, 7, 7};
    float dropped = 0;
    options.compute = COMPUTE_F32;
    assert_ok(executor_open(checkpoint, &options, &executors[3]));
    for (int i = 0; i < 3; i++) {
        char text[256];
        snprintf(text, sizeof text,
                 "{\"moebius_plan\":1,\"gating\":{\"mode\":\"static\",\"capacity_factor\":0.3},"
                 "\"buffer\":%s}",
                 BUFFERS[i]);
        const Plan plan = good_plan(text);
        options.plan = &plan;
        assert_ok(executor_open(checkpoint, &options, &executors[i]));
    }
    for (uint32_t step = 0; step < (briefest() ? 1 : brief() ? 3 : STEPS); step++) {
        StepOutput outputs[4];
        for (int i = 0; i < 4; i++)
            run_random(executors[i], step, &random[i], &outputs[i]);
        for (int i = 1; i < 3; i++)
            assert_true(largest_difference(outputs[0].logits, outputs[i].logits) < 1e-4f);
        float difference = largest_difference(outputs[0].logits, outputs[3].logits);
        dropped = difference > dropped ? difference : dropped;
    }
    assert_true(dropped > 1e-2f);
    for (int i = 0; i < 4; i++)
        executor_close(executors[i]);
}

static void every_failing_allocation_of_set_plan_leaves_all_as_it_was(void **state)
{
    (void)state;
    if (briefest())
        skip(); /* no kernels of its own */
    const Plan plan = good_plan("{\"moebius_plan\":1,\"buffer\":{\"slots\":3,\"evict\":\"lru\"}}");
    const Plan other = good_plan("{\"moebius_plan\":1,\"buffer\":{\"slots\":2,\"evict\":\"lfu\"},"
                                 "\"prefetch\":{\"predictor\":\"transition\"}}");
    const ExecutorOptions options = usual_options(&plan);
    int64_t before = mem_live_blocks();
    Executor *executors[2];
    uint64_t random[2] = {7, 7};
    bool reached = true;
    for (int i = 0; i < 2; i++)
        assert_ok(executor_open(checkpoint, &options, &executors[i]));
    for (uint64_t k = 1; reached; k += brief() ? 2 * k : 1) {
        StepOutput outputs[2];
        for (int i = 0; i < 2; i++)
            run_random(executors[i], (uint32_t)k, &random[i], &outputs[i]);
        assert_same_step(&outputs[0], &outputs[1]);
        mem_fail_at(k);
        Status status = executor_set_plan(executors[0], &other);
        reached = mem_fail_reached();
        mem_fail_at(0);
        assert_int_equal(status, reached ? ERR_MEMORY : OK);
    }
    assert_ok(executor_set_plan(executors[1], &other));
    assert_same_runs(executors[0], executors[1], STEPS);
    for (int i = 0; i < 2; i++)
        executor_close(executors[i]);
    assert_true(mem_live_blocks() == before);
}

static void the_memory_that_is_foretold_is_what_opening_takes(void **state)
{
    (void)state;
    if (briefest())
        skip(); /* no kernels of its own */
    static const struct {
        uint32_t requests;
        uint32_t length;
        uint32_t tokens;
        uint32_t slots;
        uint32_t predictions;
        double capacity;
    } cases[] = {{1, 8, 1, 0, 0, 0},
                 {4, 64, 16, 0, 0, 0},
                 {4, 64, 16, 3, 0, 0},
                 {2, 33, 9, 8, 2, 0},
                 {3, 17, 16, 0, 1, 0.5}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Plan plan = plan_default();
        plan.buffer.on = cases[i].slots > 0;
        plan.buffer.slots = cases[i].slots;
        snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "lru");
        plan.gating.mode = cases[i].capacity > 0 ? GATING_STATIC : GATING_DYNAMIC;
        plan.gating.capacity_factor = cases[i].capacity;
        ExecutorOptions options = usual_options(&plan);
        ExecutorMemory memory;
        Executor *executor;
        options.max_requests = cases[i].requests;
        options.max_length = cases[i].length;
        options.max_tokens = cases[i].tokens;
        options.predictions = cases[i].predictions;
        assert_ok(executor_memory(checkpoint, &options, &memory));
        assert_ok(executor_open(checkpoint, &options, &executor));
        uint64_t slots = cases[i].slots > 0 ? cases[i].slots : EXPERTS;
        assert_int_equal(memory.weights + memory.slots + memory.cache + memory.activations +
                             memory.own,
                         executor_device_bytes(executor));
        assert_int_equal(executor_slot_bytes(executor),
                         LAYERS * slots * executor_expert_slot_bytes(executor, 0));
        assert_true(memory.slots >= executor_slot_bytes(executor) && memory.pinned > 0);
        executor_close(executor);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(after_set_plan_every_event_is_a_fresh_executors),
        cmocka_unit_test(a_held_step_does_what_any_other_does),
        cmocka_unit_test(what_fits_in_the_slots_needs_not_to_be_foretold),
        cmocka_unit_test(a_plan_that_does_not_fit_is_refused_and_changes_nothing),
        cmocka_unit_test(static_gating_gives_the_same_numbers_with_a_buffer),
        cmocka_unit_test(every_failing_allocation_of_set_plan_leaves_all_as_it_was),
        cmocka_unit_test(the_memory_that_is_foretold_is_what_opening_takes),
    };
    return cmocka_run_group_tests(tests, make_model, close_model);
}
