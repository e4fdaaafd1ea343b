/* What a sweep makes of a second processor, and what memory it takes. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/scratch.h"
#include "cli/bench.h"
#include "cli/bench_trace.h"
#include "sim/sweep.h"
#include "traces/packed_part.h"

enum { SIZES = 64, ROUNDS = 3, LOOKUPS = 20000000, TIMED_PART = 8, STUDY_BYTES = 2048 };

/* A policy that is decided at a few nanoseconds a lookup and the one that reads the future, which
 * is the bound too; the sizes are equally far from each other. */
static Status make_study(const BenchShape *shape, Study *study)
{
    char text[STUDY_BYTES];
    size_t used = (size_t)snprintf(text, sizeof text,
                                   "{\"moebius_study\": 1, \"base\": {\"buffer\": {\"order\": "
                                   "\"batch\"}}, \"grid\": {\"buffer.evict\": [\"lru\", "
                                   "\"belady\"], \"buffer.slots\": [");
    for (uint32_t i = 1; i <= SIZES; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%" PRIu32, i > 1 ? "," : "",
                                 shape->experts * i / SIZES);
    snprintf(text + used, sizeof text - used, "]}}");
    cJSON *json;
    TRY(json_parse(text, strlen(text), "bench", &json));
    Status status = study_from_json(json, "bench", false, study);
    cJSON_Delete(json);
    return status;
}

static Status sweep(const PackedTrace *trace, const Study *study, uint32_t jobs,
                    SweepTotals *totals)
{
    ScratchFolder folder;
    char path[1024];
    const SweepOptions options = {.jobs = jobs};
    TRY(scratch_open(NULL, &folder));
    Status status = scratch_name(&folder, "study.db", path, sizeof path);
    if (status == OK)
        status = sweep_run(trace, "bench", study, path, &options, totals);
    scratch_close(&folder);
    return status;
}

static Status measure_speedup(const PackedTrace *trace, const BenchShape *shape, const Study *study,
                              BenchReport *report)
{
    const PackedTrace part = packed_trace_part(trace, 0, trace->n_steps / TIMED_PART);
    uint64_t best_ns[2] = {UINT64_MAX, UINT64_MAX};
    if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
        return OK;
    for (int round = 0; round < ROUNDS; round++)
        for (uint32_t jobs = 1; jobs <= 2; jobs++) {
            SweepTotals totals;
            TRY(sweep(&part, study, jobs, &totals));
            if (totals.elapsed_ns < best_ns[jobs - 1])
                best_ns[jobs - 1] = totals.elapsed_ns;
        }
    BenchFigure figure = {.bench = "sweep",
                          .value = (double)best_ns[0] / (double)best_ns[1],
                          .unit = "times",
                          .wanted = 1.9};
    snprintf(figure.name, sizeof figure.name,
             "%s, lru, belady, %d sizes: speed of two threads over one", shape->name, SIZES);
    return bench_report_add(report, &figure);
}

/* A line of /proc/self/status in bytes; 0 where there is none. */
static uint64_t memory_now(const char *key)
{
    char line[256];
    uint64_t kib = 0;
    FILE *stream = fopen("/proc/self/status", "r");
    while (stream != NULL && fgets(line, sizeof line, stream) != NULL)
        if (strncmp(line, key, strlen(key)) == 0)
            sscanf(line + strlen(key), ": %" SCNu64, &kib);
    if (stream != NULL)
        fclose(stream);
    return kib * 1024;
}

/* The most that was ever resident becomes what is now. False where the system cannot. */
static bool forget_peak(void)
{
    FILE *stream = fopen("/proc/self/clear_refs", "w");
    if (stream == NULL)
        return false;
    bool written = fputs("5", stream) >= 0;
    return fclose(stream) == 0 && written;
}

static Status measure_memory(const PackedTrace *trace, const BenchShape *shape, const Study *study,
                             BenchReport *report)
{
    SweepTotals totals;
    if (!forget_peak())
        return OK;
    uint64_t before = memory_now("VmRSS");
    TRY(sweep(trace, study, 2, &totals));
    uint64_t most = memory_now("VmHWM");
    BenchFigure figure = {.bench = "sweep",
                          .value = (double)(most > before ? most - before : 0),
                          .unit = "bytes",
                          .wanted = 16 << 20,
                          .at_most = true};
    snprintf(figure.name, sizeof figure.name, "%s, lru, belady, %d sizes: memory beside the trace",
             shape->name, SIZES);
    return bench_report_add(report, &figure);
}

static Status measure(const BenchShape *shape, BenchReport *report)
{
    PackedTrace trace;
    Study study;
    TRY(make_study(shape, &study));
    Status status = bench_trace_make(shape, LOOKUPS, &trace);
    if (status == OK) {
        status = measure_memory(&trace, shape, &study, report);
        if (status == OK)
            status = measure_speedup(&trace, shape, &study, report);
        packed_trace_free(&trace);
    }
    study_free(&study);
    return status;
}

Status bench_sweep(const BenchOptions *options, BenchReport *report)
{
    (void)options; /* it runs no model */
    for (size_t i = 0; i < BENCH_SHAPES; i++)
        TRY(measure(&BENCH_SHAPE[i], report));
    return OK;
}
