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

/* What prompts are filled in with, dynamic gating; and what is measured. */
typedef struct {
    Plan fills;
    Plan measured;
} GatingPlans;

uint32_t gating_steps(const GatingLoad *load)
{
    return WARM_UP + load->repeats;
}

/* Of an executor for BATCH, and smaller ones. */
static StepBenchSetup setup_of(const GatingLoad *load, const BenchBatch *batch,
                               const GatingPlans *plans)
{
    uint32_t tokens = batch->requests * batch->tokens;
    StepBenchSetup setup = {.model = load->model.name,
                            .device = &load->device,
                            .plan = &plans->fills,
                            .others = &plans->measured,
                            .n_others = 1,
                            .routing = load->routing,
                            .max_requests = batch->requests,
                            .max_length = batch->tokens,
                            .max_tokens = tokens};
    if (load->decode) {
        setup.max_length = load->context + gating_steps(load);
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

/* The steps of CELL: NS[repeats], and what the last one left. */
static Status run_steps(const GatingLoad *load, GatingReport *report, StepBench *bench,
                        const GatingCell *cell, StepOutput *output, double *ns)
{
    for (uint32_t r = 0; load->decode && r < cell->batch.requests; r++)
        executor_rewind(bench->executor, r, load->context);
    for (uint32_t i = 0; i < gating_steps(load); i++) {
        if (*report->stop) {
            report->stopped = true;
            return OK;
        }
        TRY(run_step(bench, load, &cell->batch, i, output, &ns[i < WARM_UP ? 0 : i - WARM_UP]));
        report->tokens += (uint64_t)cell->batch.requests * cell->batch.tokens;
        progress_update(&report->progress, report->tokens);
    }
    return OK;
}

static Status measure(const GatingLoad *load, const GatingPlans *plans, GatingReport *report,
                      StepBench *bench, GatingCell *cell)
{
    const StepBenchSetup alone = setup_of(load, &cell->batch, plans);
    double ns[BENCH_MAX_REPEATS];
    StepOutput output;
    TRY(run_steps(load, report, bench, cell, &output, ns));
    if (report->stopped)
        return OK;
    note_cost(load, report, bench, &output, cell);
    note_dropped(load, bench, &output, cell);
    cell->times = step_times(ns, load->repeats);
    cell->tokens_per_s = 1e9 * cell->batch.requests * cell->batch.tokens / cell->times.median_ns;
    return step_bench_memory(bench, &alone, &cell->device_bytes);
}

static GatingCell *add_cell(GatingReport *report, GatingBenchMode mode, const BenchBatch *batch,
                            bool fits)
{
    GatingCell *cell = &report->cells[report->n_cells++];
    *cell = (GatingCell){.mode = mode, .batch = *batch, .fits = fits};
    return cell;
}

static void finish_cell(GatingReport *report, const GatingCell *cell)
{
    const GatingCell *best = report->best[cell->mode];
    if (cell->fits && (best == NULL || cell->tokens_per_s > best->tokens_per_s))
        report->best[cell->mode] = cell;
    progress_end(&report->progress);
    gating_print_cell(report, cell);
}

/* All the BATCHES in an executor that has room for the largest. */
static Status measure_batches(const GatingLoad *load, const GatingPlans *plans,
                              GatingBenchMode mode, const BenchBatch *batches, uint32_t n,
                              GatingReport *report, StepBench *bench)
{
    if (report->device[0] == '\0') {
        snprintf(report->device, sizeof report->device, "%s", executor_device(bench->executor));
        report->layers = bench->config->n_layers;
        gating_print_begin(load, report);
    }
    if (load->decode)
        TRY(step_bench_fill(bench, bench->setup.max_requests, load->context));
    TRY(executor_set_plan(bench->executor, &plans->measured));
    for (uint32_t i = 0; i < n; i++) {
        GatingCell *cell = add_cell(report, mode, &batches[i], true);
        TRY(fail_in(measure(load, plans, report, bench, cell), "%s, %ux%u", GATING_MODE_NAMES[mode],
                    cell->batch.requests, cell->batch.tokens));
        if (report->stopped) {
            report->n_cells--;
            return OK;
        }
        finish_cell(report, cell);
    }
    return OK;
}

/* Opens an executor for the first of N BATCHES, as many as fit; *N: so many. WANTED says what the
 * next one needs. */
static Status open_most(const GatingLoad *load, const GatingPlans *plans, const BenchBatch *batches,
                        uint32_t *n, char *wanted, size_t room, StepBench *bench)
{
    for (; *n > 0; --*n) {
        BenchBatch largest = batches[0];
        for (uint32_t i = 1; i < *n; i++)
            if (batches[i].requests > largest.requests)
                largest = batches[i];
        const StepBenchSetup setup = setup_of(load, &largest, plans);
        Status status = step_bench_open(&setup, bench);
        if (status != ERR_MEMORY)
            return status;
        snprintf(wanted, room, "%s", error_message());
        error_clear();
    }
    return OK;
}

/* BATCHES of the same number of tokens each; *ALL: they all fit. */
static Status run_batches(const GatingLoad *load, GatingBenchMode mode, const BenchBatch *batches,
                          uint32_t n, GatingReport *report, bool *all)
{
    const GatingPlans plans = {.fills = plan_default(), .measured = plan_of(load, mode)};
    char wanted[sizeof report->cells->wanted];
    StepBench bench = {0};
    uint32_t fit = n;
    TRY(fail_in(open_most(load, &plans, batches, &fit, wanted, sizeof wanted, &bench), "%s, %ux%u",
                GATING_MODE_NAMES[mode], batches[n - 1].requests, batches[n - 1].tokens));
    *all = fit == n;
    if (fit > 0) {
        Status status = measure_batches(load, &plans, mode, batches, fit, report, &bench);
        step_bench_close(&bench);
        TRY(status);
    }
    if (*all || report->stopped)
        return OK;
    GatingCell *cell = add_cell(report, mode, &batches[fit], false);
    snprintf(cell->wanted, sizeof cell->wanted, "%s", wanted);
    finish_cell(report, cell);
    return OK;
}

Status gating_mode_run(const GatingLoad *load, GatingBenchMode mode, GatingReport *report)
{
    const GatingBatches *list = &load->wanted[mode];
    bool all = true;
    for (uint32_t first = 0, end; first < list->n && all && !report->stopped; first = end) {
        for (end = first + 1; end < list->n; end++)
            if (list->batches[end].tokens != list->batches[first].tokens)
                break;
        TRY(run_batches(load, mode, &list->batches[first], end - first, report, &all));
    }
    return OK;
}
