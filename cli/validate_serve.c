/* Validation of continuous batching: the requests of a trace arrive again in real time, once for
 * each plan, and what they experienced is compared with what the simulator says of the same
 * arrivals and the same routing. */
#include "cli/validate.h"

#include <stdio.h>

#include "cli/interrupt.h"
#include "cli/serving_print.h"
#include "cli/table.h"
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

static Status record(Validation *validation, const Plan *plan, const TraceRequests *requests,
                     RunOptions *run, ValidatedPlan *result)
{
    RoutingSource *routing;
    RunWatch watch = {0};
    Recorder *recorder;
    TRY(open_routing(validation, &routing));
    run->routing = routing;
    Status status = validation_open_recorder(validation, plan, &recorder);
    if (status != OK) {
        routing_source_close(routing);
        return status;
    }
    progress_start(&watch.progress, "run", "tokens", 0);
    run->stop = interrupt_watch();
    status =
        run_requests(validation->executor, checkpoint_config(validation->checkpoint),
                     &requests->set, run, recorder, run_watch, &watch, NULL, NULL, &result->totals);
    interrupt_unwatch();
    progress_end(&watch.progress);
    routing_source_close(routing);
    result->measured = watch.counts;
    result->fates = watch.fates;
    return validation_end_run(validation, &result->totals, recorder, status);
}

static Status run_plan(Validation *validation, const Plan *plan, const TraceRequests *requests,
                       ValidatedPlan *result)
{
    const Arrivals arrivals = plan_arrivals(plan);
    const SignalNeeds needs = plan_needs_signals(plan);
    ExecutorOptions options = {
        .plan = plan, .logits = LOGITS_LAST, .predictions = needs.distance, .warm_up = true};
    RunOptions run = {.batch = plan->batching.sequences,
                      .arrivals = &arrivals,
                      .arrival_ns = requests->arrival_ns,
                      .generate = requests->most_generate,
                      .generate_each = requests->generate,
                      .ignore_eos = true,
                      .residency = true,
                      .max_tokens = plan->batching.max_tokens,
                      .scores = needs.scores ? SCORES_ALL : SCORES_NONE};
    TRY(device_input_apply(&validation->arguments->device, &options));
    TRY(executor_for_requests(validation->checkpoint, &requests->set, &run, &options,
                              &validation->executor));
    TRY(validation_check_device(validation));
    result->slot_bytes = executor_slot_bytes(validation->executor);
    return record(validation, plan, requests, &run, result);
}

/* ---- predicted ---- */

static Status serve(const Validation *validation, const Plan *plan, Rebatch *rebatch,
                    ValidatedPlan *result)
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
    TRY(fail_in(timing_new(&options, &timing), "%s", validation->arguments->hardware));
    Status status = timed_serve(rebatch, plan, timing, NULL, NULL, &served);
    TimingTotals totals = timing_totals(timing);
    totals.layer_ns = NULL;
    timing_free(timing);
    TRY(status);
    result->served = served.serving;
    result->time.predicted = totals;
    result->time.memory = served.memory;
    served_plan_free(&served);
    return OK;
}

/* What the simulator says of the run that was recorded: its routing and its arrivals. */
static Status predict(const Validation *validation, const Plan *plan, ValidatedPlan *result)
{
    const char *path = validation->recording;
    const Batching batching = plan_batching(plan);
    const Arrivals recorded = {.kind = ARRIVALS_TRACE};
    TraceShards *shards;
    Rebatch *rebatch = NULL;
    TRY(trace_shards_open(&path, 1, &shards));
    Status status = rebatch_open(shards, &batching, &recorded, &rebatch);
    if (status == OK)
        status = serve(validation, plan, rebatch, result);
    rebatch_close(rebatch);
    trace_shards_close(shards);
    return status;
}

