/* Benchmarks: each measures one part of the program and reports figures. */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    const char *model; /* checkpoint directory, for those that run one */
    const char *device;
    uint32_t threads;     /* of the backend; 0: all */
    const char *hardware; /* profile, for those that simulate time */
} BenchOptions;

typedef struct {
    const char *bench; /* "record" */
    char name[96];     /* "rows, 8 experts and weights, 256 tokens a step" */
    double value;
    const char *unit; /* "rows/s" */
    double wanted;    /* 0: nothing is promised */
    bool at_most;     /* the promise is an upper bound */
} BenchFigure;

typedef struct {
    BenchFigure *figures; /* [count] */
    size_t count;
} BenchReport;

/* Appends a copy of FIGURE. Fails with ERR_MEMORY. */
Status bench_report_add(BenchReport *report, const BenchFigure *figure);

/* Each appends its figures to REPORT. */
/* Replays made-up routing (24 layers x 128 experts and 58 x 256, top-8, zipf with stickiness, about
 * 20 million lookups) through every eviction policy, one core, the trace packed in memory. */
Status bench_replay(const BenchOptions *options, BenchReport *report);
/* The same routing under 64 sizes at once: what a second thread is good for, and memory. */
Status bench_sweep(const BenchOptions *options, BenchReport *report);
Status bench_record(const BenchOptions *options, BenchReport *report);
Status bench_forward(const BenchOptions *options, BenchReport *report);
/* The engine of sim/engine.h, on tasks like those of layers that load experts. */
Status bench_engine(const BenchOptions *options, BenchReport *report);
/* `simulate` and `sweep` with a profile, of a made-up trace of whole qwen3-30b-a3b that decodes at
 * several batches: processor time of a step, and how many times longer the steps are predicted. */
Status bench_simulate(const BenchOptions *options, BenchReport *report);

#endif
