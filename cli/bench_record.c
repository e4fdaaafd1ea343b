/* How fast steps can be recorded, how large they are, and what recording costs the executor. */
#include "cli/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/lcg.h"
#include "base/scratch.h"
#include "cli/bench_model.h"

enum { LAYERS = 26, EXPERTS = 64, TOP_K = 8, WIDEST = 256, STEP_KINDS = 16, ROUNDS = 3 };
enum { PAIRS = 12 };

/* Steps to record over and over. */
typedef struct {
    TraceLayer layers[LAYERS];
    uint32_t request[WIDEST];
    uint32_t position[WIDEST];
    uint32_t token[WIDEST];
    uint16_t *experts; /* [STEP_KINDS][LAYERS * WIDEST * TOP_K] */
    float *weights;    /* same shape */
} Material;

static Status make_material(Material *material)
{
    size_t ids = (size_t)STEP_KINDS * LAYERS * WIDEST * TOP_K;
    uint64_t state = 1;
    TRY(mem_new(&material->experts, ids, sizeof *material->experts, "routing"));
    TRY(mem_new(&material->weights, ids, sizeof *material->weights, "weights"));
    for (uint32_t i = 0; i < LAYERS; i++) {
        TraceLayer *layer = &material->layers[i];
        *layer = (TraceLayer){
            .layer = i, .experts = EXPERTS, .top_k = TOP_K, .expert_bytes = (uint64_t)1 << 20};
        snprintf(layer->name, sizeof layer->name, "model.layers.%u.mlp", i);
    }
    for (uint32_t i = 0; i < WIDEST; i++)
        material->position[i] = i;
    for (size_t i = 0; i < ids; i++) {
        material->experts[i] = (uint16_t)((lcg_next(&state) >> 33) % EXPERTS);
        material->weights[i] = (float)(state >> 40) / (float)(1 << 24);
    }
    return OK;
}

static Status put_steps(Recorder *recorder, const Material *material, uint32_t tokens,
                        uint32_t steps)
{
    for (uint32_t i = 0; i < steps; i++) {
        size_t at = (size_t)(i % STEP_KINDS) * LAYERS * WIDEST * TOP_K;
        const TraceStep step = {.step = i,
                                .phase = tokens > 1 ? PHASE_PREFILL : PHASE_DECODE,
                                .tokens = tokens,
                                .request = material->request,
                                .position = material->position,
                                .token = material->token,
                                .experts = material->experts + at,
                                .weights = material->weights + at};
        TRY(recorder_step(recorder, &step, NULL, 0, NULL, 0));
    }
    return OK;
}

/* Time and size of a recording from opening the file to closing it. */
static Status record_once(const Material *material, uint32_t tokens, uint32_t steps,
                          uint64_t *duration_ns, uint64_t *bytes)
{
    char path[512];
    struct stat info;
    Recorder *recorder = NULL;
    ScratchFolder folder;
    const TraceRun run = {.tool = "moebius bench", .source = "random", .model = "none"};
    TRY(scratch_open(NULL, &folder));
    Status status = scratch_name(&folder, "trace.db", path, sizeof path);
    uint64_t start_ns = clock_ns();
    if (status == OK)
        status = recorder_open(path, &run, material->layers, LAYERS, NULL, &recorder);
    if (status == OK)
        status = recorder_end(recorder, put_steps(recorder, material, tokens, steps));
    *duration_ns = clock_ns() - start_ns;
    *bytes = stat(path, &info) == 0 ? (uint64_t)info.st_size : 0;
    scratch_close(&folder);
    return status;
}

/* ROWS is how many (token, layer) rows are recorded. */
static Status bench_rows(const Material *material, uint32_t tokens, uint64_t rows, double wanted,
                         double size_wanted, BenchReport *report)
{
    uint32_t steps = (uint32_t)(rows / ((uint64_t)tokens * LAYERS));
    uint64_t best_ns = UINT64_MAX;
    uint64_t bytes = 0;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t duration_ns;
        TRY(record_once(material, tokens, steps, &duration_ns, &bytes));
        best_ns = duration_ns < best_ns ? duration_ns : best_ns;
    }
    double recorded = (double)steps * tokens * LAYERS;
    BenchFigure speed = {.bench = "record", .unit = "rows/s", .wanted = wanted};
    BenchFigure size = {
        .bench = "record", .unit = "x ids and weights", .wanted = size_wanted, .at_most = true};
    speed.value = recorded * 1e9 / (double)best_ns;
    size.value = (double)bytes / (recorded * TOP_K * 3);
    snprintf(speed.name, sizeof speed.name, "(token, layer) rows, top-%d, %u tokens a step", TOP_K,
             tokens);
    snprintf(size.name, sizeof size.name, "size, %u tokens a step", tokens);
    TRY(bench_report_add(report, &speed));
    return bench_report_add(report, &size);
}

