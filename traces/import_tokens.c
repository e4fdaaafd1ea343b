#include "traces/import_tokens.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "traces/import_sink.h"

/* The arrays of the step being built, and how far the tokens are done. */
typedef struct {
    const ImportTokens *from;
    ImportSink *sink;
    size_t layers;
    size_t top_k;
    size_t sequence; /* of the next token */
    uint64_t next;   /* token */
    Arena arena;
    uint32_t *request;  /* [step_tokens] */
    uint32_t *position; /* [step_tokens] */
    uint16_t *ids;      /* [step_tokens][layers][top_k], the source's order */
    uint16_t *experts;  /* [layers][step_tokens][top_k], the trace's order */
    float *weights;     /* the same, or NULL */
} Builder;

static uint64_t longest_step(const ImportOptions *options, const ImportSequences *sequences)
{
    uint64_t longest = 1;
    if (options->step_given && options->step == IMPORT_STEP_REQUEST)
        for (size_t i = 0; i < sequences->count; i++)
            longest = sequences->items[i].prompt_here > longest ? sequences->items[i].prompt_here
                                                                : longest;
    if (options->step_given && options->step == IMPORT_STEP_COUNT)
        return options->step_tokens;
    if (options->step_given && options->step == IMPORT_STEP_SEQUENCE)
        for (size_t i = 0; i < sequences->count; i++)
            longest = sequences->items[i].tokens > longest ? sequences->items[i].tokens : longest;
    return longest;
}

static Status make_room(Builder *builder, uint64_t step_tokens)
{
    size_t ids = builder->layers * builder->top_k;
    if (__builtin_mul_overflow(ids, step_tokens, &ids))
        ids = SIZE_MAX;
    arena_reserve(&builder->arena, step_tokens, sizeof *builder->request);
    arena_reserve(&builder->arena, step_tokens, sizeof *builder->position);
    arena_reserve(&builder->arena, ids, sizeof *builder->ids);
    arena_reserve(&builder->arena, ids, sizeof *builder->experts);
    if (builder->from->weights != NULL)
        arena_reserve(&builder->arena, ids, sizeof *builder->weights);
    TRY(arena_commit(&builder->arena, "import"));
    builder->request = arena_take(&builder->arena, step_tokens, sizeof *builder->request);
    builder->position = arena_take(&builder->arena, step_tokens, sizeof *builder->position);
    builder->ids = arena_take(&builder->arena, ids, sizeof *builder->ids);
    builder->experts = arena_take(&builder->arena, ids, sizeof *builder->experts);
    if (builder->from->weights != NULL)
        builder->weights = arena_take(&builder->arena, ids, sizeof *builder->weights);
    return OK;
}

/* Requests and positions of the next COUNT tokens. */
static void take_places(Builder *builder, uint32_t count)
{
    const ImportSequences *sequences = &builder->from->sequences;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t token = builder->next + i;
        const ImportSequence *sequence = &sequences->items[builder->sequence];
        if (token == sequence->first_token + sequence->tokens)
            sequence = &sequences->items[++builder->sequence];
        builder->request[i] = sequence->request;
        builder->position[i] =
            (uint32_t)(sequence->first_position + (token - sequence->first_token));
    }
}

/* [tokens][layers][top_k] to [layers][tokens][top_k]; the same when there is one token. */
static void take_routing(Builder *builder, uint32_t count)
{
    size_t top_k = builder->top_k;
    size_t per_token = builder->layers * top_k;
    const float *weights = builder->from->weights;
    import_ids_read(&builder->from->ids, builder->next * per_token, count * per_token,
                    count > 1 ? builder->ids : builder->experts);
    for (size_t layer = 0; layer < builder->layers && count > 1; layer++)
        for (size_t i = 0; i < count; i++)
            memcpy(builder->experts + (layer * count + i) * top_k,
                   builder->ids + i * per_token + layer * top_k, top_k * sizeof *builder->ids);
    for (size_t layer = 0; layer < builder->layers && weights != NULL; layer++)
        for (size_t i = 0; i < count; i++)
            memcpy(builder->weights + (layer * count + i) * top_k,
                   weights + (builder->next + i) * per_token + layer * top_k,
                   top_k * sizeof *weights);
}

