/* Times of validate: the run that was recorded is simulated, and run again to be measured. */
#include <string.h>

#include "cli/interrupt.h"
#include "cli/origin.h"
#include "cli/time_input.h"
#include "cli/validate.h"
#include "policies/signals_load.h"

/* A step's shape is run directly, then captured, then launched for the first time: these are not
 * measured, for predictions are of steps that come again. */
enum { WARM_UPS = 3 };

/* For processors to become quiet, in all. */
static const uint64_t MOST_WAIT_NS = 3000000000;

/* Where a step's times go. */
typedef struct {
    Validation *validation;
    Accuracy *accuracy;
    size_t plan;
    uint32_t run;
    bool stamped;
    bool drawn; /* into the timeline */
    bool kept;  /* false: a warm-up */
    bool cold;  /* the first steps of their shapes are among those that are predicted */
} Sink;

/* A profile has the times of one compute type. */
static Status check_compute(const Validation *validation)
{
    const DeviceInput *device = &validation->arguments->device;
    const HardwareModel *model = hardware_model(&validation->hardware, validation->model);
    ExecutorOptions options = {0};
    TRY(device_input_apply(device, &options));
    const char *compute = executor_compute_name(device->name, options.compute);
    if (model != NULL && strcmp(model->compute, compute) != 0)
        return fail(ERR_INPUT, "%s: model %s was measured in %s, the plans run in %s",
                    validation->arguments->hardware, model->name, model->compute, compute);
    return OK;
}

Status validation_open_time(Validation *validation)
{
    const ValidateArguments *arguments = validation->arguments;
    if (arguments->hardware == NULL)
        return OK;
    TRY(hardware_load(arguments->hardware, &validation->hardware));
    validation->quiet.best_ns = hardware_best_loop(&validation->hardware);
    validation->quiet.may_wait_ns = MOST_WAIT_NS;
    if (strcmp(validation->hardware.backend, arguments->device.name) != 0)
        return fail(ERR_INPUT, "%s: it is of device %s, the plans run on %s", arguments->hardware,
                    validation->hardware.backend, arguments->device.name);
    TRY(check_compute(validation));
    return arguments->timeline != NULL ? timeline_open(arguments->timeline, &validation->timeline)
                                       : OK;
}

/* The name in what a backend says of its device: "cuda: NAME, and more". */
static int device_name(const char *text, const char **name)
{
    const char *colon = strstr(text, ": ");
    *name = colon != NULL ? colon + 2 : text;
    return (int)strcspn(*name, ",");
}

Status validation_check_device(const Validation *validation)
{
    const char *theirs;
    const char *ours;
    if (validation->arguments->hardware == NULL)
        return OK;
    int theirs_length = device_name(validation->hardware.device, &theirs);
    int ours_length = device_name(executor_device(validation->executor), &ours);
    if (theirs_length == ours_length && strncmp(theirs, ours, (size_t)ours_length) == 0)
        return OK;
    return fail(ERR_INPUT, "%s: the profile is of \"%.*s\", the plans run on \"%.*s\"",
                validation->arguments->hardware, theirs_length, theirs, ours_length, ours);
}

bool validation_driver_differs(const Validation *validation, char this[64])
{
    origin_driver(this);
    return validation->arguments->hardware != NULL &&
           strcmp(validation->hardware.driver, this) != 0;
}

/* ---- predicted ---- */

static Status take_predicted(void *argument, const StepFeatures *features, const StepTime *step)
{
    const Sink *sink = argument;
    if (!sink->stamped)
        return accuracy_predict(sink->accuracy, features->phase, features->tokens,
                                step->duration_ns);
    TRY(accuracy_predict_ops(sink->accuracy, step->ops, step->n_ops, step->residency,
                             step->n_residency));
    if (!sink->drawn)
        return OK;
    return simulated_step_draw(sink->validation->timeline, features, step);
}

/* A recorded run that is played. */
typedef struct {
    PackedTrace trace;
    TraceFeatures features;
    TraceSignals *signals;
    ReplayFuture future;
} Recorded;

static void free_recorded(Recorded *recorded)
{
    replay_future_free(&recorded->future);
    trace_signals_free(recorded->signals);
    trace_features_free(&recorded->features);
    packed_trace_free(&recorded->trace);
}

static Status load_recorded(const char *path, const Plan *plan, Recorded *recorded)
{
    SignalNeeds needs = plan_needs_signals(plan);
    Batching batching = plan_batching(plan);
    *recorded = (Recorded){0};
    TRY(trace_features_load(&path, 1, &batching, NULL, &recorded->trace, &recorded->features));
    Status status = OK;
    if (signals_needed(&needs))
        status = trace_signals_load(&path, 1, &batching, &needs, 1, &recorded->signals);
    recorded->future.signals = recorded->signals;
    if (status == OK)
        status = replay_prepare(&recorded->trace, plan, &recorded->future);
    if (status != OK)
        free_recorded(recorded);
    return status;
}

