#include "exec/trace_scan.h"

#include "policies/buffer.h"

typedef struct {
    const RunTraceOptions *options;
    const ModelConfig *config;
    const Plan *plan;
    TraceReader *reader;
    const TraceLayer *layers;
    uint32_t n_layers;
    TraceScan *scan;
    Future *future;
} Scanner;

static Status check_layer(const TraceLayer *layer, uint32_t number, const LayerConfig *shape)
{
    if (layer->stack != shape->stack)
        return fail(ERR_INPUT, "layer %u: of the %s, the model's is of the %s", layer->layer,
                    stack_name(layer->stack), stack_name(shape->stack));
    if (layer->layer != number)
        return fail(ERR_INPUT, "layer %u: the model's next MoE layer is %u", layer->layer, number);
    if (layer->experts != shape->experts || layer->top_k != shape->top_k)
        return fail(ERR_INPUT, "layer %u: %u experts top-%u, the model has %u top-%u", number,
                    layer->experts, layer->top_k, shape->experts, shape->top_k);
    return OK;
}

static Status check_layers(const Scanner *scanner)
{
    const ModelConfig *config = scanner->config;
    if (scanner->n_layers != config->n_moe_layers)
        return fail(ERR_INPUT, "it has %u MoE layers, the model %u", scanner->n_layers,
                    config->n_moe_layers);
    uint32_t n = 0;
    for (uint32_t i = 0; i < config->n_layers; i++)
        if (config->layers[i].moe)
            TRY(check_layer(&scanner->layers[n++], i, &config->layers[i]));
    return OK;
}

/* What TOKENS (or NULL) says of the token at POSITION of REQUEST. */
static uint32_t given_token(const TokenSet *tokens, uint32_t request, uint32_t position)
{
    if (tokens == NULL || request >= tokens->n_requests ||
        position >= tokens->requests[request].n_tokens)
        return TOKEN_UNKNOWN;
    return tokens->requests[request].tokens[position];
}

uint32_t trace_token(const RunTraceOptions *options, const TraceStep *step, uint32_t i)
{
    if (step->token != NULL && step->token[i] != TOKEN_UNKNOWN)
        return step->token[i];
    return given_token(options->tokens, step->request[i], step->position[i]);
}

static Status check_token_id(const Scanner *scanner, const TraceStep *step, uint32_t i)
{
    uint32_t token = trace_token(scanner->options, step, i);
    uint32_t given = given_token(scanner->options->tokens, step->request[i], step->position[i]);
    if (given != TOKEN_UNKNOWN && given != token)
        return fail(ERR_INPUT,
                    "token %u: id %u, but the given tokens have %u at position %u of request %u", i,
                    token, given, step->position[i], step->request[i]);
    if (token == TOKEN_UNKNOWN)
        return scanner->options->forced
                   ? OK
                   : fail(ERR_INPUT,
                          "token %u: its id is not in the trace, so only forced routing "
                          "(--routing trace:FILE) can run it",
                          i);
    if (token >= scanner->config->vocabulary)
        return fail(ERR_INPUT, "token %u: id %u, the model's vocabulary has %u", i, token,
                    scanner->config->vocabulary);
    return OK;
}

/* A request's tokens must follow each other within a step, and go on from step to step. */
static Status scan_token(Scanner *scanner, const TraceStep *step, uint32_t i)
{
    RunTraceShape *shape = &scanner->scan->shape;
    RequestEntry *entry;
    uint32_t position = step->position[i];
    uint32_t *length;
    TRY(check_token_id(scanner, step, i));
    TRY(request_table_get(&scanner->scan->requests, step->request[i], &entry));
    length = step->stack == STACK_ENCODER ? &entry->source_length : &entry->length;
    if (position != *length)
        return fail(ERR_INPUT, "token %u: request %u: position %u, it goes on at %u", i,
                    step->request[i], position, *length);
    if (position >= scanner->config->max_positions)
        return fail(ERR_INPUT, "token %u: request %u: position %u, the model allows %u", i,
                    step->request[i], position, scanner->config->max_positions);
    bool goes_on = i > 0 && step->request[i] == step->request[i - 1];
    if (step->stack == STACK_ENCODER && !goes_on && position > 0)
        return fail(ERR_INPUT, "token %u: request %u: its source is cut over steps", i,
                    step->request[i]);
    if (!goes_on && position > 0 && entry->last_step == shape->steps)
        return fail(ERR_INPUT, "token %u: request %u: its tokens in the step are not together", i,
                    step->request[i]);
    if (position == 0 && entry->length + entry->source_length == 0)
        entry->first_step = shape->steps;
    entry->last_step = shape->steps;
    if (++*length > shape->max_length)
        shape->max_length = *length;
    return OK;
}