static Status write_step(Builder *builder, Phase phase, uint32_t count)
{
    take_places(builder, count);
    take_routing(builder, count);
    TraceStep step = {.phase = phase,
                      .tokens = count,
                      .request = builder->request,
                      .position = builder->position,
                      .experts = builder->experts,
                      .weights = builder->weights};
    builder->next += count;
    return import_sink_step(builder->sink, &step, NULL, 0);
}

static Status write_requests(const Builder *builder)
{
    const ImportSequences *sequences = &builder->from->sequences;
    for (size_t i = 0; i < sequences->count; i++) {
        const ImportSequence *sequence = &sequences->items[i];
        const TraceRequest request = {.request = sequence->request,
                                      .label = sequence->label,
                                      .prompt_tokens = sequence->prompt_tokens,
                                      .output_tokens = sequence->output_tokens};
        TRY(import_sink_request(builder->sink, &request));
    }
    return OK;
}

static Status write_sequence_steps(Builder *builder)
{
    const ImportSequences *sequences = &builder->from->sequences;
    for (size_t i = 0; i < sequences->count; i++) {
        if (sequences->items[i].tokens > TRACE_MAX_TOKENS)
            return fail(ERR_INPUT, "sequence %u: %llu tokens, a step has at most %d",
                        sequences->items[i].request, (unsigned long long)sequences->items[i].tokens,
                        TRACE_MAX_TOKENS);
        TRY(write_step(builder, PHASE_PREFILL, (uint32_t)sequences->items[i].tokens));
    }
    return OK;
}

static Status write_request_steps(Builder *builder)
{
    const ImportSequences *sequences = &builder->from->sequences;
    for (size_t i = 0; i < sequences->count; i++) {
        const ImportSequence *sequence = &sequences->items[i];
        if (sequence->prompt_here > TRACE_MAX_TOKENS)
            return fail(ERR_INPUT, "sequence %u: %u tokens of prompt, a step has at most %d",
                        sequence->request, sequence->prompt_here, TRACE_MAX_TOKENS);
        if (sequence->prompt_here > 0)
            TRY(write_step(builder, PHASE_PREFILL, sequence->prompt_here));
        for (uint64_t j = sequence->prompt_here; j < sequence->tokens; j++)
            TRY(write_step(builder, PHASE_DECODE, 1));
    }
    return OK;
}

static Status write_steps(const ImportOptions *options, Builder *builder)
{
    uint64_t total = builder->from->ids.shape[0];
    if (options->step_given && options->step == IMPORT_STEP_SEQUENCE)
        return fail_in(write_sequence_steps(builder), "%s", options->path);
    if (options->step_given && options->step == IMPORT_STEP_REQUEST)
        return fail_in(write_request_steps(builder), "%s", options->path);
    uint32_t most =
        options->step_given && options->step == IMPORT_STEP_COUNT ? options->step_tokens : 1;
    while (builder->next < total) {
        uint64_t left = total - builder->next;
        TRY(write_step(builder, most > 1 ? PHASE_PREFILL : PHASE_DECODE,
                       left < most ? (uint32_t)left : most));
    }
    return OK;
}

static void fill_layers(const ImportOptions *options, const ImportTokens *tokens, uint32_t experts,
                        TraceLayer *layers)
{
    for (uint32_t i = 0; i < tokens->ids.shape[1]; i++) {
        layers[i] = (TraceLayer){.layer = tokens->layers != NULL ? tokens->layers[i]
                                                                 : options->first_layer + i,
                                 .experts = experts,
                                 .top_k = (uint32_t)tokens->ids.shape[2],
                                 .expert_bytes = options->expert_bytes};
        snprintf(layers[i].name, sizeof layers[i].name, "layer %u", layers[i].layer);
    }
}

