#include <string.h>

#include "base/quiet_processor.h"
#include "cli/interrupt.h"
#include "cli/record.h"
#include "traces/ops.h"

static Status describe_scores(cJSON *notes, uint32_t scores)
{
    cJSON *object;
    if (scores == SCORES_NONE)
        return OK;
    TRY(json_add_object(notes, "scores", &object));
    TRY(json_add_text(object, "dtype", "f16"));
    if (scores == SCORES_ALL)
        return json_add_text(object, "layout", "per MoE layer [tokens][experts], id order");
    TRY(json_add_u64(object, "m", scores));
    return json_add_text(object, "layout",
                         "per MoE layer [tokens][min(m, experts)], descending scores");
}

static Status describe_predictions(cJSON *notes, uint32_t distances)
{
    cJSON *object;
    if (distances == 0)
        return OK;
    TRY(json_add_object(notes, "predictions", &object));
    TRY(json_add_u64(object, "distances", distances));
    return json_add_text(object, "by",
                         "norm and router of the predicted layer on the residual that the present "
                         "layer's experts get");
}

/* The names of the timing table's operations, in order. */
static Status describe_ops(cJSON *notes)
{
    cJSON *names;
    TRY(json_add_array(notes, "ops", &names));
    for (Op op = 0; op < OPS; op++)
        TRY(json_push(names, cJSON_CreateString(op_name(op))));
    return OK;
}

static Status fill_notes(cJSON *notes, const Recording *recording)
{
    const RecordArguments *arguments = recording->arguments;
    const char *routing = arguments->source != NULL ? arguments->source : "gate";
    TRY(json_add_text(notes, "routing", arguments->trace != NULL ? "forced" : routing));
    if (arguments->trace == NULL) {
        TRY(json_add_u64(notes, "batch", arguments->batch));
        TRY(json_add_u64(notes, "generate", arguments->generate));
        TRY(json_add_u64(notes, "beams", arguments->beams > 1 ? arguments->beams : 1));
    }
    if (arguments->timing)
        TRY(describe_ops(notes));
    TRY(describe_predictions(notes, arguments->predictions));
    return describe_scores(notes, arguments->scores);
}

static Status notes_text(const Recording *recording, char **text)
{
    cJSON *notes = cJSON_CreateObject();
    if (notes == NULL)
        return fail_memory("notes", 0);
    Status status = fill_notes(notes, recording);
    if (status == OK)
        status = json_print(notes, false, text);
    cJSON_Delete(notes);
    return status;
}

static Status open_recorder(Recording *recording)
{
    const RecordArguments *arguments = recording->arguments;
    char *plan = NULL;
    char *notes = NULL;
    uint32_t n_layers;
    const TraceLayer *layers = executor_layers(recording->executor, &n_layers);
    Status status = plan_to_text(&recording->plan, &plan);
    if (status == OK)
        status = notes_text(recording, &notes);
    if (status == OK) {
        const TraceRun run = {.tool = "moebius " MOEBIUS_VERSION,
                              .source = arguments->trace != NULL
                                            ? arguments->trace
                                            : token_input_path(&arguments->tokens),
                              .model = arguments->model.name,
                              .model_config = checkpoint_config(recording->checkpoint)->json,
                              .device = executor_device(recording->executor),
                              .plan = plan,
                              .notes = notes};
        status = recorder_open(arguments->out, &run, layers, n_layers, NULL, &recording->recorder);
    }
    mem_free(plan);
    mem_free(notes);
    return status;
}

/* Ends the recording: well, or after a failure. */
static Status close_recorder(Recording *recording, Status status)
{
    Recorder *recorder = recording->recorder;
    recording->recorder = NULL;
    return recorder_end(recorder, status);
}

/* Tokens that go through the model when nothing ends early: the last output token does not. */
static uint64_t expected_tokens(const Recording *recording)
{
    uint32_t generate = recording->arguments->generate;
    uint64_t lines = recording->arguments->beams > 1 ? recording->arguments->beams : 1;
    uint64_t total = 0;
    for (uint32_t i = 0; i < recording->set.n_requests; i++) {
        uint32_t own = recording->generate_each != NULL ? recording->generate_each[i] : generate;
        total += recording->set.requests[i].n_tokens + (own > 0 ? own - 1 : 0) * lines;
    }
    return total;
}

/* What the file of tokens says of single requests: when each comes, and how much it gets. */
static Status read_service(Recording *recording)
{
    const TokenSet *set = &recording->set;
    uint32_t most = recording->arguments->generate;
    bool any = false;
    for (uint32_t i = 0; i < set->n_requests; i++)
        any = any || set->requests[i].output_tokens > 0;
    if (any && recording->arguments->beams > 1)
        return fail(ERR_USAGE, "%s: output_tokens of a request do not go with --beam",
                    token_input_path(&recording->arguments->tokens));
    if (set->has_arrivals)
        TRY(mem_new(&recording->arrival_ns, set->n_requests, sizeof *recording->arrival_ns,
                    "arrivals"));
    if (any && most > 0)
        TRY(mem_new(&recording->generate_each, set->n_requests, sizeof *recording->generate_each,
                    "output tokens"));
    for (uint32_t i = 0; i < set->n_requests; i++) {
        uint32_t own = set->requests[i].output_tokens;
        if (recording->arrival_ns != NULL)
            recording->arrival_ns[i] = set->requests[i].arrival_ns;
        if (recording->generate_each != NULL)
            recording->generate_each[i] = own > 0 && own < most ? own : most;
    }
    return OK;
}

