/* Whole passes of small models on the device: against the CPU's, replayed graphs against steps that
 * were queued directly, and the expert buffer's events against the CPU's. */
#include "tests/gpu/gpu_support.h"
#include "tests/random_checkpoint.h"

#include "base/memory.h"
#include "exec/executor.h"

enum { REQUESTS = 3, LENGTH = 48, DECODES = 6, VOCABULARY = 71, PROMPT = 5 };

#define DECODER(type)                                                                              \
    "{\"model_type\": \"" type "\", \"vocab_size\": 71, \"num_hidden_layers\": 3, "                \
    "\"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 64, \"hidden_act\": \"silu\", "
#define HEADS "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, "

static const struct {
    const char *name;
    const char *config;
} MODELS[] = {
    {"qwen3", DECODER("qwen3_moe") HEADS
     "\"hidden_size\": 24, \"intermediate_size\": 20, \"moe_intermediate_size\": 12, "
     "\"num_experts\": 7, \"num_experts_per_tok\": 3, \"head_dim\": 10, "
     "\"norm_topk_prob\": true, \"decoder_sparse_step\": 2}"},
    {"qwen3 of whole tiles", DECODER("qwen3_moe") HEADS
     "\"hidden_size\": 128, \"intermediate_size\": 64, \"moe_intermediate_size\": 64, "
     "\"num_experts\": 8, \"num_experts_per_tok\": 2, \"head_dim\": 64, "
     "\"norm_topk_prob\": true}"},
    {"qwen2", DECODER("qwen2_moe") HEADS
     "\"hidden_size\": 24, \"intermediate_size\": 20, \"moe_intermediate_size\": 12, "
     "\"num_experts\": 7, \"num_experts_per_tok\": 3, \"shared_expert_intermediate_size\": 10}"},
    {"mixtral", DECODER("mixtral") HEADS
     "\"hidden_size\": 24, \"intermediate_size\": 14, \"num_local_experts\": 5, "
     "\"num_experts_per_tok\": 3, \"sliding_window\": 5, \"tie_word_embeddings\": true}"},
    {"olmoe", DECODER("olmoe") HEADS
     "\"hidden_size\": 24, \"intermediate_size\": 14, \"num_experts\": 6, "
     "\"num_experts_per_tok\": 3, \"clip_qkv\": 0.6, \"attention_bias\": true}"},
    {"phimoe", DECODER("phimoe") HEADS
     "\"hidden_size\": 24, \"intermediate_size\": 14, \"num_local_experts\": 5, "
     "\"num_experts_per_tok\": 2, \"attention_bias\": true, \"lm_head_bias\": true}"},
    {"gpt-oss", DECODER("gpt_oss") HEADS
     "\"hidden_size\": 24, \"intermediate_size\": 14, \"num_local_experts\": 6, "
     "\"num_experts_per_tok\": 3, \"head_dim\": 10, \"attention_bias\": true, "
     "\"sliding_window\": 3, \"swiglu_limit\": 0.7}"},
    {"deepseek v3", DECODER("deepseek_v3") "\"hidden_size\": 24, \"num_attention_heads\": 3, "
                                           "\"num_key_value_heads\": 3, "
                                           "\"qk_nope_head_dim\": 5, \"qk_rope_head_dim\": 6, "
                                           "\"v_head_dim\": 7, \"kv_lora_rank\": 9, "
                                           "\"intermediate_size\": 20, \"moe_intermediate_size\": "
                                           "6, \"n_routed_experts\": 12, "
                                           "\"num_experts_per_tok\": 4, \"n_shared_experts\": 1, "
                                           "\"q_lora_rank\": 8, \"n_group\": 3, "
                                           "\"topk_group\": 2, \"norm_topk_prob\": true, "
                                           "\"first_k_dense_replace\": 1}"},
};
enum { N_MODELS = sizeof MODELS / sizeof *MODELS };

/* ---- a run: prompts of several requests in one step, then token by token ---- */

enum { MOST_RECORDS = 4096, MOST_IDS = 4096 };

typedef struct {
    float logits[(1 + DECODES) * REQUESTS * VOCABULARY];
    size_t n_logits;
    uint16_t experts[MOST_IDS];
    size_t n_ids;
    ResidencyRecord events[MOST_RECORDS];
    size_t n_events;
    size_t n_timing;
    bool greedy; /* in place of logits there is the best token of each row */
    uint32_t best[(1 + DECODES) * REQUESTS];
    size_t n_best;
} Run;

