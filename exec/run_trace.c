/* Running the steps of a trace again, as they were composed. */
#include "exec/run.h"

#include <string.h>

#include "base/json.h"
#include "base/layout.h"
#include "exec/run_step.h"
#include "exec/trace_scan.h"

typedef struct {
    RunContext context;
    const RunTraceOptions *options;
    TraceReader *reader;
    TraceScan scan;
    Future *future;  /* or NULL when the plan needs none */
    Arena arena;     /* of the arrays */
    uint32_t *token; /* as far as it is known */
    uint32_t *fed;   /* 0 where it is not: its routing is forced */
    uint32_t *kv_slot;
    uint32_t *source_slot; /* the slot of the request that the source belongs to */
    uint32_t beams;        /* requests that share a source */
    uint32_t *free_slots;  /* [n_free] */
    uint32_t n_free;
} TraceRunner;

Status run_trace_shape(const RunTraceOptions *options, const ModelConfig *config,
                       RunTraceShape *shape)
{
    TraceScan scan;
    TRY(trace_scan(options, config, NULL, &scan, NULL));
    *shape = scan.shape;
    trace_scan_free(&scan);
    return OK;
}

static Status check_room(const TraceRunner *runner)
{
    const ExecutorOptions *room = executor_options(runner->context.executor);
    const RunTraceShape *shape = &runner->scan.shape;
    if (shape->max_requests > room->max_requests || shape->max_length > room->max_length ||
        shape->max_tokens > room->max_tokens)
        return fail(ERR_INPUT,
                    "%s: it wants %u requests at a time, %u positions and %u tokens a "
                    "step, the executor was opened for %u, %u and %u",
                    runner->options->trace, shape->max_requests, shape->max_length,
                    shape->max_tokens, room->max_requests, room->max_length, room->max_tokens);
    return OK;
}

static void lay_out_runner(TraceRunner *runner)
{
    const RunTraceShape *shape = &runner->scan.shape;
    runner->token = lay_out(&runner->arena, shape->max_tokens, sizeof *runner->token);
    runner->fed = lay_out(&runner->arena, shape->max_tokens, sizeof *runner->fed);
    runner->kv_slot = lay_out(&runner->arena, shape->max_tokens, sizeof *runner->kv_slot);
    runner->source_slot = lay_out(&runner->arena, shape->max_tokens, sizeof *runner->source_slot);
    runner->free_slots = lay_out(&runner->arena, shape->max_requests, sizeof *runner->free_slots);
    score_rows_lay_out(&runner->context.scores, shape->max_tokens, &runner->arena);
}

static Status record_requests(const TraceRunner *runner)
{
    TraceRequest request;
    Status status;
    if (runner->context.recorder == NULL)
        return OK;
    while ((status = trace_reader_next_request(runner->reader, &request)) == OK)
        TRY(recorder_request(runner->context.recorder, &request));
    return status == STATUS_END ? OK : status;
}

/* *SLOT is REQUEST's KV slot, from its first step on. */
static Status slot_of(TraceRunner *runner, uint32_t request, uint32_t *slot)
{
    RequestEntry *entry;
    TRY(request_table_get(&runner->scan.requests, request, &entry));
    if (entry->length + entry->source_length == 0 || (!entry->running && runner->n_free == 0))
        return fail(ERR_INPUT, "request %u: it has no step, though others look at its source",
                    request);
    if (!entry->running) {
        entry->running = true;
        entry->kv_slot = runner->free_slots[--runner->n_free];
    }
    *slot = entry->kv_slot;
    return OK;
}

/* Gives each token its id and its request's KV slot. */
static Status place_tokens(TraceRunner *runner, const TraceStep *step)
{
    for (uint32_t i = 0; i < step->tokens; i++) {
        uint32_t request = step->request[i];
        TRY(slot_of(runner, request, &runner->kv_slot[i]));
        TRY(slot_of(runner, request - request % runner->beams, &runner->source_slot[i]));
        runner->token[i] = trace_token(runner->options, step, i);
        runner->fed[i] = runner->token[i] != TOKEN_UNKNOWN ? runner->token[i] : 0;
    }
    return OK;
}

/* Frees the KV slots of requests whose last step this was; INDEX counts the trace's steps. */
static Status release_ended(TraceRunner *runner, const TraceStep *step, uint64_t index)
{
    for (uint32_t i = 0; i < step->tokens; i++) {
        RequestEntry *entry;
        TRY(request_table_get(&runner->scan.requests, step->request[i], &entry));
        if (!entry->running || entry->last_step != index)
            continue;
        entry->running = false;
        executor_release(runner->context.executor, entry->kv_slot);
        runner->free_slots[runner->n_free++] = entry->kv_slot;
    }
    return OK;
}