static Status open_routing(Recording *recording)
{
    uint32_t n;
    const TraceLayer *layers = executor_layers(recording->executor, &n);
    return routing_source_open(recording->arguments->source, layers, n, recording->plan.seed,
                               &recording->routing);
}

/* What requests that arrive experience is a measurement. */
static void seek_quiet(const Recording *recording)
{
    QuietProcessor quiet = {0};
    if (recording->plan.batching.mode == BATCHING_CONTINUOUS &&
        strcmp(recording->arguments->device.name, "cpu") != 0)
        quiet_processor_seek(&quiet);
}

static Status record_requests(Recording *recording, ExecutorOptions *options)
{
    const RecordArguments *arguments = recording->arguments;
    const ModelConfig *config = checkpoint_config(recording->checkpoint);
    RunOptions run = {.batch = arguments->batch,
                      .generate = arguments->generate,
                      .beams = arguments->beams,
                      .length_penalty = arguments->length_penalty,
                      .targets = recording->has_targets ? &recording->targets : NULL,
                      .timing = arguments->timing,
                      .ignore_eos = arguments->ignore_eos,
                      .max_tokens = recording->plan.batching.max_tokens,
                      .scores = arguments->scores};
    const Arrivals arrivals = plan_arrivals(&recording->plan);
    if (recording->plan.batching.mode == BATCHING_CONTINUOUS)
        run.arrivals = &arrivals;
    run.goals = &arguments->goals;
    TRY(read_service(recording));
    run.generate_each = recording->generate_each;
    run.arrival_ns = recording->arrival_ns;
    TRY(executor_for_requests(recording->checkpoint, &recording->set, &run, options,
                              &recording->executor));
    TRY(open_routing(recording));
    run.routing = recording->routing;
    TRY(open_recorder(recording));
    seek_quiet(recording);
    progress_start(&recording->watch.progress, "record", "tokens", expected_tokens(recording));
    run.stop = interrupt_watch();
    Status status =
        run_requests(recording->executor, config, &recording->set, &run, recording->recorder,
                     run_watch, &recording->watch, recording->generated.tokens,
                     recording->generated.n_tokens, &recording->totals);
    interrupt_unwatch();
    progress_end(&recording->watch.progress);
    status = close_recorder(recording, status);
    return status == OK && arguments->output != NULL
               ? generated_write(&recording->generated, &recording->set, &recording->output)
               : status;
}

static Status record_trace(Recording *recording, ExecutorOptions *options)
{
    const RecordArguments *arguments = recording->arguments;
    const ModelConfig *config = checkpoint_config(recording->checkpoint);
    RunTraceOptions run = {.trace = arguments->trace,
                           .forced = true,
                           .tokens = token_input_path(&arguments->tokens) != NULL ? &recording->set
                                                                                  : NULL,
                           .timing = arguments->timing,
                           .scores = arguments->scores};
    RunTraceShape shape;
    TRY(executor_for_trace(recording->checkpoint, &run, options, &shape, &recording->executor));
    TRY(open_recorder(recording));
    progress_start(&recording->watch.progress, "record", "tokens", shape.tokens);
    run.stop = interrupt_watch();
    Status status = run_trace(recording->executor, config, &run, recording->recorder, run_watch,
                              &recording->watch, &recording->totals);
    interrupt_unwatch();
    progress_end(&recording->watch.progress);
    return close_recorder(recording, status);
}

Status recording_run(Recording *recording)
{
    const RecordArguments *arguments = recording->arguments;
    ExecutorOptions options = {.plan = &recording->plan,
                               .logits = arguments->generate > 0 ? LOGITS_LAST : LOGITS_NONE,
                               .predictions = arguments->predictions,
                               .warm_up = arguments->timing ||
                                          recording->plan.batching.mode == BATCHING_CONTINUOUS};
    TRY(device_input_apply(&arguments->device, &options));
    TRY(checkpoint_open_model(arguments->model.name, &recording->checkpoint));
    if (token_input_path(&arguments->tokens) != NULL)
        TRY(token_input_load(&arguments->tokens, arguments->model.name,
                             checkpoint_config(recording->checkpoint), arguments->generate,
                             &recording->set, &recording->left_out));
    TRY(decoder_input_apply(&arguments->decoder, checkpoint_config(recording->checkpoint),
                            &recording->set, &recording->targets, &recording->has_targets));
    if (arguments->print_text || arguments->output != NULL)
        TRY(generated_open(&recording->generated, recording->set.n_requests, arguments->generate,
                           arguments->print_text ? arguments->model.name : NULL));
    if (arguments->output != NULL)
        TRY(output_open(arguments->output, &recording->output));
    return arguments->trace != NULL ? record_trace(recording, &options)
                                    : record_requests(recording, &options);
}
