/* What recording takes from the tokens per second: the same steps with and without, in turn. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/scratch.h"
#include "cli/bench_command.h"
#include "cli/print.h"
#include "cli/table.h"

/* Steps that do not count: they warm the device up, and the recorder's ring when recorded. */
enum { WARM_UP = 4, RECORDED_WARM_UP = 12, MAX_PAIRS = 100, DECODE_STEPS = 20, PREFILL_STEPS = 4 };

typedef struct {
    ModelInput model;
    DeviceInput device;
    uint32_t batch;
    uint32_t context;
    const char *prefill_text;
    BenchBatch prefill;
    uint32_t pairs;
    const char *routing;
    bool json;
} Arguments;

/* One kind of step. */
typedef struct {
    const char *name;
    BenchBatch batch;
    uint32_t steps; /* of one side of a pair */
    double ns[2];   /* median of a side: without and with recording */
    double cost;    /* median over the pairs of with / without, less 1 */
    double cost_least;
    double cost_most;
} Load;

typedef struct {
    const Arguments *arguments;
    StepBench bench;
    Ceilings ceilings;
    Recorder *recorder;
    ScratchFolder folder;
    char path[512]; /* of the trace, in it */
    uint32_t step;  /* recorded so far */
    uint32_t position;
    Load loads[2]; /* decode, prefill */
} Measurement;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        MODEL_OPTIONS(&arguments->model, true),
        U32_OPTION("batch", "N", "requests of a decode step (default 64)", 1, MAX_BATCH,
                   &arguments->batch),
        U32_OPTION("context", "N", "tokens of each before (default 128)", 1, 1 << 20,
                   &arguments->context),
        TEXT_OPTION("prefill", "NxM", "prompts of a prefill step (default 8x512)",
                    &arguments->prefill_text),
        U32_OPTION("pairs", "N", "of runs, with and without (default 20)", 1, MAX_PAIRS,
                   &arguments->pairs),
        TEXT_OPTION("routing", "TEXT", ROUTING_HELP, &arguments->routing),
        DEVICE_OPTIONS(&arguments->device),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "bench recording",
        .summary = "Measures decode and prefill with and without recording, in alternating pairs "
                   "of runs: what recording takes from the tokens per second.",
        .example = "moebius bench recording --model shape:qwen3-30b-a3b --device cuda",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    BenchBatch batches[BENCH_MAX_BATCHES];
    uint32_t n;
    TRY(options_parse(&table, argc, argv));
    TRY(model_input_check(&table, &arguments->model));
    TRY(bench_batches_read(&table, "prefill", arguments->prefill_text, 512, batches, &n));
    if (n != 1)
        return options_fail(&table, "--prefill: '%s', wanted is one batch",
                            arguments->prefill_text);
    arguments->prefill = batches[0];
    return OK;
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static StepBenchSetup make_setup(const Arguments *arguments, const Plan *plan)
{
    const BenchBatch *prefill = &arguments->prefill;
    uint32_t decoded = WARM_UP + RECORDED_WARM_UP + 2 * arguments->pairs * DECODE_STEPS;
    return (StepBenchSetup){.model = arguments->model.name,
                            .device = &arguments->device,
                            .plan = plan,
                            .routing = arguments->routing,
                            .max_requests = larger(arguments->batch, prefill->requests),
                            .max_length = larger(arguments->context + decoded, prefill->tokens),
                            .max_tokens = larger(larger(arguments->batch, arguments->context),
                                                 prefill->requests * prefill->tokens)};
}

static Status open_recorder(Measurement *m)
{
    const TraceRun run = {
        .tool = "moebius bench", .source = "random", .model = m->bench.setup.model};
    uint32_t n_layers;
    const TraceLayer *layers = executor_layers(m->bench.executor, &n_layers);
    TRY(scratch_open(NULL, &m->folder));
    TRY(scratch_name(&m->folder, "trace.db", m->path, sizeof m->path));
    return recorder_open(m->path, &run, layers, n_layers, NULL, &m->recorder);
}

static Status record_step(Measurement *m, const StepBenchStep *step, const StepOutput *output)
{
    const TraceStep traced = {.step = m->step++,
                              .phase = step->stack == STACK_ENCODER ? PHASE_ENCODE
                                       : step->tokens == 1          ? PHASE_DECODE
                                                                    : PHASE_PREFILL,
                              .stack = step->stack,
                              .tokens = step->requests * step->tokens,
                              .request = m->bench.slot,
                              .position = m->bench.position,
                              .token = m->bench.token,
                              .start_ns = output->start_ns,
                              .duration_ns = output->duration_ns,
                              .experts = output->experts,
                              .weights = output->weights};
    return recorder_lend_step(m->recorder, &traced, output->kept_for, NULL, 0, NULL, 0);
}

static Status run_step(Measurement *m, const Load *load, bool recorded)
{
    bool prefill = load == &m->loads[1];
    bool encoder = prefill && model_is_encoder_decoder(m->bench.config);
    const StepBenchStep step = {.stack = encoder ? STACK_ENCODER : STACK_DECODER,
                                .requests = load->batch.requests,
                                .tokens = load->batch.tokens,
                                .position = prefill ? 0 : m->position++,
                                .logits = encoder ? LOGITS_NONE : LOGITS_LAST};
    StepOutput output;
    double ns;
    if (prefill)
        step_bench_empty(&m->bench);
    TRY(step_bench_run(&m->bench, &step, &output, &ns));
    return recorded ? record_step(m, &step, &output) : OK;
}