static Status validate_plan(Validation *validation, size_t i, const TraceRequests *requests)
{
    const Plan *plan = &validation->plans[i];
    ValidatedPlan *result = &validation->results[i];
    Plan as_run = *plan; /* the steps are those that ran */
    as_run.batching = plan_default().batching;
    executor_close(validation->executor);
    validation->executor = NULL;
    TRY(run_plan(validation, plan, requests, result));
    TRY(validation_compare_run(validation, &as_run, &result->report));
    if (validation->arguments->hardware != NULL) {
        TRY(predict(validation, plan, result));
        TRY(validation_compare_steps(validation, &as_run, &result->time.report));
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

/* ---- results ---- */

static double error_of(double predicted, double measured)
{
    return measured > 0 ? 100 * (predicted - measured) / measured : 0;
}

static void add_time(Table *table, const char *name, uint64_t predicted, uint64_t measured)
{
    char text[NUMBER_BYTES];
    table_cell(table, "%s", name);
    table_cell(table, "%s", duration_text(predicted, text));
    table_cell(table, "%s", duration_text(measured, text));
    table_cell(table, "%+.1f %%", error_of((double)predicted, (double)measured));
}

static void add_times(Table *table, const char *const names[3], const LatencySummary *predicted,
                      const LatencySummary *measured)
{
    add_time(table, names[0], predicted->median, measured->median);
    add_time(table, names[1], predicted->p90, measured->p90);
    add_time(table, names[2], predicted->p99, measured->p99);
}

/* The mean of what passes between two steps. */
static uint64_t between_steps(const ServingReport *report, uint64_t ns)
{
    return report->steps > 0 ? ns / report->steps : 0;
}

static uint64_t measured_between(const RunTotals *totals)
{
    uint64_t in_steps = totals->prefill_ns + totals->decode_ns;
    uint64_t busy = totals->serving.busy_ns;
    return between_steps(&totals->serving, busy > in_steps ? busy - in_steps : 0);
}

static Status print_compared(const ValidatedPlan *result)
{
    static const char *const TITLES[] = {"", "predicted", "measured", "error"};
    static const char *const TTFT[] = {"time to first token, median", "p90", "p99"};
    static const char *const TBT[] = {"time between tokens, median", "p90", "p99"};
    const ServingReport *predicted = &result->served;
    const ServingReport *measured = &result->totals.serving;
    const double per_s = serving_output_tokens_per_s(predicted);
    const double really = serving_output_tokens_per_s(measured);
    char text[NUMBER_BYTES];
    Table *table;
    TRY(table_new(TITLES, "lrrr", &table));
    add_times(table, TTFT, &predicted->ttft, &measured->ttft);
    add_times(table, TBT, &predicted->tbt, &measured->tbt);
    add_time(table, "between two steps",
             between_steps(predicted, result->time.predicted.between_ns),
             measured_between(&result->totals));
    add_time(table, "whole run", predicted->duration_ns, measured->duration_ns);
    table_cell(table, "output tokens/s");
    table_cell(table, "%.1f", per_s);
    table_cell(table, "%.1f", really);
    table_cell(table, "%+.1f %%", error_of(per_s, really));
    table_cell(table, "device memory");
    table_cell(table, "%s", bytes_text(result->time.memory.total, text));
    table_cell(table, "%s", bytes_text(result->time.device_bytes, text));
    table_cell(table, "%+.1f %%",
               error_of((double)result->time.memory.total, (double)result->time.device_bytes));
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

Status validation_print_serving(const Validation *validation)
{
    for (size_t i = 0; i < validation->n_plans; i++) {
        const ValidatedPlan *result = &validation->results[i];
        puts("");
        if (validation->n_plans > 1)
            printf("%s:\n", result->name);
        TRY(serving_print(&result->totals.serving));
        if (validation->arguments->hardware == NULL)
            continue;
        puts("");
        TRY(print_compared(result));
        puts("\nThe steps as they ran:");
        TRY(validation_print_report(&result->time.report));
    }
    return OK;
}

Status validation_add_serving(cJSON *json, const Validation *validation,
                              const ValidatedPlan *result)
{
    cJSON *object;
    TRY(json_add_object(json, "served", &object));
    cJSON *side;
    TRY(json_add_object(object, "measured", &side));
    TRY(serving_report_json(&result->totals.serving, side));
    TRY(json_add_u64(side, "device_bytes", result->time.device_bytes));
    TRY(json_add_u64(side, "between_ns", measured_between(&result->totals)));
    if (validation->arguments->hardware == NULL)
        return OK;
    TRY(json_add_object(object, "predicted", &side));
    TRY(json_add_u64(side, "device_bytes", result->time.memory.total));
    TRY(json_add_u64(side, "between_ns",
                     between_steps(&result->served, result->time.predicted.between_ns)));
    return serving_report_json(&result->served, side);
}
