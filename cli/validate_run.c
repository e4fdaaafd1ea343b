/* One plan after the other in one executor: each runs the steps of the trace with recording on, and
 * the routing of that very run is replayed under the same plan. */
#include "cli/validate.h"
#include "policies/plan_measured.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/files.h"
#include "cli/interrupt.h"
#include "cli/part_input.h"
#include "cli/plan_input.h"
#include "policies/signals_load.h"
#include "sim/sweep_learn.h"

/* The comparison of one run. */
typedef struct {
    TraceReader *reader; /* of the run's trace */
    Compare *compare;
    uint64_t next_step; /* number of the step whose records come next, at least */
} Comparison;

static Status name_recording(Validation *validation)
{
    const ValidateArguments *arguments = validation->arguments;
    size_t room = sizeof validation->recording;
    if (arguments->out == NULL) {
        TRY(scratch_open(NULL, &validation->folder));
        return scratch_name(&validation->folder, "run.db", validation->recording, room);
    }
    int used = snprintf(validation->recording, room, "%s", arguments->out);
    return used < 0 || (size_t)used >= room
               ? fail(ERR_OUTPUT, "%s: the path is too long", arguments->out)
               : OK;
}

void validation_remove_trace(const char *name)
{
    static const char *const ENDINGS[] = {"", "-wal", "-shm"};
    char path[sizeof((Validation *)NULL)->recording + 8];
    for (size_t i = 0; i < sizeof ENDINGS / sizeof ENDINGS[0]; i++) {
        snprintf(path, sizeof path, "%s%s", name, ENDINGS[i]);
        unlink(path);
    }
}

void validation_remove_recording(Validation *validation)
{
    if (!validation->recorded || validation->arguments->out != NULL)
        return;
    validation->recorded = false;
    validation_remove_trace(validation->recording);
}

Status validation_open_recorder(Validation *validation, const Plan *made, Recorder **recorder)
{
    char *plan;
    uint32_t n_layers;
    const TraceLayer *layers = executor_layers(validation->executor, &n_layers);
    TRY(plan_to_text(made, &plan));
    const TraceRun run = {.tool = "moebius " MOEBIUS_VERSION,
                          .source = validation->arguments->trace,
                          .model = validation->model,
                          .model_config = checkpoint_config(validation->checkpoint)->json,
                          .device = executor_device(validation->executor),
                          .plan = plan,
                          .notes = validation->forced ? "{\"routing\":\"forced\"}"
                                                      : "{\"routing\":\"gate\"}"};
    Status status = recorder_open(validation->recording, &run, layers, n_layers, NULL, recorder);
    mem_free(plan);
    validation->recorded = status == OK;
    return status;
}

Status validation_end_run(const Validation *validation, const RunTotals *totals, Recorder *recorder,
                          Status status)
{
    if (status == OK && totals->stopped)
        status = fail(ERR_INTERRUPTED, "%s: stopped before the run was complete",
                      validation->arguments->trace);
    return recorder_end(recorder, status);
}

RunTraceOptions validation_run_options(const Validation *validation, const Plan *plan)
{
    const ValidateArguments *arguments = validation->arguments;
    return (RunTraceOptions){.trace = arguments->trace,
                             .forced = validation->forced,
                             .tokens = arguments->tokens.file != NULL ? &validation->set : NULL,
                             .scores = plan_needs_signals(plan).scores ? SCORES_ALL : SCORES_NONE,
                             .greedy = arguments->hardware != NULL,
                             .residency = true};
}

/* Opens the executor for all plans, the first in place. */
static Status open_executor(Validation *validation)
{
    ExecutorOptions options = {.plan = validation->plans,
                               .others = validation->plans + 1,
                               .n_others = validation->n_plans - 1,
                               .warm_up = validation->arguments->hardware != NULL};
    const RunTraceOptions run = validation_run_options(validation, validation->plans);
    RunTraceShape shape;
    for (size_t i = 0; i < validation->n_plans; i++) {
        uint32_t distance = plan_needs_signals(&validation->plans[i]).distance;
        options.predictions = distance > options.predictions ? distance : options.predictions;
    }
    TRY(device_input_apply(&validation->arguments->device, &options));
    TRY(executor_for_trace(validation->checkpoint, &run, &options, &shape, &validation->executor));
    validation->tokens = shape.tokens;
    return OK;
}