static Status play(const Recorded *recorded, const Plan *plan, Sink *sink, ValidatedTime *time)
{
    Validation *validation = sink->validation;
    const TimingOptions options = {.hardware = &validation->hardware,
                                   .model = validation->model,
                                   .plan = plan,
                                   .layers = recorded->trace.layers,
                                   .n_layers = recorded->trace.n_layers,
                                   .logits = true,
                                   .forced = validation->forced,
                                   .stamped = sink->stamped,
                                   .warm = !plan->buffer.on && !sink->cold,
                                   .records = sink->stamped};
    Timing *timing;
    ReplayResult result;
    TRY(timing_check_plan(plan, options.layers, options.n_layers));
    TRY(fail_in(timing_new(&options, &timing), "%s", validation->arguments->hardware));
    Status status = timed_replay(&recorded->trace, &recorded->future, timing, &recorded->features,
                                 0, plan, take_predicted, sink, &result);
    if (status == OK)
        replay_result_free(&result);
    if (time != NULL && !sink->stamped) {
        time->predicted = timing_totals(timing);
        time->predicted.layer_ns = NULL;
        time->memory = timing_memory(timing, &recorded->features);
    }
    timing_free(timing);
    return status;
}

static Status predict(Validation *validation, const Plan *plan, Accuracy *accuracy, bool drawn,
                      ValidatedTime *time)
{
    Recorded recorded;
    Sink sink = {.validation = validation, .accuracy = accuracy};
    TRY(load_recorded(validation->recording, plan, &recorded));
    Status status = play(&recorded, plan, &sink, time);
    sink.stamped = true;
    sink.drawn = drawn;
    if (status == OK)
        status = play(&recorded, plan, &sink, time);
    free_recorded(&recorded);
    return status;
}

void validation_free_time(ValidatedTime *time)
{
    mem_free(time->host.ns);
    accuracy_free(time->accuracy);
    accuracy_report_free(&time->report);
}

/* How long the steps of a recorded run took. */
static Status take_recorded(const char *path, Accuracy *accuracy)
{
    TraceReader *reader;
    TraceStep step;
    Status status;
    TRY(trace_reader_open(path, &reader));
    do {
        status = trace_reader_next_step(reader, &step);
        if (status == OK)
            status = accuracy_measure(accuracy, 0, step.duration_ns);
    } while (status == OK);
    trace_reader_close(reader);
    return status == STATUS_END ? OK : status;
}

Status validation_compare_steps(Validation *validation, const Plan *as_run, Accuracy *accuracy)
{
    Recorded recorded;
    Sink sink = {.validation = validation, .accuracy = accuracy, .cold = true};
    TRY(load_recorded(validation->recording, as_run, &recorded));
    Status status = play(&recorded, as_run, &sink, NULL);
    free_recorded(&recorded);
    return status == OK ? take_recorded(validation->recording, accuracy) : status;
}

/* ---- measured ---- */

static Status take_measured(void *argument, const TraceStep *step, const StepInput *input,
                            const StepOutput *output)
{
    const Sink *sink = argument;
    (void)input;
    if (!sink->kept)
        return OK;
    validation_watch_quiet(sink->validation);
    if (!sink->stamped)
        return accuracy_measure(sink->accuracy, sink->run, output->duration_ns);
    TRY(accuracy_measure_ops(sink->accuracy, sink->run, output->timing, output->n_timing,
                             output->residency, output->n_residency));
    if (!sink->drawn)
        return OK;
    return timeline_add(sink->validation->timeline, TIMELINE_EXECUTOR,
                        &(TimelineStep){.step = step->step,
                                        .phase = step->phase,
                                        .tokens = step->tokens,
                                        .start_ns = output->start_ns,
                                        .duration_ns = output->duration_ns,
                                        .ops = output->timing,
                                        .n_ops = output->n_timing,
                                        .residency = output->residency,
                                        .n_residency = output->n_residency});
}

/* Once more, from the state that the plan begins with. Beside a device the host's part is that of a
 * processor which nobody else disturbs, as calibrate's is; and experts that it computes find its
 * cores at work, as they are while requests keep coming. */
