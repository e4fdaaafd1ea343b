/* Validation of continuous batching: the requests of a trace arrive again in real time under each
 * plan, and what they experienced is compared with what the simulator says of the same arrivals and
 * the same routing. */
#include "cli/validate.h"

#include <stdio.h>
#include <string.h>

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
    progress_start(&watch->progress, "run", "tokens", 0);
    run->stop = interrupt_watch();
    status = run_requests(validation->executor, checkpoint_config(validation->checkpoint),
                          &requests->set, run, recorder, run_watch, watch, NULL, NULL, totals);
    interrupt_unwatch();
    progress_end(&watch->progress);
    routing_source_close(routing);
    return validation_end_run(validation, totals, recorder, status);
}

static RunOptions run_options(const Plan *plan, const Arrivals *arrivals,
                              const TraceRequests *requests)
{
    return (RunOptions){.batch = plan->batching.sequences,
                        .arrivals = arrivals,
                        .arrival_ns = requests->arrival_ns,
                        .generate = requests->most_generate,
                        .generate_each = requests->generate,
                        .ignore_eos = true,
                        .max_tokens = plan->batching.max_tokens,
                        .scores = plan_needs_signals(plan).scores ? SCORES_ALL : SCORES_NONE};
}

/* With all decisions in the trace, which takes time of the host's between two steps. RUN is what
 * the executor is then open for. */
