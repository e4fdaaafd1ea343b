/* How much faster simulated time runs than the steps that it stands for: whole commands, which read
 * the trace and the profile, of one process on one core. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/scratch.h"
#include "base/statistics.h"
#include "cli/bench.h"
#include "cli/bench_child.h"
#include "cli/bench_routing.h"
#include "sim/study_query.h"
#include "traces/recorder.h"

enum {
    ROUNDS = 7,
    SWEEP_ROUNDS = 3,
    LAYERS = 48,
    EXPERTS = 128,
    CONTEXT = 512,    /* that requests have when they begin to generate */
    GENERATED = 1536, /* tokens of each */
    SWEEP_SIZES = 4,
    TEXT_BYTES = 64 << 20,
    WANTED = 1000
};

static const char MODEL[] = "shape:qwen3-30b-a3b";

/* Decode steps of so many requests each. */
typedef struct {
    uint32_t batch;
    uint32_t steps;
} TraceShape;

static const TraceShape SHAPES[] = {{1, 1}, {1, 13500}, {1, 98304}, {16, 32768}, {64, 8192}};

static const struct {
    const char *name;
    const char *slots; /* NULL: all experts are resident */
} BUFFERS[] = {
    {"all resident", NULL}, {"lru 96", "buffer.slots=96"}, {"lru 32", "buffer.slots=32"}};

/* A trace that is being made. */
typedef struct {
    BenchRouter router;
    TraceShape shape;
    uint16_t *chosen;  /* [LAYERS][batch][BENCH_TOP_K] of the step */
    uint32_t *request; /* [batch] */
    uint32_t *position;
    float *weights; /* [LAYERS][batch][BENCH_TOP_K] */
} Making;

/* The files and numbers of one trace. */
typedef struct {
    TraceShape shape;
    const char *hardware;
    char trace[256];
    char study[256];
    char out[256];
    BenchReport *report;
} Bench;

static void next_step(Making *making, uint32_t step)
{
    uint32_t batch = making->shape.batch;
    for (uint32_t i = 0; i < batch; i++) {
        making->request[i] = step / GENERATED * batch + i;
        making->position[i] = CONTEXT + step % GENERATED;
    }
    for (uint32_t i = 0; i < LAYERS * batch; i++)
        bench_router_next(&making->router, i / batch, making->chosen + (size_t)i * BENCH_TOP_K);
}

static Status put_steps(Making *making, Recorder *recorder)
{
    for (uint32_t step = 0; step < making->shape.steps; step++) {
        next_step(making, step);
        const TraceStep made = {.step = step,
                                .phase = PHASE_DECODE,
                                .tokens = making->shape.batch,
                                .request = making->request,
                                .position = making->position,
                                .token = making->request,
                                .experts = making->chosen,
                                .weights = making->weights};
        TRY(recorder_step(recorder, &made, NULL, 0, NULL, 0));
    }
    return OK;
}

static Status start(Making *making)
{
    size_t batch = making->shape.batch;
    size_t ids = LAYERS * batch * BENCH_TOP_K;
    TRY(mem_new(&making->chosen, ids, sizeof *making->chosen, "bench"));
    TRY(mem_new(&making->weights, ids, sizeof *making->weights, "bench"));
    TRY(mem_new(&making->request, batch, sizeof *making->request, "bench"));
    TRY(mem_new(&making->position, batch, sizeof *making->position, "bench"));
    bench_router_start(&making->router, LAYERS, EXPERTS);
    for (size_t i = 0; i < LAYERS * batch; i++)
        bench_router_first(&making->router, (uint32_t)(i / batch),
                           making->chosen + i * BENCH_TOP_K);
    for (size_t i = 0; i < ids; i++)
        making->weights[i] = 1.0f / BENCH_TOP_K;
    return OK;
}

static Status record(const char *path, Making *making)
{
    TraceLayer layers[LAYERS];
    const TraceRun run = {.tool = "moebius bench", .source = "made up", .model = MODEL};
    const RecorderOptions options = {.durability = DURABLE_NOT};
    Recorder *recorder;
    for (uint32_t i = 0; i < LAYERS; i++) {
        layers[i] = (TraceLayer){.layer = i,
                                 .experts = EXPERTS,
                                 .top_k = BENCH_TOP_K,
                                 .d_model = 2048,
                                 .d_ff = 768,
                                 .expert_bytes = 3 * 2048 * 768 * 2};
        snprintf(layers[i].name, sizeof layers[i].name, "model.layers.%" PRIu32 ".mlp", i);
    }
    TRY(recorder_open(path, &run, layers, LAYERS, &options, &recorder));
    return recorder_end(recorder, put_steps(making, recorder));
}

