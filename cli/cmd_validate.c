#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "analysis/compare.h"
#include "base/files.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/online.h"
#include "cli/part_input.h"
#include "cli/plan_input.h"
#include "cli/print.h"
#include "cli/table.h"
#include "policies/signals_load.h"
#include "sim/replay.h"
#include "sim/sweep_learn.h"
#include "traces/reader.h"

typedef struct {
    const char *trace;
    ModelInput model;  /* name NULL: the trace's */
    TokenInput tokens; /* file NULL: the trace's */
    const char *plan;
    OptionList sets;
    const char *train; /* NULL: the plan leaves nothing to learn */
    const char *routing;
    const char *forced; /* of --routing trace:FILE, or NULL */
    const char *out;    /* keeps the run's trace; NULL: it is removed */
    DeviceInput device;
    bool json;
} Arguments;

typedef struct {
    const Arguments *arguments;
    Plan plan;
    char *model;
    bool forced;
    Checkpoint *checkpoint;
    TokenSet set;
    Executor *executor;
    char recording[512]; /* path of the run's trace */
    bool recorded;       /* it is there, and ours */
    RunWatch watch;      /* what the executor measured */
    RunTotals totals;
    Compare *compare;
    TraceReader *reader; /* of the run's trace, while it is compared */
    uint64_t next_step;  /* number of the step whose records come next, at least */
    CompareReport report;
    ReplayResult predicted; /* the given trace under the plan */
} Validation;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        {.name = "trace",
         .argument = "FILE",
         .help = "its steps are run again",
         .kind = OPTION_TEXT,
         .required = true,
         .value = &arguments->trace},
        PLAN_OPTIONS(&arguments->plan, &arguments->sets),
        TRAIN_OPTION(&arguments->train),
        MODEL_OPTIONS(&arguments->model, false),
        {.name = "tokens",
         .argument = "FILE",
         .help = "token ids that the trace lacks",
         .kind = OPTION_TEXT,
         .value = &arguments->tokens.file},
        {.name = "key",
         .argument = "K",
         .help = "of --tokens: only the stream of this name",
         .kind = OPTION_TEXT,
         .value = &arguments->tokens.key},
        {.name = "prompt-length",
         .argument = "N",
         .help = "of --tokens: cut streams into requests of N tokens",
         .kind = OPTION_U32,
         .value = &arguments->tokens.prompt_length,
         .least = 1,
         .most = TRACE_MAX_TOKENS},
        {.name = "routing",
         .argument = "gate|trace:FILE",
         .help = "the router's (default), or that of the trace",
         .kind = OPTION_TEXT,
         .value = &arguments->routing},
        {.name = "out",
         .argument = "FILE",
         .help = "keep the trace of the run",
         .kind = OPTION_TEXT,
         .value = &arguments->out},
        DEVICE_OPTIONS(&arguments->device),
        {.name = "json",
         .help = "print one JSON document",
         .kind = OPTION_FLAG,
         .value = &arguments->json},
    };
    const OptionTable table = {
        .command = "validate",
        .summary =
            "Runs the steps of a trace in the executor under a plan, replays the routing of that "
            "very run in\nthe simulator under the same plan, and compares what both say of every "
            "expert: hit, load, evict or\nbypass, in which slot. Without --model the trace names "
            "the model. Exit status 1 on a difference. A "
            "trace without token ids runs with its own\nrouting, as with --routing trace:FILE; "
            "policies that know the future can only be run so.",
        .example = "moebius validate --trace trace.db --plan plan.json --model models/tiny-32x4",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    TRY(model_input_check(&table, &arguments->model));
    if (arguments->tokens.file == NULL &&
        (arguments->tokens.key != NULL || arguments->tokens.prompt_length > 0))
        return options_fail(&table, "--key and --prompt-length need --tokens");
    return routing_input(&table, arguments->routing, &arguments->forced);
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat first;
    struct stat second;
    return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

static Status check_routing(const Arguments *arguments)
{
    if (arguments->forced == NULL || is_same_file(arguments->forced, arguments->trace))
        return OK;
    return fail(ERR_INPUT, "--routing trace:%s: the steps of %s can only run with its own routing",
                arguments->forced, arguments->trace);
}

/* The steps that carry token ids can be routed by the model again. */
static Status has_tokens(TraceReader *reader, bool *has)
{
    TraceStep step;
    Status status = trace_reader_next_step(reader, &step);
    *has = status == OK && step.token != NULL;
    return status == STATUS_END ? OK : status;
}

/* Takes from the trace what the command line leaves open: the model, and whether routing must be
 * forced. */
static Status read_origin(Validation *validation)
{
    const Arguments *arguments = validation->arguments;
    TraceReader *reader;
    bool has;
    TRY(trace_reader_open(arguments->trace, &reader));
    const char *model =
        arguments->model.name != NULL ? arguments->model.name : trace_reader_run(reader)->model;
    Status status = mem_new(&validation->model, strlen(model) + 1, 1, "model path");
    if (status == OK) {
        memcpy(validation->model, model, strlen(model) + 1);
        status = has_tokens(reader, &has);
    }
    trace_reader_close(reader);
    TRY(status);
    bool gate = arguments->routing != NULL && arguments->forced == NULL;
    validation->forced =
        arguments->forced != NULL || (!gate && !has && arguments->tokens.file == NULL);
    if (arguments->model.name != NULL || checkpoint_is_shape(validation->model) ||
        file_exists(validation->model))
        return OK;
    return fail(ERR_INPUT, "%s: its model \"%s\" is not here: name one with --model",
                arguments->trace, validation->model);
}

static Status name_recording(Validation *validation)
{
    const Arguments *arguments = validation->arguments;
    const char *folder = getenv("TMPDIR");
    int used;
    if (arguments->out != NULL)
        used = snprintf(validation->recording, sizeof validation->recording, "%s", arguments->out);
    else
        used =
            snprintf(validation->recording, sizeof validation->recording, "%s/moebius-run-%ld.db",
                     folder != NULL && folder[0] != '\0' ? folder : "/tmp", (long)getpid());
    if (used < 0 || (size_t)used >= sizeof validation->recording)
        return fail(ERR_OUTPUT, "%s: the path is too long", arguments->out);
    return OK;
}

static Status open_recorder(const Validation *validation, Recorder **recorder)
{
    char *plan;
    uint32_t n_layers;
    const TraceLayer *layers = executor_layers(validation->executor, &n_layers);
    TRY(plan_to_text(&validation->plan, &plan));
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
    return status;
}

static Status end_run(const Validation *validation, Recorder *recorder, Status status)
{
    if (status == OK && validation->totals.stopped)
        status = fail(ERR_INTERRUPTED, "%s: stopped before the run was complete",
                      validation->arguments->trace);
    if (status == OK)
        return recorder_close(recorder);
    recorder_abandon(recorder);
    return status;
}

/* Runs the plan with recording on. */
static Status run_plan(Validation *validation)
{
    const Arguments *arguments = validation->arguments;
    const ModelConfig *config = checkpoint_config(validation->checkpoint);
    SignalNeeds needs = plan_needs_signals(&validation->plan);
    ExecutorOptions options = {.plan = &validation->plan, .predictions = needs.distance};
    RunTraceOptions run = {.trace = arguments->trace,
                           .forced = validation->forced,
                           .tokens = arguments->tokens.file != NULL ? &validation->set : NULL,
                           .scores = needs.scores ? SCORES_ALL : SCORES_NONE,
                           .residency = true};
    RunTraceShape shape;
    Recorder *recorder;
    TRY(device_input_apply(&arguments->device, &options));
    TRY(executor_for_trace(validation->checkpoint, &run, &options, &shape, &validation->executor));
    TRY(open_recorder(validation, &recorder));
    validation->recorded = true;
    progress_start(&validation->watch.progress, "run", "tokens", shape.tokens);
    run.stop = interrupt_watch();
    Status status = run_trace(validation->executor, config, &run, recorder, run_watch,
                              &validation->watch, &validation->totals);
    interrupt_unwatch();
    progress_end(&validation->watch.progress);
    return end_run(validation, recorder, status);
}

/* One event of the simulator; the executor's records of the step come in with its first event. */
static Status compare_event(void *argument, const PackedEvent *event, const BufferAction *actions,
                            uint32_t n_actions)
{
    Validation *validation = argument;
    uint32_t n_layers;
    const TraceLayer *layers = trace_reader_layers(validation->reader, &n_layers);
    const ResidencyRecord *records;
    size_t count = 0;
    if (event->step >= validation->next_step)
        TRY(trace_reader_residency(validation->reader, event->step, 0, &records, &count));
    validation->next_step = (uint64_t)event->step + 1;
    for (size_t i = 0; i < count; i++)
        TRY(compare_actual(validation->compare, event->step, &records[i]));
    for (uint32_t i = 0; i < n_actions; i++) {
        const ResidencyRecord record = {.layer = layers[actions[i].layer_index].layer,
                                        .expert = actions[i].expert,
                                        .kind = actions[i].kind,
                                        .slot = actions[i].slot};
        TRY(compare_expect(validation->compare, event->step, &record));
    }
    return OK;
}

/* Replays TRACE, which is in the file PATH. */
static Status replay(const Plan *plan, const char *path, const PackedTrace *trace,
                     ReplayObserver observer, void *argument, ReplayResult *result)
{
    ReplayFuture future = {0};
    SignalNeeds needs = plan_needs_signals(plan);
    Batching batching = plan_batching(plan);
    TraceSignals *signals = NULL;
    if (signals_needed(&needs))
        TRY(trace_signals_load(&path, 1, &batching, &needs, 1, &signals));
    future.signals = signals;
    Status status = replay_prepare(trace, plan, &future);
    if (status == OK)
        status = replay_run(trace, plan, &future, observer, argument, result);
    replay_future_free(&future);
    trace_signals_free(signals);
    return status;
}

/* Replays the routing of the run and compares. */
static Status compare_run(Validation *validation)
{
    PackedTrace trace;
    ReplayResult result;
    TRY(compare_new(&validation->compare));
    TRY(trace_reader_open(validation->recording, &validation->reader));
    Status status = packed_trace_load(validation->recording, &trace);
    if (status == OK) {
        status = replay(&validation->plan, validation->recording, &trace, compare_event, validation,
                        &result);
        packed_trace_free(&trace);
    }
    if (status == OK) {
        replay_result_free(&result);
        validation->report = compare_finish(validation->compare);
    }
    trace_reader_close(validation->reader);
    validation->reader = NULL;
    return status;
}

/* Learns from steps of TRACE what the plan leaves to learn. All steps run, from the first. */
static Status learn(Validation *validation, const PackedTrace *trace)
{
    const bool learns = plan_unlearned(&validation->plan) != NULL;
    PartsAsked asked;
    TraceParts parts;
    Plan learnt;
    TRY(part_input(validation->arguments->train, learns ? "0:1" : NULL, &asked));
    if (!asked.train.given)
        TRY(plan_check_learned(&validation->plan));
    TRY(trace_parts_choose(&asked, learns, trace->n_steps, &parts));
    TRY(learn_plan(trace, &parts, &validation->plan, &learnt));
    plan_free(&validation->plan);
    validation->plan = learnt;
    return OK;
}

/* What the simulator said before the run: the given trace under the plan. */
static Status predict(Validation *validation)
{
    PackedTrace trace;
    TRY(packed_trace_load(validation->arguments->trace, &trace));
    Status status = learn(validation, &trace);
    if (status == OK)
        status = replay(&validation->plan, validation->arguments->trace, &trace, NULL, NULL,
                        &validation->predicted);
    packed_trace_free(&trace);
    return status;
}

static Status validate(Validation *validation)
{
    const Arguments *arguments = validation->arguments;
    uint64_t left_out;
    TRY(check_routing(arguments));
    TRY(name_recording(validation));
    TRY(read_origin(validation));
    TRY(checkpoint_open_model(validation->model, &validation->checkpoint));
    if (arguments->tokens.file != NULL)
        TRY(token_input_load(&arguments->tokens, arguments->model.name,
                             checkpoint_config(validation->checkpoint), 0, &validation->set,
                             &left_out));
    TRY(predict(validation));
    TRY(run_plan(validation));
    return compare_run(validation);
}

static double miss_ratio(const BufferCounts *counts)
{
    uint64_t lookups = counts->hits + counts->misses;
    return lookups > 0 ? (double)counts->misses / (double)lookups : 0.0;
}

static Status add_counts(cJSON *json, const char *key, const BufferCounts *counts)
{
    cJSON *object;
    TRY(json_add_object(json, key, &object));
    TRY(json_add_u64(object, "lookups", counts->hits + counts->misses));
    TRY(json_add_u64(object, "hits", counts->hits));
    TRY(json_add_u64(object, "misses", counts->misses));
    TRY(json_add_f64(object, "miss_ratio", miss_ratio(counts)));
    TRY(json_add_u64(object, "loads", counts->loads));
    TRY(json_add_u64(object, "bytes_loaded", counts->bytes_loaded));
    TRY(json_add_u64(object, "host_computed", counts->host_computed));
    TRY(json_add_u64(object, "prefetches", counts->prefetches));
    TRY(json_add_u64(object, "bytes_prefetched", counts->bytes_prefetched));
    return json_add_u64(object, "evictions", counts->evictions);
}

static Status fill_json(cJSON *json, const Validation *validation)
{
    const RunTotals *totals = &validation->totals;
    cJSON *item;
    TRY(json_add_bool(json, "agreed", validation->report.agreed));
    TRY(json_add_text(json, "trace", validation->arguments->trace));
    TRY(json_add_text(json, "model", validation->model));
    TRY(json_add_text(json, "device", executor_device(validation->executor)));
    TRY(json_add_text(json, "routing", validation->forced ? "forced" : "gate"));
    TRY(json_add_u64(json, "steps", totals->steps));
    TRY(json_add_u64(json, "tokens", totals->tokens));
    TRY(json_add_u64(json, "slot_bytes", executor_slot_bytes(validation->executor)));
    TRY(json_add_u64(json, "memory_bytes", validation->predicted.memory_bytes));
    TRY(add_counts(json, "predicted", &validation->predicted.total.counts));
    TRY(add_counts(json, "measured", &validation->watch.counts));
    TRY(compare_json(&validation->report, &item));
    TRY(json_attach(json, "events", item));
    TRY(plan_to_json(&validation->plan, &item));
    return json_attach(json, "plan", item);
}

static Status print_validation_json(const Validation *validation)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, validation));
}

