/* A step: its checks, its spans, and what the KV slots hold after it. */
#include <assert.h>

#include "base/clock.h"
#include "exec/executor_state.h"

static Status check_token(const Executor *executor, const StepInput *input, uint32_t i)
{
    const ExecutorOptions *options = &executor->options;
    if (input->token[i] >= executor->config->vocabulary)
        return fail(ERR_INPUT, "step: token %u: id %u, the vocabulary has %u", i, input->token[i],
                    executor->config->vocabulary);
    if (input->kv_slot[i] >= options->max_requests)
        return fail(ERR_INPUT, "step: token %u: KV slot %u, there are %u", i, input->kv_slot[i],
                    options->max_requests);
    if (input->position[i] >= options->max_length)
        return fail(ERR_INPUT, "step: token %u: position %u, a request has room for %u", i,
                    input->position[i], options->max_length);
    return OK;
}

/* A decoder's request looks at a source that has been encoded. */
static Status start_source_span(Executor *executor, const StepInput *input, uint32_t i, Span *span)
{
    uint32_t source = input->source_slot != NULL ? input->source_slot[i] : input->kv_slot[i];
    if (source >= executor->options.max_requests || executor->source_length[source] == 0)
        return fail(ERR_INPUT, "step: token %u: slot %u holds no encoded source", i, source);
    *span = (Span){
        .kv_slot = source, .first_token = i, .tokens = 1, .keys = executor->source_length[source]};
    return OK;
}

/* Token I begins a request's part of the step: it must go on where the KV slot ends, and a source
 * begins at 0. */
static Status start_span(Executor *executor, const StepInput *input, uint32_t i, uint32_t n_spans)
{
    uint32_t slot = input->kv_slot[i];
    uint32_t expected = input->stack == STACK_ENCODER ? 0 : executor->kv_length[slot];
    if (executor->kv_seen[slot] == executor->step_number)
        return fail(ERR_INPUT, "step: token %u: KV slot %u appears twice", i, slot);
    if (input->position[i] != expected)
        return fail(ERR_INPUT, "step: token %u: position %u, KV slot %u goes on at %u", i,
                    input->position[i], slot, expected);
    executor->kv_seen[slot] = executor->step_number;
    executor->forward.host.spans[n_spans] = (Span){.kv_slot = slot,
                                                   .first_token = i,
                                                   .tokens = 1,
                                                   .position = input->position[i],
                                                   .keys = input->position[i] + 1};
    if (input->stack == STACK_DECODER && model_is_encoder_decoder(executor->config))
        return start_source_span(executor, input, i, &executor->forward.host.source_spans[n_spans]);
    return OK;
}

/* The row of the position table for each token: padding has row 0 and does not count. */
static void place_tokens(const Executor *executor, const StepInput *input, uint32_t n_spans)
{
    const ForwardHost *host = &executor->forward.host;
    for (uint32_t i = 0; model_adds_positions(executor->config) && i < n_spans; i++) {
        const Span *span = &host->spans[i];
        uint32_t padding = input->stack == STACK_ENCODER ? 0 : executor->kv_padding[span->kv_slot];
        for (uint32_t t = 0; t < span->tokens; t++) {
            bool is_padding = input->token[span->first_token + t] == executor->config->pad;
            padding += is_padding;
            host->places[span->first_token + t] = is_padding ? 0 : span->position + t + 1 - padding;
        }
    }
}

static void note_lengths(Executor *executor, const StepInput *input, uint32_t n_spans)
{
    for (uint32_t i = 0; i < n_spans; i++) {
        const Span *span = &executor->forward.host.spans[i];
        if (input->stack == STACK_ENCODER) {
            executor->source_length[span->kv_slot] = span->tokens;
            continue;
        }
        executor->kv_length[span->kv_slot] += span->tokens;
        for (uint32_t t = 0; t < span->tokens; t++)
            executor->kv_padding[span->kv_slot] +=
                input->token[span->first_token + t] == executor->config->pad;
    }
}

/* Cuts the step into one span per request, checking every token. */
static Status make_spans(Executor *executor, const StepInput *input, uint32_t *n_spans)
{
    if (input->tokens == 0 || input->tokens > executor->options.max_tokens)
        return fail(ERR_INPUT, "step: %u tokens, allowed are 1 to %u", input->tokens,
                    executor->options.max_tokens);
    if (input->stack == STACK_ENCODER && !model_is_encoder_decoder(executor->config))
        return fail(ERR_INPUT, "step: the model has no encoder");
    const ForwardHost *host = &executor->forward.host;
    uint32_t n = 0;
    executor->step_number++;
    for (uint32_t i = 0; i < input->tokens; i++) {
        TRY(check_token(executor, input, i));
        if (i == 0 || input->kv_slot[i] != input->kv_slot[i - 1]) {
            TRY(start_span(executor, input, i, n++));
            continue;
        }
        if (input->position[i] != input->position[i - 1] + 1)
            return fail(ERR_INPUT, "step: token %u: position %u after %u", i, input->position[i],
                        input->position[i - 1]);
        host->spans[n - 1].tokens++;
        host->spans[n - 1].keys++;
        host->source_spans[n - 1].tokens++;
    }
    *n_spans = n;
    return OK;
}

