#include "exec/executor.h"

#include <stdio.h>
#include <string.h>

#include "exec/executor_state.h"
#include "exec/gating.h"
#include "exec/layout.h"

/* MoE layers of the longer stack that lie ahead of its first. */
static uint32_t most_ahead(const ModelConfig *config)
{
    uint32_t layers[2] = {0};
    for (uint32_t i = 0; i < config->n_layers; i++)
        layers[config->layers[i].stack] += config->layers[i].moe;
    uint32_t most = layers[0] > layers[1] ? layers[0] : layers[1];
    return most > 0 ? most - 1 : 0;
}

static Status check_options(const ModelConfig *config, const ExecutorOptions *options)
{
    if (options->max_requests == 0 || options->max_length == 0 || options->max_tokens == 0)
        return fail(ERR_INPUT, "executor: requests, their length and the tokens of a step must be "
                               "at least 1");
    if (options->max_length > config->max_positions)
        return fail(ERR_INPUT, "executor: requests of %u tokens, the model allows %u",
                    options->max_length, config->max_positions);
    uint32_t ahead = most_ahead(config);
    if (options->predictions > ahead)
        return fail(ERR_INPUT,
                    "executor: predictions %u MoE layers ahead, the model has room for %u",
                    options->predictions, ahead);
    if (options->max_tokens > TRACE_MAX_TOKENS)
        return fail(ERR_INPUT, "executor: %u tokens a step, allowed are %u", options->max_tokens,
                    TRACE_MAX_TOKENS);
    return OK;
}

static const char *const ROUTER_NAMES[] = {
    [ROUTER_SOFTMAX] = "softmax",
    [ROUTER_SIGMOID] = "sigmoid",
    [ROUTER_TOP_K_SOFTMAX] = "top_k_softmax",
    [ROUTER_SPARSEMIXER] = "sparsemixer",
};

static void describe_gate(const RouterConfig *router, char *text, size_t bytes)
{
    int used = snprintf(text, bytes, "{\"score\":\"%s\",\"norm_topk\":%s",
                        ROUTER_NAMES[router->kind], router->normalise ? "true" : "false");
    if (router->scale != 1)
        used +=
            snprintf(text + used, bytes - (size_t)used, ",\"scale\":%.9g", (double)router->scale);
    if (router->groups > 1)
        used += snprintf(text + used, bytes - (size_t)used, ",\"groups\":%u,\"top_groups\":%u",
                         router->groups, router->top_groups);
    snprintf(text + used, bytes - (size_t)used, "}");
}

static void describe_layer(const Checkpoint *checkpoint, uint32_t layer, TraceLayer *out)
{
    const ModelConfig *config = checkpoint_config(checkpoint);
    const LayerConfig *shape = &config->layers[layer];
    *out = (TraceLayer){.layer = layer,
                        .stack = shape->stack,
                        .experts = shape->experts,
                        .top_k = shape->top_k,
                        .shared_experts = shape->shared_experts,
                        .d_model = config->d_model,
                        .d_ff = shape->ffn.d_ff,
                        .expert_bytes = checkpoint_expert_bytes(checkpoint, layer)};
    checkpoint_moe_name(checkpoint, layer, out->name);
    describe_gate(&shape->router, out->gate, sizeof out->gate);
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
    executor->kv_length = lay_out(arena, options->max_requests, sizeof *executor->kv_length);
    executor->kv_padding = lay_out(arena, options->max_requests, sizeof *executor->kv_padding);
    executor->source_length =
        lay_out(arena, options->max_requests, sizeof *executor->source_length);
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
    weights_lay_out(&forward->weights, executor->config,
                    forward->backend->weight_bytes(forward->device), forward->max_length, arena);
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
        return fail_in(status,
                       "executor: no memory: weights want %zu bytes, expert slots %zu, the KV "
                       "cache of %u requests of %u tokens %zu, activations of %u tokens a step %zu",
                       sizes.weights, sizes.slots, options->max_requests, options->max_length,
                       sizes.cache, options->max_tokens, sizes.activations);
    executor->device.base = memory;
    lay_out_device(executor);
    return OK;
}