/* Appends what a step gave. */
static void keep(Run *run, const StepInput *input, const TraceLayer *layers, uint32_t n_layers,
                 const StepOutput *output)
{
    size_t numbers = run->greedy ? 0 : (size_t)output->n_logits * VOCABULARY;
    size_t ids = 0;
    for (uint32_t i = 0; i < n_layers; i++)
        ids += (size_t)input->tokens * layers[i].top_k;
    assert_true(run->n_logits + numbers <= sizeof run->logits / sizeof *run->logits);
    assert_true(run->n_ids + ids <= MOST_IDS &&
                run->n_events + output->n_residency <= MOST_RECORDS);
    if (run->greedy)
        memcpy(run->best + run->n_best, output->best, output->n_logits * sizeof *run->best);
    else
        memcpy(run->logits + run->n_logits, output->logits, numbers * sizeof(float));
    run->n_best += run->greedy ? output->n_logits : 0;
    memcpy(run->experts + run->n_ids, output->experts, ids * sizeof *run->experts);
    memcpy(run->events + run->n_events, output->residency,
           output->n_residency * sizeof *run->events);
    run->n_logits += numbers;
    run->n_ids += ids;
    run->n_events += output->n_residency;
    run->n_timing += output->n_timing;
}

/* The run's step number STEP: all prompts, then a token of each. FORCED: routing of a run before.
 */
static void run_step(Executor *executor, uint32_t step, const Run *forced, bool timing, Run *run)
{
    uint32_t token[REQUESTS * PROMPT];
    uint32_t slot[REQUESTS * PROMPT];
    uint32_t position[REQUESTS * PROMPT];
    uint32_t n_layers;
    StepOutput output;
    const TraceLayer *layers = executor_layers(executor, &n_layers);
    StepInput input = {.token = token,
                       .kv_slot = slot,
                       .position = position,
                       .logits = LOGITS_LAST,
                       .greedy = run->greedy,
                       .timing = timing,
                       .forced_experts = forced != NULL ? forced->experts + run->n_ids : NULL};
    uint64_t random = 100 + step;
    for (uint32_t r = 0; r < REQUESTS; r++)
        for (uint32_t i = 0; i < (step == 0 ? PROMPT : 1); i++) {
            token[input.tokens] = random_below(&random, VOCABULARY);
            slot[input.tokens] = r;
            position[input.tokens++] = step == 0 ? i : PROMPT + step - 1;
        }
    assert_ok(executor_step(executor, &input, &output));
    keep(run, &input, layers, n_layers, &output);
}

static Run *run_with(Executor *executor, const Run *forced, bool timing, bool greedy)
{
    Run *run = calloc(1, sizeof *run);
    assert_non_null(run);
    run->greedy = greedy;
    for (uint32_t step = 0; step <= (briefest() ? 0 : brief() ? 1 : DECODES); step++)
        run_step(executor, step, forced, timing, run);
    for (uint32_t r = 0; r < REQUESTS; r++)
        executor_release(executor, r);
    return run;
}

static Run *run_all(Executor *executor, const Run *forced, bool timing)
{
    return run_with(executor, forced, timing, false);
}

static Executor *open_as(const char *device, ComputeType compute, const Checkpoint *checkpoint,
                         const Plan *plan, bool warm_up)
{
    Executor *executor;
    const ExecutorOptions options = {.plan = plan,
                                     .device = device,
                                     .threads = 2,
                                     .max_requests = REQUESTS,
                                     .max_length = LENGTH,
                                     .max_tokens = REQUESTS * PROMPT,
                                     .logits = LOGITS_LAST,
                                     .compute = compute,
                                     .warm_up = warm_up};
    assert_ok(executor_open(checkpoint, &options, &executor));
    return executor;
}

static Executor *open_on(const char *device, ComputeType compute, const Checkpoint *checkpoint,
                         const Plan *plan)
{
    return open_as(device, compute, checkpoint, plan, false);
}

static Checkpoint *open_model(size_t i)
{
    Checkpoint *checkpoint;
    char name[32];
    snprintf(name, sizeof name, "model%zu", i);
    assert_ok(
        checkpoint_open(random_checkpoint(name, MODELS[i].config, 31 + i, NULL), &checkpoint));
    return checkpoint;
}

static void assert_near(const char *name, const Run *got, const Run *wanted, float tolerance)
{
    assert_int_equal(got->n_logits, wanted->n_logits);
    for (size_t i = 0; i < got->n_logits; i++)
        if (!(fabsf(got->logits[i] - wanted->logits[i]) <= tolerance))
            fail_msg("%s: logit %zu is %g, not %g", name, i, (double)got->logits[i],
                     (double)wanted->logits[i]);
}

