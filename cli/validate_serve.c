/* Validation of continuous batching: the requests of a trace arrive again in real time under each
 * plan, and what they experienced is compared with what the simulator says of the same arrivals and
 * the same routing. */
#include "cli/validate.h"

#include <stdio.h>
#include <string.h>

#include "cli/interrupt.h"
#include "exec/trace_requests.h"
#include "sim/timed_serve.h"

/* ---- run ---- */

static Status open_routing(const Validation *validation, RoutingSource **routing)
{
    char text[1024];
    uint32_t n_layers;
    const TraceLayer *layers = executor_layers(validation->executor, &n_layers);
    *routing = NULL;
    if (!validation->forced)
        return OK;
    int used = snprintf(text, sizeof text, "trace:%s", validation->arguments->trace);
    if (used < 0 || (size_t)used >= sizeof text)
        return fail(ERR_INPUT, "%s: the path is too long", validation->arguments->trace);
    return routing_source_open(text, layers, n_layers, 0, routing);
}

/* That go through the model: the last output token of a request does not. */
static uint64_t count_tokens(const TraceRequests *requests)
{
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < requests->set.n_requests; i++)
        tokens += requests->set.requests[i].n_tokens + requests->generate[i] - 1;
    return tokens;
}

static Status record(Validation *validation, const Plan *plan, const TraceRequests *requests,
                     RunOptions *run, RunWatch *watch, RunTotals *totals)
{
    RoutingSource *routing;
    Recorder *recorder;
    *watch = (RunWatch){0};
    TRY(open_routing(validation, &routing));
    run->routing = routing;
    Status status = validation_open_recorder(validation, plan, &recorder);
    if (status != OK) {
        routing_source_close(routing);
        return status;
    }
    progress_start(&watch->progress, "run", "tokens", count_tokens(requests));
    run->stop = interrupt_watch();
    status = run_requests(validation->executor, checkpoint_config(validation->checkpoint),
                          &requests->set, run, recorder, run_watch, watch, NULL, NULL, totals);
    interrupt_unwatch();
    progress_end(&watch->progress);
    routing_source_close(routing);
    return validation_end_run(validation, totals, recorder, status);
}

static RunOptions run_options(const Plan *plan, const Arrivals *arrivals, const ServiceGoals *goals,
                              const TraceRequests *requests)
{
    return (RunOptions){.batch = plan->batching.sequences,
                        .arrivals = arrivals,
                        .goals = goals,
                        .arrival_ns = requests->arrival_ns,
                        .generate = requests->most_generate,
                        .generate_each = requests->generate,
                        .ignore_eos = true,
                        .max_tokens = plan->batching.max_tokens,
                        .scores = plan_needs_signals(plan).scores ? SCORES_ALL : SCORES_NONE};
}

/* The same requests want the same executor under plans that differ in when they come alone. */
static Status want_alike(const Plan *a, const Plan *b, bool *alike)
{
    char *texts[2] = {NULL, NULL};
    Plan then = *b;
    memcpy(then.name, a->name, sizeof then.name);
    then.batching.arrivals = a->batching.arrivals;
    then.batching.requests_per_s = a->batching.requests_per_s;
    Status status = plan_to_text(a, &texts[0]);
    if (status == OK)
        status = plan_to_text(&then, &texts[1]);
    *alike = status == OK && strcmp(texts[0], texts[1]) == 0;
    mem_free(texts[0]);
    mem_free(texts[1]);
    return status;
}

/* RUN is what the executor is then open for. */
static Status open_executor(Validation *validation, const Plan *plan, const TraceRequests *requests,
                            RunOptions *run)
{
    ExecutorOptions options = {.plan = plan,
                               .logits = LOGITS_LAST,
                               .predictions = plan_needs_signals(plan).distance,
                               .warm_up = true};
    bool alike = false;
    if (plan > validation->plans)
        TRY(want_alike(plan - 1, plan, &alike));
    if (alike) {
        run->max_tokens = executor_options(validation->executor)->max_tokens;
        return executor_set_plan(validation->executor, plan);
    }
    executor_close(validation->executor);
    validation->executor = NULL;
    TRY(device_input_apply(&validation->arguments->device, &options));
    TRY(executor_for_requests(validation->checkpoint, &requests->set, run, &options,
                              &validation->executor));
    return validation_check_device(validation);
}

