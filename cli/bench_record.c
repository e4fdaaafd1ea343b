/* How fast steps can be recorded, how large they are, and what recording costs the executor. */
#include "cli/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/bench_model.h"

enum { LAYERS = 26, EXPERTS = 64, TOP_K = 8, WIDEST = 256, STEP_KINDS = 16, ROUNDS = 3 };
enum { PAIRS = 9 };

/* Steps to record over and over. */
typedef struct {
    TraceLayer layers[LAYERS];
    uint32_t request[WIDEST];
    uint32_t position[WIDEST];
    uint32_t token[WIDEST];
    uint16_t *experts; /* [STEP_KINDS][LAYERS * WIDEST * TOP_K] */
    float *weights;    /* same shape */
} Material;

static void scratch_file(char path[512])
{
    const char *folder = getenv("TMPDIR");
    snprintf(path, 512, "%s/moebius-bench-%ld.db",
             folder != NULL && folder[0] != '\0' ? folder : "/tmp", (long)getpid());
}

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
        state = state * 6364136223846793005u + 1442695040888963407u;
        material->experts[i] = (uint16_t)((state >> 33) % EXPERTS);
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
    Recorder *recorder;
    const TraceRun run = {.tool = "moebius bench", .source = "random", .model = "none"};
    scratch_file(path);
    uint64_t start_ns = clock_ns();
    TRY(recorder_open(path, &run, material->layers, LAYERS, NULL, &recorder));
    Status status = put_steps(recorder, material, tokens, steps);
    if (status == OK)
        status = recorder_close(recorder);
    else
        recorder_abandon(recorder);
    *duration_ns = clock_ns() - start_ns;
    *bytes = stat(path, &info) == 0 ? (uint64_t)info.st_size : 0;
    unlink(path);
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

/* What one run took. */
typedef struct {
    double wall;
    double processor; /* of all threads */
} Cost;

static double processor_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* One run, recorded or not, from opening the trace to closing it. */
static Status time_run(const BenchModel *model, bool recorded, Cost *cost)
{
    char path[512];
    uint32_t n_layers;
    RunTotals totals;
    Recorder *recorder = NULL;
    const TraceRun run = {.tool = "moebius bench", .source = "random", .model = "bench"};
    const TraceLayer *layers = executor_layers(model->executor, &n_layers);
    scratch_file(path);
    uint64_t start_ns = clock_ns();
    double start = processor_seconds();
    if (recorded)
        TRY(recorder_open(path, &run, layers, n_layers, NULL, &recorder));
    Status status = bench_model_run(model, recorder, &totals);
    if (recorder != NULL && status == OK)
        status = recorder_close(recorder);
    else
        recorder_abandon(recorder);
    cost->wall = (double)(clock_ns() - start_ns) * 1e-9;
    cost->processor = processor_seconds() - start;
    if (recorded)
        unlink(path);
    return status;
}

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left;
    double b = *(const double *)right;
    return (a > b) - (a < b);
}

static double median_percent(double *ratios)
{
    qsort(ratios, PAIRS, sizeof ratios[0], compare_doubles);
    return (ratios[PAIRS / 2] - 1) * 100;
}

/* The median over pairs of what recording adds to the time of a run, in percent. The order within a
 * pair alternates, so that drift of the machine cancels. */
static Status measure_cost(const BenchModel *model, Cost *percent)
{
    double wall[PAIRS];
    double processor[PAIRS];
    Cost costs[2];
    TRY(time_run(model, false, &costs[0]));
    for (int i = 0; i < PAIRS; i++) {
        bool first = i % 2 != 0;
        TRY(time_run(model, first, &costs[first]));
        TRY(time_run(model, !first, &costs[!first]));
        wall[i] = costs[1].wall / costs[0].wall;
        processor[i] = costs[1].processor / costs[0].processor;
    }
    percent->wall = median_percent(wall);
    percent->processor = median_percent(processor);
    return OK;
}

static Status bench_cost(const BenchOptions *options, BenchReport *report)
{
    const BenchLoad load = {.requests = 64, .length = 256, .batch = 16, .generate = 32};
    const BenchFigure figure = {.bench = "record", .unit = "%", .wanted = 2, .at_most = true};
    BenchFigure wall = figure;
    BenchFigure processor = figure;
    BenchModel model;
    Cost percent;
    TRY(bench_model_open(options, &load, &model));
    Status status = measure_cost(&model, &percent);
    bench_model_close(&model);
    TRY(status);
    wall.value = percent.wall;
    processor.value = percent.processor;
    snprintf(wall.name, sizeof wall.name, "time that recording adds to a run");
    snprintf(processor.name, sizeof processor.name, "processor time that recording adds");
    TRY(bench_report_add(report, &wall));
    return bench_report_add(report, &processor);
}

Status bench_record(const BenchOptions *options, BenchReport *report)
{
    TRY(bench_speed(report));
    return bench_cost(options, report);
}