static void assert_same_numbers(const char *name, const Run *got, const Run *wanted)
{
    assert_int_equal(got->n_logits, wanted->n_logits);
    assert_int_equal(got->n_ids, wanted->n_ids);
    for (size_t i = 0; i < got->n_logits; i++)
        if (memcmp(&got->logits[i], &wanted->logits[i], sizeof(float)) != 0)
            fail_msg("%s: logit %zu is %.9g, not %.9g", name, i, (double)got->logits[i],
                     (double)wanted->logits[i]);
    assert_memory_equal(got->experts, wanted->experts, got->n_ids * sizeof *got->experts);
}

static void assert_same_events(const char *name, const Run *got, const Run *wanted)
{
    assert_int_equal(got->n_events, wanted->n_events);
    for (size_t i = 0; i < got->n_events; i++) {
        const ResidencyRecord *a = &got->events[i];
        const ResidencyRecord *b = &wanted->events[i];
        if (a->layer != b->layer || a->expert != b->expert || a->kind != b->kind ||
            a->slot != b->slot || a->bytes != b->bytes)
            fail_msg("%s: event %zu: layer %u expert %u kind %u slot %u, not %u %u %u %u", name, i,
                     a->layer, a->expert, a->kind, a->slot, b->layer, b->expert, b->kind, b->slot);
    }
}

/* ---- tests ---- */

static void every_architecture_computes_what_the_cpu_computes(void **unused)
{
    (void)unused;
    const Plan plan = plan_default();
    for (size_t i = 0; i < N_MODELS; i++) {
        if (brief() && (briefest() ? i != 4 : i % 2 != 0))
            continue;
        Checkpoint *checkpoint = open_model(i);
        Executor *cpu = open_on("cpu", COMPUTE_F32, checkpoint, &plan);
        Executor *cuda = open_on("cuda", COMPUTE_F32, checkpoint, &plan);
        Run *wanted = run_all(cpu, NULL, false);
        Run *got = run_all(cuda, wanted, false);
        assert_near(MODELS[i].name, got, wanted, 1e-3f);
        assert_same_events(MODELS[i].name, got, wanted);
        free(got);
        free(wanted);
        executor_close(cuda);
        executor_close(cpu);
        checkpoint_close(checkpoint);
    }
}

static void bf16_stays_near_f32(void **unused)
{
    (void)unused;
    const Plan plan = plan_default();
    for (size_t i = 0; i < N_MODELS; i++) {
        if (brief() && (briefest() ? i != 7 : i % 2 == 0))
            continue;
        Checkpoint *checkpoint = open_model(i);
        Executor *cpu = open_on("cpu", COMPUTE_F32, checkpoint, &plan);
        Executor *cuda = open_on("cuda", COMPUTE_BF16, checkpoint, &plan);
        Run *wanted = run_all(cpu, NULL, false);
        Run *got = run_all(cuda, wanted, false);
        assert_near(MODELS[i].name, got, wanted, 0.15f);
        free(got);
        free(wanted);
        executor_close(cuda);
        executor_close(cpu);
        checkpoint_close(checkpoint);
    }
}

/* The first run queues the first step of each shape directly and captures the second; in the last
 * one all steps are replayed. Its steps read other tokens at other places than those captured. */
static void a_replayed_step_computes_what_a_queued_one_does(void **unused)
{
    (void)unused;
    static const ComputeType COMPUTES[] = {COMPUTE_F32, COMPUTE_BF16};
    const Plan plan = plan_default();
    for (size_t i = 0; i < 2 * N_MODELS; i++)
        for (int timing = 0; timing < 2; timing++) {
            if (brief() && (i < 3 || i > (briefest() ? 3 : 4) || timing != (int)i % 2))
                continue;
            Checkpoint *checkpoint = open_model(i / 2);
            Executor *executor = open_on("cuda", COMPUTES[i % 2], checkpoint, &plan);
            const size_t n_runs = brief() ? 3 : 4;
            Run *runs[4];
            for (size_t r = 0; r < n_runs; r++) {
                runs[r] = run_all(executor, NULL, timing);
                assert_same_numbers(MODELS[i / 2].name, runs[r], runs[0]);
                assert_same_events(MODELS[i / 2].name, runs[r], runs[0]);
                assert_int_equal(runs[r]->n_timing, runs[0]->n_timing);
                assert_true((runs[r]->n_timing > 0) == timing);
            }
            for (size_t r = 0; r < n_runs; r++)
                free(runs[r]);
            executor_close(executor);
            checkpoint_close(checkpoint);
        }
}

