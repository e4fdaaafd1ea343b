#include "exec/executor.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "exec/forward.h"
#include "exec/layout.h"

struct Executor {
    Plan plan;
    const ModelConfig *config;
    Forward forward;
    ExecutorOptions options;
    Arena tables; /* trace_layers, layer weights, slots: known before the device is open */
    Arena device; /* pieces of the device's memory; not ours to free */
    Arena host;
    TraceLayer *trace_layers; /* [n_moe_layers] */
    Span *spans;              /* [min(max_tokens, max_requests)] */
    uint32_t *kv_length;      /* [max_requests] positions that each slot holds */
    uint32_t *kv_seen; /* [max_requests] number of the step that last used the slot, plus 1 */
    uint32_t step_number;
};

static Status check_options(const ModelConfig *config, const ExecutorOptions *options)
{
    if (options->max_requests == 0 || options->max_length == 0 || options->max_tokens == 0)
        return fail(ERR_INPUT, "executor: requests, their length and the tokens of a step must be "
                               "at least 1");
    if (options->max_length > config->max_positions)
        return fail(ERR_INPUT, "executor: requests of %u tokens, the model allows %u",
                    options->max_length, config->max_positions);
    if (options->max_tokens > TRACE_MAX_TOKENS)
        return fail(ERR_INPUT, "executor: %u tokens a step, allowed are %u", options->max_tokens,
                    TRACE_MAX_TOKENS);
    return OK;
}

static void describe_layer(const Checkpoint *checkpoint, uint32_t layer, TraceLayer *out)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    const LayerConfig *shape = &config->layers[layer];
    *out = (TraceLayer){.layer = layer,
                        .stack = STACK_DECODER,
                        .experts = shape->experts,
                        .top_k = shape->top_k,
                        .d_model = config->d_model,
                        .d_ff = shape->d_ff,
                        .expert_bytes = checkpoint_expert_bytes(checkpoint, layer)};
    snprintf(out->name, sizeof out->name, "model.layers.%u.mlp", layer);
    snprintf(out->gate, sizeof out->gate, "{\"score\":\"softmax\",\"norm_topk\":%s}",
             shape->norm_top_k ? "true" : "false");
}

static void lay_out_tables(Executor *executor)
{
    const ModelConfig *config = executor->config;
    Arena *arena = &executor->tables;
    executor->trace_layers = lay_out(arena, config->n_moe_layers, sizeof *executor->trace_layers);
    executor->forward.weights.layers = lay_out(arena, config->n_layers, sizeof(LayerWeights));
    executor->forward.slots.layers = lay_out(arena, config->n_moe_layers, sizeof(LayerSlots));
}

static Status make_tables(Executor *executor, const Checkpoint *checkpoint)
{
    const ModelConfig *config = executor->config;
    lay_out_tables(executor);
    TRY(arena_commit(&executor->tables, "executor: tables of layers"));
    lay_out_tables(executor);
    uint32_t n = 0;
    for (uint32_t i = 0; i < config->n_layers; i++)
        if (config->layers[i].moe)
            describe_layer(checkpoint, i, &executor->trace_layers[n++]);
    return OK;
}

static uint32_t logit_rows(const ExecutorOptions *options)
{
    if (options->logits == LOGITS_NONE)
        return 0;
    return options->logits == LOGITS_LAST && options->max_requests < options->max_tokens
               ? options->max_requests
               : options->max_tokens;
}

static void lay_out_host(Executor *executor)
{
    const ExecutorOptions *options = &executor->options;
    Arena *arena = &executor->host;
    executor->spans = lay_out(arena, options->max_tokens, sizeof *executor->spans);
    executor->kv_length = lay_out(arena, options->max_requests, sizeof *executor->kv_length);
    executor->kv_seen = lay_out(arena, options->max_requests, sizeof *executor->kv_seen);
    forward_lay_out_host(&executor->forward, arena);
    expert_slots_lay_out_host(&executor->forward.slots, options->max_tokens, arena);
}

/* Bytes of device memory by what they are for. */
typedef struct {
    size_t weights;
    size_t slots;
    size_t cache;
    size_t activations;
} DeviceSizes;

