/* What an executor works in: sizes are added up, then taken, by one function each. */
#include "exec/executor_state.h"
#include "base/layout.h"

/* What lies in host memory whatever the plan. */
static void lay_out_host(Executor *executor)
{
    const ExecutorOptions *options = &executor->options;
    Arena *arena = &executor->host;
    executor->kv_length = lay_out(arena, options->max_requests, sizeof *executor->kv_length);
    executor->kv_padding = lay_out(arena, options->max_requests, sizeof *executor->kv_padding);
    executor->source_length =
        lay_out(arena, options->max_requests, sizeof *executor->source_length);
    executor->kv_seen = lay_out(arena, options->max_requests, sizeof *executor->kv_seen);
    executor->forced_seen =
        lay_out(arena, executor->config->max_experts, sizeof *executor->forced_seen);
    forward_lay_out_host(&executor->forward, arena);
    expert_slots_lay_out_host(&executor->forward.slots, arena);
}

void executor_lay_out_deciding(Executor *executor, Arena *arena)
{
    forward_lay_out_signals(&executor->forward, arena);
    expert_slots_lay_out_deciding(&executor->forward.slots, arena);
}

Status executor_take_host(Executor *executor)
{
    lay_out_host(executor);
    TRY(arena_commit(&executor->host, "executor: host arrays of a step"));
    lay_out_host(executor);
    executor_lay_out_deciding(executor, &executor->deciding);
    TRY(arena_commit(&executor->deciding, "executor: host arrays of the decisions"));
    executor_lay_out_deciding(executor, &executor->deciding);
    return OK;
}

DeviceOptions executor_device_options(const Executor *executor)
{
    const ExecutorOptions *options = &executor->options;
    return (DeviceOptions){.config = executor->config,
                           .compute = options->compute,
                           .threads = options->threads,
                           .max_requests = options->max_requests,
                           .max_length = options->max_length,
                           .max_tokens = options->max_tokens,
                           .max_loads = executor->forward.slots.decisions != NULL
                                            ? expert_slots_max_loads(&executor->forward.slots)
                                            : 0,
                           .max_stamps = forward_max_stamps(executor->config),
                           .capacity = executor->laid_out.capacity,
                           .mask = executor->laid_out.mask,
                           .host = executor->laid_out.host};
}

/* Returns what ARENA has grown by since *MARK, and moves *MARK. */
static size_t grown(const Arena *arena, size_t *mark)
{
    size_t bytes = arena->capacity - *mark;
    *mark = arena->capacity;
    return bytes;
}

static ExecutorMemory lay_out_device(Executor *executor)
{
    Forward *forward = &executor->forward;
    Arena *arena = &executor->device;
    size_t mark = 0;
    ExecutorMemory sizes = {.own = forward->sizes.own};
    weights_lay_out(&forward->weights, executor->config, forward->sizes.weight, forward->max_length,
                    arena);
    sizes.weights = grown(arena, &mark);
    expert_slots_lay_out_device(&forward->slots, arena);
    sizes.slots = grown(arena, &mark);
    forward_lay_out_cache(forward, arena);
    sizes.cache = grown(arena, &mark);
    forward_lay_out_activations(forward, arena);
    sizes.activations = grown(arena, &mark);
    return sizes;
}

/* Adds up; the sum is the arena's capacity. */
static Status reserve_device(Executor *executor, ExecutorMemory *sizes)
{
    *sizes = lay_out_device(executor);
    if (executor->device.overflow || sizes->own > SIZE_MAX - executor->device.capacity)
        return fail(ERR_MEMORY, "executor: the device memory wanted does not fit in an address");
    return OK;
}

Status executor_add_up(Executor *executor, ExecutorMemory *memory)
{
    TRY(reserve_device(executor, memory));
    forward_lay_out_pinned(&executor->forward, &executor->pinned);
    memory->pinned = executor->pinned.capacity;
    return OK;
}

Status executor_take_device(Executor *executor)
{
    const ExecutorOptions *options = &executor->options;
    Forward *forward = &executor->forward;
    ExecutorMemory sizes;
    void *memory;
    TRY(reserve_device(executor, &sizes));
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

Status executor_take_pinned(Executor *executor)
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