/* Runs PLAN, which the executor has, with recording on. */
static Status run_plan(Validation *validation, const Plan *plan, ValidatedPlan *result)
{
    RunTraceOptions run = validation_run_options(validation, plan);
    RunWatch watch = {0};
    Recorder *recorder;
    TRY(validation_open_recorder(validation, plan, &recorder));
    progress_start(&watch.progress, "run", "tokens", validation->tokens);
    run.stop = interrupt_watch();
    Status status = run_trace(validation->executor, checkpoint_config(validation->checkpoint), &run,
                              recorder, run_watch, &watch, &result->totals);
    interrupt_unwatch();
    progress_end(&watch.progress);
    result->measured = watch.counts;
    result->fates = watch.fates;
    result->slot_bytes = executor_slot_bytes(validation->executor);
    return validation_end_run(validation, &result->totals, recorder, status);
}

/* One event of the simulator; the executor's records of the step come in with its first event. */
static Status compare_event(void *argument, const PackedEvent *event, const BufferAction *actions,
                            uint32_t n_actions)
{
    Comparison *comparison = argument;
    uint32_t n_layers;
    const TraceLayer *layers = trace_reader_layers(comparison->reader, &n_layers);
    const ResidencyRecord *records;
    size_t count = 0;
    if (event->step >= comparison->next_step)
        TRY(trace_reader_residency(comparison->reader, event->step, 0, &records, &count));
    comparison->next_step = (uint64_t)event->step + 1;
    for (size_t i = 0; i < count; i++)
        TRY(compare_actual(comparison->compare, event->step, &records[i]));
    for (uint32_t i = 0; i < n_actions; i++) {
        const ResidencyRecord record = {.layer = layers[actions[i].layer_index].layer,
                                        .expert = actions[i].expert,
                                        .kind = actions[i].kind,
                                        .slot = actions[i].slot};
        TRY(compare_expect(comparison->compare, event->step, &record));
    }
    return OK;
}

/* What PLAN needs to know of the trace in PATH; NULL where that is nothing. */
static Status read_signals(const Plan *plan, const char *path, TraceSignals **signals)
{
    SignalNeeds needs = plan_needs_signals(plan);
    Batching batching = plan_batching(plan);
    *signals = NULL;
    if (!signals_needed(&needs))
        return OK;
    return trace_signals_load(&path, 1, &batching, &needs, 1, signals);
}

/* Replays TRACE, which is in the file PATH. */
static Status replay(const Plan *plan, const char *path, const PackedTrace *trace,
                     ReplayObserver observer, void *argument, ReplayResult *result)
{
    ReplayFuture future = {0};
    TraceSignals *signals;
    TRY(read_signals(plan, path, &signals));
    future.signals = signals;
    Status status = replay_prepare(trace, plan, &future);
    if (status == OK)
        status = replay_run(trace, plan, &future, observer, argument, result);
    replay_future_free(&future);
    trace_signals_free(signals);
    return status;
}

/* Replays what READER has, the routing of the run, under PLAN, and compares. */
static Status compare_replay(const Validation *validation, const Plan *plan, Comparison *comparison,
                             CompareReport *report)
{
    PackedTrace trace;
    ReplayResult result;
    TRY(packed_trace_load(validation->recording, &trace));
    Status status = replay(plan, validation->recording, &trace, compare_event, comparison, &result);
    packed_trace_free(&trace);
    TRY(status);
    replay_result_free(&result);
    *report = compare_finish(comparison->compare);
    return OK;
}

Status validation_compare_run(const Validation *validation, const Plan *plan, CompareReport *report)
{
    Comparison comparison = {0};
    TRY(compare_new(&comparison.compare));
    Status status = trace_reader_open(validation->recording, &comparison.reader);
    if (status == OK)
        status = compare_replay(validation, plan, &comparison, report);
    trace_reader_close(comparison.reader);
    compare_free(comparison.compare);
    return status;
}

