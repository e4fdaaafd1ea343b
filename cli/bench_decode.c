/* Times of whole steps: decode and prefill. */
#include <stdio.h>

#include "cli/bench_command.h"
#include "cli/print.h"
#include "cli/table.h"

enum { WARM_UP = 3, TIMED = 5 };

typedef struct {
    bool prefill;
    ModelInput model;
    DeviceInput device;
    const char *batches_text;
    BenchBatch batches[BENCH_MAX_BATCHES];
    uint32_t n_batches;
    uint32_t context;
    uint32_t repeats;
    const char *routing;
    bool timing;
    bool json;
} Arguments;

/* One batch. */
typedef struct {
    BenchBatch batch; /* requests, and tokens of each in a step */
    uint32_t context; /* of each before the first step that was measured */
    StepTimes times;
    StepCost cost;
    double floor_ns;
    double active_experts;
    double ops_ns[OPS]; /* mean of a step; with --timing */
} Cell;

typedef struct {
    const Arguments *arguments;
    StepBench bench;
    Ceilings ceilings;
    Cell cells[BENCH_MAX_BATCHES];
} Measurement;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    bool prefill = arguments->prefill;
    const Option options[] = {
        MODEL_OPTIONS(&arguments->model, true),
        TEXT_OPTION("batch", "LIST",
                    prefill ? "batches: REQUESTSxTOKENS (default 16x1024,8x512)"
                            : "requests at a time (default 1,8,64)",
                    &arguments->batches_text),
        U32_OPTION("context", "N",
                   prefill ? "tokens of a request where the list does not say (default 512)"
                           : "tokens of each request before (default 512)",
                   1, 1 << 20, &arguments->context),
        TEXT_OPTION("routing", "TEXT", ROUTING_HELP, &arguments->routing),
        U32_OPTION("repeats", "N",
                   prefill ? "steps that are measured (default 5)"
                           : "steps that are measured (default 30)",
                   1, BENCH_MAX_REPEATS, &arguments->repeats),
        FLAG_OPTION("timing", "the time of each operation, too, from steps of their own",
                    &arguments->timing),
        DEVICE_OPTIONS(&arguments->device),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = prefill ? "bench prefill" : "bench decode",
        .summary =
            prefill ? "Measures a step that takes whole prompts (of encoder-decoder models: whole "
                      "sources, through the\nencoder)."
                    : "Measures a step of one token for each request of a batch, the greedy choice "
                      "of the next\nincluded.",
        .example = prefill
                       ? "moebius bench prefill --model shape:qwen3-30b-a3b --device cuda "
                         "--batch 16x1024"
                       : "moebius bench decode --model shape:olmoe-1b-7b --layers 2 --batch 1,8",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    TRY(model_input_check(&table, &arguments->model));
    return bench_batches_read(&table, "batch", arguments->batches_text,
                              prefill ? arguments->context : 1, arguments->batches,
                              &arguments->n_batches);
}

static void size_setup(const Arguments *arguments, StepBenchSetup *setup)
{
    uint32_t steps = WARM_UP + arguments->repeats + TIMED;
    enum { FILL_TOKENS = 8192 };
    for (uint32_t i = 0; i < arguments->n_batches; i++) {
        const BenchBatch *batch = &arguments->batches[i];
        uint32_t tokens = batch->requests * batch->tokens;
        uint32_t length =
            arguments->prefill ? batch->tokens : arguments->context + steps * batch->tokens;
        setup->max_requests =
            batch->requests > setup->max_requests ? batch->requests : setup->max_requests;
        setup->max_length = length > setup->max_length ? length : setup->max_length;
        setup->max_tokens = tokens > setup->max_tokens ? tokens : setup->max_tokens;
    }
    uint32_t fill = arguments->context > FILL_TOKENS ? arguments->context : FILL_TOKENS;
    if (!arguments->prefill && fill > setup->max_tokens)
        setup->max_tokens = fill;
}

/* Of the first token of step NUMBER. */
static uint32_t position_of(const Measurement *m, const Cell *cell, uint32_t number)
{
    return m->arguments->prefill ? 0 : cell->context + number * cell->batch.tokens;
}