static Status scan_step(Scanner *scanner, const TraceStep *step)
{
    RunTraceShape *shape = &scanner->scan->shape;
    if (step->stack == STACK_ENCODER && !model_is_encoder_decoder(scanner->config))
        return fail(ERR_INPUT, "an encoder step, the model has no encoder");
    for (uint32_t i = 0; i < step->tokens; i++)
        TRY(scan_token(scanner, step, i));
    /* Static gating drops rows of an expert, never all: the sets of needed experts stay. */
    if (scanner->future != NULL)
        TRY(packed_trace_add_step(&scanner->future->trace, step));
    if (step->tokens > shape->max_tokens)
        shape->max_tokens = step->tokens;
    shape->tokens += step->tokens;
    shape->steps++;
    return OK;
}

static Status scan_steps(Scanner *scanner)
{
    TraceStep step;
    Status status;
    while ((status = trace_reader_next_step(scanner->reader, &step)) == OK)
        TRY(fail_in(scan_step(scanner, &step), "%s: step %u", scanner->options->trace, step.step));
    if (status != STATUS_END)
        return status;
    if (scanner->scan->shape.steps == 0)
        return fail(ERR_INPUT, "%s: the trace has no steps", scanner->options->trace);
    return OK;
}

/* The most requests that live at one time, each from its first step to its last. */
static Status count_requests(TraceScan *scan)
{
    int64_t *change; /* [steps + 1] requests that begin, less those that ended before */
    size_t steps = scan->shape.steps;
    TRY(mem_new(&change, steps + 1, sizeof *change, "requests by step"));
    for (size_t i = 0; i < scan->requests.room; i++) {
        const RequestEntry *entry = &scan->requests.entries[i];
        if (!entry->used)
            continue;
        change[entry->first_step]++;
        change[entry->last_step + 1]--;
    }
    int64_t living = 0;
    for (size_t i = 0; i < steps; i++) {
        living += change[i];
        if (living > scan->shape.max_requests)
            scan->shape.max_requests = (uint32_t)living;
    }
    mem_free(change);
    return OK;
}

static Status scan_all(Scanner *scanner)
{
    TRY(trace_reader_open(scanner->options->trace, &scanner->reader));
    scanner->layers = trace_reader_layers(scanner->reader, &scanner->n_layers);
    TRY(fail_in(check_layers(scanner), "%s", scanner->options->trace));
    if (scanner->future != NULL)
        TRY(packed_trace_new(scanner->layers, scanner->n_layers, &scanner->future->trace));
    TRY(scan_steps(scanner));
    if (scanner->future != NULL && scanner->plan->buffer.on &&
        eviction_needs_future(scanner->plan->buffer.evict))
        TRY(packed_next_use(&scanner->future->trace, scanner->plan->buffer.order == ORDER_SERIAL,
                            &scanner->future->next_use));
    return count_requests(scanner->scan);
}

Status trace_scan(const RunTraceOptions *options, const ModelConfig *config, const Plan *plan,
                  TraceScan *scan, Future *future)
{
    Scanner scanner = {
        .options = options, .config = config, .plan = plan, .scan = scan, .future = future};
    *scan = (TraceScan){0};
    if (future != NULL)
        *future = (Future){0};
    Status status = scan_all(&scanner);
    trace_reader_close(scanner.reader);
    if (status != OK) {
        trace_scan_free(scan);
        future_free(future);
    }
    return status;
}

void trace_scan_free(TraceScan *scan)
{
    request_table_free(&scan->requests);
}

void future_next_step(Future *future, StepInput *input)
{
    uint32_t events = future->trace.step_events[future->step++];
    input->next_use = future->next_use != NULL ? future->next_use + future->lookup : NULL;
    input->n_coming = future->trace.n_active + future->event;
    input->coming = future->trace.experts + future->lookup;
    for (uint32_t i = 0; i < events; i++)
        future->lookup += future->trace.n_active[future->event++];
}

void future_free(Future *future)
{
    if (future == NULL)
        return;
    packed_trace_free(&future->trace);
    mem_free(future->next_use);
    *future = (Future){0};
}
