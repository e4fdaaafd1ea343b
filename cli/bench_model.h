/* What the benchmarks that run a model share: a checkpoint, its executor, and random requests. */
#ifndef CLI_BENCH_MODEL_H
#define CLI_BENCH_MODEL_H

#include "cli/bench.h"
#include "exec/run.h"

typedef struct {
    Checkpoint *checkpoint;
    Plan plan; /* all experts resident */
    TokenSet set;
    Executor *executor;
    RunOptions run;
} BenchModel;

/* REQUESTS requests of LENGTH random tokens, run in batches of BATCH with GENERATE tokens each
 * (past the end token). On failure nothing is held. */
typedef struct {
    uint32_t requests;
    uint32_t length;
    uint32_t batch;
    uint32_t generate;
    uint32_t predictions; /* MoE layers ahead */
} BenchLoad;

Status bench_model_open(const BenchOptions *options, const BenchLoad *load, BenchModel *model);
void bench_model_close(BenchModel *model);

/* Runs all requests, into RECORDER unless it is NULL. */
Status bench_model_run(const BenchModel *model, Recorder *recorder, RunTotals *totals);

#endif
