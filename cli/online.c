#include "cli/online.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/threads.h"
#include "exec/text/text_requests.h"

static Status check_room(const TokenInput *input, const ModelConfig *config, uint32_t generate,
                         const TokenSet *set)
{
    /* A source generates nothing; the decoder's room is the executor's to check. */
    if (model_is_encoder_decoder(config))
        generate = 0;
    for (uint32_t i = 0; i < set->n_requests; i++) {
        const TokenRequest *request = &set->requests[i];
        if ((uint64_t)request->n_tokens + generate <= config->max_positions)
            continue;
        return fail(ERR_INPUT,
                    "%s: request %u%s%s: %u tokens and %u to generate, the model allows %u%s",
                    token_input_path(input), i, request->label[0] != '\0' ? ", " : "",
                    request->label, request->n_tokens, generate, config->max_positions,
                    input->can_cut ? " (--prompt-length cuts long streams)" : "");
    }
    return OK;
}

Status model_input_check(const OptionTable *table, ModelInput *input)
{
    if (input->layers == 0)
        return OK;
    if (input->name == NULL || !checkpoint_is_shape(input->name))
        return options_fail(table, "--layers goes with --model shape:NAME");
    int used = snprintf(input->text, sizeof input->text, "%s:%u", input->name, input->layers);
    if (used < 0 || (size_t)used >= sizeof input->text)
        return options_fail(table, "--model: the name is too long");
    input->name = input->text;
    return OK;
}

const char *token_input_path(const TokenInput *input)
{
    return input->text != NULL ? input->text : input->file;
}

Status token_input_check(const OptionTable *table, const TokenInput *input)
{
    if (input->text != NULL && input->file != NULL)
        return options_fail(table, "--text and --tokens do not go together");
    if (input->lines && input->text == NULL)
        return options_fail(table, "--lines needs --text");
    if (input->key != NULL && input->file == NULL)
        return options_fail(table, "--key needs --tokens");
    return OK;
}

static Status load_text(const TokenInput *input, const char *model, uint32_t vocabulary,
                        TokenSet *set)
{
    Tokenizer *tokenizer = NULL;
    if (checkpoint_is_shape(model))
        return fail(ERR_USAGE, "--text: %s has no tokenizer, --tokens is wanted", model);
    TextOptions options = {.lines = input->lines, .add_special = true, .vocabulary = vocabulary};
    uint64_t bytes;
    TRY(tokenizer_open(model, &tokenizer));
    Status status = text_requests_load(input->text, &options, tokenizer, set, &bytes);
    tokenizer_close(tokenizer);
    return status;
}

/* FILE is "random:ROWSxLENGTH". */
static bool is_random(const char *file, uint32_t *rows, uint32_t *length)
{
    int end = 0;
    return sscanf(file, "random:%9" SCNu32 "x%9" SCNu32 "%n", rows, length, &end) == 2 &&
           file[end] == '\0' && *rows > 0 && *length > 0;
}

Status token_input_load(const TokenInput *input, const char *model, const ModelConfig *config,
                        uint32_t generate, TokenSet *set, uint64_t *left_out)
{
    uint32_t rows;
    uint32_t length;
    *left_out = 0;
    if (input->text != NULL)
        TRY(load_text(input, model, config->vocabulary, set));
    else if (is_random(input->file, &rows, &length))
        TRY(input->key == NULL ? tokens_random(rows, length, config->vocabulary, 1, set)
                               : fail(ERR_USAGE, "%s: key \"%s\": random tokens have no keys",
                                      input->file, input->key));
    else if (strncmp(input->file, "random:", 7) == 0 && !file_exists(input->file))
        return fail(ERR_USAGE, "--tokens: '%s' is no random:REQUESTSxLENGTH, both 1 or more",
                    input->file);
    else
        TRY(tokens_load(input->file, input->key, config->vocabulary, set));
    Status status = OK;
    if (input->prompt_length == 0 && input->requests > 0)
        tokens_keep(set, input->requests);
    if (input->prompt_length > 0)
        status = tokens_cut(set, input->prompt_length, input->requests, left_out);
    if (status == OK)
        status = check_room(input, config, generate, set);
    if (status != OK)
        tokens_free(set);
    return status;
}

Status device_input_apply(const DeviceInput *input, ExecutorOptions *options)
{
    options->device = input->name;
    options->threads = input->threads;
    return executor_find_compute(input->compute, &options->compute);
}

uint32_t device_input_threads(const DeviceInput *input)
{
    return input->threads > 0 ? input->threads : (uint32_t)thread_count_default();
}

Status routing_input(const OptionTable *table, const char *text, const char *allowed,
                     const char **trace)
{
    static const char PREFIX[] = "trace:";
    size_t length = sizeof PREFIX - 1;
    *trace = NULL;
    if (text == NULL || strcmp(text, "gate") == 0)
        return OK;
    if (strncmp(text, PREFIX, length) != 0 || text[length] == '\0')
        return options_fail(table, "--routing: '%s', allowed are %s", text, allowed);
    *trace = text + length;
    return OK;
}

/* Tokens of the longest request, of the longest source, and of the largest step of them together:
 * what an executor for RUN must have room for. */