static void add_row(Table *table, const char *name, const BufferCounts *counts)
{
    char text[NUMBER_BYTES];
    table_cell(table, "%s", name);
    table_cell(table, "%s", number_text(counts->hits + counts->misses, text));
    table_cell(table, "%s", number_text(counts->misses, text));
    table_cell(table, "%.4f", miss_ratio(counts));
    table_cell(table, "%s", number_text(counts->host_computed, text));
    table_cell(table, "%s", bytes_text(counts->bytes_loaded, text));
    table_cell(table, "%s", number_text(counts->evictions, text));
}

static Status print_counts(const Validation *validation)
{
    static const char *const TITLES[] = {
        "", "lookups", "misses", "miss ratio", "on the host", "loaded", "evictions"};
    Table *table;
    TRY(table_new(TITLES, "lrrrrrr", &table));
    add_row(table, "predicted from the trace", &validation->predicted.total.counts);
    add_row(table, "measured in the run", &validation->watch.counts);
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static Status print_validation(const Validation *validation)
{
    char *text;
    char tokens[NUMBER_BYTES];
    TRY(compare_text(&validation->report, &text));
    Status status = print_counts(validation);
    if (status == OK)
        printf("\n%s: %" PRIu64 " steps, %s tokens, routing %s, on %s\n\n%s",
               validation->arguments->trace, validation->totals.steps,
               number_text(validation->totals.tokens, tokens),
               validation->forced ? "forced" : "by the router",
               executor_device(validation->executor), text);
    mem_free(text);
    return status;
}

static void remove_recording(const Validation *validation)
{
    static const char *const ENDINGS[] = {"", "-wal", "-shm"};
    char path[sizeof validation->recording + 8];
    for (size_t i = 0; i < sizeof ENDINGS / sizeof ENDINGS[0]; i++) {
        snprintf(path, sizeof path, "%s%s", validation->recording, ENDINGS[i]);
        unlink(path);
    }
}

static void free_validation(Validation *validation)
{
    if (validation->recorded && validation->arguments->out == NULL)
        remove_recording(validation);
    compare_free(validation->compare);
    replay_result_free(&validation->predicted);
    executor_close(validation->executor);
    plan_free(&validation->plan);
    tokens_free(&validation->set);
    checkpoint_close(validation->checkpoint);
    mem_free(validation->model);
}

Status command_validate(int argc, char **argv)
{
    Arguments arguments = {.device = {.name = "cpu"}};
    Validation validation = {.arguments = &arguments};
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = plan_input(arguments.plan, &arguments.sets, &validation.plan);
    option_list_free(&arguments.sets);
    if (status == OK)
        status = validate(&validation);
    if (status == OK && arguments.json)
        status = print_validation_json(&validation);
    else if (status == OK)
        status = print_validation(&validation);
    if (status == OK)
        status = compare_status(&validation.report);
    free_validation(&validation);
    return status;
}
