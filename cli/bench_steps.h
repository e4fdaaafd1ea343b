/* What the benchmarks of whole steps share: a model that is open, made-up requests in its KV slots,
 * steps that are timed one by one, and what each is compared with. */
#ifndef CLI_BENCH_STEPS_H
#define CLI_BENCH_STEPS_H

#include "cli/bench_cost.h"
#include "cli/online.h"
#include "traces/ops.h"
#include "exec/routing_source.h"

enum { BENCH_MAX_REPEATS = 200 };

typedef struct {
    const char *model; /* whole name */
    const DeviceInput *device;
    const Plan *plan;
    const Plan *others; /* [n_others] that the executor is given later on (exec/executor.h) */
    size_t n_others;
    const char *routing; /* NULL: the router's */
    uint32_t max_requests;
    uint32_t max_length; /* of a request, all its steps together; and of a source */
    uint32_t max_tokens; /* of a step */
} StepBenchSetup;

typedef struct {
    StepBenchSetup setup;
    Checkpoint *checkpoint;
    const ModelConfig *config;
    Executor *executor;
    RoutingSource *routing;
    uint32_t *token; /* [max_tokens], as are the next two */
    uint32_t *slot;
    uint32_t *position;
    uint16_t *forced; /* per MoE layer [max_tokens][top_k]; NULL: the router's */
    Arena arena;
    uint64_t open_ns; /* that opening took */
} StepBench;

/* One kind of step of a benchmark. */
typedef struct {
    Stack stack;
    uint32_t requests;
    uint32_t first_request; /* of them, in the slots of the same numbers */
    uint32_t tokens;        /* of each */
    uint32_t position;      /* of the first of these */
    LogitsWanted logits;
    bool timing;
} StepBenchStep;

/* Times of repeated steps. */
typedef struct {
    double median_ns;
    double least_ns;
    double most_ns;
    uint32_t repeats;
} StepTimes;

/* BENCH must be zeroed or closed; on failure nothing is held. */
Status step_bench_open(const StepBenchSetup *setup, StepBench *bench);
void step_bench_close(StepBench *bench);
/* Device memory of an executor for SETUP, of BENCH's model, without opening one. */
Status step_bench_memory(const StepBench *bench, const StepBenchSetup *setup, uint64_t *bytes);
/* Runs STEP on random tokens; *NS is how long the call took. */
Status step_bench_run(StepBench *bench, const StepBenchStep *step, StepOutput *output, double *ns);
/* Gives REQUESTS requests CONTEXT tokens each (and in an encoder-decoder model a source of as
 * many), in steps as large as the setup allows. */
Status step_bench_fill(StepBench *bench, uint32_t requests, uint32_t context);
/* Forgets all requests. */
void step_bench_empty(StepBench *bench);
/* Bytes of a weight in the device's compute type. */
double step_bench_element_bytes(const StepBench *bench);

/* Sorts NS [n]. */
StepTimes step_times(double *ns, uint32_t n);

/* Time by operation, in nanoseconds: adds a step's. */
void step_ops_add(double ops_ns[OPS], const StepOutput *output);

#endif