static Status run_plan(Validation *validation, const Plan *plan, const TraceRequests *requests,
                       RunOptions *run, ValidatedPlan *result)
{
    ExecutorOptions options = {.plan = plan,
                               .logits = LOGITS_LAST,
                               .predictions = plan_needs_signals(plan).distance,
                               .warm_up = true};
    RunWatch watch;
    run->residency = true;
    TRY(device_input_apply(&validation->arguments->device, &options));
    TRY(executor_for_requests(validation->checkpoint, &requests->set, run, &options,
                              &validation->executor));
    TRY(validation_check_device(validation));
    result->slot_bytes = executor_slot_bytes(validation->executor);
    TRY(record(validation, plan, requests, run, &watch, &result->totals));
    run->residency = false;
    result->measured = watch.counts;
    result->fates = watch.fates;
    return OK;
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
    result->served.predicted = served.serving;
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

/* ---- measured ---- */

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

/* The steps of the run are those that ran. */
static Plan as_it_ran(const Plan *plan)
{
    Plan as_run = *plan;
    as_run.batching = plan_default().batching;
    return as_run;
}

/* Once more, from the state that the plan begins with, as `record` would. */
static Status run_again(Validation *validation, const Plan *plan, const TraceRequests *requests,
                        RunOptions *run, ValidatedPlan *result, uint32_t number)
{
    const Plan as_run = as_it_ran(plan);
    RunWatch watch;
    RunTotals totals;
    TRY(executor_set_plan(validation->executor, plan));
    if (strcmp(validation->arguments->device.name, "cpu") != 0)
        quiet_processor_seek(&validation->quiet);
    Status status = record(validation, plan, requests, run, &watch, &totals);
    if (status == OK)
        status = validation_compare_steps(validation, &as_run, result->time.accuracy);
    validation_remove_trace(validation->recording);
    TRY(status);
    result->served.runs[number] = totals.serving;
    result->served.between_ns += measured_between(&totals) / validation->arguments->runs;
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
        TRY(run_again(validation, plan, requests, run, result, i));
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
    RunOptions run = run_options(plan, &arrivals, requests);
    const Plan as_run = as_it_ran(plan);
    executor_close(validation->executor);
    validation->executor = NULL;
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

/* ---- results ---- */

static double error_of(double predicted, double measured)
{
    return measured > 0 ? 100 * (predicted - measured) / measured : 0;
}

static void add_time(Table *table, const char *name, uint64_t predicted, uint64_t measured,
                     double noise)
{
    char text[NUMBER_BYTES];
    table_cell(table, "%s", name);
    table_cell(table, "%s", duration_text(predicted, text));
    table_cell(table, "%s", duration_text(measured, text));
    table_cell(table, "%+.1f %%", error_of((double)predicted, (double)measured));
    table_cell(table, "%.1f %%", 100 * noise);
}

static void add_times(Table *table, const char *const names[3], const LatencySummary *predicted,
                      const LatencySummary *measured, const SummaryNoise *noise)
{
    add_time(table, names[0], predicted->median, measured->median, noise->median);
    add_time(table, names[1], predicted->p90, measured->p90, noise->p90);
    add_time(table, names[2], predicted->p99, measured->p99, noise->p99);
}

static void add_throughput(Table *table, const ServedRuns *served)
{
    const double predicted = serving_output_tokens_per_s(&served->predicted);
    const double measured = serving_output_tokens_per_s(&served->middle);
    table_cell(table, "output tokens/s");
    table_cell(table, "%.1f", predicted);
    table_cell(table, "%.1f", measured);
    table_cell(table, "%+.1f %%", error_of(predicted, measured));
    table_cell(table, "%.1f %%", 100 * served->noise.output_tokens_per_s);
}

/* What passes between two steps, on average. */
static void add_between(Table *table, uint64_t predicted, uint64_t measured)
{
    char text[NUMBER_BYTES];
    table_cell(table, "between two steps");
    table_cell(table, "%s", duration_text(predicted, text));
    table_cell(table, "%s", duration_text(measured, text));
    table_cell(table, "%+.1f %%", error_of((double)predicted, (double)measured));
    table_cell(table, "%s", "");
}

static void add_memory(Table *table, const ValidatedTime *time)
{
    char text[NUMBER_BYTES];
    table_cell(table, "device memory");
    table_cell(table, "%s", bytes_text(time->memory.total, text));
    table_cell(table, "%s", bytes_text(time->device_bytes, text));
    table_cell(table, "%+.1f %%", error_of((double)time->memory.total, (double)time->device_bytes));
    table_cell(table, "%s", "");
}

static uint64_t predicted_between(const ValidatedPlan *result)
{
    return between_steps(&result->served.predicted, result->time.predicted.between_ns);
}

static Status print_compared(const ValidatedPlan *result, uint32_t runs)
{
    static const char *const TITLES[] = {"", "predicted", "measured", "error", "noise"};
    static const char *const TTFT[] = {"time to first token, median", "p90", "p99"};
    static const char *const TBT[] = {"time between tokens, median", "p90", "p99"};
    const ServedRuns *served = &result->served;
    const ServingReport *predicted = &served->predicted;
    const ServingReport *measured = &served->middle;
    const ServingNoise *noise = &served->noise;
    Table *table;
    TRY(table_new(TITLES, "lrrrr", &table));
    add_times(table, TTFT, &predicted->ttft, &measured->ttft, &noise->ttft);
    add_times(table, TBT, &predicted->tbt, &measured->tbt, &noise->tbt);
    add_time(table, "whole run", predicted->duration_ns, measured->duration_ns, noise->duration);
    add_throughput(table, served);
    add_between(table, predicted_between(result), served->between_ns);
    add_memory(table, &result->time);
    printf("Of each number the median over %u runs; its noise is the coefficient of variation:\n",
           runs);
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

Status validation_print_serving(const Validation *validation)
{
    const ValidateArguments *arguments = validation->arguments;
    const bool timed = arguments->hardware != NULL;
    for (size_t i = 0; i < validation->n_plans; i++) {
        const ValidatedPlan *result = &validation->results[i];
        puts("");
        if (validation->n_plans > 1)
            printf("%s:\n", result->name);
        TRY(serving_print(timed ? &result->served.middle : &result->totals.serving));
        if (!timed)
            continue;
        puts("");
        TRY(print_compared(result, arguments->runs));
        puts("\nThe steps of all runs, as they ran:");
        TRY(validation_print_report(&result->time.report));
    }
    return OK;
}

static Status add_side(cJSON *json, const char *name, const ServingReport *report,
                       uint64_t device_bytes, uint64_t between_ns)
{
    cJSON *side;
    TRY(json_add_object(json, name, &side));
    TRY(json_add_u64(side, "device_bytes", device_bytes));
    TRY(json_add_u64(side, "between_ns", between_ns));
    return serving_report_json(report, side);
}

static Status add_runs(cJSON *json, const ServedRuns *served, uint32_t n)
{
    cJSON *array;
    TRY(json_add_array(json, "runs", &array));
    for (uint32_t i = 0; i < n; i++) {
        cJSON *run = cJSON_CreateObject();
        TRY(json_push(array, run));
        TRY(serving_report_json(&served->runs[i], run));
    }
    return OK;
}

Status validation_add_serving(cJSON *json, const Validation *validation,
                              const ValidatedPlan *result)
{
    const ServedRuns *served = &result->served;
    const ValidatedTime *time = &result->time;
    cJSON *object;
    TRY(json_add_object(json, "served", &object));
    if (validation->arguments->hardware == NULL)
        return add_side(object, "measured", &result->totals.serving, time->device_bytes,
                        measured_between(&result->totals));
    TRY(add_side(object, "measured", &served->middle, time->device_bytes, served->between_ns));
    TRY(add_side(object, "predicted", &served->predicted, time->memory.total,
                 predicted_between(result)));
    TRY(serving_noise_json(&served->noise, object));
    return add_runs(object, served, validation->arguments->runs);
}
