#include "cli/bench_steps.h"

#include <string.h>

#include "base/clock.h"
#include "base/statistics.h"
#include "base/layout.h"
#include "exec/tokens.h"

static void lay_out_bench(StepBench *bench)
{
    Arena *arena = &bench->arena;
    size_t tokens = bench->setup.max_tokens;
    bench->token = lay_out(arena, tokens, sizeof *bench->token);
    bench->slot = lay_out(arena, tokens, sizeof *bench->slot);
    bench->position = lay_out(arena, tokens, sizeof *bench->position);
    if (bench->routing != NULL)
        bench->forced =
            lay_out(arena, times(tokens, model_routed(bench->config)), sizeof *bench->forced);
}

static Status options_of(const StepBenchSetup *setup, ExecutorOptions *options)
{
    *options = (ExecutorOptions){.plan = setup->plan,
                                 .others = setup->others,
                                 .n_others = setup->n_others,
                                 .max_requests = setup->max_requests,
                                 .max_length = setup->max_length,
                                 .max_tokens = setup->max_tokens,
                                 .logits = LOGITS_LAST};
    return device_input_apply(setup->device, options);
}

Status step_bench_memory(const StepBench *bench, const StepBenchSetup *setup, uint64_t *bytes)
{
    ExecutorOptions options;
    ExecutorMemory memory;
    TRY(options_of(setup, &options));
    TRY(executor_memory(bench->checkpoint, &options, &memory));
    *bytes = memory.weights + memory.slots + memory.cache + memory.activations + memory.own;
    return OK;
}

static Status open_all(StepBench *bench)
{
    const StepBenchSetup *setup = &bench->setup;
    ExecutorOptions options;
    uint32_t n_layers;
    TRY(options_of(setup, &options));
    TRY(checkpoint_open_model(setup->model, &bench->checkpoint));
    bench->config = checkpoint_config(bench->checkpoint);
    TRY(executor_open(bench->checkpoint, &options, &bench->executor));
    const TraceLayer *layers = executor_layers(bench->executor, &n_layers);
    TRY(routing_source_open(setup->routing, layers, n_layers, setup->plan->seed, &bench->routing));
    lay_out_bench(bench);
    TRY(arena_commit(&bench->arena, "benchmark: tokens of a step"));
    lay_out_bench(bench);
    return OK;
}

Status step_bench_open(const StepBenchSetup *setup, StepBench *bench)
{
    uint64_t start_ns = clock_ns();
    *bench = (StepBench){.setup = *setup};
    Status status = open_all(bench);
    bench->open_ns = clock_ns() - start_ns;
    if (status != OK)
        step_bench_close(bench);
    return status;
}

void step_bench_close(StepBench *bench)
{
    routing_source_close(bench->routing);
    executor_close(bench->executor);
    checkpoint_close(bench->checkpoint);
    arena_free(&bench->arena);
    *bench = (StepBench){0};
}

Status step_bench_run(StepBench *bench, const StepBenchStep *step, StepOutput *output, double *ns)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < step->requests; r++)
        for (uint32_t t = 0; t < step->tokens; t++, n++) {
            bench->slot[n] = step->first_request + r;
            bench->position[n] = step->position + t;
            bench->token[n] = tokens_draw(0, bench->slot[n], bench->position[n],
                                          bench->config->vocabulary, bench->config->pad);
        }
    if (bench->routing != NULL)
        routing_source_fill(bench->routing, step->stack, n, bench->slot, bench->position,
                            bench->forced);
    const StepInput input = {.stack = step->stack,
                             .tokens = n,
                             .token = bench->token,
                             .kv_slot = bench->slot,
                             .position = bench->position,
                             .logits = step->logits,
                             .greedy = step->logits == LOGITS_LAST,
                             .timing = step->timing,
                             .forced_experts = bench->forced};
    uint64_t start_ns = clock_ns();
    TRY(executor_step(bench->executor, &input, output));
    *ns = (double)(clock_ns() - start_ns);
    return OK;
}

static Status fill_stack(StepBench *bench, Stack stack, uint32_t requests, uint32_t context)
{
    uint32_t at_once = bench->setup.max_tokens / context;
    for (uint32_t first = 0; first < requests; first += at_once) {
        StepOutput output;
        double ns;
        uint32_t left = requests - first;
        const StepBenchStep step = {.stack = stack,
                                    .first_request = first,
                                    .requests = left < at_once ? left : at_once,
                                    .tokens = context};
        TRY(step_bench_run(bench, &step, &output, &ns));
    }
    return OK;
}

Status step_bench_fill(StepBench *bench, uint32_t requests, uint32_t context)
{
    if (model_is_encoder_decoder(bench->config))
        TRY(fill_stack(bench, STACK_ENCODER, requests, context));
    return fill_stack(bench, STACK_DECODER, requests, context);
}

void step_bench_empty(StepBench *bench)
{
    for (uint32_t i = 0; i < bench->setup.max_requests; i++)
        executor_release(bench->executor, i);
}

double step_bench_element_bytes(const StepBench *bench)
{
    bool is_cuda = strcmp(bench->setup.device->name, "cuda") == 0;
    bool is_f32 =
        bench->setup.device->compute != NULL && strcmp(bench->setup.device->compute, "f32") == 0;
    return is_cuda && !is_f32 ? 2 : 4;
}

StepTimes step_times(double *ns, uint32_t n)
{
    double median_ns = median_f64(ns, n);
    return (StepTimes){
        .median_ns = median_ns, .least_ns = ns[0], .most_ns = ns[n - 1], .repeats = n};
}

void step_ops_add(double ops_ns[OPS], const StepOutput *output)
{
    for (size_t i = 0; i < output->n_timing; i++)
        if (output->timing[i].op < OPS)
            ops_ns[output->timing[i].op] += (double)output->timing[i].duration_ns;
}
