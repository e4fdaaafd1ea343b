/* Loads in a stream of their own, and the times of loads and of the queue's places.
 *
 * A throttled load holds its stream until its time is over, so that the loads after it and whoever
 * awaits it see a link that is as slow as the plan says.
 *
 * Events tell times between each other only. When times are asked for, everything has happened: one
 * more event, recorded and waited for, then ties them to the host's clock. */
#include <string.h>

#include "base/clock.h"
#include "exec/cuda/convert.h"
#include "exec/cuda/device.h"

static Status make_events(LoadEvents *events)
{
    CUDA_TRY(cudaEventCreate(&events->start));
    CUDA_TRY(cudaEventCreate(&events->end));
    return OK;
}

static void free_events(const LoadEvents *events)
{
    if (events->start != NULL)
        cudaEventDestroy(events->start);
    if (events->end != NULL)
        cudaEventDestroy(events->end);
}

Status cuda_make_loads(Device *device, uint32_t n)
{
    LoadEvents *more;
    Status status = OK;
    if (n <= device->n_loads)
        return OK;
    TRY(mem_new(&more, n, sizeof *more, "executor: events of loads"));
    for (uint32_t i = device->n_loads; i < n && status == OK; i++)
        status = make_events(&more[i]);
    if (status != OK) {
        for (uint32_t i = device->n_loads; i < n; i++)
            free_events(&more[i]);
        mem_free(more);
        return status;
    }
    if (device->n_loads > 0)
        memcpy(more, device->loads, device->n_loads * sizeof *more);
    mem_free(device->loads);
    device->loads = more;
    device->n_loads = n;
    return OK;
}

void cuda_free_loads(Device *device)
{
    for (uint32_t i = 0; i < device->n_loads; i++)
        free_events(&device->loads[i]);
    mem_free(device->loads);
    device->loads = NULL;
    device->n_loads = 0;
}

Status cuda_begin_anew(Device *device, uint32_t max_loads)
{
    cuda_forget_graphs(device);
    return cuda_make_loads(device, max_loads);
}

Status cuda_load(Device *device, const Load *load)
{
    const LoadEvents *events = &device->loads[load->ticket];
    size_t bytes = ffn_layout(load->shape, cuda_weight_bytes(device)).bytes;
    device->anchored = false;
    if (load->after_queue) {
        CUDA_TRY(cudaEventRecord(device->queued, device->stream));
        CUDA_TRY(cudaStreamWaitEvent(device->copies, device->queued, 0));
    }
    CUDA_TRY(cudaEventRecord(events->start, device->copies));
    if (load->at_least_ns > 0)
        TRY(clock_note(device->throttle_start, device->copies));
    CUDA_TRY(
        cudaMemcpyAsync(load->slot, load->kept, bytes, cudaMemcpyHostToDevice, device->copies));
    if (load->at_least_ns > 0)
        TRY(clock_wait(device->throttle_start, load->at_least_ns, device->copies));
    CUDA_TRY(cudaEventRecord(events->end, device->copies));
    return OK;
}

Status cuda_await_load(Device *device, uint32_t ticket)
{
    CUDA_TRY(cudaStreamWaitEvent(device->stream, device->loads[ticket].end, 0));
    return OK;
}

static Status take_anchor(Device *device)
{
    if (device->anchored)
        return OK;
    CUDA_TRY(cudaEventRecord(device->anchor, device->stream));
    CUDA_TRY(cudaEventSynchronize(device->anchor));
    device->anchor_ns = clock_ns();
    device->anchored = true;
    return OK;
}

/* From one event that has happened to another, which may have been the earlier one. */
static Status read_elapsed(cudaEvent_t from, cudaEvent_t to, int64_t *ns)
{
    float milliseconds;
    CUDA_TRY(cudaEventElapsedTime(&milliseconds, from, to));
    *ns = (int64_t)((double)milliseconds * 1e6);
    return OK;
}

/* When EVENT, which has happened, was in clock_ns(). */
static Status read_time(Device *device, cudaEvent_t event, uint64_t *ns)
{
    int64_t age_ns = 0;
    TRY(take_anchor(device));
    TRY(read_elapsed(event, device->anchor, &age_ns));
    *ns = device->anchor_ns - (uint64_t)age_ns;
    return OK;
}

Status cuda_load_time(Device *device, uint32_t ticket, uint64_t *start_ns, uint64_t *duration_ns)
{
    const LoadEvents *events = &device->loads[ticket];
    int64_t elapsed_ns = 0;
    CUDA_TRY(cudaEventSynchronize(events->end));
    TRY(read_time(device, events->start, start_ns));
    TRY(read_elapsed(events->start, events->end, &elapsed_ns));
    *duration_ns = elapsed_ns > 0 ? (uint64_t)elapsed_ns : 0;
    return OK;
}

Status cuda_stamp(Device *device, uint32_t index)
{
    device->anchored = false;
    CUDA_TRY(cudaEventRecordWithFlags(device->stamps[index], device->stream,
                                      device->captured != NULL ? cudaEventRecordExternal
                                                               : cudaEventRecordDefault));
    return OK;
}

Status cuda_stamp_times(Device *device, uint32_t n, uint64_t *ns)
{
    for (uint32_t i = 0; i < n; i++)
        TRY(read_time(device, device->stamps[i], &ns[i]));
    return OK;
}