/* Returns what ARENA has grown by since *MARK, and moves *MARK. */
static size_t grown(const Arena *arena, size_t *mark)
{
    size_t bytes = arena->capacity - *mark;
    *mark = arena->capacity;
    return bytes;
}

static DeviceSizes lay_out_device(Executor *executor)
{
    Forward *forward = &executor->forward;
    Arena *arena = &executor->device;
    size_t mark = 0;
    DeviceSizes sizes;
    weights_lay_out(&forward->weights, executor->config, forward->backend->weight_bytes,
                    forward->max_length, arena);
    sizes.weights = grown(arena, &mark);
    expert_slots_lay_out_device(&forward->slots, arena);
    sizes.slots = grown(arena, &mark);
    forward_lay_out_cache(forward, arena);
    sizes.cache = grown(arena, &mark);
    forward_lay_out_activations(forward, arena);
    sizes.activations = grown(arena, &mark);
    return sizes;
}

static Status take_device_memory(Executor *executor)
{
    const ExecutorOptions *options = &executor->options;
    Forward *forward = &executor->forward;
    DeviceSizes sizes = lay_out_device(executor);
    if (executor->device.overflow)
        return fail(ERR_MEMORY, "executor: the device memory wanted does not fit in an address");
    void *memory;
    Status status = forward->backend->allocate(forward->device, executor->device.capacity, &memory);
    if (status != OK)
        return fail(status,
                    "executor: no memory: weights want %zu bytes, expert slots %zu, the KV cache "
                    "of %u requests of %u tokens %zu, activations of %u tokens a step %zu",
                    sizes.weights, sizes.slots, options->max_requests, options->max_length,
                    sizes.cache, options->max_tokens, sizes.activations);
    executor->device.base = memory;
    lay_out_device(executor);
    return OK;
}

static Status open_device(Executor *executor)
{
    const ExecutorOptions *options = &executor->options;
    Forward *forward = &executor->forward;
    const DeviceOptions device = {.config = executor->config,
                                  .threads = options->threads,
                                  .max_requests = options->max_requests,
                                  .max_length = options->max_length,
                                  .max_tokens = options->max_tokens,
                                  .mask = executor->plan.gating.mode == GATING_STATIC &&
                                          executor->plan.gating.dispatch == DISPATCH_MASK};
    TRY(forward->backend->open(&device, &forward->device));
    forward->slots.device = forward->device;
    return OK;
}

static void prepare_forward(Executor *executor, const Checkpoint *checkpoint)
{
    const ExecutorOptions *options = &executor->options;
    Forward *forward = &executor->forward;
    forward->config = executor->config;
    forward->plan = &executor->plan;
    forward->max_requests = options->max_requests;
    forward->max_length = options->max_length;
    forward->max_tokens = options->max_tokens;
    forward->max_logits = logit_rows(options);
    forward->slots.backend = forward->backend;
    forward->slots.tensors = checkpoint_tensors(checkpoint);
    forward->slots.trace_layers = executor->trace_layers;
    forward->slots.n_layers = executor->config->n_moe_layers;
    forward->slots.plan = &executor->plan;
}

static Status open_all(Executor *executor, const Checkpoint *checkpoint)
{
    Forward *forward = &executor->forward;
    TRY(check_options(executor->config, &executor->options));
    TRY(backend_find(executor->options.device, &forward->backend));
    TRY(make_tables(executor, checkpoint));
    prepare_forward(executor, checkpoint);
    TRY(expert_slots_open(&forward->slots));
    lay_out_host(executor);
    TRY(arena_commit(&executor->host, "executor: host arrays of a step"));
    lay_out_host(executor);
    TRY(open_device(executor));
    TRY(take_device_memory(executor));
    TRY(weights_store(&forward->weights, checkpoint, forward->backend, forward->device,
                      forward->max_length));
    return expert_slots_fill(&forward->slots);
}

Status executor_open(const Checkpoint *checkpoint, const ExecutorOptions *options, Executor **out)
{
    Executor *executor;
    TRY(mem_new(&executor, 1, sizeof *executor, "executor"));
    executor->plan = *options->plan;
    executor->options = *options;
    executor->options.plan = &executor->plan;
    executor->config = checkpoint_config(checkpoint);
    Status status = open_all(executor, checkpoint);
    if (status != OK) {
        executor_close(executor);
        return status;
    }
    *out = executor;
    return OK;
}

