/* Steps as graphs. A shape that comes for the first time is only noted; when it comes again its
 * step is captured and launched as one graph, and from then on replayed. Copies read what the
 * host's arrays have at the replay.
 *
 * The first step of a shape is so run directly: a prompt's shape may never come again, and kernels
 * that were never launched are loaded then, which a capture does not allow. */
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

/* Room for one more: the one that was not used for longest makes it. */
static StepGraph *make_room(Device *device)
{
    StepGraph *oldest = &device->graphs[0];
    if (device->n_graphs < MOST_GRAPHS)
        return &device->graphs[device->n_graphs++];
    for (uint32_t i = 1; i < MOST_GRAPHS; i++)
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
    if (*repeated)
        CUDA_TRY(cudaGraphLaunch(graph->executable, device->stream));
    else if (graph != NULL) {
        CUDA_TRY(cudaStreamBeginCapture(device->stream, cudaStreamCaptureModeThreadLocal));
        device->captured = graph;
    } else {
        graph = make_room(device);
        *graph = (StepGraph){.shape = *shape};
    }
    graph->last_step = ++device->step;
    return OK;
}

/* Executable graphs take device memory beside the arena: where it is short, others make room. */
static Status launch_captured(Device *device, StepGraph *captured, cudaGraph_t graph)
{
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
    CUDA_TRY(cudaGraphLaunch(captured->executable, device->stream));
    return OK;
}

Status cuda_end_step(Device *device, bool whole)
{
    StepGraph *captured = device->captured;
    cudaGraph_t graph = NULL;
    if (captured == NULL)
        return OK;
    device->captured = NULL;
    cudaError_t error = cudaStreamEndCapture(device->stream, &graph);
    Status status = OK;
    if (whole)
        status = error == cudaSuccess ? launch_captured(device, captured, graph)
                                      : cuda_failed(error, "cudaStreamEndCapture(stream, &graph)");
    if (graph != NULL)
        cudaGraphDestroy(graph);
    return status;
}
