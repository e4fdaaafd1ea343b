#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/decoder_input.h"
#include "cli/interrupt.h"
#include "cli/online.h"
#include "cli/plan_input.h"
#include "cli/print.h"
#include "cli/table.h"

/* Logits that are held at a time, where the steps may be cut as we like. */
static const uint64_t LOGIT_BYTES = (uint64_t)256 << 20;

enum { NAME_BYTES = 48 };

typedef struct {
    ModelInput model;
    TokenInput tokens;
    DecoderInput decoder;
    const char *out;
    DeviceInput device;
    const char *plan;
    OptionList sets;
    uint32_t batch;
    bool json;
} Arguments;

/* Tensor 0 is logits; then expert_ids and weights of each MoE layer. */
typedef struct {
    const Arguments *arguments;
    Plan plan;
    Checkpoint *checkpoint;
    TokenSet set;
    TokenSet targets; /* encoder-decoder: the decoder's tokens, row for row */
    Executor *executor;
    const TraceLayer *layers;
    uint32_t n_layers;
    SafeTensorsWriter *writer;
    int32_t *ids; /* [max_tokens * max_top_k] of one layer and step */
    RunWatch watch;
    RunTotals totals;
} Pass;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        MODEL_OPTIONS(&arguments->model, true),
        TEXT_OPTION(
            "tokens", "FILE",
            "one stream, or a 2-D batch: .npy, .safetensors or .jsonl; or random:ROWSxLENGTH",
            &arguments->tokens.file),
        TEXT_OPTION("text", "FILE", "or a text, through the checkpoint's tokenizer",
                    &arguments->tokens.text),
        TEXT_OPTION("key", "K", "the stream of this name", &arguments->tokens.key),
        DECODER_OPTIONS(&arguments->decoder),
        TEXT_OPTION("out", "FILE", "safetensors file to write", &arguments->out, .required = true,
                    .writes = true),
        U32_OPTION("batch", "N", "rows that run together (default 1)", 1, MAX_BATCH,
                   &arguments->batch),
        PLAN_OPTIONS(&arguments->plan, &arguments->sets),
        DEVICE_OPTIONS(&arguments->device),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "forward",
        .summary = "Runs a model on tokens and writes what it computed, to be compared with any "
                   "framework: logits f32 [length, vocabulary] and, per MoE layer N, "
                   "layerN.expert_ids i32 and layerN.weights f32 [tokens, k] in router order (-1: "
                   "dropped by static gating). A 2-D batch gives logits [rows, length, "
                   "vocabulary], its tokens row by row. Without --key the stream input_ids is "
                   "taken where the file has it. For encoder-decoder models these are the "
                   "encoder's tokens; the decoder's come from --decoder-tokens, else from the same "
                   "file: its stream is named like the encoder's, with decoder_input_ids for "
                   "input_ids. Encoder layers come first, decoder layers go on counting.",
        .example = "moebius forward --model models/tiny-32x4 --tokens "
                   "models/tiny-32x4/reference.safetensors\n    --key wikitext.input_ids --out "
                   "out.safetensors",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    TRY(model_input_check(&table, &arguments->model));
    if (token_input_path(&arguments->tokens) == NULL)
        return options_fail(&table, "--tokens is missing");
    TRY(token_input_check(&table, &arguments->tokens));
    return decoder_input_check(&table, &arguments->decoder);
}

static const char SOURCE_KEY[] = "input_ids";

/* One stream, or rows of one length. */
static Status check_rows(const char *file, const TokenSet *set)
{
    if (set->n_requests == 1 || set->is_batch)
        return OK;
    return fail(ERR_INPUT, "%s: %u streams, wanted one (--key K takes the one named K)", file,
                set->n_requests);
}

/* The stream of FILE that goes with the encoder's KEY: "x.input_ids" has "x.decoder_input_ids". */
static Status load_paired_targets(Pass *pass, const char *file, const char *key)
{
    char name[NAME_BYTES * 4];
    size_t length = key != NULL ? strlen(key) : 0;
    size_t ending = sizeof SOURCE_KEY - 1;
    if (length < ending || strcmp(key + length - ending, SOURCE_KEY) != 0)
        return fail(ERR_INPUT,
                    "%s: --decoder-tokens or --decoder-prompt is wanted: only a stream "
                    "named input_ids tells which one is the decoder's",
                    file);
    snprintf(name, sizeof name, "%.*sdecoder_%s", (int)(length - ending), key, SOURCE_KEY);
    return tokens_load(file, name, checkpoint_config(pass->checkpoint)->vocabulary, &pass->targets);
}

