/* Steps as graphs. A shape that comes for the first time is only noted; when it comes again its
 * step is captured as a graph, which all later ones repeat. Copies read what the host's arrays have
 * at the replay.
 *
 * The first two steps of a shape are queued one operation after the other: a prompt's shape may
 * never come again, and kernels that were never launched are loaded then, which a capture does not
 * allow. The second is captured after it was queued, while the device works on it, so that making
 * the graph costs little time. */
#include "exec/cuda/device.h"

#include <string.h>

static StepGraph *find(Device *device, const StepShape *shape)
{
    for (uint32_t i = 0; i < device->n_graphs; i++)
        if (memcmp(&device->graphs[i].shape, shape, sizeof *shape) == 0)
            return &device->graphs[i];
    return NULL;
}

static void forget(StepGraph *graph)
{
    if (graph->executable != NULL)
        cudaGraphExecDestroy(graph->executable);
    graph->executable = NULL;
}

void cuda_forget_graphs(Device *device)
{
    for (uint32_t i = 0; i < device->n_graphs; i++)
        forget(&device->graphs[i]);
    device->n_graphs = 0;
}

/* Room for one more shape: the one that was not used for longest makes it. */
static StepGraph *make_room(Device *device)
{
    StepGraph *oldest = &device->graphs[0];
    if (device->n_graphs < MOST_SHAPES)
        return &device->graphs[device->n_graphs++];
    for (uint32_t i = 1; i < MOST_SHAPES; i++)
        if (device->graphs[i].last_step < oldest->last_step)
            oldest = &device->graphs[i];
    forget(oldest);
    return oldest;
}

Status cuda_begin_step(Device *device, const StepShape *shape, bool *repeated)
{
    StepGraph *graph = find(device, shape);
    *repeated = graph != NULL && graph->executable != NULL;
    device->anchored = false;
    device->again = *repeated ? NULL : graph;
    if (*repeated)
        CUDA_TRY(cudaGraphLaunch(graph->executable, device->stream));
    if (graph == NULL) {
        graph = make_room(device);
        *graph = (StepGraph){.shape = *shape};
    }
    graph->last_step = ++device->step;
    return OK;
}

/* Room for one more graph. */
static void limit_graphs(Device *device)
{
    StepGraph *oldest = NULL;
    uint32_t n = 0;
    for (uint32_t i = 0; i < device->n_graphs; i++) {
        StepGraph *graph = &device->graphs[i];
        if (graph->executable == NULL)
            continue;
        n++;
        if (oldest == NULL || graph->last_step < oldest->last_step)
            oldest = graph;
    }
    if (n >= MOST_GRAPHS)
        forget(oldest);
}

/* Executable graphs take device memory beside the arena: where it is short, others make room. */
static Status instantiate(Device *device, StepGraph *captured, cudaGraph_t graph)
{
    limit_graphs(device);
    cudaError_t error = cudaGraphInstantiate(&captured->executable, graph, 0);
    if (error == cudaErrorMemoryAllocation) {
        captured->executable = NULL;
        cudaGetLastError();
        for (uint32_t i = 0; i < device->n_graphs; i++)
            forget(&device->graphs[i]);
        error = cudaGraphInstantiate(&captured->executable, graph, 0);
    }
    if (error != cudaSuccess) {
        captured->executable = NULL;
        return cuda_failed(error, "cudaGraphInstantiate(&captured->executable, graph, 0)");
    }
    /* Beside the step that runs: else the first that repeats it would wait for this. */
    CUDA_TRY(cudaGraphUpload(captured->executable, device->copies));
    return OK;
}

static Status end_capture(Device *device, bool whole)
{
    StepGraph *captured = device->captured;
    cudaGraph_t graph = NULL;
    device->captured = NULL;
    cudaError_t error = cudaStreamEndCapture(device->stream, &graph);
    Status status = OK;
    if (whole)
        status = error == cudaSuccess ? instantiate(device, captured, graph)
                                      : cuda_failed(error, "cudaStreamEndCapture(stream, &graph)");
    if (graph != NULL)
        cudaGraphDestroy(graph);
    return status;
}

Status cuda_end_step(Device *device, bool whole, bool *again)
{
    *again = false;
    if (device->captured != NULL)
        return end_capture(device, whole);
    if (device->again == NULL || !whole)
        return OK;
    CUDA_TRY(cudaStreamBeginCapture(device->stream, cudaStreamCaptureModeThreadLocal));
    device->captured = device->again;
    *again = true;
    return OK;
}