/* Step NUMBER of a batch: decode goes on from the last, prefill begins anew. */
static Status run_step(Measurement *m, const Cell *cell, uint32_t number, bool timing,
                       StepOutput *output, double *ns)
{
    bool prefill = m->arguments->prefill;
    bool encoder = prefill && model_is_encoder_decoder(m->bench.config);
    const StepBenchStep step = {.stack = encoder ? STACK_ENCODER : STACK_DECODER,
                                .requests = cell->batch.requests,
                                .tokens = cell->batch.tokens,
                                .position = position_of(m, cell, number),
                                .logits = encoder ? LOGITS_NONE : LOGITS_LAST,
                                .timing = timing};
    if (prefill)
        step_bench_empty(&m->bench);
    return step_bench_run(&m->bench, &step, output, ns);
}

static void note_cost(const Measurement *m, const StepOutput *output, uint32_t context, Cell *cell)
{
    const ModelConfig *config = m->bench.config;
    bool pair = model_is_encoder_decoder(config);
    bool encoder = m->arguments->prefill && pair;
    StepWork work = {.stack = encoder ? STACK_ENCODER : STACK_DECODER,
                     .requests = cell->batch.requests,
                     .tokens = cell->batch.tokens,
                     .context = context,
                     .source = pair && !encoder ? m->arguments->context : 0,
                     .logits = encoder ? 0 : cell->batch.requests,
                     .experts = output->experts,
                     .element_bytes = step_bench_element_bytes(&m->bench)};
    cell->cost = step_cost(config, &work);
    cell->floor_ns = step_floor_ns(&cell->cost, &m->ceilings);
    cell->active_experts = work.active_experts;
}

static Status measure_cell(Measurement *m, Cell *cell)
{
    const Arguments *arguments = m->arguments;
    double ns[BENCH_MAX_REPEATS];
    double ignored;
    StepOutput output;
    uint32_t number = 0;
    step_bench_empty(&m->bench);
    cell->context = arguments->prefill ? 0 : arguments->context;
    if (!arguments->prefill)
        TRY(step_bench_fill(&m->bench, cell->batch.requests, arguments->context));
    for (uint32_t i = 0; i < WARM_UP; i++)
        TRY(run_step(m, cell, number++, false, &output, &ignored));
    for (uint32_t i = 0; i < arguments->repeats; i++) {
        TRY(run_step(m, cell, number++, false, &output, &ns[i]));
        if (i == arguments->repeats / 2)
            note_cost(m, &output, position_of(m, cell, number - 1), cell);
    }
    cell->times = step_times(ns, arguments->repeats);
    for (uint32_t i = 0; arguments->timing && i < TIMED; i++) {
        TRY(run_step(m, cell, number++, true, &output, &ignored));
        step_ops_add(cell->ops_ns, &output);
    }
    for (int op = 0; op < OPS; op++)
        cell->ops_ns[op] /= TIMED;
    return OK;
}

static double tokens_per_s(const Cell *cell)
{
    return 1e9 * cell->batch.requests * cell->batch.tokens / cell->times.median_ns;
}

static Status add_cell(cJSON *list, const Cell *cell, bool timing)
{
    cJSON *item = cJSON_CreateObject();
    cJSON *ops;
    TRY(json_push(list, item));
    TRY(json_add_u64(item, "requests", cell->batch.requests));
    TRY(json_add_u64(item, "tokens_each", cell->batch.tokens));
    TRY(json_add_u64(item, "context", cell->context));
    TRY(bench_add_times(item, &cell->times));
    TRY(json_add_f64(item, "tokens_per_s", tokens_per_s(cell)));
    TRY(json_add_f64(item, "active_experts", cell->active_experts));
    TRY(json_add_f64(item, "bytes", cell->cost.bytes));
    TRY(json_add_f64(item, "flops", cell->cost.flops));
    TRY(json_add_f64(item, "floor_ns", cell->floor_ns));
    if (!timing)
        return OK;
    TRY(json_add_object(item, "ops_ns", &ops));
    for (Op op = 0; op < OPS; op++)
        if (cell->ops_ns[op] > 0)
            TRY(json_add_f64(ops, op_name(op), cell->ops_ns[op]));
    return OK;
}

static Status fill_json(cJSON *json, const Measurement *m, int argc, char **argv)
{
    cJSON *list;
    TRY(bench_add_origin(json, argc, argv, &m->bench, &m->ceilings));
    TRY(json_add_array(json, "cells", &list));
    for (uint32_t i = 0; i < m->arguments->n_batches; i++)
        TRY(add_cell(list, &m->cells[i], m->arguments->timing));
    return OK;
}