/* The steps of one side, the hand-over to the recorder included: all but the first run beside the
 * writing of those before. That of the last is waited for before the other side begins. */
static Status run_side(Measurement *m, const Load *load, bool recorded, double *ns)
{
    uint64_t start_ns = clock_ns();
    for (uint32_t i = 0; i < load->steps; i++)
        TRY(run_step(m, load, recorded));
    *ns = (double)(clock_ns() - start_ns) / load->steps;
    recorder_settle(m->recorder);
    return OK;
}

/* The order within a pair alternates, so that what drifts falls on both. */
static Status measure_load(Measurement *m, Load *load)
{
    double sides[2][MAX_PAIRS];
    double costs[MAX_PAIRS];
    uint32_t pairs = m->arguments->pairs;
    for (uint32_t i = 0; i < WARM_UP + RECORDED_WARM_UP; i++)
        TRY(run_step(m, load, i >= WARM_UP));
    for (uint32_t i = 0; i < pairs; i++) {
        for (uint32_t turn = 0; turn < 2; turn++) {
            bool recorded = (turn ^ (i & 1)) != 0;
            TRY(run_side(m, load, recorded, &sides[recorded][i]));
        }
        costs[i] = sides[1][i] / sides[0][i] - 1;
    }
    StepTimes cost = step_times(costs, pairs);
    load->cost = cost.median_ns;
    load->cost_least = cost.least_ns;
    load->cost_most = cost.most_ns;
    for (int side = 0; side < 2; side++)
        load->ns[side] = step_times(sides[side], pairs).median_ns;
    return OK;
}

static double tokens_per_s(const Load *load, int side)
{
    return 1e9 * load->batch.requests * load->batch.tokens / load->ns[side];
}

static Status add_load(cJSON *list, const Load *load)
{
    cJSON *item = cJSON_CreateObject();
    TRY(json_push(list, item));
    TRY(json_add_text(item, "phase", load->name));
    TRY(json_add_u64(item, "requests", load->batch.requests));
    TRY(json_add_u64(item, "tokens_each", load->batch.tokens));
    TRY(json_add_u64(item, "steps_of_a_run", load->steps));
    TRY(json_add_f64(item, "tokens_per_s", tokens_per_s(load, 0)));
    TRY(json_add_f64(item, "recorded_tokens_per_s", tokens_per_s(load, 1)));
    TRY(json_add_f64(item, "cost", load->cost));
    TRY(json_add_f64(item, "cost_min", load->cost_least));
    return json_add_f64(item, "cost_max", load->cost_most);
}

static Status fill_json(cJSON *json, const Measurement *m, int argc, char **argv)
{
    cJSON *list;
    TRY(bench_add_origin(json, argc, argv, &m->bench, &m->ceilings));
    TRY(json_add_u64(json, "pairs", m->arguments->pairs));
    TRY(json_add_array(json, "loads", &list));
    for (int i = 0; i < 2; i++)
        TRY(add_load(list, &m->loads[i]));
    return OK;
}

static Status print_loads_json(const Measurement *m, int argc, char **argv)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, m, argc, argv));
}

static Status print_loads(const Measurement *m)
{
    static const char *const TITLES[] = {"phase",    "requests", "tokens each", "tokens/s",
                                         "recorded", "cost",     "least",       "most"};
    Table *table;
    bench_print_origin(&m->bench, &m->ceilings);
    TRY(table_new(TITLES, "lrrrrrrr", &table));
    for (int i = 0; i < 2; i++) {
        const Load *load = &m->loads[i];
        table_cell(table, "%s", load->name);
        table_cell(table, "%u", load->batch.requests);
        table_cell(table, "%u", load->batch.tokens);
        table_cell(table, "%.0f", tokens_per_s(load, 0));
        table_cell(table, "%.0f", tokens_per_s(load, 1));
        table_cell(table, "%.2f %%", 100 * load->cost);
        table_cell(table, "%.2f %%", 100 * load->cost_least);
        table_cell(table, "%.2f %%", 100 * load->cost_most);
    }
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static Status measure(Measurement *m, int argc, char **argv)
{
    const Arguments *arguments = m->arguments;
    const Plan plan = plan_default();
    const StepBenchSetup setup = make_setup(arguments, &plan);
    m->loads[0] = (Load){.name = "decode", .batch = {arguments->batch, 1}, .steps = DECODE_STEPS};
    m->loads[1] = (Load){.name = "prefill", .batch = arguments->prefill, .steps = PREFILL_STEPS};
    TRY(ceilings_measure_on(arguments->device.name, &m->ceilings));
    TRY(step_bench_open(&setup, &m->bench));
    TRY(open_recorder(m));
    TRY(step_bench_fill(&m->bench, arguments->batch, arguments->context));
    m->position = arguments->context;
    TRY(measure_load(m, &m->loads[0]));
    TRY(measure_load(m, &m->loads[1]));
    Recorder *recorder = m->recorder;
    m->recorder = NULL;
    TRY(recorder_close(recorder));
    return arguments->json ? print_loads_json(m, argc, argv) : print_loads(m);
}

Status command_bench_recording(int argc, char **argv)
{
    Arguments arguments = {.device = {.name = "cpu"},
                           .batch = 64,
                           .context = 128,
                           .prefill_text = "8x512",
                           .pairs = 20};
    Measurement measurement = {.arguments = &arguments};
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = measure(&measurement, argc, argv);
    recorder_abandon(measurement.recorder);
    scratch_close(&measurement.folder);
    step_bench_close(&measurement.bench);
    return status;
}