static Status take_pinned_memory(Executor *executor)
{
    Forward *forward = &executor->forward;
    void *memory;
    forward_lay_out_pinned(forward, &executor->pinned);
    if (executor->pinned.overflow)
        return fail(ERR_MEMORY, "executor: the host memory wanted does not fit in an address");
    TRY(forward->backend->allocate_host(forward->device, executor->pinned.capacity, &memory));
    executor->pinned.base = memory;
    forward_lay_out_pinned(forward, &executor->pinned);
    return OK;
}

static Status open_device(Executor *executor)
{
    const ExecutorOptions *options = &executor->options;
    Forward *forward = &executor->forward;
    const Plan *plan = &executor->plan;
    const DeviceOptions device = {
        .config = executor->config,
        .compute = options->compute,
        .threads = options->threads,
        .max_requests = options->max_requests,
        .max_length = options->max_length,
        .max_tokens = options->max_tokens,
        .max_loads = forward->slots.max_loads,
        .max_stamps = forward_max_stamps(executor->config) + 1,
        .capacity = plan->buffer.on ? 0 : gating_capacity(plan, options->max_tokens),
        .mask = plan->gating.mode == GATING_STATIC && plan->gating.dispatch == DISPATCH_MASK};
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
    forward->signals.needs = plan_needs_signals(&executor->plan);
    forward->ahead.recorded = options->predictions;
    if (forward->signals.needs.distance <= most_ahead(executor->config))
        forward->ahead.decided = forward->signals.needs.distance;
    forward->slots.backend = forward->backend;
    forward->slots.config = executor->config;
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
    TRY(expert_slots_open(&forward->slots, executor->options.max_tokens));
    lay_out_host(executor);
    TRY(arena_commit(&executor->host, "executor: host arrays of a step"));
    lay_out_host(executor);
    TRY(open_device(executor));
    TRY(take_device_memory(executor));
    TRY(take_pinned_memory(executor));
    TRY(weights_store(&forward->weights, checkpoint, forward->backend, forward->device,
                      forward->max_length));
    return expert_slots_fill(&forward->slots);
}

Status executor_open(const Checkpoint *checkpoint, const ExecutorOptions *options, Executor **out)
{
    Executor *executor;
    if (options->plan->batching.mode != BATCHING_AS_RECORDED)
        return fail(ERR_UNSUPPORTED,
                    "plan: batching.mode: \"%s\" regroups the tokens of a trace, which only "
                    "simulate and sweep do",
                    plan_batching_name(options->plan->batching.mode));
    TRY(mem_new(&executor, 1, sizeof *executor, "executor"));
    executor->plan = plan_share(options->plan);
    executor->options = *options;
    executor->options.plan = &executor->plan;
    executor->opened_slots = executor->plan.buffer.slots;
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
    plan_free(&executor->plan);
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

uint64_t executor_device_bytes(const Executor *executor)
{
    return executor->forward.backend->memory_bytes(executor->forward.device);
}

Status executor_set_slots(Executor *executor, uint32_t slots)
{
    Plan *plan = &executor->plan;
    uint32_t before = plan->buffer.slots;
    if (!plan->buffer.on || before == 0)
        return fail(ERR_INPUT, "executor: the plan's buffer has no number of slots to change");
    if (slots == 0 || slots > executor->opened_slots)
        return fail(ERR_INPUT, "executor: %u slots, there is memory for 1 to %u", slots,
                    executor->opened_slots);
    plan->buffer.slots = slots;
    Status status = expert_slots_restart(&executor->forward.slots);
    if (status != OK)
        plan->buffer.slots = before;
    return status;
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
    const ExpertBuffer *decisions = executor->forward.slots.decisions;
    return buffer_needs_future(decisions) || buffer_needs_coming(decisions);
}

Status executor_find_compute(const char *name, ComputeType *compute)
{
    *compute = COMPUTE_DEFAULT;
    if (name == NULL)
        return OK;
    if (strcmp(name, "f32") == 0)
        *compute = COMPUTE_F32;
    else if (strcmp(name, "bf16") == 0)
        *compute = COMPUTE_BF16;
    else
        return fail(ERR_USAGE, "--compute %s: f32 or bf16", name);
    return OK;
}
