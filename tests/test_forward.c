/* The forward pass against a plain one in double precision, over random checkpoints; and that no
 * choice of how to run it changes the numbers. */
#include "tests/reference_model.h"

#include "base/memory.h"
#include "exec/executor.h"
#include "policies/buffer.h"
#include "tests/checkpoint_maker.h"
#include "tests/plan_maker.h"

enum { TOKENS = 42, REQUESTS = 3, MAX_ROUTED = 8 * TOKENS * 4 };

/* A step of three requests with 20, 1 and 21 tokens. */
static uint32_t token[TOKENS];
static uint32_t request[TOKENS];
static uint32_t position[TOKENS];

static int make_step(void **state)
{
    (void)state;
    static const uint32_t LENGTHS[REQUESTS] = {20, 1, 21};
    uint64_t random = 3;
    uint32_t n = 0;
    for (uint32_t r = 0; r < REQUESTS; r++)
        for (uint32_t p = 0; p < LENGTHS[r]; p++, n++) {
            token[n] = random_below(&random, 96);
            request[n] = r;
            position[n] = p;
        }
    assert_int_equal(n, TOKENS);
    return 0;
}

static Checkpoint *open_checkpoint(const CheckpointSpec *spec)
{
    static unsigned number;
    char name[32];
    Checkpoint *checkpoint;
    snprintf(name, sizeof name, "model-%u", number++);
    make_checkpoint(scratch_path(name), spec);
    assert_ok(checkpoint_open(scratch_path(name), &checkpoint));
    return checkpoint;
}

static Executor *open_executor(const Checkpoint *checkpoint, const Plan *plan, size_t threads)
{
    Executor *executor;
    const ExecutorOptions options = {.plan = plan,
                                     .device = "cpu",
                                     .threads = threads,
                                     .max_requests = REQUESTS,
                                     .max_length = 32,
                                     .max_tokens = TOKENS,
                                     .logits = LOGITS_ALL};
    assert_ok(executor_open(checkpoint, &options, &executor));
    return executor;
}

static StepInput whole_step(void)
{
    return (StepInput){.tokens = TOKENS,
                       .token = token,
                       .kv_slot = request,
                       .position = position,
                       .logits = LOGITS_ALL};
}

/* What a step computed, kept over the next one. */
typedef struct {
    uint16_t experts[MAX_ROUTED];
    float weights[MAX_ROUTED];
    float logits[TOKENS * 96];
    size_t routed;
} Kept;

static void keep(const Checkpoint *checkpoint, const StepOutput *output, Kept *kept)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    kept->routed = 0;
    for (uint32_t i = 0; i < config->n_layers; i++)
        kept->routed += config->layers[i].moe ? (size_t)TOKENS * config->layers[i].top_k : 0;
    assert_true(kept->routed <= MAX_ROUTED);
    memcpy(kept->experts, output->experts, kept->routed * sizeof kept->experts[0]);
    memcpy(kept->weights, output->weights, kept->routed * sizeof kept->weights[0]);
    memcpy(kept->logits, output->logits, sizeof kept->logits);
}

static void run_plan(const Checkpoint *checkpoint, const Plan *plan, size_t threads, Kept *kept)
{
    Executor *executor = open_executor(checkpoint, plan, threads);
    StepOutput output;
    StepInput input = whole_step();
    assert_ok(executor_step(executor, &input, &output));
    assert_int_equal(output.n_logits, TOKENS);
    keep(checkpoint, &output, kept);
    executor_close(executor);
}

static void assert_reference(const Checkpoint *checkpoint, const Plan *plan, uint32_t capacity)
{
    const ReferenceStep step = {TOKENS, token, request, position, capacity};
    ReferenceOutput wanted = reference_forward(checkpoint, &step);
    Kept got;
    run_plan(checkpoint, plan, 2, &got);
    assert_memory_equal(got.experts, wanted.experts, got.routed * sizeof got.experts[0]);
    for (size_t i = 0; i < got.routed; i++)
        if (fabs(got.weights[i] - wanted.weights[i]) > 1e-5)
            fail_msg("weight %zu: %g, wanted %g", i, (double)got.weights[i], wanted.weights[i]);
    for (size_t i = 0; i < (size_t)TOKENS * 96; i++)
        if (fabs(got.logits[i] - wanted.logits[i]) > 1e-4)
            fail_msg("logit %zu: %g, wanted %g", i, (double)got.logits[i], wanted.logits[i]);
    reference_free(&wanted);
}

static const CheckpointSpec SPECS[] = {
    {.seed = 1},
    {.seed = 2, .dtype = DTYPE_F32, .norm_top_k = true},
    {.seed = 3, .dtype = DTYPE_F16, .untied = true, .top_k = 1},
    {.seed = 4, .bias = true, .n_kv_heads = 4, .norm_top_k = true, .top_k = 4},
    {.seed = 5, .dense_layers = 2, .n_layers = 4, .head_dim = 16, .shards = 2},
    {.seed = 6, .sparse_step = 2, .n_layers = 4, .n_kv_heads = 1, .experts = 5, .top_k = 3},
};

