#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/decoder_input.h"
#include "cli/generated.h"
#include "cli/interrupt.h"
#include "cli/online.h"
#include "cli/plan_input.h"
#include "cli/print.h"
#include "cli/serving_print.h"
#include "cli/table.h"
#include "traces/ops.h"

typedef struct {
    ModelInput model;
    TokenInput tokens;
    DecoderInput decoder;
    const char *out;
    const char *output; /* generated tokens, or NULL */
    DeviceInput device;
    const char *plan;
    OptionList sets;
    uint32_t batch; /* 0: not given */
    uint32_t generate;
    uint32_t beams;
    double length_penalty;
    bool ignore_eos;
    bool print_text;
    bool timing;
    const char *routing;
    const char *trace;  /* of --routing trace:FILE, whose steps run again; or NULL */
    const char *source; /* of --routing: where the requests' tokens go; or NULL */
    const char *scores_text;
    uint32_t scores;
    uint32_t predictions; /* 0: not given */
    bool json;
} Arguments;

/* One recording. */
typedef struct {
    const Arguments *arguments;
    Plan plan;
    Checkpoint *checkpoint;
    TokenSet set;
    TokenSet targets;
    bool has_targets;
    uint64_t left_out;
    Executor *executor;
    Recorder *recorder;
    RunWatch watch;
    RunTotals totals;
    RoutingSource *routing; /* or NULL */
    Generated generated;    /* only filled to be shown */
    OutputFile output;
} Recording;

static Status read_scores(const OptionTable *table, Arguments *arguments)
{
    const char *text = arguments->scores_text;
    char *end = NULL;
    if (text == NULL)
        return OK;
    arguments->scores = SCORES_ALL;
    if (strcmp(text, "all") == 0)
        return OK;
    unsigned long number = strspn(text, "0123456789") > 0 ? strtoul(text, &end, 10) : 0;
    if (end == NULL || *end != '\0' || number < 1 || number > TRACE_MAX_EXPERTS)
        return options_fail(table, "--scores: '%s', allowed are all and 1 to %d", text,
                            TRACE_MAX_EXPERTS);
    arguments->scores = (uint32_t)number;
    return OK;
}

/* A skew gives each token of the requests its experts, and so does a trace where the model is a
 * shape and there are requests; else the trace's own steps run again. */
static Status read_routing(const OptionTable *table, Arguments *arguments)
{
    const char *text = arguments->routing;
    if (text == NULL || !routing_source_is_known(text))
        return routing_input(table, text, &arguments->trace);
    bool skew = strncmp(text, "trace:", 6) != 0;
    if (skew || (checkpoint_is_shape(arguments->model.name) &&
                 token_input_path(&arguments->tokens) != NULL)) {
        arguments->source = text;
        return OK;
    }
    return routing_input(table, text, &arguments->trace);
}

static Status check(const OptionTable *table, Arguments *arguments)
{
    const TokenInput *tokens = &arguments->tokens;
    TRY(model_input_check(table, &arguments->model));
    TRY(read_routing(table, arguments));
    TRY(read_scores(table, arguments));
    TRY(token_input_check(table, tokens));
    if (token_input_path(tokens) == NULL && arguments->trace == NULL)
        return options_fail(table, "--tokens is missing");
    if (token_input_path(tokens) == NULL && tokens->prompt_length + tokens->requests > 0)
        return options_fail(table, "--prompt-length and --requests need --tokens or --text");
    if (arguments->generate == 0 && (arguments->beams > 1 || arguments->output != NULL))
        return options_fail(table, "--beam and --output need --generate");
    if (arguments->length_penalty != 1 && arguments->beams <= 1)
        return options_fail(table, "--length-penalty needs --beam");
    TRY(decoder_input_check(table, &arguments->decoder));
    if (arguments->trace != NULL &&
        (arguments->batch > 0 || arguments->generate > 0 || arguments->ignore_eos))
        return options_fail(table, "--batch, --generate and --ignore-eos do not go with --routing "
                                   "trace:FILE, which gives the steps");
    if (arguments->ignore_eos && arguments->generate == 0)
        return options_fail(table, "--ignore-eos needs --generate");
    if (arguments->print_text && arguments->generate == 0)
        return options_fail(table, "--print-text needs --generate");
    return OK;
}