/* Learns from steps of TRACE, which is in the file PATH, those that TRAIN says, what the plan
 * leaves to learn. All steps run, from the first. */
static Status learn(const char *train, const char *path, const PackedTrace *trace, Plan *plan)
{
    const bool learns = plan_unlearned(plan) != NULL;
    PartsAsked asked;
    TraceParts parts;
    TraceSignals *signals = NULL;
    Plan learnt;
    TRY(part_input(train, learns ? "0:1" : NULL, &asked));
    if (!asked.train.given)
        TRY(plan_check_learned(plan));
    TRY(trace_parts_choose(&asked, learns, trace->n_steps, &parts));
    Plan as_recorded = *plan;
    as_recorded.batching = plan_default().batching;
    if (learns)
        TRY(read_signals(&as_recorded, path, &signals));
    Status status = learn_plan(trace, signals, &parts, plan, &learnt);
    trace_signals_free(signals);
    TRY(status);
    plan_free(plan);
    *plan = learnt;
    return OK;
}

static bool any_learns(const Validation *validation)
{
    for (size_t i = 0; i < validation->n_plans; i++)
        if (plan_unlearned(&validation->plans[i]) != NULL)
            return true;
    return false;
}

/* What PLAN of TRACE leaves open is measured and learnt; what comes of its lookups. */
static Status predict_plan(Validation *validation, size_t i, bool learns, const PackedTrace *trace)
{
    const char *path = validation->arguments->trace;
    Plan *plan = &validation->plans[i];
    if (validation->arguments->hardware != NULL)
        TRY(plan_measure_on(plan, &validation->hardware, validation->model, trace->layers,
                            trace->n_layers));
    TRY(learn(learns ? validation->arguments->train : NULL, path, trace, plan));
    Plan as_recorded = *plan;
    as_recorded.batching = plan_default().batching;
    return replay(&as_recorded, path, trace, NULL, NULL, &validation->results[i].predicted);
}

/* Of several plans says which one STATUS is of. */
static Status name_plan(const Validation *validation, size_t i, Status status)
{
    if (validation->n_plans == 1)
        return status;
    return status == ERR_PLAN ? plan_input_blame(status, validation->arguments->plans.items[i])
                              : fail_in(status, "%s", validation->results[i].name);
}

/* What the simulator says before the runs: the given trace under each plan. */
static Status predict(Validation *validation)
{
    const char *path = validation->arguments->trace;
    const bool learning = any_learns(validation);
    PackedTrace trace;
    Status status = OK;
    TRY(packed_trace_load(path, &trace));
    for (size_t i = 0; i < validation->n_plans && status == OK; i++) {
        bool learns = !learning || plan_unlearned(&validation->plans[i]) != NULL;
        status = name_plan(validation, i, predict_plan(validation, i, learns, &trace));
    }
    packed_trace_free(&trace);
    return status;
}

static Status validate_plan(Validation *validation, size_t i)
{
    const Plan *plan = &validation->plans[i];
    ValidatedPlan *result = &validation->results[i];
    if (i > 0)
        TRY(executor_set_plan(validation->executor, plan));
    Status status = run_plan(validation, plan, result);
    if (status == OK)
        status = validation_compare_run(validation, plan, &result->report);
    if (status == OK && validation->arguments->hardware != NULL)
        status = validation_predict(validation, i);
    validation_remove_recording(validation);
    return status;
}

Status validation_run(Validation *validation)
{
    TRY(name_recording(validation));
    TRY(validation_open_time(validation));
    TRY(predict(validation));
    if (validation->serves)
        return validation_serve(validation);
    TRY(open_executor(validation));
    TRY(validation_check_device(validation));
    for (size_t i = 0; i < validation->n_plans; i++)
        TRY(name_plan(validation, i, validate_plan(validation, i)));
    return validation->arguments->hardware != NULL ? validation_measure(validation) : OK;
}