enum { N_SPECS = sizeof SPECS / sizeof SPECS[0] };

static void the_forward_pass_equals_a_plain_one(void **state)
{
    (void)state;
    Plan plan = plan_default();
    for (size_t i = 0; i < N_SPECS; i++) {
        Checkpoint *checkpoint = open_checkpoint(&SPECS[i]);
        assert_reference(checkpoint, &plan, 0);
        checkpoint_close(checkpoint);
    }
}

static void static_gating_drops_what_a_plain_one_drops(void **state)
{
    (void)state;
    static const double FACTORS[] = {0.01, 0.15, 0.25, 1.0, 3.0};
    for (size_t i = 0; i < N_SPECS; i++) {
        Checkpoint *checkpoint = open_checkpoint(&SPECS[i]);
        for (size_t f = 0; f < sizeof FACTORS / sizeof FACTORS[0]; f++)
            for (int dispatch = DISPATCH_PADDED; dispatch <= DISPATCH_MASK; dispatch++) {
                Plan plan = plan_default();
                plan.gating.mode = GATING_STATIC;
                plan.gating.capacity_factor = FACTORS[f];
                plan.gating.dispatch = (Dispatch)dispatch;
                assert_reference(checkpoint, &plan, (uint32_t)ceil(FACTORS[f] * TOKENS));
            }
        checkpoint_close(checkpoint);
    }
}

static void assert_same(const Kept *a, const Kept *b)
{
    assert_int_equal(a->routed, b->routed);
    assert_memory_equal(a->experts, b->experts, a->routed * sizeof a->experts[0]);
    for (size_t i = 0; i < a->routed; i++)
        assert_float_equal(a->weights[i], b->weights[i], 1e-4);
    for (size_t i = 0; i < (size_t)TOKENS * 96; i++)
        assert_float_equal(a->logits[i], b->logits[i], 1e-4);
}

static Plan buffer_plan(const char *evict, int order, int scope, uint32_t slots)
{
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.order = (ReplayOrder)order;
    plan.buffer.scope = (BufferScopeKind)scope;
    plan.buffer.slots = slots;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", evict);
    return plan;
}

static void no_buffer_changes_the_numbers(void **state)
{
    (void)state;
    static const uint32_t SLOTS[] = {1, 2, 5, 8, 24};
    const Plan all = plan_default();
    Kept wanted;
    Kept got;
    Checkpoint *checkpoint = open_checkpoint(&SPECS[0]);
    run_plan(checkpoint, &all, 2, &wanted);
    for (const char *const *evict = eviction_names(); *evict != NULL; evict++)
        for (int kind = 0; kind < 4 && !eviction_needs_future(*evict); kind++)
            for (size_t i = 0; i < sizeof SLOTS / sizeof SLOTS[0]; i++) {
                Plan plan = buffer_plan(*evict, kind / 2, kind % 2, SLOTS[i]);
                run_plan(checkpoint, &plan, 2, &got);
                assert_same(&wanted, &got);
            }
    checkpoint_close(checkpoint);
}

/* Experts that the plan begins with are computed with where they lie. */
static void a_warm_buffer_changes_no_number_either(void **state)
{
    (void)state;
    static const char TEXT[] =
        "{\"moebius_plan\": 1, \"buffer\": {\"scope\": \"%s\", \"order\": \"%s\", \"slots\": 6,"
        " \"evict\": \"%s\", %s \"initial\": {\"0\": [5, 1], \"1\": [7, 2, 3]}}}";
    static const char *const ORDERS[] = {"serial", "batch", "staged"};
    const Plan all = plan_default();
    Kept wanted;
    Kept got;
    Checkpoint *checkpoint = open_checkpoint(&SPECS[0]);
    run_plan(checkpoint, &all, 2, &wanted);
    for (int kind = 0; kind < 12; kind++) {
        bool hot = kind >= 6;
        char text[400];
        snprintf(text, sizeof text, TEXT, kind % 2 ? "device" : "layer", ORDERS[kind / 2 % 3],
                 hot ? "static" : "lru", hot ? "\"hot\": {\"0\": [1, 5], \"1\": [2, 3, 7]}," : "");
        Plan plan = good_plan(text);
        run_plan(checkpoint, &plan, 2, &got);
        assert_same(&wanted, &got);
        plan_free(&plan);
    }
    checkpoint_close(checkpoint);
}

static void the_number_of_threads_changes_nothing(void **state)
{
    (void)state;
    const Plan plan = plan_default();
    Kept wanted;
    Kept got;
    Checkpoint *checkpoint = open_checkpoint(&SPECS[3]);
    run_plan(checkpoint, &plan, 1, &wanted);
    for (size_t threads = 2; threads <= 4; threads++)
        for (int again = 0; again < 5; again++) {
            run_plan(checkpoint, &plan, threads, &got);
            assert_same(&wanted, &got);
        }
    checkpoint_close(checkpoint);
}