static Status make_trace(const Bench *bench)
{
    Making *making;
    TRY(mem_new(&making, 1, sizeof *making, "bench"));
    making->shape = bench->shape;
    Status status = start(making);
    if (status == OK)
        status = record(bench->trace, making);
    mem_free(making->chosen);
    mem_free(making->weights);
    mem_free(making->request);
    mem_free(making->position);
    mem_free(making);
    return status;
}

/* Of some runs of a command. */
typedef struct {
    double best_ns;
    double median_ns;
} Spent;

/* What a step takes the program, and how many times longer the steps are that it simulates; the
 * latter of the run in the middle as well. */
static Status add_figures(const Bench *bench, const char *what, double steps, double predicted_ns,
                          const Spent *runs)
{
    BenchFigure spent = {
        .bench = "simulate", .unit = "us/step", .value = runs->best_ns / steps / 1e3};
    BenchFigure ratio = {.bench = "simulate",
                         .unit = "times",
                         .value = predicted_ns / runs->best_ns,
                         .wanted = WANTED};
    BenchFigure middle = {
        .bench = "simulate", .unit = "times", .value = predicted_ns / runs->median_ns};
    snprintf(spent.name, sizeof spent.name, "%" PRIu32 " steps of batch %" PRIu32 ", %s",
             bench->shape.steps, bench->shape.batch, what);
    snprintf(ratio.name, sizeof ratio.name,
             "%" PRIu32 " steps of batch %" PRIu32 ", %s, faster than its steps of %.2f ms",
             bench->shape.steps, bench->shape.batch, what, predicted_ns / steps / 1e6);
    snprintf(middle.name, sizeof middle.name, "%.*s, median",
             (int)(sizeof middle.name - sizeof ", median"), ratio.name);
    TRY(bench_report_add(bench->report, &spent));
    TRY(bench_report_add(bench->report, &ratio));
    return bench_report_add(bench->report, &middle);
}

static Status read_total(const char *path, double *total_ns)
{
    cJSON *json;
    JsonAt time;
    JsonAt total;
    TRY(json_load(path, TEXT_BYTES, &json));
    const JsonAt root = json_root(json, path);
    Status status = json_need(&root, "time", &time);
    if (status == OK)
        status = json_need(&time, "total_ns", &total);
    if (status == OK)
        status = json_f64(&total, 1, 1e18, total_ns);
    cJSON_Delete(json);
    return status;
}

/* Runs a command N times, ROUNDS at the most, before each of which the file REMOVED,
 * unless NULL, goes. */
static Status measure(const char *const *arguments, size_t n, const char *removed, Spent *runs)
{
    uint64_t ns[ROUNDS];
    uint64_t best_ns = UINT64_MAX;
    for (size_t i = 0; i < n; i++) {
        if (removed != NULL)
            remove(removed);
        TRY(bench_child_run(arguments, "/dev/null", &ns[i]));
        best_ns = ns[i] < best_ns ? ns[i] : best_ns;
    }
    *runs = (Spent){.best_ns = (double)best_ns, .median_ns = median_u64(ns, n)};
    return OK;
}

static Status measure_simulate(const Bench *bench, const char *name, const char *slots)
{
    const char *set = slots != NULL ? "--set" : NULL;
    const char *plain[] = {"simulate",      "--trace", bench->trace, "--hardware",
                           bench->hardware, set,       slots,        NULL};
    const char *json[] = {"simulate",      "--json", "--trace", bench->trace, "--hardware",
                          bench->hardware, set,      slots,     NULL};
    char what[64];
    double total_ns = 0;
    Spent runs;
    uint64_t unused_ns;
    TRY(bench_child_run(json, bench->out, &unused_ns));
    TRY(read_total(bench->out, &total_ns));
    TRY(measure(plain, ROUNDS, NULL, &runs));
    snprintf(what, sizeof what, "simulate, %s", name);
    return add_figures(bench, what, bench->shape.steps, total_ns, &runs);
}