static Status bench_speed(BenchReport *report)
{
    Material *material;
    TRY(mem_new(&material, 1, sizeof *material, "benchmark"));
    Status status = make_material(material);
    if (status == OK)
        status = bench_rows(material, 256, 4000000, 2e6, 1.05, report);
    if (status == OK)
        status = bench_rows(material, 1, 1000000, 0, 1.6, report);
    mem_free(material->experts);
    mem_free(material->weights);
    mem_free(material);
    return status;
}

/* What one run took, in seconds. */
typedef struct {
    double run;       /* from the first step to the last */
    double processor; /* of all threads, opening and closing the trace included */
    double open_close;
} Cost;

static double processor_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double wall_seconds(void)
{
    return (double)clock_ns() * 1e-9;
}

/* One run, recorded or not. */
static Status time_run(const BenchModel *model, bool recorded, Cost *cost)
{
    char path[512];
    uint32_t n_layers;
    ScratchFolder folder;
    RunTotals totals;
    Recorder *recorder = NULL;
    const TraceRun run = {.tool = "moebius bench", .source = "random", .model = "bench"};
    const TraceLayer *layers = executor_layers(model->executor, &n_layers);
    TRY(scratch_open(NULL, &folder));
    Status status = scratch_name(&folder, "trace.db", path, sizeof path);
    double processor = processor_seconds();
    double opened = wall_seconds();
    if (status == OK && recorded)
        status = recorder_open(path, &run, layers, n_layers, NULL, &recorder);
    double began = wall_seconds();
    if (status == OK)
        status = bench_model_run(model, recorder, &totals);
    double ended = wall_seconds();
    status = recorder_end(recorder, status);
    *cost = (Cost){.run = ended - began,
                   .processor = processor_seconds() - processor,
                   .open_close = began - opened + (wall_seconds() - ended)};
    scratch_close(&folder);
    return status;
}

static void keep_least(Cost *best, const Cost *cost)
{
    best->run = cost->run < best->run ? cost->run : best->run;
    best->processor = cost->processor < best->processor ? cost->processor : best->processor;
    best->open_close = cost->open_close < best->open_close ? cost->open_close : best->open_close;
}

/* One of the two runs of a comparison. */
typedef struct {
    const BenchModel *model;
    bool recorded;
} Side;

/* Runs the two in turn, the order within a pair alternating, and keeps the best of PAIRS of each:
 * other work on the machine only ever makes a run slower. */
static Status measure_cost(const Side sides[2], Cost best[2])
{
    for (int i = 0; i < 2 * PAIRS; i++) {
        int side = (i % 2 != 0) == (i / 2 % 2 != 0);
        Cost cost;
        TRY(time_run(sides[side].model, sides[side].recorded, &cost));
        if (i < 2)
            best[side] = cost;
        else
            keep_least(&best[side], &cost);
    }
    return OK;
}

static Status add_percent(const char *name, double without, double with, double wanted,
                          BenchReport *report)
{
    BenchFigure figure = {.bench = "record", .unit = "%", .wanted = wanted, .at_most = true};
    figure.value = (with / without - 1) * 100;
    snprintf(figure.name, sizeof figure.name, "%s", name);
    return bench_report_add(report, &figure);
}

static Status bench_cost(const BenchOptions *options, BenchReport *report)
{
    const BenchLoad load = {.requests = 64, .length = 256, .batch = 16, .generate = 32};
    BenchFigure open_close = {
        .bench = "record", .name = "opening and closing a trace", .unit = "ms"};
    BenchModel model;
    Cost best[2];
    TRY(bench_model_open(options, &load, &model));
    const Side sides[2] = {{.model = &model}, {.model = &model, .recorded = true}};
    Status status = measure_cost(sides, best);
    bench_model_close(&model);
    TRY(status);
    open_close.value = best[1].open_close * 1e3;
    TRY(add_percent("time that recording adds to a run", best[0].run, best[1].run, 2, report));
    TRY(add_percent("processor time that recording adds", best[0].processor, best[1].processor, 2,
                    report));
    return bench_report_add(report, &open_close);
}

/* What it costs to predict one MoE layer ahead, and to record that. */
static Status bench_predictions(const BenchOptions *options, BenchReport *report)
{
    BenchLoad load = {.requests = 64, .length = 256, .batch = 16, .generate = 32};
    BenchModel plain;
    BenchModel predicting = {0};
    Cost best[2];
    uint32_t n_layers;
    TRY(bench_model_open(options, &load, &plain));
    executor_layers(plain.executor, &n_layers);
    load.predictions = n_layers > 1 ? 1 : 0;
    Status status = bench_model_open(options, &load, &predicting);
    if (status == OK) {
        const Side sides[2] = {{.model = &plain, .recorded = true},
                               {.model = &predicting, .recorded = true}};
        status = measure_cost(sides, best);
        bench_model_close(&predicting);
    }
    bench_model_close(&plain);
    if (status != OK || load.predictions == 0)
        return status;
    return add_percent("time that predictions one layer ahead add", best[0].run, best[1].run, 0,
                       report);
}

Status bench_record(const BenchOptions *options, BenchReport *report)
{
    TRY(bench_speed(report));
    TRY(bench_cost(options, report));
    return bench_predictions(options, report);
}