/* How many requests run at once: --batch, or what the plan's continuous batching says. */
static Status choose_batch(const Plan *plan, Arguments *arguments)
{
    if (plan->batching.mode != BATCHING_CONTINUOUS) {
        arguments->batch = arguments->batch > 0 ? arguments->batch : 1;
        return OK;
    }
    if (arguments->batch > 0)
        return fail(ERR_USAGE, "--batch does not go with batching.mode \"continuous\", whose "
                               "batching.sequences says how many requests run together");
    arguments->batch = plan->batching.sequences;
    return OK;
}

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        MODEL_OPTIONS(&arguments->model, true),
        {.name = "tokens",
         .argument = "FILE",
         .help = "requests: .npy, .safetensors or .jsonl; or random:REQUESTSxLENGTH",
         .kind = OPTION_TEXT,
         .value = &arguments->tokens.file},
        {.name = "text",
         .argument = "FILE",
         .help = "or a text (.jsonl: {\"text\": ...} per line)",
         .kind = OPTION_TEXT,
         .value = &arguments->tokens.text},
        {.name = "lines",
         .help = "each line of the text is a request",
         .kind = OPTION_FLAG,
         .value = &arguments->tokens.lines},
        {.name = "out",
         .argument = "FILE",
         .help = "the trace; must not exist yet",
         .kind = OPTION_TEXT,
         .required = true,
         .value = &arguments->out},
        {.name = "key",
         .argument = "K",
         .help = "only the stream of this name",
         .kind = OPTION_TEXT,
         .value = &arguments->tokens.key},
        {.name = "prompt-length",
         .argument = "N",
         .help = "cut streams into requests of N tokens",
         .kind = OPTION_U32,
         .value = &arguments->tokens.prompt_length,
         .least = 1,
         .most = TRACE_MAX_TOKENS},
        {.name = "requests",
         .argument = "N",
         .help = "only the first N requests (cut from each stream)",
         .kind = OPTION_U32,
         .value = &arguments->tokens.requests,
         .least = 1,
         .most = UINT32_MAX},
        DECODER_OPTIONS(&arguments->decoder),
        {.name = "batch",
         .argument = "N",
         .help = "requests that run together (default 1)",
         .kind = OPTION_U32,
         .value = &arguments->batch,
         .least = 1,
         .most = MAX_BATCH},
        {.name = "generate",
         .argument = "N",
         .help = "then N tokens for each request, greedy",
         .kind = OPTION_U32,
         .value = &arguments->generate,
         .least = 1,
         .most = TRACE_MAX_TOKENS},
        {.name = "beam",
         .argument = "N",
         .help = "... or the best of a search with N beams",
         .kind = OPTION_U32,
         .value = &arguments->beams,
         .least = 1,
         .most = 1024},
        {.name = "length-penalty",
         .argument = "X",
         .help = "of beams: log probability / length^X (default 1)",
         .kind = OPTION_F64,
         .value = &arguments->length_penalty,
         .low = -10,
         .high = 10},
        {.name = "output",
         .argument = "FILE",
         .help = "JSON lines of what was generated",
         .kind = OPTION_TEXT,
         .value = &arguments->output},
        {.name = "ignore-eos",
         .help = "go on past the end token",
         .kind = OPTION_FLAG,
         .value = &arguments->ignore_eos},
        {.name = "print-text",
         .help = "print the text that was generated",
         .kind = OPTION_FLAG,
         .value = &arguments->print_text},
        PLAN_OPTIONS(&arguments->plan, &arguments->sets),
        {.name = "routing",
         .argument = "TEXT",
         .help = "gate: the router's (default); trace:FILE: a trace's steps with their routing, or "
                 "for a shape its routing over --tokens; uniform or zipf:S: drawn at random",
         .kind = OPTION_TEXT,
         .value = &arguments->routing},
        {.name = "scores",
         .argument = "M|all",
         .help = "record router scores too: the largest M, or all",
         .kind = OPTION_TEXT,
         .value = &arguments->scores_text},
        {.name = "predictions",
         .argument = "D",
         .help = "record what the routers of the next D MoE layers say ahead, too",
         .kind = OPTION_U32,
         .value = &arguments->predictions,
         .least = 1,
         .most = TRACE_MAX_LAYERS - 1},
        {.name = "timing",
         .help = "record the time of each operation, too",
         .kind = OPTION_FLAG,
         .value = &arguments->timing},
        DEVICE_OPTIONS(&arguments->device),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "record",
        .summary = "Runs a model on tokens and records which experts each token is routed to. With "
                   "--routing\n"
                   "trace:FILE the steps of that trace run again with its routing; --tokens then "
                   "gives token ids that\n"
                   "the trace lacks. Ctrl-C ends after the current step; what was recorded can be "
                   "read. Of\n"
                   "encoder-decoder models --tokens gives the sources, and both stacks are "
                   "recorded; each beam is a\n"
                   "request of its own.",
        .example = "moebius record --model models/tiny-32x4 --tokens "
                   "models/tiny-32x4/eval_tokens.safetensors\n    --prompt-length 256 --requests 4 "
                   "--batch 4 --out trace.db",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    return check(&table, arguments);
}

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
    const Arguments *arguments = recording->arguments;
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
    const Arguments *arguments = recording->arguments;
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
    uint32_t fed_output =
        recording->arguments->generate > 0 ? recording->arguments->generate - 1 : 0;
    uint64_t lines = recording->arguments->beams > 1 ? recording->arguments->beams : 1;
    uint64_t total = 0;
    for (uint32_t i = 0; i < recording->set.n_requests; i++)
        total += recording->set.requests[i].n_tokens + fed_output * lines;
    return total;
}