static Status write_study(const char *path)
{
    cJSON *study;
    cJSON *sizes;
    static const char TEXT[] = "{\"moebius_study\": 1, \"name\": \"bench\", \"base\": {\"buffer\": "
                               "{\"evict\": \"lru\"}}, \"grid\": {}}";
    TRY(json_parse(TEXT, strlen(TEXT), "bench", &study));
    Status status =
        json_add_array(cJSON_GetObjectItemCaseSensitive(study, "grid"), "buffer.slots", &sizes);
    for (uint32_t i = 1; i <= SWEEP_SIZES && status == OK; i++)
        status = json_push(sizes, cJSON_CreateNumber(i * EXPERTS / SWEEP_SIZES));
    if (status == OK)
        status = json_save(study, path);
    cJSON_Delete(study);
    return status;
}

/* How many plans were simulated, and the time of all. */
static Status sum_study(const char *path, double *plans, double *total_ns)
{
    StudyReader reader = {0};
    sqlite3_stmt *statement = NULL;
    Status status = study_reader_open(path, &reader);
    if (status == OK &&
        (sqlite3_prepare_v2(reader.sqlite, "SELECT count(total_ns), sum(total_ns) FROM result", -1,
                            &statement, NULL) != SQLITE_OK ||
         sqlite3_step(statement) != SQLITE_ROW))
        status = fail(ERR_IO, "%s: %s", path, sqlite3_errmsg(reader.sqlite));
    if (status == OK) {
        *plans = sqlite3_column_double(statement, 0);
        *total_ns = sqlite3_column_double(statement, 1);
    }
    sqlite3_finalize(statement);
    study_reader_close(&reader);
    return status;
}

static Status measure_sweep(const Bench *bench)
{
    const char *arguments[] = {
        "sweep",         "--trace", bench->trace, "--study", bench->study, "--hardware",
        bench->hardware, "--out",   bench->out,   "--jobs",  "1",          NULL};
    Spent runs;
    double plans = 0;
    double total_ns = 0;
    char what[64];
    TRY(write_study(bench->study));
    TRY(measure(arguments, SWEEP_ROUNDS, bench->out, &runs));
    TRY(sum_study(bench->out, &plans, &total_ns));
    snprintf(what, sizeof what, "sweep of %.0f plans", plans);
    return add_figures(bench, what, plans * bench->shape.steps, total_ns, &runs);
}

/* What a command takes besides its steps. */
static Status measure_start(const Bench *bench)
{
    const char *arguments[] = {"simulate",   "--trace",       bench->trace,
                               "--hardware", bench->hardware, NULL};
    BenchFigure figure = {.bench = "simulate", .name = "simulate, of one step", .unit = "ms"};
    Spent runs;
    TRY(measure(arguments, ROUNDS, NULL, &runs));
    figure.value = runs.best_ns / 1e6;
    return bench_report_add(bench->report, &figure);
}

static Status bench_trace(Bench *bench)
{
    TRY(make_trace(bench));
    if (bench->shape.steps == 1)
        return measure_start(bench);
    for (size_t i = 0; i < sizeof BUFFERS / sizeof *BUFFERS; i++)
        TRY(measure_simulate(bench, BUFFERS[i].name, BUFFERS[i].slots));
    return measure_sweep(bench);
}

static Status bench_shape(Bench *bench)
{
    ScratchFolder folder;
    TRY(scratch_open(NULL, &folder));
    Status status = scratch_name(&folder, "trace.db", bench->trace, sizeof bench->trace);
    if (status == OK)
        status = scratch_name(&folder, "study.json", bench->study, sizeof bench->study);
    if (status == OK)
        status = scratch_name(&folder, "out", bench->out, sizeof bench->out);
    if (status == OK)
        status = bench_trace(bench);
    scratch_close(&folder);
    return status;
}

Status bench_simulate(const BenchOptions *options, BenchReport *report)
{
    TRY(file_check_readable(options->hardware));
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++) {
        Bench bench = {.shape = SHAPES[i], .hardware = options->hardware, .report = report};
        TRY(bench_shape(&bench));
    }
    return OK;
}