static Status load_targets(Pass *pass, const char *file, const char *key)
{
    const ModelConfig *config = checkpoint_config(pass->checkpoint);
    bool given;
    TRY(decoder_input_apply(&pass->arguments->decoder, config, &pass->set, &pass->targets, &given));
    if (!model_is_encoder_decoder(config))
        return OK;
    if (!given)
        TRY(load_paired_targets(pass, file, key));
    for (uint32_t i = 1; i < pass->targets.n_requests; i++)
        if (pass->targets.requests[i].n_tokens != pass->targets.requests[0].n_tokens)
            return fail(ERR_INPUT, "%s: the decoder's rows are not of one length", file);
    return OK;
}

static Status load_tokens(Pass *pass)
{
    TokenInput input = pass->arguments->tokens;
    uint64_t left_out;
    bool has = false;
    if (input.key == NULL && input.file != NULL)
        TRY(tokens_has_key(input.file, SOURCE_KEY, &has));
    if (has)
        input.key = SOURCE_KEY;
    TRY(token_input_load(&input, pass->arguments->model.name, checkpoint_config(pass->checkpoint),
                         0, &pass->set, &left_out));
    TRY(check_rows(token_input_path(&input), &pass->set));
    return load_targets(pass, token_input_path(&input), input.key);
}

/* The rows whose logits are written. */
static const TokenSet *scored(const Pass *pass)
{
    return pass->targets.n_requests > 0 ? &pass->targets : &pass->set;
}

/* True when the numbers do not depend on where the steps are cut. */
static bool may_cut(const Pass *pass)
{
    const ModelConfig *config = checkpoint_config(pass->checkpoint);
    for (uint32_t i = 0; i < config->n_layers; i++)
        if (config->layers[i].router.capacity > 0)
            return false;
    return pass->plan.gating.mode == GATING_DYNAMIC && !model_is_encoder_decoder(config);
}

static uint32_t step_tokens(const Pass *pass)
{
    uint32_t most = pass->plan.batching.max_tokens;
    uint64_t row_bytes = (uint64_t)checkpoint_config(pass->checkpoint)->vocabulary * sizeof(float);
    uint64_t fitting = LOGIT_BYTES / row_bytes > 0 ? LOGIT_BYTES / row_bytes : 1;
    if (may_cut(pass) && fitting < most)
        return (uint32_t)fitting;
    return most;
}

static Tensor logits_spec(const Pass *pass)
{
    Tensor tensor = {.name = "logits", .dtype = DTYPE_F32};
    if (pass->set.is_batch)
        tensor.shape[tensor.rank++] = pass->set.n_requests;
    tensor.shape[tensor.rank++] = scored(pass)->requests[0].n_tokens;
    tensor.shape[tensor.rank++] = checkpoint_config(pass->checkpoint)->vocabulary;
    return tensor;
}

static void fill_specs(const Pass *pass, Tensor *specs, char (*names)[NAME_BYTES])
{
    specs[0] = logits_spec(pass);
    for (uint32_t i = 0; i < pass->n_layers; i++) {
        const TraceLayer *layer = &pass->layers[i];
        const TokenSet *rows = layer->stack == STACK_ENCODER ? &pass->set : scored(pass);
        uint64_t tokens = (uint64_t)rows->n_requests * rows->requests[0].n_tokens;
        Tensor *pair = &specs[1 + 2 * i];
        snprintf(names[2 * i], NAME_BYTES, "layer%" PRIu32 ".expert_ids", layer->layer);
        snprintf(names[2 * i + 1], NAME_BYTES, "layer%" PRIu32 ".weights", layer->layer);
        pair[0] = (Tensor){
            .name = names[2 * i], .dtype = DTYPE_I32, .rank = 2, .shape = {tokens, layer->top_k}};
        pair[1] = pair[0];
        pair[1].name = names[2 * i + 1];
        pair[1].dtype = DTYPE_F32;
    }
}

static Status open_writer(Pass *pass)
{
    size_t n = 1 + 2 * (size_t)pass->n_layers;
    Tensor *specs = NULL;
    char(*names)[NAME_BYTES] = NULL;
    Status status = mem_new(&specs, n, sizeof *specs, "output");
    if (status == OK)
        status = mem_new(&names, n, sizeof *names, "output");
    if (status == OK) {
        fill_specs(pass, specs, names);
        status = safetensors_writer_open(pass->arguments->out, specs, n, &pass->writer);
    }
    mem_free(specs);
    mem_free(names);
    return status;
}

static Status write_layer(const Pass *pass, uint32_t i, const uint16_t *experts,
                          const float *weights, size_t count)
{
    for (size_t at = 0; at < count; at++)
        pass->ids[at] = experts[at] == EXPERT_DROPPED ? -1 : experts[at];
    TRY(safetensors_writer_append(pass->writer, 1 + 2 * (size_t)i, pass->ids,
                                  count * sizeof *pass->ids));
    return safetensors_writer_append(pass->writer, 2 + 2 * (size_t)i, weights,
                                     count * sizeof *weights);
}

