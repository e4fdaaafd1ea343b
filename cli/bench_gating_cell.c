#include <stdio.h>

#include "base/memory.h"
#include "cli/bench_gating.h"
#include "exec/ffn_layout.h"
#include "exec/gating.h"

enum { WARM_UP = 2 };

static Plan plan_of(const GatingLoad *load, GatingBenchMode mode)
{
    Plan plan = plan_default();
    plan.gating.mode = mode == MODE_DYNAMIC ? GATING_DYNAMIC : GATING_STATIC;
    plan.gating.dispatch = mode == MODE_MASK ? DISPATCH_MASK : DISPATCH_PADDED;
    plan.gating.capacity_factor = load->capacity;
    return plan;
}

static StepBenchSetup setup_of(const GatingLoad *load, const BenchBatch *batch, const Plan *plan)
{
    uint32_t tokens = batch->requests * batch->tokens;
    StepBenchSetup setup = {.model = load->model.name,
                            .device = &load->device,
                            .plan = plan,
                            .routing = load->routing,
                            .max_requests = batch->requests,
                            .max_length = batch->tokens,
                            .max_tokens = tokens};
    if (load->decode) {
        setup.max_length = load->context + WARM_UP + load->repeats;
        /* A source goes through the encoder whole. */
        setup.max_tokens = tokens > load->context ? tokens : load->context;
    }
    return setup;
}

static Status run_step(StepBench *bench, const GatingLoad *load, const BenchBatch *batch,
                       uint32_t number, StepOutput *output, double *ns)
{
    const StepBenchStep step = {.stack = load->stack,
                                .requests = batch->requests,
                                .tokens = batch->tokens,
                                .position = load->decode ? load->context + number : 0,
                                .logits = LOGITS_NONE};
    if (!load->decode)
        step_bench_empty(bench);
    return step_bench_run(bench, &step, output, ns);
}

/* Beside what dynamic gating costs: the slots without a row, the experts without one, and the two
 * masks, written and read once, with their products. */
static void add_static_cost(const GatingLoad *load, const GatingCell *cell,
                            const LayerConfig *layer, double element_bytes, StepCost *cost)
{
    uint32_t tokens = cell->batch.requests * cell->batch.tokens;
    double slots = (double)layer->experts * gating_share(load->capacity, tokens);
    double ffn = ((double)ffn_first_rows(&layer->ffn) + layer->ffn.d_ff) * layer->ffn.d_model;
    cost->flops += 2 * (slots - (double)tokens * layer->top_k) * ffn;
    cost->bytes += (layer->experts - cell->active) * ffn * element_bytes;
    if (cell->mode != MODE_MASK)
        return;
    cost->flops += 2 * 2 * slots * tokens * layer->ffn.d_model;
    cost->bytes += 2 * 2 * slots * tokens * element_bytes;
}

static void note_cost(const GatingLoad *load, const GatingReport *report, const StepBench *bench,
                      const StepOutput *output, GatingCell *cell)
{
    const ModelConfig *config = bench->config;
    double element_bytes = step_bench_element_bytes(bench);
    uint32_t first;
    uint32_t end;
    StepWork work = {.stack = load->stack,
                     .requests = cell->batch.requests,
                     .tokens = cell->batch.tokens,
                     .context = load->decode ? load->context : 0,
                     .source = load->decode ? load->context : 0,
                     .experts = output->experts,
                     .element_bytes = element_bytes};
    StepCost cost = step_cost(config, &work);
    cell->active = work.active_experts;
    model_stack(config, load->stack, &first, &end);
    for (uint32_t i = first; cell->mode != MODE_DYNAMIC && i < end; i++)
        if (config->layers[i].moe)
            add_static_cost(load, cell, &config->layers[i], element_bytes, &cost);
    cell->floor_ns = step_floor_ns(&cost, &report->ceilings);
}

static void note_dropped(const GatingLoad *load, const StepBench *bench, const StepOutput *output,
                         GatingCell *cell)
{
    size_t tokens = (size_t)cell->batch.requests * cell->batch.tokens;
    size_t n = tokens * model_stack_routed(bench->config, load->stack);
    size_t dropped = 0;
    for (size_t i = 0; i < n; i++)
        dropped += output->experts[i] == EXPERT_DROPPED;
    cell->dropped = (double)dropped / (double)n;
}

static Status measure(const GatingLoad *load, const GatingReport *report, StepBench *bench,
                      GatingCell *cell)
{
    double ns[BENCH_MAX_REPEATS];
    double ignored;
    StepOutput output;
    if (load->decode)
        TRY(step_bench_fill(bench, cell->batch.requests, load->context));
    for (uint32_t i = 0; i < WARM_UP; i++)
        TRY(run_step(bench, load, &cell->batch, i, &output, &ignored));
    for (uint32_t i = 0; i < load->repeats; i++)
        TRY(run_step(bench, load, &cell->batch, WARM_UP + i, &output, &ns[i]));
    note_cost(load, report, bench, &output, cell);
    note_dropped(load, bench, &output, cell);
    cell->times = step_times(ns, load->repeats);
    cell->tokens_per_s = 1e9 * cell->batch.requests * cell->batch.tokens / cell->times.median_ns;
    cell->device_bytes = executor_device_bytes(bench->executor);
    return OK;
}

Status gating_cell_run(const GatingLoad *load, GatingReport *report, GatingCell *cell)
{
    const Plan plan = plan_of(load, cell->mode);
    const StepBenchSetup setup = setup_of(load, &cell->batch, &plan);
    StepBench bench = {0};
    Status status = step_bench_open(&setup, &bench);
    cell->fits = status != ERR_MEMORY;
    if (!cell->fits) {
        snprintf(cell->wanted, sizeof cell->wanted, "%s", error_message());
        return OK;
    }
    if (status == OK) {
        snprintf(report->device, sizeof report->device, "%s", executor_device(bench.executor));
        report->layers = bench.config->n_layers;
        status = measure(load, report, &bench, cell);
        step_bench_close(&bench);
    }
    return fail_in(status, "%s, %ux%u", GATING_MODE_NAMES[cell->mode], cell->batch.requests,
                   cell->batch.tokens);
}