static uint32_t largest(const float *logits)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < VOCABULARY; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static void greedy_steps_choose_by_the_logits_of_others(void **unused)
{
    (void)unused;
    const Plan plan = plan_default();
    for (size_t i = 0; i < (brief() ? 1 : N_MODELS); i++) {
        Checkpoint *checkpoint = open_model(i);
        Executor *executor = open_on("cuda", COMPUTE_BF16, checkpoint, &plan);
        Run *wanted = run_all(executor, NULL, false);
        Run *got = run_with(executor, NULL, false, true);
        assert_true(got->n_best > 0);
        assert_int_equal(got->n_best, wanted->n_logits / VOCABULARY);
        for (size_t row = 0; row < got->n_best; row++)
            assert_int_equal(got->best[row], largest(wanted->logits + row * VOCABULARY));
        free(got);
        free(wanted);
        executor_close(executor);
        checkpoint_close(checkpoint);
    }
}

static Plan buffer_plan(ReplayOrder order, uint32_t slots)
{
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.scope = SCOPE_LAYER;
    plan.buffer.order = order;
    plan.buffer.slots = slots;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "lru");
    return plan;
}

/* With few slots; and with as many as experts, where steps stop waiting once all are resident. */
static void a_buffer_changes_no_number_and_has_the_events_of_the_cpu(void **unused)
{
    (void)unused;
    static const ReplayOrder ORDERS[] = {ORDER_SERIAL, ORDER_BATCH, ORDER_STAGED};
    static const uint32_t SLOTS[] = {4, 12};
    const Plan off = plan_default();
    for (size_t i = 0; i < (briefest() ? 1 : brief() ? 3 : N_MODELS); i++) {
        Checkpoint *checkpoint = open_model(i);
        Executor *whole = open_on("cuda", COMPUTE_F32, checkpoint, &off);
        Run *wanted = run_all(whole, NULL, false);
        for (size_t o = 0; o < 6; o++) {
            if (brief() && o != 2 * i + i % 2) /* each order */
                continue;
            const Plan plan = buffer_plan(ORDERS[o / 2], SLOTS[o % 2]);
            Executor *cpu = open_on("cpu", COMPUTE_F32, checkpoint, &plan);
            Executor *cuda = open_on("cuda", COMPUTE_F32, checkpoint, &plan);
            for (size_t r = 0; r < (briefest() ? 1 : brief() ? 2 : 4); r++) {
                Run *on_cpu = run_all(cpu, wanted, false);
                Run *got = run_all(cuda, wanted, false);
                assert_same_numbers(MODELS[i].name, got, wanted);
                assert_same_events(MODELS[i].name, got, on_cpu);
                free(got);
                free(on_cpu);
            }
            executor_close(cuda);
            executor_close(cpu);
        }
        free(wanted);
        executor_close(whole);
        checkpoint_close(checkpoint);
    }
}

/* Without a buffer and with one that is not filled at once. */
static void steps_that_warm_up_leave_nothing_behind(void **unused)
{
    (void)unused;
    if (brief())
        skip(); /* no kernels of its own */
    const Plan plans[] = {plan_default(), buffer_plan(ORDER_BATCH, 4)};
    for (size_t i = 0; i < 2 * N_MODELS; i++) {
        Checkpoint *checkpoint = open_model(i / 2);
        Run *runs[2];
        for (int warm_up = 0; warm_up < 2; warm_up++) {
            Executor *executor = open_as("cuda", COMPUTE_BF16, checkpoint, &plans[i % 2], warm_up);
            runs[warm_up] = run_all(executor, NULL, false);
            executor_close(executor);
        }
        assert_same_numbers(MODELS[i / 2].name, runs[1], runs[0]);
        assert_same_events(MODELS[i / 2].name, runs[1], runs[0]);
        free(runs[0]);
        free(runs[1]);
        checkpoint_close(checkpoint);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_computes_what_the_cpu_computes),
        cmocka_unit_test(bf16_stays_near_f32),
        cmocka_unit_test(a_replayed_step_computes_what_a_queued_one_does),
        cmocka_unit_test(greedy_steps_choose_by_the_logits_of_others),
        cmocka_unit_test(a_buffer_changes_no_number_and_has_the_events_of_the_cpu),
        cmocka_unit_test(steps_that_warm_up_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