/* True when the experts of one token are in range and differ: what is nearly always so is found
 * without a second look, since all that a GPU does meanwhile is to wait. */
static bool is_plainly_right(Executor *executor, const TraceLayer *layer, const uint16_t *experts)
{
    uint32_t check = ++executor->n_checks;
    bool right = true;
    for (uint32_t slot = 0; slot < layer->top_k; slot++) {
        bool there = experts[slot] < layer->experts;
        uint32_t expert = there ? experts[slot] : 0;
        right = right && there && executor->forced_seen[expert] != check;
        executor->forced_seen[expert] = check;
    }
    return right;
}

/* The experts of one token are in range and differ, or are dropped. */
static Status check_forced_token(const TraceLayer *layer, uint32_t token, const uint16_t *experts)
{
    for (uint32_t slot = 0; slot < layer->top_k; slot++) {
        if (experts[slot] == EXPERT_DROPPED)
            continue;
        if (experts[slot] >= layer->experts)
            return fail(ERR_INPUT,
                        "step: forced routing: layer %u: token %u: expert %u, the layer "
                        "has %u",
                        layer->layer, token, experts[slot], layer->experts);
        for (uint32_t other = 0; other < slot; other++)
            if (experts[other] == experts[slot])
                return fail(ERR_INPUT, "step: forced routing: layer %u: token %u: expert %u twice",
                            layer->layer, token, experts[slot]);
    }
    return OK;
}

static Status lacks_future(const char *key, const char *name)
{
    return fail(ERR_PLAN,
                "%s: %s needs the future: run it with forced routing (--routing trace:FILE)", key,
                name);
}

Status executor_check_future(const Executor *executor, const StepInput *input)
{
    const ExpertBuffer *decisions = executor->forward.slots.decisions;
    const Plan *plan = &executor->plan;
    if (buffer_needs_future(decisions) && (input == NULL || input->next_use == NULL))
        return lacks_future("buffer.evict", plan->buffer.evict);
    if (buffer_needs_coming(decisions) && (input == NULL || input->coming == NULL))
        return lacks_future("prefetch.predictor", plan->prefetch.predictor);
    return OK;
}

static Status check_forced(Executor *executor, const StepInput *input)
{
    const uint16_t *experts = input->forced_experts;
    bool known = experts == NULL || input->forced_known;
    for (uint32_t i = 0; !known && i < executor->config->n_moe_layers; i++) {
        const TraceLayer *layer = &executor->trace_layers[i];
        if (layer->stack != input->stack)
            continue;
        for (uint32_t token = 0; token < input->tokens; token++, experts += layer->top_k)
            if (!is_plainly_right(executor, layer, experts))
                TRY(check_forced_token(layer, token, experts));
    }
    return executor_check_future(executor, input);
}

Status executor_step(Executor *executor, const StepInput *input, StepOutput *output)
{
    uint32_t n_spans = 0;
    TRY(make_spans(executor, input, &n_spans));
    TRY(check_forced(executor, input));
    if (executor->forward.signals.needs.requests && input->request == NULL)
        return fail(ERR_INPUT, "step: the plan decides by the requests of the tokens, which are "
                               "not given");
    if (input->logits > executor->options.logits)
        return fail(ERR_INPUT, "step: logits are wanted that the executor was not opened for");
    if (input->stack == STACK_ENCODER && input->logits != LOGITS_NONE)
        return fail(ERR_INPUT, "step: an encoder has no logits");
    place_tokens(executor, input, n_spans);
    uint64_t wall_ns = clock_wall_ns();
    uint64_t start_ns = clock_ns();
    TRY(forward_step(&executor->forward, input, n_spans, output));
    output->start_ns = wall_ns;
    output->duration_ns = clock_ns() - start_ns;
    note_lengths(executor, input, n_spans);
    return OK;
}

void executor_release(Executor *executor, uint32_t kv_slot)
{
    executor->kv_length[kv_slot] = 0;
    executor->kv_padding[kv_slot] = 0;
    executor->source_length[kv_slot] = 0;
}

void executor_rewind(Executor *executor, uint32_t kv_slot, uint32_t length)
{
    assert(length <= executor->kv_length[kv_slot]);
    executor->kv_length[kv_slot] = length;
}

/* Copies LENGTH positions of one layer's cache. */
static Status copy_rows(const Forward *f, void *cache, size_t stride, uint32_t from, uint32_t to,
                        uint32_t length)
{
    size_t row = stride * f->sizes.cache;
    size_t slot = f->max_length * row;
    return f->backend->move(f->device, (char *)cache + to * slot, (char *)cache + from * slot,
                            length * row);
}

Status executor_copy_slot(Executor *executor, uint32_t from, uint32_t to)
{
    const Forward *f = &executor->forward;
    const ModelConfig *config = executor->config;
    uint32_t length = executor->kv_length[from];
    for (uint32_t layer = config->n_encoder_layers; layer < config->n_layers; layer++) {
        CacheLayer cache = forward_cache(f, layer);
        TRY(copy_rows(f, cache.keys, cache.key_stride, from, to, length));
        if (cache.values != cache.keys)
            TRY(copy_rows(f, cache.values, cache.value_stride, from, to, length));
    }
    executor->kv_length[to] = length;
    executor->kv_padding[to] = executor->kv_padding[from];
    return OK;
}
