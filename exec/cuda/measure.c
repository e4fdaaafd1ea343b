#include "exec/cuda/measure.h"

#include <assert.h>
#include <stdlib.h>

enum { MAX_REPEATS = 64, CEILING_REPEATS = 20 };

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a;
    float y = *(const float *)b;
    return (x > y) - (x < y);
}

static Status time_work(DeviceWork work, void *context, const cudaEvent_t events[2],
                        uint32_t repeats, cudaStream_t stream, double *milliseconds)
{
    float times[MAX_REPEATS];
    const uint32_t warm_up = 2;
    for (uint32_t i = 0; i < repeats + warm_up; i++) {
        CUDA_TRY(cudaEventRecord(events[0], stream));
        TRY(work(context, stream));
        CUDA_TRY(cudaEventRecord(events[1], stream));
        CUDA_TRY(cudaStreamSynchronize(stream));
        CUDA_TRY(cudaEventElapsedTime(&times[i < warm_up ? 0 : i - warm_up], events[0], events[1]));
    }
    qsort(times, repeats, sizeof *times, compare_floats);
    *milliseconds = times[repeats / 2];
    return OK;
}

/* The work as an instantiated graph; nothing is left captured when it fails. */
static Status capture(DeviceWork work, void *context, cudaStream_t stream, cudaGraphExec_t *result)
{
    cudaGraph_t graph = NULL;
    CUDA_TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    Status status = work(context, stream);
    cudaError_t error = cudaStreamEndCapture(stream, &graph);
    if (status == OK && error != cudaSuccess)
        status = cuda_failed(error, "cudaStreamEndCapture(stream, &graph)");
    if (status == OK) {
        error = cudaGraphInstantiate(result, graph, 0);
        if (error != cudaSuccess)
            status = cuda_failed(error, "cudaGraphInstantiate(result, graph, 0)");
    }
    if (graph != NULL)
        cudaGraphDestroy(graph);
    return status;
}

/* Queues WORK REPEATS (up to 64) times after two that do not count: the median of their times. */
static Status measure_work(DeviceWork work, void *context, uint32_t repeats, cudaStream_t stream,
                           double *milliseconds)
{
    cudaEvent_t events[2] = {NULL, NULL};
    Status status = OK;
    for (int i = 0; status == OK && i < 2; i++) {
        cudaError_t error = cudaEventCreate(&events[i]);
        status = error == cudaSuccess ? OK : cuda_failed(error, "cudaEventCreate(&events[i])");
    }
    if (status == OK)
        status = time_work(work, context, events, repeats < MAX_REPEATS ? repeats : MAX_REPEATS,
                           stream, milliseconds);
    for (int i = 0; i < 2; i++)
        if (events[i] != NULL)
            cudaEventDestroy(events[i]);
    return status;
}

static Status replay(void *context, cudaStream_t stream)
{
    CUDA_TRY(cudaGraphLaunch(*(cudaGraphExec_t *)context, stream));
    return OK;
}

Status measure_graph(DeviceWork work, void *context, uint32_t repeats, cudaStream_t stream,
                     double *milliseconds)
{
    cudaGraphExec_t graph;
    TRY(capture(work, context, stream, &graph));
    Status status = measure_work(replay, &graph, repeats, stream, milliseconds);
    cudaGraphExecDestroy(graph);
    return status;
}

/* ---- in turn ---- */

enum { MAX_TURNS = 8, TURN_MS = 20, MIN_RUNS = 3, MAX_RUNS = 128 };

/* One work's share of the turns. */
typedef struct {
    cudaGraphExec_t graph;
    uint32_t runs; /* of a turn, and one that does not count */
    uint32_t n_times;
    float times[MAX_TURNS * MAX_RUNS];
} TurnWork;

typedef struct {
    cudaEvent_t events[MAX_RUNS + 2];
    TurnWork works[MAX_TIMED_WORKS];
} Turns;

/* Replays WORK without a pause; its TIMES follow those that are there. */
static Status take_turn(const Turns *turns, TurnWork *work, cudaStream_t stream)
{
    CUDA_TRY(cudaEventRecord(turns->events[0], stream));
    for (uint32_t i = 0; i <= work->runs; i++) {
        CUDA_TRY(cudaGraphLaunch(work->graph, stream));
        CUDA_TRY(cudaEventRecord(turns->events[i + 1], stream));
    }
    CUDA_TRY(cudaStreamSynchronize(stream));
    for (uint32_t i = 1; i <= work->runs; i++)
        CUDA_TRY(cudaEventElapsedTime(&work->times[work->n_times++], turns->events[i],
                                      turns->events[i + 1]));
    return OK;
}