static Status open_routing(Recording *recording)
{
    uint32_t n;
    const TraceLayer *layers = executor_layers(recording->executor, &n);
    return routing_source_open(recording->arguments->source, layers, n, recording->plan.seed,
                               &recording->routing);
}

static Status record_requests(Recording *recording, ExecutorOptions *options)
{
    const Arguments *arguments = recording->arguments;
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
    TRY(executor_for_requests(recording->checkpoint, &recording->set, &run, options,
                              &recording->executor));
    TRY(open_routing(recording));
    run.routing = recording->routing;
    TRY(open_recorder(recording));
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
    const Arguments *arguments = recording->arguments;
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

static Status record(Recording *recording)
{
    const Arguments *arguments = recording->arguments;
    ExecutorOptions options = {.plan = &recording->plan,
                               .logits = arguments->generate > 0 ? LOGITS_LAST : LOGITS_NONE,
                               .predictions = arguments->predictions};
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

static Status fill_buffer_json(cJSON *json, const Recording *recording)
{
    const BufferCounts *counts = &recording->watch.counts;
    uint64_t lookups = counts->hits + counts->misses;
    TRY(json_add_u64(json, "lookups", lookups));
    TRY(json_add_u64(json, "hits", counts->hits));
    TRY(json_add_u64(json, "misses", counts->misses));
    TRY(json_add_f64(json, "miss_ratio",
                     lookups > 0 ? (double)counts->misses / (double)lookups : 0.0));
    TRY(json_add_u64(json, "loads", counts->loads));
    TRY(json_add_u64(json, "bytes_loaded", counts->bytes_loaded));
    TRY(json_add_u64(json, "host_computed", counts->host_computed));
    TRY(json_add_u64(json, "prefetches", counts->prefetches));
    TRY(json_add_u64(json, "bytes_prefetched", counts->bytes_prefetched));
    TRY(prefetch_fates_json(&recording->watch.fates, json));
    TRY(json_add_u64(json, "evictions", counts->evictions));
    return json_add_u64(json, "slot_bytes", executor_slot_bytes(recording->executor));
}

static Status fill_json(cJSON *json, const Recording *recording)
{
    const RunTotals *totals = &recording->totals;
    TRY(json_add_text(json, "trace", recording->arguments->out));
    TRY(json_add_text(json, "model", recording->arguments->model.name));
    TRY(json_add_text(json, "device", executor_device(recording->executor)));
    TRY(json_add_bool(json, "complete", !totals->stopped));
    TRY(json_add_u64(json, "steps", totals->steps));
    TRY(json_add_u64(json, "tokens", totals->tokens));
    TRY(json_add_u64(json, "generated", totals->generated));
    TRY(json_add_u64(json, "tokens_left_out", recording->left_out));
    TRY(json_add_u64(json, "prefill_tokens", totals->prefill_tokens));
    TRY(json_add_u64(json, "prefill_ns", totals->prefill_ns));
    TRY(json_add_u64(json, "decode_tokens", totals->decode_tokens));
    TRY(json_add_u64(json, "decode_ns", totals->decode_ns));
    TRY(fill_buffer_json(json, recording));
    if (recording->plan.batching.mode == BATCHING_CONTINUOUS)
        TRY(serving_report_json(&totals->serving, json));
    if (recording->arguments->print_text)
        return generated_add_json(&recording->generated, &recording->set, json);
    return OK;
}

static Status print_recording_json(const Recording *recording)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, recording));
}

