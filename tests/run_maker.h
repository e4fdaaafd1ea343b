/* Requests of a small model, run and kept. */
#ifndef TESTS_RUN_MAKER_H
#define TESTS_RUN_MAKER_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include <unistd.h>

#include "base/memory.h"
#include "exec/run.h"
#include "tests/checkpoint_maker.h"
#include "traces/reader.h"

enum { REQUESTS = 16, MAX_PROMPT = 23, GENERATE = 9, VOCABULARY = 96, LAYERS = 3, TOP_K = 2 };
enum { ROUTED = LAYERS * TOP_K };

static Checkpoint *checkpoint;
static TokenRequest requests[REQUESTS];
static uint32_t prompts[REQUESTS][MAX_PROMPT];
static char odd[] = "odd";
static char none[] = "";
static TokenSet set = {.requests = requests, .n_requests = REQUESTS};

static inline int make_model(void **state)
{
    (void)state;
    const CheckpointSpec spec = {.seed = 11, .eos = 7};
    uint64_t random = 1;
    make_checkpoint(scratch_path("model"), &spec);
    assert_ok(checkpoint_open(scratch_path("model"), &checkpoint));
    for (uint32_t i = 0; i < REQUESTS; i++) {
        requests[i] = (TokenRequest){.label = i % 2 ? odd : none,
                                     .tokens = prompts[i],
                                     .n_tokens = 1 + random_below(&random, MAX_PROMPT)};
        for (uint32_t j = 0; j < requests[i].n_tokens; j++)
            prompts[i][j] = random_below(&random, VOCABULARY);
    }
    return 0;
}

static inline int close_model(void **state)
{
    (void)state;
    checkpoint_close(checkpoint);
    return 0;
}

/* One row per token that went through the model, by request and position. */
typedef struct {
    bool seen;
    uint16_t experts[ROUTED];
    float weights[ROUTED];
} Row;

/* What a run did. */
typedef struct {
    Row rows[REQUESTS][MAX_PROMPT + GENERATE];
    uint32_t output[REQUESTS][GENERATE];
    uint32_t n_output[REQUESTS];
    RunTotals totals;
    uint32_t n_rows;
    uint32_t largest_step;
    int *stop; /* set at step stop_at */
    uint64_t stop_at;
} Seen;

static inline Status observe(void *argument, const TraceStep *step, const StepInput *input,
                             const StepOutput *output)
{
    Seen *seen = argument;
    assert_int_equal(step->tokens, input->tokens);
    for (uint32_t i = 0; i < step->tokens; i++) {
        Row *row = &seen->rows[step->request[i]][step->position[i]];
        assert_false(row->seen);
        row->seen = true;
        for (uint32_t l = 0; l < LAYERS; l++)
            for (uint32_t k = 0; k < TOP_K; k++) {
                size_t at = ((size_t)l * step->tokens + i) * TOP_K + k;
                row->experts[l * TOP_K + k] = output->experts[at];
                row->weights[l * TOP_K + k] = output->weights[at];
            }
    }
    seen->n_rows += step->tokens;
    seen->largest_step = step->tokens > seen->largest_step ? step->tokens : seen->largest_step;
    if (seen->stop != NULL && step->step == seen->stop_at)
        *seen->stop = 1;
    return OK;
}

static inline Executor *open_executor(const Plan *plan, uint32_t max_tokens)
{
    Executor *executor;
    const ExecutorOptions options = {.plan = plan,
                                     .device = "cpu",
                                     .threads = 2,
                                     .max_requests = REQUESTS,
                                     .max_length = MAX_PROMPT + GENERATE,
                                     .max_tokens = max_tokens,
                                     .logits = LOGITS_LAST};
    assert_ok(executor_open(checkpoint, &options, &executor));
    return executor;
}

static inline Recorder *open_recorder(const Executor *executor, const char *path)
{
    Recorder *recorder;
    uint32_t n_layers;
    const TraceRun run = {.tool = "test", .model = "random"};
    const TraceLayer *layers = executor_layers(executor, &n_layers);
    unlink(path);
    assert_ok(recorder_open(path, &run, layers, n_layers, NULL, &recorder));
    return recorder;
}

/* Runs all requests; PATH NULL: without recording. */
static inline void run_all(const Plan *plan, const RunOptions *options, const char *path,
                           Seen *seen)
{
    uint32_t *output[REQUESTS];
    Executor *executor = open_executor(plan, options->max_tokens);
    Recorder *recorder = path != NULL ? open_recorder(executor, path) : NULL;
    for (uint32_t i = 0; i < REQUESTS; i++)
        output[i] = seen->output[i];
    assert_ok(run_requests(executor, checkpoint_config(checkpoint), &set, options, recorder,
                           observe, seen, output, seen->n_output, &seen->totals));
    if (recorder != NULL)
        assert_ok(recorder_close(recorder));
    executor_close(executor);
}

static inline Seen *new_seen(void)
{
    Seen *seen = mem_alloc(1, sizeof *seen);
    assert_non_null(seen);
    return seen;
}

static const RunOptions USUAL = {
    .batch = 4, .generate = GENERATE, .ignore_eos = true, .max_tokens = 64};

#endif
