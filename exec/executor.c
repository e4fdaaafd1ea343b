#include "exec/executor.h"

#include <stdio.h>
#include <string.h>

#include "exec/executor_state.h"
#include "base/layout.h"

static Status check_options(const ModelConfig *config, const ExecutorOptions *options)
{
    if (options->max_requests == 0 || options->max_length == 0 || options->max_tokens == 0)
        return fail(ERR_INPUT, "executor: requests, their length and the tokens of a step must be "
                               "at least 1");
    if (options->max_length > config->max_positions)
        return fail(ERR_INPUT, "executor: requests of %u tokens, the model allows %u",
                    options->max_length, config->max_positions);
    uint32_t ahead = executor_most_ahead(config);
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

/* What PLAN asks of the device, beside memory for its slots. */
static void widen_for(Executor *executor, const Plan *plan)
{
    PlanDemands *most = &executor->laid_out;
    PlanDemands demands = executor_demands(executor, plan);
    most->capacity = demands.capacity > most->capacity ? demands.capacity : most->capacity;
    most->mask = demands.mask || most->mask;
    most->host = demands.host || most->host;
    most->distance = demands.distance > most->distance ? demands.distance : most->distance;
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
    forward->ahead.recorded = options->predictions;
    forward->ahead.distances = executor->laid_out.distance > options->predictions
                                   ? executor->laid_out.distance
                                   : options->predictions;
    executor_decide_by(executor, &executor->plan);
    forward->slots.backend = forward->backend;
    forward->slots.config = executor->config;
    forward->slots.tensors = checkpoint_tensors(checkpoint);
    forward->slots.trace_layers = executor->trace_layers;
    forward->slots.n_layers = executor->config->n_moe_layers;
    forward->slots.max_tokens = options->max_tokens;
    forward->slots.plan = &executor->plan;
}

/* All that can be known before the device is open. */
static Status prepare(Executor *executor, const Checkpoint *checkpoint)
{
    const ExecutorOptions *options = &executor->options;
    Forward *forward = &executor->forward;
    TRY(check_options(executor->config, options));
    TRY(backend_find(options->device, &forward->backend));
    TRY(make_tables(executor, checkpoint));
    widen_for(executor, &executor->plan);
    for (size_t i = 0; i < options->n_others; i++)
        widen_for(executor, &options->others[i]);
    prepare_forward(executor, checkpoint);
    const DeviceOptions device = executor_device_options(executor);
    TRY(forward->backend->sizes(&device, &forward->sizes));
    forward->slots.weight_bytes = forward->sizes.weight;
    return expert_slots_open(&forward->slots, options->others, options->n_others);
}

static Status open_all(Executor *executor, const Checkpoint *checkpoint)
{
    Forward *forward = &executor->forward;
    TRY(prepare(executor, checkpoint));
    TRY(executor_take_host(executor));
    const DeviceOptions device = executor_device_options(executor);
    TRY(forward->backend->open(&device, &forward->device));
    forward->slots.device = forward->device;
    TRY(executor_take_device(executor));
    TRY(executor_take_pinned(executor));
    TRY(weights_store(&forward->weights, checkpoint, forward->backend, forward->device,
                      forward->sizes.weight, forward->max_length));
    TRY(expert_slots_fill(&forward->slots));
    return executor->options.warm_up ? executor_warm_up(executor) : OK;
}

/* An executor with its plans, and nothing else. */
static Status make_executor(const Checkpoint *checkpoint, const ExecutorOptions *options,
                            Executor **out)
{
    Executor *executor;
    TRY(executor_check_plan(options->plan));
    for (size_t i = 0; i < options->n_others; i++)
        TRY(executor_check_plan(&options->others[i]));
    TRY(mem_new(&executor, 1, sizeof *executor, "executor"));
    executor->plan = plan_share(options->plan);
    executor->options = *options;
    executor->options.plan = &executor->plan;
    executor->config = checkpoint_config(checkpoint);
    *out = executor;
    return OK;
}

Status executor_open(const Checkpoint *checkpoint, const ExecutorOptions *options, Executor **out)
{
    Executor *executor;
    TRY(make_executor(checkpoint, options, &executor));
    Status status = open_all(executor, checkpoint);
    if (status != OK) {
        executor_close(executor);
        return status;
    }
    executor->options.others = NULL;
    executor->options.n_others = 0;
    *out = executor;
    return OK;
}

Status executor_memory(const Checkpoint *checkpoint, const ExecutorOptions *options,
                       ExecutorMemory *memory)
{
    Executor *executor;
    TRY(make_executor(checkpoint, options, &executor));
    Status status = prepare(executor, checkpoint);
    if (status == OK)
        status = executor_add_up(executor, memory);
    executor_close(executor);
    return status;
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
    arena_free(&executor->deciding);
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

uint32_t executor_copied_tokens(const Executor *executor)
{
    size_t routed = model_stack_routed(executor->config, STACK_DECODER);
    size_t most = routed > 0 ? (LARGE_ROUTING - 1) / routed : executor->options.max_tokens;
    return most < executor->options.max_tokens ? (uint32_t)most : executor->options.max_tokens;
}

uint64_t executor_device_bytes(const Executor *executor)
{
    return executor->forward.backend->memory_bytes(executor->forward.device);
}

uint64_t executor_expert_slot_bytes(const Executor *executor, uint32_t moe_layer)
{
    return executor->forward.slots.layers[moe_layer].slot_stride;
}

Status executor_time_host(Executor *executor, uint64_t *ns)
{
    *ns = 0;
    return executor->laid_out.host && executor->config->n_moe_layers > 0
               ? expert_slots_time_host(&executor->forward.slots, ns)
               : OK;
}

Status executor_time_beside(Executor *executor, double *host, double *load)
{
    return expert_slots_time_beside(&executor->forward.slots, host, load);
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

const char *executor_compute_name(const char *device, ComputeType compute)
{
    bool is_cuda = strcmp(device, "cuda") == 0;
    return is_cuda && compute != COMPUTE_F32 ? "bf16" : "f32";
}