/* Tokens [first, end) of the step, as a step of their own. */
static void run_part(Executor *executor, const Checkpoint *checkpoint, uint32_t first, uint32_t end,
                     Kept *kept)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    size_t vocabulary = config->vocabulary;
    StepOutput output;
    const StepInput input = {.tokens = end - first,
                             .token = token + first,
                             .kv_slot = request + first,
                             .position = position + first,
                             .logits = LOGITS_ALL};
    assert_ok(executor_step(executor, &input, &output));
    memcpy(kept->logits + first * vocabulary, output.logits,
           (end - first) * vocabulary * sizeof(float));
    const uint16_t *experts = output.experts;
    const float *weights = output.weights;
    size_t at = 0;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        uint32_t k = config->layers[i].moe ? config->layers[i].top_k : 0;
        memcpy(kept->experts + at + (size_t)first * k, experts,
               (size_t)(end - first) * k * sizeof *experts);
        memcpy(kept->weights + at + (size_t)first * k, weights,
               (size_t)(end - first) * k * sizeof *weights);
        at += (size_t)TOKENS * k;
        experts += (size_t)(end - first) * k;
        weights += (size_t)(end - first) * k;
    }
    kept->routed = at;
}

static void cutting_a_step_anywhere_changes_nothing(void **state)
{
    (void)state;
    const Plan plan = plan_default();
    for (size_t s = 0; s < N_SPECS; s++) {
        Kept wanted;
        Kept got;
        Checkpoint *checkpoint = open_checkpoint(&SPECS[s]);
        run_plan(checkpoint, &plan, 2, &wanted);
        for (uint32_t piece = 1; piece < TOKENS; piece += 6) {
            Executor *executor = open_executor(checkpoint, &plan, 2);
            for (uint32_t first = 0; first < TOKENS; first += piece)
                run_part(executor, checkpoint, first,
                         first + piece < TOKENS ? first + piece : TOKENS, &got);
            assert_same(&wanted, &got);
            executor_close(executor);
        }
        checkpoint_close(checkpoint);
    }
}

static void logits_of_the_last_tokens_are_rows_of_all(void **state)
{
    (void)state;
    static const uint32_t LAST[REQUESTS] = {19, 20, 41};
    const Plan plan = plan_default();
    Kept all;
    Checkpoint *checkpoint = open_checkpoint(&SPECS[1]);
    run_plan(checkpoint, &plan, 2, &all);
    Executor *executor = open_executor(checkpoint, &plan, 2);
    StepOutput output;
    StepInput input = whole_step();
    input.logits = LOGITS_LAST;
    assert_ok(executor_step(executor, &input, &output));
    assert_int_equal(output.n_logits, REQUESTS);
    for (uint32_t r = 0; r < REQUESTS; r++)
        for (uint32_t i = 0; i < 96; i++)
            assert_float_equal(output.logits[r * 96 + i], all.logits[LAST[r] * 96 + i], 1e-4);
    executor_close(executor);
    checkpoint_close(checkpoint);
}

static void forced_routing_takes_the_place_of_the_routers(void **state)
{
    (void)state;
    const Plan plan = plan_default();
    Kept own;
    Checkpoint *checkpoint = open_checkpoint(&SPECS[1]);
    run_plan(checkpoint, &plan, 2, &own);
    Executor *executor = open_executor(checkpoint, &plan, 2);
    Kept got;
    StepOutput output;
    StepInput input = whole_step();
    /* The router's own choice, with and without its weights, changes nothing. */
    for (int weighted = 0; weighted < 2; weighted++) {
        input.forced_experts = own.experts;
        input.forced_weights = weighted ? own.weights : NULL;
        assert_ok(executor_step(executor, &input, &output));
        keep(checkpoint, &output, &got);
        assert_same(&own, &got);
        for (uint32_t slot = 0; slot < REQUESTS; slot++)
            executor_release(executor, slot);
    }
    /* Another choice is what comes out, and what is computed. */
    uint16_t other[MAX_ROUTED];
    for (size_t i = 0; i < own.routed; i++)
        other[i] = (uint16_t)((own.experts[i] + 1) % 8);
    input.forced_experts = other;
    input.forced_weights = own.weights;
    assert_ok(executor_step(executor, &input, &output));
    assert_memory_equal(output.experts, other, own.routed * sizeof other[0]);
    double difference = 0;
    for (size_t i = 0; i < (size_t)TOKENS * 96; i++)
        difference += fabs((double)output.logits[i] - own.logits[i]);
    assert_true(difference > TOKENS);
    executor_close(executor);
    checkpoint_close(checkpoint);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_forward_pass_equals_a_plain_one),
        cmocka_unit_test(static_gating_drops_what_a_plain_one_drops),
        cmocka_unit_test(no_buffer_changes_the_numbers),
        cmocka_unit_test(a_warm_buffer_changes_no_number_either),
        cmocka_unit_test(the_number_of_threads_changes_nothing),
        cmocka_unit_test(cutting_a_step_anywhere_changes_nothing),
        cmocka_unit_test(logits_of_the_last_tokens_are_rows_of_all),
        cmocka_unit_test(forced_routing_takes_the_place_of_the_routers),
    };
    return cmocka_run_group_tests(tests, make_step, NULL);
}