static Status run_traced_step(TraceRunner *runner, const TraceStep *traced)
{
    uint64_t index = runner->context.totals->steps;
    bool forced = runner->options->forced;
    bool has_tokens = traced->token != NULL || runner->options->tokens != NULL;
    bool greedy = runner->options->greedy && traced->stack == STACK_DECODER;
    TRY(place_tokens(runner, traced));
    StepInput input = {.stack = traced->stack,
                       .tokens = traced->tokens,
                       .token = runner->fed,
                       .kv_slot = runner->kv_slot,
                       .source_slot = runner->source_slot,
                       .position = traced->position,
                       .logits = greedy ? LOGITS_LAST : LOGITS_NONE,
                       .greedy = greedy,
                       .timing = runner->options->timing,
                       .held = runner->options->held,
                       .scores = runner->options->scores != SCORES_NONE,
                       .forced_experts = forced ? traced->experts : NULL,
                       .forced_weights = forced ? traced->weights : NULL};
    TraceStep step = {.step = traced->step,
                      .phase = traced->phase,
                      .tokens = traced->tokens,
                      .request = traced->request,
                      .position = traced->position,
                      .token = has_tokens ? runner->token : NULL};
    StepOutput output;
    if (runner->future != NULL)
        future_next_step(runner->future, &input);
    TRY(run_step(&runner->context, &step, &input, &output));
    return release_ended(runner, traced, index);
}

/* The recorder's notes say how many beams each request had. Their caches were exchanged at every
 * step, which a trace does not tell: only forced routing can run them again. */
static Status read_beams(TraceRunner *runner)
{
    const char *notes = trace_reader_run(runner->reader)->notes;
    cJSON *json = NULL;
    JsonAt at;
    runner->beams = 1;
    if (notes == NULL || notes[0] == '\0')
        return OK;
    TRY(json_parse(notes, strlen(notes), runner->options->trace, &json));
    JsonAt root = json_root(json, runner->options->trace);
    Status status =
        json_find(&root, "beams", &at) ? json_u32(&at, 1, UINT32_MAX, &runner->beams) : OK;
    cJSON_Delete(json);
    if (status == OK && runner->beams > 1 && !runner->options->forced)
        return fail(ERR_UNSUPPORTED,
                    "%s: its steps are of beams, which only forced routing can run again",
                    runner->options->trace);
    return status;
}

static Status run_steps(TraceRunner *runner)
{
    TraceStep step;
    Status status = OK;
    const RunTraceShape *shape = &runner->scan.shape;
    TRY(check_room(runner));
    lay_out_runner(runner);
    TRY(arena_commit(&runner->arena, "run: arrays of a step"));
    lay_out_runner(runner);
    while (runner->n_free < shape->max_requests) {
        runner->free_slots[runner->n_free] = shape->max_requests - 1 - runner->n_free;
        runner->n_free++;
    }
    TRY(trace_reader_open(runner->options->trace, &runner->reader));
    TRY(read_beams(runner));
    TRY(record_requests(runner));
    while (!run_must_stop(&runner->context) &&
           (status = trace_reader_next_step(runner->reader, &step)) == OK)
        TRY(run_traced_step(runner, &step));
    return status == STATUS_END ? OK : status;
}

Status run_trace(Executor *executor, const ModelConfig *config, const RunTraceOptions *options,
                 Recorder *recorder, RunObserver observer, void *argument, RunTotals *totals)
{
    *totals = (RunTotals){0};
    TraceRunner runner = {.context = {.executor = executor,
                                      .recorder = recorder,
                                      .observer = observer,
                                      .argument = argument,
                                      .residency = options->residency,
                                      .stop = options->stop,
                                      .totals = totals},
                          .options = options};
    const Plan *plan = executor_plan(executor);
    bool needs_future = executor_needs_future(executor);
    Future future;
    runner.context.scores.keep = options->scores;
    runner.context.scores.layers = executor_layers(executor, &runner.context.scores.n_layers);
    if (plan->batching.mode == BATCHING_CONTINUOUS)
        return fail(ERR_UNSUPPORTED, "plan: batching.mode: \"continuous\" composes steps of its "
                                     "own, those of a trace run as recorded");
    if (!options->forced)
        TRY(executor_check_future(executor, NULL));
    TRY(trace_scan(options, config, plan, &runner.scan, needs_future ? &future : NULL));
    runner.future = needs_future ? &future : NULL;
    Status status = run_steps(&runner);
    run_settle(&runner.context);
    trace_reader_close(runner.reader);
    arena_free(&runner.arena);
    trace_scan_free(&runner.scan);
    future_free(runner.future);
    for (uint32_t i = 0; i < executor_options(executor)->max_requests; i++)
        executor_release(executor, i);
    return status;
}
