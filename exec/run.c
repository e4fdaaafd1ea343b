/* Running requests: prefill, then greedy generation, group by group. */
#include "exec/run.h"

#include "base/memory.h"
#include "exec/layout.h"
#include "exec/run_step.h"

/* A request of the group that runs; its KV slot is its place in the group. */
typedef struct {
    const TokenRequest *prompt;
    uint32_t number;  /* in the set */
    uint32_t fed;     /* tokens in the KV cache */
    uint32_t pending; /* the newest output token, not yet fed */
    uint32_t n_output;
    bool done;
    uint32_t logit_row; /* of its last token in the step */
} Running;

typedef struct {
    RunContext context;
    const ModelConfig *config;
    const TokenSet *set;
    const RunOptions *options;
    uint32_t **output;
    uint32_t *n_output;
    Arena arena; /* of the arrays */
    Running *group;
    uint32_t n_group;
    uint32_t *request;
    uint32_t *position;
    uint32_t *token;
    uint32_t *kv_slot;
    uint32_t n_tokens; /* in the step that is being composed */
    uint32_t n_spans;
} Run;

static Status check_request(const Executor *executor, const TokenRequest *request, uint32_t number,
                            uint32_t generate)
{
    uint32_t room = executor_options(executor)->max_length;
    if (request->n_tokens == 0)
        return fail(ERR_INPUT, "request %u: it has no tokens", number);
    if (request->n_tokens > room || generate > room - request->n_tokens)
        return fail(ERR_INPUT,
                    "request %u: %u tokens and %u to generate, a request has room for "
                    "%u",
                    number, request->n_tokens, generate, room);
    return OK;
}

static Status check_run(const Run *run)
{
    const ExecutorOptions *executor = executor_options(run->context.executor);
    const RunOptions *options = run->options;
    if (options->batch == 0 || options->max_tokens == 0)
        return fail(ERR_INPUT, "run: the batch and the tokens of a step must be at least 1");
    if (options->max_tokens > executor->max_tokens)
        return fail(ERR_INPUT, "run: steps of %u tokens, the executor was opened for %u",
                    options->max_tokens, executor->max_tokens);
    if (options->batch > executor->max_requests && run->set->n_requests > executor->max_requests)
        return fail(ERR_INPUT, "run: batches of %u requests, the executor was opened for %u",
                    options->batch, executor->max_requests);
    if (executor_needs_future(run->context.executor))
        return fail(ERR_UNSUPPORTED,
                    "buffer.evict: %s needs the future: run it with forced "
                    "routing (--routing trace:FILE)",
                    executor_plan(run->context.executor)->buffer.evict);
    for (uint32_t i = 0; i < run->set->n_requests; i++)
        TRY(check_request(run->context.executor, &run->set->requests[i], i, options->generate));
    return OK;
}

static void lay_out_run(Run *run)
{
    uint32_t batch = run->options->batch;
    uint32_t requests = run->set->n_requests;
    size_t tokens = run->options->max_tokens;
    run->group = lay_out(&run->arena, batch < requests ? batch : requests, sizeof *run->group);
    run->request = lay_out(&run->arena, tokens, sizeof *run->request);
    run->position = lay_out(&run->arena, tokens, sizeof *run->position);
    run->token = lay_out(&run->arena, tokens, sizeof *run->token);
    run->kv_slot = lay_out(&run->arena, tokens, sizeof *run->kv_slot);
    score_rows_lay_out(&run->context.scores, run->options->max_tokens, &run->arena);
}

static bool is_output_row(const Running *running)
{
    return running->fed >= running->prompt->n_tokens;
}

/* Adds the request's next tokens, up to END of them fed, as far as the step has room. */
static void add_tokens(Run *run, uint32_t place, uint32_t end)
{
    Running *running = &run->group[place];
    uint32_t before = run->n_tokens;
    while (running->fed < end && run->n_tokens < run->options->max_tokens) {
        uint32_t at = run->n_tokens++;
        bool prompt = running->fed < running->prompt->n_tokens;
        run->request[at] = running->number;
        run->kv_slot[at] = place;
        run->position[at] = running->fed;
        run->token[at] = prompt ? running->prompt->tokens[running->fed] : running->pending;
        running->fed++;
    }
    if (run->n_tokens == before)
        return;
    running->logit_row = run->n_spans++;
    if (run->options->logits == LOGITS_ALL)
        running->logit_row = run->n_tokens - 1;
}

/* The id of the largest logit, the lower one of equals. */
static uint32_t best_token(const float *logits, uint32_t vocabulary)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocabulary; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static bool is_end(const ModelConfig *config, uint32_t token)
{
    for (uint32_t i = 0; i < config->n_eos; i++)
        if (config->eos[i] == token)
            return true;
    return false;
}

static void accept_token(Run *run, Running *running, const StepOutput *output)
{
    size_t vocabulary = run->config->vocabulary;
    running->pending =
        best_token(output->logits + running->logit_row * vocabulary, (uint32_t)vocabulary);
    if (run->output != NULL)
        run->output[running->number][running->n_output] = running->pending;
    running->n_output++;
    run->context.totals->generated++;
    if (running->n_output == run->options->generate ||
        (!run->options->ignore_eos && is_end(run->config, running->pending)))
        running->done = true;
}