/* With all decisions in the trace, which takes time of the host's between two steps. */
static Status run_plan(Validation *validation, const Plan *plan, const TraceRequests *requests,
                       RunOptions *run, ValidatedPlan *result)
{
    RunWatch watch;
    run->residency = true;
    TRY(open_executor(validation, plan, requests, run));
    result->slot_bytes = executor_slot_bytes(validation->executor);
    TRY(record(validation, plan, requests, run, &watch, &result->totals));
    run->residency = false;
    result->measured = watch.counts;
    result->fates = watch.fates;
    return OK;
}

/* ---- predicted ---- */

/* Whether a request that comes when a step begins is in time for it is chance, and one that is not
 * waits for the next. So the prediction is made of as many plays, in which arrivals come up to such
 * a share of their time earlier or later: as of runs, of each number the median counts. */
enum { PLAYS = 21 };
static const double MOST_MOVED = 0.005;

static Status serve(const Validation *validation, const Plan *plan, Rebatch *rebatch,
                    ValidatedTime *time, ServingReport *report)
{
    uint32_t n_layers;
    const TraceLayer *layers = rebatch_layers(rebatch, &n_layers);
    const TimingOptions options = {.hardware = &validation->hardware,
                                   .model = validation->model,
                                   .plan = plan,
                                   .layers = layers,
                                   .n_layers = n_layers,
                                   .logits = true,
                                   .forced = validation->forced};
    Timing *timing;
    ServedPlan served;
    TRY(timing_check_plan(plan, options.layers, options.n_layers));
    TRY(fail_in(timing_new(&options, &timing), "%s", validation->arguments->hardware));
    Status status =
        timed_serve(rebatch, plan, timing, &validation->arguments->goals, NULL, NULL, &served);
    time->predicted = timing_totals(timing);
    time->predicted.layer_ns = NULL;
    timing_free(timing);
    TRY(status);
    *report = served.serving;
    time->memory = served.memory;
    served_plan_free(&served);
    return OK;
}

/* The requests of TOKENS under PLAN, as they were recorded to arrive, or that STRETCHed. */
static Status play(const Validation *validation, const Plan *plan, const RebatchTokens *tokens,
                   double stretch, ValidatedTime *time, ServingReport *report)
{
    const Batching batching = plan_batching(plan);
    const Arrivals arrivals = {.kind = ARRIVALS_TRACE, .stretch = stretch};
    Rebatch *rebatch;
    TRY(rebatch_open_tokens(tokens, &batching, &arrivals, &rebatch));
    Status status = serve(validation, plan, rebatch, time, report);
    rebatch_close(rebatch);
    return status;
}

static Status play_all(const Validation *validation, const Plan *plan, const RebatchTokens *tokens,
                       ValidatedPlan *result)
{
    ServingReport reports[PLAYS];
    ServedRuns *served = &result->served;
    for (int i = 0; i < PLAYS; i++)
        TRY(play(validation, plan, tokens, 1 + MOST_MOVED * (2.0 * i / (PLAYS - 1) - 1),
                 &result->time, &reports[i]));
    TRY(served_runs_middle(reports, PLAYS, &served->predicted, &served->varies));
    return play(validation, plan, tokens, 0, &result->time, &served->played);
}

/* What the simulator says of the run that was recorded: its routing and its arrivals. */
static Status predict(const Validation *validation, const Plan *plan, ValidatedPlan *result)
{
    const char *path = validation->recording;
    TraceShards *shards;
    RebatchTokens *tokens = NULL;
    TRY(trace_shards_open(&path, 1, &shards));
    Status status = rebatch_tokens_read(shards, &tokens);
    if (status == OK)
        status = play_all(validation, plan, tokens, result);
    rebatch_tokens_free(tokens);
    trace_shards_close(shards);
    return status;
}

/* ---- measured ---- */

/* The steps of the run are those that ran. */
static Plan as_it_ran(const Plan *plan)
{
    Plan as_run = *plan;
    as_run.batching = plan_default().batching;
    return as_run;
}