static Status add_notes(const ImportOptions *options, cJSON *notes)
{
    static const char *const STEPS[] = {"token", "sequence", "request", "count"};
    ImportStep step = options->step_given ? options->step : IMPORT_STEP_TOKEN;
    TRY(json_add_text(notes, "experts",
                      options->experts > 0 ? "given" : "the largest id seen, plus one"));
    TRY(json_add_text(notes, "step", STEPS[step]));
    return step == IMPORT_STEP_COUNT ? json_add_u64(notes, "step_tokens", options->step_tokens)
                                     : OK;
}

/* Tokens that are a step each: those behind the prompts. */
static uint64_t count_single(const ImportSequences *sequences)
{
    uint64_t single = 0;
    for (size_t i = 0; i < sequences->count; i++)
        single += sequences->items[i].tokens - sequences->items[i].prompt_here;
    return single;
}

/* What is known of how long steps are. Prompts and what comes behind them differ: the larger part
 * counts. */
static ImportSteps steps_of(const ImportOptions *options, const ImportTokens *tokens,
                            uint64_t longest)
{
    ImportStep step = options->step_given ? options->step : IMPORT_STEP_TOKEN;
    uint64_t total = tokens->ids.shape[0];
    ImportSteps steps = {.weights = tokens->weights != NULL, .tokens = longest};
    if (step == IMPORT_STEP_TOKEN || step == IMPORT_STEP_COUNT)
        steps.count = (total + longest - 1) / longest;
    if (step == IMPORT_STEP_REQUEST && 2 * count_single(&tokens->sequences) >= total)
        steps = (ImportSteps){
            .weights = steps.weights, .tokens = 1, .count = count_single(&tokens->sequences)};
    return steps;
}

static Status open_sink(const ImportOptions *options, const char *model, const cJSON *notes,
                        uint32_t experts, uint64_t step_tokens, Builder *builder)
{
    uint32_t n_layers = (uint32_t)builder->from->ids.shape[1];
    TraceLayer *layers;
    TRY(mem_new(&layers, n_layers, sizeof *layers, "import"));
    fill_layers(options, builder->from, experts, layers);
    size_t ids_bytes = builder->layers * builder->top_k *
                       (sizeof *builder->ids + (builder->from->weights != NULL ? 4 : 0));
    ImportSteps steps = steps_of(options, builder->from, step_tokens);
    steps.bytes = step_tokens * (ids_bytes + 2 * sizeof(uint32_t));
    Status status =
        import_sink_open(options, layers, n_layers, model, notes, &steps, &builder->sink);
    mem_free(layers);
    return status;
}

Status import_tokens_sequences(const ImportOptions *options, ImportTokens *tokens, cJSON *notes)
{
    if (options->sequences == NULL)
        return import_sequences_one(tokens->ids.shape[0], &tokens->sequences);
    TRY(json_add_text(notes, "sequences", options->sequences));
    return import_sequences_read(options->sequences, options->label, tokens->ids.shape[0],
                                 &tokens->sequences);
}

Status import_tokens_write(const ImportOptions *options, const ImportTokens *tokens,
                           const char *model, cJSON *notes, ImportReport *report)
{
    uint32_t largest;
    Builder builder = {.from = tokens};
    TRY(import_ids_check(options->path, &tokens->ids, options->experts, &largest));
    TRY(add_notes(options, notes));
    builder.layers = (size_t)tokens->ids.shape[1];
    builder.top_k = (size_t)tokens->ids.shape[2];
    uint64_t step_tokens = longest_step(options, &tokens->sequences);
    if (step_tokens > tokens->ids.shape[0])
        step_tokens = tokens->ids.shape[0];
    Status status = make_room(&builder, step_tokens);
    if (status == OK)
        status = open_sink(options, model, notes, options->experts > 0 ? options->experts : largest,
                           step_tokens, &builder);
    if (status == OK)
        status = write_requests(&builder);
    if (status == OK)
        status = write_steps(options, &builder);
    if (status == OK)
        status = import_sink_close(builder.sink, report);
    else
        import_sink_abandon(builder.sink);
    arena_free(&builder.arena);
    return status;
}
