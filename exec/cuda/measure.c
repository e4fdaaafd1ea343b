#include "exec/cuda/measure.h"

#include <stdlib.h>

#include "exec/cuda/random.h"

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

Status measure_work(DeviceWork work, void *context, uint32_t repeats, cudaStream_t stream,
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

typedef struct {
    void *to;
    const void *from;
    size_t bytes;
} Copy;

static Status queue_copy(void *context, cudaStream_t stream)
{
    const Copy *copy = context;
    CUDA_TRY(cudaMemcpyAsync(copy->to, copy->from, copy->bytes, cudaMemcpyDefault, stream));
    return OK;
}

Status measure_copy(void *to, const void *from, size_t bytes, cudaStream_t stream,
                    double *bytes_per_s)
{
    Copy copy = {.to = to, .from = from, .bytes = bytes};
    double milliseconds = 0;
    TRY(measure_work(queue_copy, &copy, CEILING_REPEATS, stream, &milliseconds));
    *bytes_per_s = 2 * (double)bytes / (milliseconds * 1e-3);
    return OK;
}

typedef struct {
    uint32_t size;
    unsigned char *memory;
    const Cublas *cublas;
} Product;

static Status queue_product(void *context, cudaStream_t stream)
{
    const Product *work = context;
    uint32_t n = work->size;
    size_t bytes = (size_t)n * n * 2;
    const CublasProduct product = {
        .in = CUDA_R_16BF, .out = CUDA_R_16BF, .rows = n, .columns = n, .depth = n, .count = 1};
    const CublasMatrix a = {.data = work->memory, .columns = n};
    const CublasMatrix b = {.data = work->memory + bytes, .columns = n};
    const CublasMatrix out = {.data = work->memory + 2 * bytes, .columns = n};
    return cublas_product(work->cublas, &product, &a, &b, &out, stream);
}

Status measure_product(uint32_t size, void *memory, const Cublas *cublas, cudaStream_t stream,
                       double *flops_per_s)
{
    Product product = {.size = size, .memory = memory, .cublas = cublas};
    double milliseconds = 0;
    TRY(random_fill(memory, 2 * (size_t)size * size, 1, 1, stream));
    TRY(queue_product(&product, stream));
    TRY(measure_work(queue_product, &product, CEILING_REPEATS, stream, &milliseconds));
    *flops_per_s = 2.0 * size * size * size / (milliseconds * 1e-3);
    return OK;
}