/* Runs the composed step. Requests [first, end) of the group took part; those that have no unfed
 * prompt left get a token. */
static Status run_composed(Run *run, Phase phase, uint32_t first, uint32_t end)
{
    bool generates = false;
    for (uint32_t i = first; i < end; i++)
        generates |=
            run->options->generate > 0 && !run->group[i].done && is_output_row(&run->group[i]);
    LogitsWanted needed = generates ? LOGITS_LAST : LOGITS_NONE;
    TraceStep step = {.step = (uint32_t)run->context.totals->steps,
                      .phase = phase,
                      .tokens = run->n_tokens,
                      .request = run->request,
                      .position = run->position,
                      .token = run->token};
    StepInput input = {.tokens = run->n_tokens,
                       .token = run->token,
                       .kv_slot = run->kv_slot,
                       .position = run->position,
                       .logits = run->options->logits > needed ? run->options->logits : needed};
    StepOutput output;
    run->n_tokens = 0;
    run->n_spans = 0;
    TRY(run_step(&run->context, &step, &input, &output));
    for (uint32_t i = first; generates && i < end; i++)
        if (!run->group[i].done && is_output_row(&run->group[i]))
            accept_token(run, &run->group[i], &output);
    return OK;
}

/* Runs the prompts of the group: each step takes what fits, in order. */
static Status prefill(Run *run)
{
    uint32_t first = 0;
    while (first < run->n_group && !run_must_stop(&run->context)) {
        uint32_t place = first;
        while (place < run->n_group && run->n_tokens < run->options->max_tokens) {
            uint32_t end = run->group[place].prompt->n_tokens;
            add_tokens(run, place, end);
            if (run->group[place].fed < end)
                break;
            place++;
        }
        /* A prompt that was cut takes part, but is not done. */
        TRY(run_composed(run, PHASE_PREFILL, first, place));
        first = place;
    }
    return OK;
}

/* One output token for each request that is not done. */
static Status decode_round(Run *run, bool *any)
{
    *any = false;
    for (uint32_t first = 0; first < run->n_group && !run_must_stop(&run->context);) {
        uint32_t place = first;
        for (; place < run->n_group && run->n_tokens < run->options->max_tokens; place++)
            if (!run->group[place].done)
                add_tokens(run, place, run->group[place].fed + 1);
        if (run->n_tokens > 0) {
            TRY(run_composed(run, PHASE_DECODE, first, place));
            *any = true;
        }
        first = place;
    }
    return OK;
}

static Status record_request(const Run *run, const Running *running)
{
    const char *label = running->prompt->label;
    TraceRequest request = {.request = running->number,
                            .label = label != NULL && label[0] != 0 ? label : NULL,
                            .prompt_tokens = running->prompt->n_tokens,
                            .output_tokens = running->n_output};
    if (run->context.recorder == NULL)
        return OK;
    return recorder_request(run->context.recorder, &request);
}

static Status start_group(Run *run, uint32_t first)
{
    uint32_t left = run->set->n_requests - first;
    run->n_group = run->options->batch < left ? run->options->batch : left;
    for (uint32_t i = 0; i < run->n_group; i++) {
        run->group[i] = (Running){.prompt = &run->set->requests[first + i], .number = first + i};
        TRY(record_request(run, &run->group[i]));
    }
    return OK;
}

static Status end_group(Run *run)
{
    for (uint32_t i = 0; i < run->n_group; i++) {
        executor_release(run->context.executor, i);
        if (run->n_output != NULL)
            run->n_output[run->group[i].number] = run->group[i].n_output;
        TRY(record_request(run, &run->group[i]));
    }
    return OK;
}

static Status run_group(Run *run, uint32_t first)
{
    TRY(start_group(run, first));
    TRY(prefill(run));
    for (bool more = run->options->generate > 0; more && !run->context.totals->stopped;)
        TRY(decode_round(run, &more));
    return end_group(run);
}

static Status run_groups(Run *run)
{
    TRY(check_run(run));
    lay_out_run(run);
    TRY(arena_commit(&run->arena, "run: arrays of a step"));
    lay_out_run(run);
    for (uint32_t first = 0; first < run->set->n_requests; first += run->n_group) {
        if (run_must_stop(&run->context))
            break;
        TRY(run_group(run, first));
    }
    return OK;
}

Status run_requests(Executor *executor, const ModelConfig *config, const TokenSet *set,
                    const RunOptions *options, Recorder *recorder, RunObserver observer,
                    void *argument, uint32_t **output, uint32_t *n_output, RunTotals *totals)
{
    *totals = (RunTotals){0};
    Run run = {.context = {.executor = executor,
                           .recorder = recorder,
                           .observer = observer,
                           .argument = argument,
                           .stop = options->stop,
                           .totals = totals},
               .config = config,
               .set = set,
               .options = options,
               .output = output,
               .n_output = n_output};
    run.context.scores.keep = options->scores;
    run.context.scores.layers = executor_layers(executor, &run.context.scores.n_layers);
    Status status = run_groups(&run);
    arena_free(&run.arena);
    for (uint32_t i = 0; status != OK && i < executor_options(executor)->max_requests; i++)
        executor_release(executor, i);
    return status;
}
