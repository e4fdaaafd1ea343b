/* What the files of `moebius bench gating` share: dynamic, padded and mask gating over batches. */
#ifndef CLI_BENCH_GATING_H
#define CLI_BENCH_GATING_H

#include "cli/bench_command.h"

typedef enum { MODE_DYNAMIC, MODE_PADDED, MODE_MASK, GATING_MODES } GatingBenchMode;

extern const char *const GATING_MODE_NAMES[GATING_MODES];

/* What is run. */
typedef struct {
    ModelInput model;
    DeviceInput device;
    const char *routing;
    Stack stack;
    bool decode;      /* one token of each request a step; else whole sequences */
    uint32_t context; /* decode: tokens of each request before, and of its source */
    uint32_t repeats;
    double capacity; /* of static gating, a fraction of a step's tokens */
    BenchBatch batches[BENCH_MAX_BATCHES];
    uint32_t n_batches;
} GatingLoad;

/* One mode with one batch. */
typedef struct {
    GatingBenchMode mode;
    BenchBatch batch;
    bool fits;
    char wanted[512]; /* what it needs, where it does not fit */
    StepTimes times;
    double tokens_per_s;
    double floor_ns; /* of what the mode computes and reads */
    uint64_t device_bytes;
    double active;  /* experts of a layer, mean */
    double dropped; /* share of the assignments */
} GatingCell;

typedef struct {
    Ceilings ceilings;
    char device[512];
    uint32_t layers;
    double waste; /* slots that static gating computes per assignment: E * C / k */
    GatingCell cells[GATING_MODES * BENCH_MAX_BATCHES];
    uint32_t n_cells;
    const GatingCell *best[GATING_MODES]; /* of the most tokens per second; NULL: nothing fits */
} GatingReport;

/* Opens an executor for CELL's mode and batch, measures its steps and fills in the rest of CELL. A
 * batch that does not fit is no failure. */
Status gating_cell_run(const GatingLoad *load, GatingReport *report, GatingCell *cell);

/* How many times MODE's throughput dynamic gating has, each at its own best batch; 0: unknown. */
double gating_gain(const GatingReport *report, GatingBenchMode mode);

Status gating_report_print(const GatingLoad *load, const GatingReport *report);
Status gating_report_print_json(const GatingLoad *load, const GatingReport *report, int argc,
                                char **argv);

#endif
