/* What the files of `moebius bench gating` share: dynamic, padded and mask gating over batches. */
#ifndef CLI_BENCH_GATING_H
#define CLI_BENCH_GATING_H

#include <stdio.h>

#include "base/progress.h"
#include "cli/bench_command.h"

typedef enum { MODE_DYNAMIC, MODE_PADDED, MODE_MASK, GATING_MODES } GatingBenchMode;

extern const char *const GATING_MODE_NAMES[GATING_MODES];

/* Batches in the order in which they are measured. */
typedef struct {
    BenchBatch batches[BENCH_MAX_BATCHES];
    uint32_t n;
} GatingBatches;

/* What is run. */
typedef struct {
    ModelInput model;
    DeviceInput device;
    const char *routing;
    Stack stack;
    bool decode;      /* one token of each request a step; else whole sequences */
    uint32_t context; /* decode: tokens of each request before, and of its source */
    uint32_t repeats;
    double capacity;                    /* of static gating, a fraction of a step's tokens */
    GatingBatches wanted[GATING_MODES]; /* none of a mode that was not asked for */
} GatingLoad;

/* One mode with one batch. */
typedef struct {
    GatingBenchMode mode;
    BenchBatch batch;
    bool fits;
    char wanted[512]; /* what it needs, where it does not fit */
    StepTimes times;
    double tokens_per_s;
    double floor_ns;       /* of what the mode computes and reads */
    uint64_t device_bytes; /* of an executor for this mode and batch alone */
    double active;         /* experts of a layer, mean */
    double dropped;        /* share of the assignments */
} GatingCell;

typedef struct {
    Ceilings ceilings;
    char device[512];
    uint32_t layers;
    double waste; /* slots that static gating computes per assignment: E * C / k */
    GatingCell cells[GATING_MODES * BENCH_MAX_BATCHES];
    uint32_t n_cells;
    const GatingCell *best[GATING_MODES]; /* of the most tokens per second; NULL: nothing fits */
    FILE *rows; /* where cells are printed when they are measured, or NULL */
    Progress progress;
    uint64_t tokens;          /* of the steps that were run */
    const volatile int *stop; /* set: no further step begins */
    bool stopped;
} GatingReport;

/* Measures every batch of MODE, and prints each when it is. Opens an executor for as many as have
 * the same number of tokens each and fit at once; of a list's batches the first that does not fit
 * is the last, which is no failure. */
Status gating_mode_run(const GatingLoad *load, GatingBenchMode mode, GatingReport *report);

/* Steps that a batch takes, warm-up and all. */
uint32_t gating_steps(const GatingLoad *load);

/* How many times MODE's throughput dynamic gating has, each at its own best batch; 0: unknown. */
double gating_gain(const GatingReport *report, GatingBenchMode mode);

/* What is known before the first cell; one cell; and what only all of them tell, on stdout. */
void gating_print_begin(const GatingLoad *load, const GatingReport *report);
void gating_print_cell(const GatingReport *report, const GatingCell *cell);
void gating_print_end(const GatingReport *report);
Status gating_print_json(const GatingLoad *load, const GatingReport *report, int argc, char **argv);

#endif