void executor_close(Executor *executor)
{
    if (executor == NULL)
        return;
    Forward *forward = &executor->forward;
    if (forward->device != NULL)
        forward->backend->close(forward->device);
    expert_slots_close(&forward->slots);
    arena_free(&executor->host);
    arena_free(&executor->tables);
    mem_free(executor);
}

const TraceLayer *executor_layers(const Executor *executor, uint32_t *count)
{
    *count = executor->config->n_moe_layers;
    return executor->trace_layers;
}

const char *executor_device(const Executor *executor)
{
    return executor->forward.backend->describe(executor->forward.device);
}

uint64_t executor_slot_bytes(const Executor *executor)
{
    return executor->forward.slots.slot_bytes;
}

const Plan *executor_plan(const Executor *executor)
{
    return &executor->plan;
}

const ExecutorOptions *executor_options(const Executor *executor)
{
    return &executor->options;
}

bool executor_needs_future(const Executor *executor)
{
    return buffer_needs_future(executor->forward.slots.decisions);
}

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

/* Token I begins a request's part of the step: it must go on where the KV slot ends. */
static Status start_span(Executor *executor, const StepInput *input, uint32_t i, uint32_t n_spans)
{
    uint32_t slot = input->kv_slot[i];
    if (executor->kv_seen[slot] == executor->step_number)
        return fail(ERR_INPUT, "step: token %u: KV slot %u appears twice", i, slot);
    if (input->position[i] != executor->kv_length[slot])
        return fail(ERR_INPUT, "step: token %u: position %u, KV slot %u goes on at %u", i,
                    input->position[i], slot, executor->kv_length[slot]);
    executor->kv_seen[slot] = executor->step_number;
    executor->spans[n_spans] =
        (Span){.kv_slot = slot, .first_token = i, .tokens = 1, .position = input->position[i]};
    return OK;
}

/* Cuts the step into one span per request, checking every token. */
static Status make_spans(Executor *executor, const StepInput *input, uint32_t *n_spans)
{
    if (input->tokens == 0 || input->tokens > executor->options.max_tokens)
        return fail(ERR_INPUT, "step: %u tokens, allowed are 1 to %u", input->tokens,
                    executor->options.max_tokens);
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
        executor->spans[n - 1].tokens++;
    }
    *n_spans = n;
    return OK;
}

/* The experts of one token are in range and differ. */
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

static Status check_forced(const Executor *executor, const StepInput *input)
{
    const uint16_t *experts = input->forced_experts;
    for (uint32_t i = 0; experts != NULL && i < executor->config->n_moe_layers; i++) {
        const TraceLayer *layer = &executor->trace_layers[i];
        for (uint32_t token = 0; token < input->tokens; token++, experts += layer->top_k)
            TRY(check_forced_token(layer, token, experts));
    }
    if (input->next_use == NULL && executor_needs_future(executor))
        return fail(ERR_UNSUPPORTED,
                    "buffer.evict: %s needs the future: run it with forced "
                    "routing (--routing trace:FILE)",
                    executor->plan.buffer.evict);
    return OK;
}

Status executor_step(Executor *executor, const StepInput *input, StepOutput *output)
{
    uint32_t n_spans = 0;
    TRY(make_spans(executor, input, &n_spans));
    TRY(check_forced(executor, input));
    if (input->logits > executor->options.logits)
        return fail(ERR_INPUT, "step: logits are wanted that the executor was not opened for");
    uint64_t wall_ns = clock_wall_ns();
    uint64_t start_ns = clock_ns();
    TRY(forward_step(&executor->forward, input, executor->spans, n_spans, output));
    output->start_ns = wall_ns;
    output->duration_ns = clock_ns() - start_ns;
    for (uint32_t i = 0; i < n_spans; i++)
        executor->kv_length[executor->spans[i].kv_slot] += executor->spans[i].tokens;
    return OK;
}

void executor_release(Executor *executor, uint32_t kv_slot)
{
    executor->kv_length[kv_slot] = 0;
}