/* Steps follow the order of the tokens, row after row: appending puts each where it belongs. */
static Status write_step(void *argument, const TraceStep *step, const StepInput *input,
                         const StepOutput *output)
{
    Pass *pass = argument;
    size_t vocabulary = checkpoint_config(pass->checkpoint)->vocabulary;
    size_t routed = 0;
    if (output->n_logits > 0)
        TRY(safetensors_writer_append(pass->writer, 0, output->logits,
                                      output->n_logits * vocabulary * sizeof(float)));
    for (uint32_t i = 0; i < pass->n_layers; i++) {
        if (pass->layers[i].stack != step->stack)
            continue;
        size_t count = (size_t)step->tokens * pass->layers[i].top_k;
        TRY(write_layer(pass, i, output->experts + routed, output->weights + routed, count));
        routed += count;
    }
    return run_watch(&pass->watch, step, input, output);
}

static Status run(Pass *pass, RunOptions *options)
{
    const TokenSet *rows = scored(pass);
    progress_start(&pass->watch.progress, "forward", "tokens",
                   (uint64_t)rows->n_requests * rows->requests[0].n_tokens);
    options->stop = interrupt_watch();
    Status status = run_requests(pass->executor, checkpoint_config(pass->checkpoint), &pass->set,
                                 options, NULL, write_step, pass, NULL, NULL, &pass->totals);
    interrupt_unwatch();
    progress_end(&pass->watch.progress);
    if (status == OK && pass->totals.stopped)
        status = fail(ERR_INTERRUPTED, "%s: stopped, nothing was written", pass->arguments->out);
    return status;
}

static Status forward(Pass *pass)
{
    const Arguments *arguments = pass->arguments;
    ExecutorOptions executor = {.plan = &pass->plan, .logits = LOGITS_ALL};
    RunOptions options = {.batch = arguments->batch, .logits = LOGITS_ALL};
    TRY(device_input_apply(&arguments->device, &executor));
    TRY(checkpoint_open_model(arguments->model.name, &pass->checkpoint));
    TRY(load_tokens(pass));
    if (pass->targets.n_requests > 0)
        options.targets = &pass->targets;
    options.max_tokens = step_tokens(pass);
    TRY(executor_for_requests(pass->checkpoint, &pass->set, &options, &executor, &pass->executor));
    pass->layers = executor_layers(pass->executor, &pass->n_layers);
    TRY(mem_new(&pass->ids, options.max_tokens,
                checkpoint_config(pass->checkpoint)->max_top_k * sizeof *pass->ids,
                "expert ids of a step"));
    TRY(open_writer(pass));
    TRY(run(pass, &options));
    SafeTensorsWriter *writer = pass->writer;
    pass->writer = NULL;
    return safetensors_writer_commit(writer);
}

static Status fill_json(cJSON *json, const Pass *pass)
{
    const RunTotals *totals = &pass->totals;
    TRY(json_add_text(json, "model", pass->arguments->model.name));
    TRY(json_add_text(json, "out", pass->arguments->out));
    TRY(json_add_text(json, "device", executor_device(pass->executor)));
    TRY(json_add_u64(json, "rows", pass->set.n_requests));
    TRY(json_add_u64(json, "length", scored(pass)->requests[0].n_tokens));
    TRY(json_add_u64(json, "vocabulary", checkpoint_config(pass->checkpoint)->vocabulary));
    TRY(json_add_u64(json, "moe_layers", pass->n_layers));
    TRY(json_add_u64(json, "steps", totals->steps));
    TRY(json_add_u64(json, "tokens", totals->tokens));
    return json_add_u64(json, "duration_ns", totals->prefill_ns);
}

static Status print_pass_json(const Pass *pass)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, pass));
}

static void print_pass(const Pass *pass)
{
    char tokens[NUMBER_BYTES];
    const RunTotals *totals = &pass->totals;
    printf("%s: logits and the routing of %" PRIu32 " MoE layers for %s tokens, at %.0f/s on %s\n",
           pass->arguments->out, pass->n_layers, number_text(totals->tokens, tokens),
           per_second(totals->tokens, totals->prefill_ns), executor_device(pass->executor));
}

Status command_forward(int argc, char **argv)
{
    Arguments arguments = {.device = {.name = "cpu"}, .batch = 1};
    Pass pass = {.arguments = &arguments};
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = plan_input(arguments.plan, &arguments.sets, &pass.plan);
    option_list_free(&arguments.sets);
    if (status == OK)
        status = plan_input_blame(forward(&pass), arguments.plan);
    if (status == OK && arguments.json)
        status = print_pass_json(&pass);
    else if (status == OK)
        print_pass(&pass);
    safetensors_writer_discard(pass.writer);
    mem_free(pass.ids);
    executor_close(pass.executor);
    tokens_free(&pass.set);
    tokens_free(&pass.targets);
    checkpoint_close(pass.checkpoint);
    plan_free(&pass.plan);
    return status;
}