/* As many runs as fill a turn. */
static Status count_runs(const Turns *turns, TurnWork *work, cudaStream_t stream)
{
    work->runs = 1;
    TRY(take_turn(turns, work, stream));
    float runs = TURN_MS / work->times[0];
    work->runs = runs > MAX_RUNS ? MAX_RUNS : runs < MIN_RUNS ? MIN_RUNS : (uint32_t)runs;
    return OK;
}

static Status take_turns(Turns *turns, TimedWork *works, uint32_t n, uint32_t rounds,
                         cudaStream_t stream)
{
    for (size_t i = 0; i < sizeof turns->events / sizeof *turns->events; i++)
        CUDA_TRY(cudaEventCreate(&turns->events[i]));
    for (uint32_t i = 0; i < n; i++) {
        TRY(capture(works[i].queue, works[i].context, stream, &turns->works[i].graph));
        TRY(count_runs(turns, &turns->works[i], stream));
    }
    for (uint32_t turn = 0; turn < rounds; turn++)
        for (uint32_t i = 0; i < n; i++) {
            if (turn <= 1)
                turns->works[i].n_times = 0;
            TRY(take_turn(turns, &turns->works[i], stream));
        }
    for (uint32_t i = 0; i < n; i++) {
        TurnWork *work = &turns->works[i];
        qsort(work->times, work->n_times, sizeof *work->times, compare_floats);
        works[i].milliseconds = work->times[work->n_times / 2];
    }
    return OK;
}

Status measure_in_turn(TimedWork *works, uint32_t n, uint32_t rounds, cudaStream_t stream)
{
    Turns turns = {0};
    assert(n <= MAX_TIMED_WORKS && rounds > 1 && rounds <= MAX_TURNS);
    Status status = take_turns(&turns, works, n, rounds, stream);
    for (uint32_t i = 0; i < n; i++)
        if (turns.works[i].graph != NULL)
            cudaGraphExecDestroy(turns.works[i].graph);
    for (size_t i = 0; i < sizeof turns.events / sizeof *turns.events; i++)
        if (turns.events[i] != NULL)
            cudaEventDestroy(turns.events[i]);
    return status;
}

/* ---- ceilings ---- */

static Status queue_copy(void *context, cudaStream_t stream)
{
    const DeviceCopy *copy = context;
    CUDA_TRY(cudaMemcpyAsync(copy->to, copy->from, copy->bytes, cudaMemcpyDefault, stream));
    return OK;
}

Status queue_device_product(void *context, cudaStream_t stream)
{
    const DeviceProduct *work = context;
    uint32_t n = work->size;
    size_t bytes = (size_t)n * n * 2;
    const CublasProduct product = {
        .in = CUDA_R_16BF, .out = CUDA_R_16BF, .rows = n, .columns = n, .depth = n, .count = 1};
    const CublasMatrix a = {.data = work->memory, .columns = n};
    const CublasMatrix b = {.data = work->memory + bytes, .columns = n};
    const CublasMatrix out = {.data = work->memory + 2 * bytes, .columns = n};
    return cublas_product(work->cublas, &product, &a, &b, &out, stream);
}

double device_product_rate(const DeviceProduct *product, double milliseconds)
{
    const double n = product->size;
    return 2 * n * n * n / (milliseconds * 1e-3);
}

Status measure_copy(DeviceCopy *copy, cudaStream_t stream, double *bytes_per_s)
{
    double milliseconds = 0;
    TRY(measure_work(queue_copy, copy, CEILING_REPEATS, stream, &milliseconds));
    *bytes_per_s = 2 * (double)copy->bytes / (milliseconds * 1e-3);
    return OK;
}

Status measure_product(DeviceProduct *product, cudaStream_t stream, double *flops_per_s)
{
    double milliseconds = 0;
    TRY(queue_device_product(product, stream));
    TRY(measure_work(queue_device_product, product, CEILING_REPEATS, stream, &milliseconds));
    *flops_per_s = device_product_rate(product, milliseconds);
    return OK;
}