typedef struct {
    uint32_t prompt;
    uint32_t source;
} Longest;

static Longest longest_of(const ModelConfig *config, const TokenSet *set, const RunOptions *run)
{
    Longest longest = {0};
    for (uint32_t i = 0; i < set->n_requests; i++) {
        uint32_t n;
        run_prompt(config, set, run, i, &n);
        longest.prompt = n > longest.prompt ? n : longest.prompt;
        n = model_is_encoder_decoder(config) ? set->requests[i].n_tokens : 0;
        longest.source = n > longest.source ? n : longest.source;
    }
    return longest;
}

Status executor_for_requests(const Checkpoint *checkpoint, const TokenSet *set, RunOptions *run,
                             ExecutorOptions *options, Executor **executor)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    uint64_t requests = run->batch < set->n_requests ? run->batch : set->n_requests;
    uint32_t beams = run->beams > 1 ? run->beams : 1;
    if (run->targets != NULL && run->targets->n_requests != set->n_requests)
        return fail(ERR_INPUT, "%u requests, but tokens for the decoder of %u", set->n_requests,
                    run->targets->n_requests);
    Longest longest = longest_of(config, set, run);
    if (requests * beams > UINT32_MAX)
        return fail(ERR_INPUT, "%u requests of %u beams at a time are too many", (uint32_t)requests,
                    beams);
    options->max_requests = (uint32_t)requests * beams;
    options->max_length = longest.prompt + run->generate;
    if (longest.source > options->max_length)
        options->max_length = longest.source;
    uint64_t most = (uint64_t)longest.prompt * options->max_requests;
    if (longest.source * requests > most)
        most = longest.source * requests;
    if (most < run->max_tokens)
        run->max_tokens = (uint32_t)most;
    options->max_tokens = run->max_tokens;
    return executor_open(checkpoint, options, executor);
}

static Status check_max_tokens(const RunTraceOptions *run, const RunTraceShape *shape,
                               const Plan *plan)
{
    if (shape->max_tokens <= plan->batching.max_tokens)
        return OK;
    return fail(ERR_INPUT, "%s: it has steps of %u tokens, the plan's batching.max_tokens is %u",
                run->trace, shape->max_tokens, plan->batching.max_tokens);
}

Status executor_for_trace(const Checkpoint *checkpoint, const RunTraceOptions *run,
                          ExecutorOptions *options, RunTraceShape *shape, Executor **executor)
{
    TRY(run_trace_shape(run, checkpoint_config(checkpoint), shape));
    TRY(check_max_tokens(run, shape, options->plan));
    for (size_t i = 0; i < options->n_others; i++)
        TRY(check_max_tokens(run, shape, &options->others[i]));
    options->max_requests = shape->max_requests;
    options->max_length = shape->max_length;
    options->max_tokens = shape->max_tokens;
    options->logits = run->greedy ? LOGITS_LAST : LOGITS_NONE;
    return executor_open(checkpoint, options, executor);
}

static void count_record(BufferCounts *counts, const ResidencyRecord *record)
{
    counts->hits += record->kind == RESIDENCY_HIT;
    counts->bypasses += record->kind == RESIDENCY_BYPASS;
    counts->evictions += record->kind == RESIDENCY_EVICT;
    counts->host_computed += record->kind == RESIDENCY_HOST;
    counts->misses += record->kind == RESIDENCY_HOST;
    if (record->kind == RESIDENCY_PREFETCH) {
        counts->prefetches++;
        counts->bytes_prefetched += record->bytes;
    }
    if (record->kind != RESIDENCY_LOAD && record->kind != RESIDENCY_BYPASS)
        return;
    counts->misses++;
    counts->loads++;
    counts->bytes_loaded += record->bytes;
}

/* A load that was not made has no bytes, a hit that waited for one of its own has some. */
static void note_fate(RunWatch *watch, const ResidencyRecord *record)
{
    watch->fates.cancelled += record->kind == RESIDENCY_PREFETCH && record->bytes == 0;
    if (record->kind == RESIDENCY_HIT && record->bytes > 0) {
        watch->fates.late++;
        watch->counts.bytes_prefetched += record->bytes;
    }
}

Status prefetch_fates_json(const PrefetchFates *fates, cJSON *json)
{
    TRY(json_add_u64(json, "prefetches_cancelled", fates->cancelled));
    return json_add_u64(json, "late_loads", fates->late);
}

Status run_watch(void *argument, const TraceStep *step, const StepInput *input,
                 const StepOutput *output)
{
    RunWatch *watch = argument;
    (void)input;
    for (size_t i = 0; i < output->n_residency; i++) {
        const ResidencyRecord *record = &output->residency[i];
        /* Where all experts are resident thousands are so, and the next step waits for this. */
        if (record->kind == RESIDENCY_HIT && record->bytes == 0) {
            watch->counts.hits++;
            continue;
        }
        count_record(&watch->counts, record);
        note_fate(watch, record);
    }
    watch->tokens += step->tokens;
    progress_update(&watch->progress, watch->tokens);
    return OK;
}

double per_second(uint64_t count, uint64_t duration_ns)
{
    return duration_ns > 0 ? (double)count * 1e9 / (double)duration_ns : 0.0;
}
