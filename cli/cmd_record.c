#include <stdlib.h>
#include <string.h>

#include "cli/plan_input.h"
#include "cli/record.h"

static Status read_scores(const OptionTable *table, RecordArguments *arguments)
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
static Status read_routing(const OptionTable *table, RecordArguments *arguments)
{
    static const char ALLOWED[] = "gate, uniform, zipf:S and trace:FILE";
    const char *text = arguments->routing;
    if (text == NULL || !routing_source_is_known(text))
        return routing_input(table, text, ALLOWED, &arguments->trace);
    bool skew = strncmp(text, "trace:", 6) != 0;
    if (skew || (checkpoint_is_shape(arguments->model.name) &&
                 token_input_path(&arguments->tokens) != NULL)) {
        arguments->source = text;
        return OK;
    }
    return routing_input(table, text, ALLOWED, &arguments->trace);
}

static Status check(const OptionTable *table, RecordArguments *arguments)
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
static Status choose_batch(const Plan *plan, RecordArguments *arguments)
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

static Status parse(int argc, char **argv, RecordArguments *arguments)
{
    const Option options[] = {
        MODEL_OPTIONS(&arguments->model, true),
        TEXT_OPTION("tokens", "FILE",
                    "requests: .npy, .safetensors or .jsonl ({\"tokens\": [...]} per line); or "
                    "random:REQUESTSxLENGTH",
                    &arguments->tokens.file),
        TEXT_OPTION("text", "FILE", "or a text (.jsonl: {\"text\": ...} per line)",
                    &arguments->tokens.text),
        FLAG_OPTION("lines", "each line of the text is a request", &arguments->tokens.lines),
        TEXT_OPTION("out", "FILE", "the trace; must not exist yet", &arguments->out,
                    .required = true, .writes = true),
        TEXT_OPTION("key", "K", "only the stream of this name", &arguments->tokens.key),
        U32_OPTION("prompt-length", "N", "cut streams into requests of N tokens", 1,
                   TRACE_MAX_TOKENS, &arguments->tokens.prompt_length),
        U32_OPTION("requests", "N", "only the first N requests (cut from each stream)", 1,
                   UINT32_MAX, &arguments->tokens.requests),
        DECODER_OPTIONS(&arguments->decoder),
        U32_OPTION("batch", "N", "requests that run together (default 1)", 1, MAX_BATCH,
                   &arguments->batch),
        U32_OPTION("generate", "N",
                   "then N tokens for each request, greedy (or \"output_tokens\" of its line)", 1,
                   TRACE_MAX_TOKENS, &arguments->generate),
        U32_OPTION("beam", "N", "... or the best of a search with N beams", 1, 1024,
                   &arguments->beams),
        F64_OPTION("length-penalty", "X", "of beams: log probability / length^X (default 1)", -10,
                   10, &arguments->length_penalty),
        TEXT_OPTION("output", "FILE", "JSON lines of what was generated", &arguments->output,
                    .writes = true),
        FLAG_OPTION("ignore-eos", "go on past the end token", &arguments->ignore_eos),
        FLAG_OPTION("print-text", "print the text that was generated", &arguments->print_text),
        PLAN_OPTIONS(&arguments->plan, &arguments->sets),
        TEXT_OPTION(
            "routing", "TEXT|trace:FILE",
            "gate: the router's (default); trace:FILE: a trace's steps with their routing, or "
            "for a shape its routing over --tokens; uniform or zipf:S: drawn at random",
            &arguments->routing),
        TEXT_OPTION("scores", "M|all", "record router scores too: the largest M, or all",
                    &arguments->scores_text),
        U32_OPTION("predictions", "D",
                   "record what the routers of the next D MoE layers say ahead, too", 1,
                   TRACE_MAX_LAYERS - 1, &arguments->predictions),
        FLAG_OPTION("timing", "record the time of each operation, too", &arguments->timing),
        GOAL_OPTIONS(&arguments->goals),
        DEVICE_OPTIONS(&arguments->device),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "record",
        .summary =
            "Runs a model on tokens and records which experts each token is routed to. With "
            "--routing trace:FILE the steps of that trace run again with its routing; --tokens "
            "then gives token ids that the trace lacks. Ctrl-C ends after the current step; what "
            "was recorded can be read. Of encoder-decoder models --tokens gives the sources, and "
            "both stacks are recorded; each beam is a request of its own. With batching.mode "
            "\"continuous\" in the plan requests arrive in real time and share steps, and "
            "latencies "
            "and throughput are told.",
        .example =
            "moebius record --model models/tiny-32x4 --tokens "
            "models/tiny-32x4/eval_tokens.safetensors\n    --prompt-length 256 --requests 4 "
            "--batch 4 --out trace.db\n"
            "moebius record --model shape:olmoe-1b-7b --device cuda --tokens random:100x512 "
            "--generate 64\n    --ignore-eos --routing zipf:1 --set batching.mode=continuous "
            "--set batching.sequences=32\n    --set batching.arrivals=poisson --set "
            "batching.requests_per_s=20 --ttft-at-most 200 --out served.db",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    return check(&table, arguments);
}

/* A run whose plan decides by scores or predictions records them, so that it can be replayed. */
static void record_what_decides(const Plan *plan, RecordArguments *arguments)
{
    SignalNeeds needs = plan_needs_signals(plan);
    if (needs.scores)
        arguments->scores = SCORES_ALL;
    if (needs.distance > arguments->predictions)
        arguments->predictions = needs.distance;
}

Status command_record(int argc, char **argv)
{
    RecordArguments arguments = {
        .device = {.name = "cpu"}, .length_penalty = 1, .tokens = {.can_cut = true}};
    Recording recording = {.arguments = &arguments};
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = plan_input(arguments.plan, &arguments.sets, &recording.plan);
    option_list_free(&arguments.sets);
    if (status == OK)
        status = choose_batch(&recording.plan, &arguments);
    if (status == OK)
        status = service_goals_check(&arguments.goals,
                                     recording.plan.batching.mode == BATCHING_CONTINUOUS);
    if (status == OK)
        record_what_decides(&recording.plan, &arguments);
    if (status == OK)
        status = plan_input_blame(recording_run(&recording), arguments.plan);
    if (status == OK)
        status = recording_report(&recording);
    routing_source_close(recording.routing);
    executor_close(recording.executor);
    generated_close(&recording.generated);
    mem_free(recording.generate_each);
    mem_free(recording.arrival_ns);
    output_discard(&recording.output);
    tokens_free(&recording.set);
    tokens_free(&recording.targets);
    checkpoint_close(recording.checkpoint);
    plan_free(&recording.plan);
    return status;
}