static Status print_cells_json(const Measurement *m, int argc, char **argv)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, m, argc, argv));
}

/* A row per operation, a column per batch. */
static Status print_ops(const Measurement *m)
{
    enum { COLUMNS = BENCH_MAX_BATCHES + 1 };
    const char *titles[COLUMNS] = {"ms in a step"};
    char texts[BENCH_MAX_BATCHES][32];
    char align[COLUMNS + 1] = "l";
    uint32_t n = m->arguments->n_batches;
    Table *table;
    for (uint32_t i = 0; i < n; i++) {
        snprintf(texts[i], sizeof texts[i], "%ux%u", m->cells[i].batch.requests,
                 m->cells[i].batch.tokens);
        titles[1 + i] = texts[i];
        align[1 + i] = 'r';
    }
    TRY(table_new(titles, align, &table));
    for (Op op = 0; op < OPS; op++) {
        double sum = 0;
        for (uint32_t i = 0; i < n; i++)
            sum += m->cells[i].ops_ns[op];
        if (sum == 0)
            continue;
        table_cell(table, "%s", op_name(op));
        for (uint32_t i = 0; i < n; i++)
            table_cell(table, "%.4f", m->cells[i].ops_ns[op] / 1e6);
    }
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static Status print_cells(const Measurement *m)
{
    static const char *const TITLES[] = {"requests", "tokens each", "context", "ms",
                                         "min",      "max",         "floor",   "ratio",
                                         "tokens/s", "experts"};
    Table *table;
    bench_print_origin(&m->bench, &m->ceilings);
    TRY(table_new(TITLES, "rrrrrrrrrr", &table));
    for (uint32_t i = 0; i < m->arguments->n_batches; i++) {
        const Cell *cell = &m->cells[i];
        table_cell(table, "%u", cell->batch.requests);
        table_cell(table, "%u", cell->batch.tokens);
        table_cell(table, "%u", cell->context);
        table_cell(table, "%.3f", cell->times.median_ns / 1e6);
        table_cell(table, "%.3f", cell->times.least_ns / 1e6);
        table_cell(table, "%.3f", cell->times.most_ns / 1e6);
        table_cell(table, "%.3f", cell->floor_ns / 1e6);
        table_cell(table, "%.2f", cell->times.median_ns / cell->floor_ns);
        table_cell(table, "%.0f", tokens_per_s(cell));
        table_cell(table, "%.1f", cell->active_experts);
    }
    Status status = table_print(table, stdout);
    table_free(table);
    return status == OK && m->arguments->timing ? print_ops(m) : status;
}

static Status measure(Measurement *m, int argc, char **argv)
{
    const Arguments *arguments = m->arguments;
    const Plan plan = plan_default();
    StepBenchSetup setup = {.model = arguments->model.name,
                            .device = &arguments->device,
                            .plan = &plan,
                            .routing = arguments->routing};
    size_setup(arguments, &setup);
    TRY(ceilings_measure_on(arguments->device.name, &m->ceilings));
    TRY(step_bench_open(&setup, &m->bench));
    for (uint32_t i = 0; i < arguments->n_batches; i++) {
        m->cells[i].batch = arguments->batches[i];
        TRY(measure_cell(m, &m->cells[i]));
    }
    return arguments->json ? print_cells_json(m, argc, argv) : print_cells(m);
}

static Status run(Arguments *arguments, int argc, char **argv)
{
    Measurement measurement = {.arguments = arguments};
    TRY(parse(argc, argv, arguments));
    Status status = measure(&measurement, argc, argv);
    step_bench_close(&measurement.bench);
    return status;
}

Status command_bench_decode(int argc, char **argv)
{
    Arguments arguments = {
        .device = {.name = "cpu"}, .batches_text = "1,8,64", .context = 512, .repeats = 30};
    return run(&arguments, argc, argv);
}

Status command_bench_prefill(int argc, char **argv)
{
    Arguments arguments = {.prefill = true,
                           .device = {.name = "cpu"},
                           .batches_text = "16x1024,8x512",
                           .context = 512,
                           .repeats = 5};
    return run(&arguments, argc, argv);
}