static void print_phase(const char *name, uint64_t tokens, uint64_t duration_ns)
{
    char text[NUMBER_BYTES];
    if (tokens > 0)
        printf("%s: %s tokens at %.0f/s\n", name, number_text(tokens, text),
               per_second(tokens, duration_ns));
}

static void print_recording(const Recording *recording)
{
    char tokens[NUMBER_BYTES];
    char lookups[NUMBER_BYTES];
    char loaded[NUMBER_BYTES];
    const RunTotals *totals = &recording->totals;
    const BufferCounts *counts = &recording->watch.counts;
    printf("%s: %" PRIu64 " steps, %s tokens on %s\n", recording->arguments->out, totals->steps,
           number_text(totals->tokens, tokens), executor_device(recording->executor));
    print_phase("prefill", totals->prefill_tokens, totals->prefill_ns);
    print_phase("decode", totals->decode_tokens, totals->decode_ns);
    if (recording->left_out > 0)
        printf("%s tokens of the streams are in no request\n",
               number_text(recording->left_out, tokens));
    if (recording->plan.buffer.on)
        printf("expert buffer: miss ratio %.4f of %s lookups, %s loaded\n",
               counts->hits + counts->misses > 0
                   ? (double)counts->misses / (double)(counts->hits + counts->misses)
                   : 0.0,
               number_text(counts->hits + counts->misses, lookups),
               bytes_text(counts->bytes_loaded, loaded));
}

static Status print_people(const Recording *recording)
{
    print_recording(recording);
    return recording->plan.batching.mode == BATCHING_CONTINUOUS
               ? serving_print(&recording->totals.serving)
               : OK;
}

static Status report(const Recording *recording)
{
    if (recording->arguments->json)
        TRY(print_recording_json(recording));
    else
        TRY(print_people(recording));
    if (recording->arguments->print_text && !recording->arguments->json)
        TRY(generated_print(&recording->generated, &recording->set));
    if (!recording->totals.stopped)
        return OK;
    return fail(ERR_INTERRUPTED, "%s: stopped after %" PRIu64 " steps, which can be read",
                recording->arguments->out, recording->totals.steps);
}

/* A run whose plan decides by scores or predictions records them, so that it can be replayed. */
static void record_what_decides(const Plan *plan, Arguments *arguments)
{
    SignalNeeds needs = plan_needs_signals(plan);
    if (needs.scores)
        arguments->scores = SCORES_ALL;
    if (needs.distance > arguments->predictions)
        arguments->predictions = needs.distance;
}

Status command_record(int argc, char **argv)
{
    Arguments arguments = {.device = {.name = "cpu"}, .length_penalty = 1};
    Recording recording = {.arguments = &arguments};
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = plan_input(arguments.plan, &arguments.sets, &recording.plan);
    option_list_free(&arguments.sets);
    if (status == OK)
        status = choose_batch(&recording.plan, &arguments);
    if (status == OK)
        record_what_decides(&recording.plan, &arguments);
    if (status == OK)
        status = record(&recording);
    if (status == OK)
        status = report(&recording);
    routing_source_close(recording.routing);
    executor_close(recording.executor);
    generated_close(&recording.generated);
    output_discard(&recording.output);
    tokens_free(&recording.set);
    tokens_free(&recording.targets);
    checkpoint_close(recording.checkpoint);
    plan_free(&recording.plan);
    return status;
}