static Status run_again(Validation *validation, const Plan *plan, Sink *sink)
{
    RunTraceOptions run = validation_run_options(validation, plan);
    RunTotals totals;
    run.timing = sink->stamped;
    run.held = sink->kept;
    run.scores = SCORES_NONE;
    if (plan->buffer.on)
        TRY(executor_set_plan(validation->executor, plan));
    validation_seek_quiet(validation);
    if (sink->kept)
        TRY(validation_note_speed(validation, sink->plan));
    run.stop = interrupt_watch();
    Status status = run_trace(validation->executor, checkpoint_config(validation->checkpoint), &run,
                              NULL, take_measured, sink, &totals);
    interrupt_unwatch();
    if (status == OK && totals.stopped)
        status = fail(ERR_INTERRUPTED, "%s: stopped before the runs were complete",
                      validation->arguments->trace);
    return status;
}

/* A run that is measured, and again where it does not count. The time line shows the first. */
static Status measure_run(Validation *validation, const Plan *plan, Sink *sink)
{
    ValidatedTime *time = &validation->results[sink->plan].time;
    const uint32_t speeds = time->host.n;
    TRY(run_again(validation, plan, sink));
    while (!validation_run_counts(validation, &time->quiet)) {
        if (sink->stamped)
            accuracy_forget_ops(time->accuracy, sink->run);
        else
            accuracy_forget_steps(time->accuracy, sink->run);
        time->host.n = speeds;
        sink->drawn = false;
        TRY(run_again(validation, plan, sink));
    }
    return validation_note_speed(validation, sink->plan);
}

/* How many runs count for nothing before one of ROUND. Graphs are gone when the plan is new in the
 * executor, which of several it is in every round; of one, and where no step is a graph, round -1
 * alone is of such runs. */
static int count_warm_ups(const Validation *validation, const Plan *plan, int round)
{
    if (plan->buffer.on)
        return round < 0;
    return (round < 0) == (validation->n_plans == 1) ? WARM_UPS : 0;
}

/* One run of the sort that SINK asks for, after those that count for nothing. */
static Status run_once(Validation *validation, const Plan *plan, int round, Sink *sink)
{
    sink->kept = false;
    for (int i = count_warm_ups(validation, plan, round); i > 0; i--)
        TRY(run_again(validation, plan, sink));
    if (round < 0)
        return OK;
    sink->kept = true;
    sink->run = (uint32_t)round;
    return measure_run(validation, plan, sink);
}

/* Plan I without stamps and with them. */
static Status measure_round(Validation *validation, size_t i, int round)
{
    const Plan *plan = &validation->plans[i];
    Sink sink = {
        .validation = validation, .accuracy = validation->results[i].time.accuracy, .plan = i};
    if (!plan->buffer.on && validation->n_plans > 1)
        TRY(executor_set_plan(validation->executor, plan));
    TRY(run_once(validation, plan, round, &sink));
    sink.stamped = true;
    sink.drawn = i == 0 && round == 0 && validation->timeline != NULL;
    return run_once(validation, plan, round, &sink);
}

/* What an executor takes that is opened for PLAN alone. */
static Status measure_memory(const Validation *validation, const Plan *plan, uint64_t *bytes)
{
    ExecutorOptions options = *executor_options(validation->executor);
    ExecutorMemory memory;
    options.plan = plan;
    options.others = NULL;
    options.n_others = 0;
    options.predictions = plan_needs_signals(plan).distance;
    TRY(executor_memory(validation->checkpoint, &options, &memory));
    *bytes = memory.weights + memory.slots + memory.cache + memory.activations + memory.own;
    return OK;
}

Status validation_predict(Validation *validation, size_t i)
{
    ValidatedTime *time = &validation->results[i].time;
    bool drawn = i == 0 && validation->timeline != NULL;
    TRY(accuracy_new(validation->arguments->runs, &time->accuracy));
    TRY(validation_open_speed(validation, i, 4 * validation->arguments->runs));
    return predict(validation, &validation->plans[i], time->accuracy, drawn, time);
}

static Status close_timeline(Validation *validation)
{
    Timeline *done = validation->timeline;
    validation->timeline = NULL;
    return done != NULL ? timeline_close(done) : OK;
}

Status validation_measure(Validation *validation)
{
    int rounds = (int)validation->arguments->runs;
    for (int round = -1; round < rounds; round++)
        for (size_t i = 0; i < validation->n_plans; i++)
            TRY(validation->n_plans == 1 ? measure_round(validation, i, round)
                                         : fail_in(measure_round(validation, i, round), "%s",
                                                   validation->results[i].name));
    for (size_t i = 0; i < validation->n_plans; i++) {
        ValidatedTime *time = &validation->results[i].time;
        validation_settle_speed(&time->host);
        TRY(measure_memory(validation, &validation->plans[i], &time->device_bytes));
        TRY(accuracy_report(time->accuracy, &time->report));
    }
    return close_timeline(validation);
}