/* Once more, from the state that the plan begins with, as `record` would. */
static Status serve_again(Validation *validation, const Plan *plan, const TraceRequests *requests,
                          RunOptions *run, RunTotals *totals)
{
    RunWatch watch;
    TRY(executor_set_plan(validation->executor, plan));
    validation_seek_quiet(validation);
    return record(validation, plan, requests, run, &watch, totals);
}

/* ... and again where that does not count. */
static Status measure_run(Validation *validation, const Plan *plan, const TraceRequests *requests,
                          RunOptions *run, ValidatedPlan *result, uint32_t number)
{
    const Plan as_run = as_it_ran(plan);
    RunTotals totals;
    Status status = serve_again(validation, plan, requests, run, &totals);
    while (status == OK && !validation_run_counts(validation, &result->time.quiet)) {
        validation_remove_trace(validation->recording);
        status = serve_again(validation, plan, requests, run, &totals);
    }
    if (status == OK)
        status = validation_compare_steps(validation, &as_run, result->time.accuracy);
    validation_remove_trace(validation->recording);
    TRY(status);
    result->served.runs[number] = totals.serving;
    result->served.between_ns += validation_between(&totals) / validation->arguments->runs;
    return OK;
}

static Status run_all(Validation *validation, const Plan *plan, const TraceRequests *requests,
                      RunOptions *run, ValidatedPlan *result)
{
    ServedRuns *served = &result->served;
    const uint32_t n = validation->arguments->runs;
    TRY(mem_new(&served->runs, n, sizeof *served->runs, "served runs"));
    TRY(accuracy_new(1, &result->time.accuracy));
    for (uint32_t i = 0; i < n; i++)
        TRY(measure_run(validation, plan, requests, run, result, i));
    TRY(accuracy_report(result->time.accuracy, &result->time.report));
    return served_runs_middle(served->runs, n, &served->middle, &served->noise);
}

/* The traces of these runs are kept only as long as their steps are compared. */
static Status measure(Validation *validation, const Plan *plan, const TraceRequests *requests,
                      RunOptions *run, ValidatedPlan *result)
{
    ScratchFolder folder;
    char kept[sizeof validation->recording];
    const bool recorded = validation->recorded;
    memcpy(kept, validation->recording, sizeof kept);
    TRY(scratch_open(NULL, &folder));
    Status status = scratch_name(&folder, "again.db", validation->recording, sizeof kept);
    if (status == OK)
        status = run_all(validation, plan, requests, run, result);
    memcpy(validation->recording, kept, sizeof kept);
    validation->recorded = recorded;
    scratch_close(&folder);
    return status;
}

static Status validate_plan(Validation *validation, size_t i, const TraceRequests *requests)
{
    const Plan *plan = &validation->plans[i];
    ValidatedPlan *result = &validation->results[i];
    const Arrivals arrivals = plan_arrivals(plan);
    RunOptions run = run_options(plan, &arrivals, &validation->arguments->goals, requests);
    const Plan as_run = as_it_ran(plan);
    TRY(run_plan(validation, plan, requests, &run, result));
    TRY(validation_compare_run(validation, &as_run, &result->report));
    if (validation->arguments->hardware != NULL) {
        TRY(predict(validation, plan, result));
        TRY(measure(validation, plan, requests, &run, result));
    }
    result->time.device_bytes = executor_device_bytes(validation->executor);
    return OK;
}

Status validation_serve(Validation *validation)
{
    TraceRequests requests;
    TRY(trace_requests_load(validation->arguments->trace, &requests));
    Status status = OK;
    if (!validation->forced && !requests.has_tokens)
        status = fail(ERR_INPUT, "%s: it has no token ids, so that only its own routing can run",
                      validation->arguments->trace);
    for (size_t i = 0; i < validation->n_plans && status == OK; i++) {
        status = validate_plan(validation, i, &requests);
        validation_remove_recording(validation);
        if (validation->n_plans > 1)
            status = fail_in(status, "%s", validation->results[i].name);
    }
    trace_requests_free(&requests);
    return status;
}
