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
#include "policies/link.h"

/* Of parts of loads, bytes. */
enum { PART_ALIGNMENT = 64 };

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

static size_t bytes_of(const Device *device, const Load *load)
{
    return ffn_layout(load->shape, cuda_weight_bytes(device)).bytes;
}

/* How many of the next N loads are copied together; few bytes, whatever holds one holds all. */
static uint32_t count_together(const Device *device, const Load *loads, uint32_t n)
{
    size_t bytes = bytes_of(device, &loads[0]);
    uint32_t some = 1;
    while (bytes <= LOADED_TOGETHER_BYTES && some < n && some < MOST_TOGETHER &&
           bytes_of(device, &loads[some]) == bytes &&
           loads[some].after_queue == loads[0].after_queue && loads[some].ahead == loads[0].ahead)
        some++;
    return some;
}

/* Where part PART of an expert of BYTES begins. */
static size_t part_at(const Load *load, size_t bytes, uint32_t part)
{
    return part < load->parts ? bytes / PART_ALIGNMENT * part / load->parts * PART_ALIGNMENT
                              : bytes;
}

static Status copy_parts(const Device *device, const Load *load, size_t bytes)
{
    size_t first = load->first_part > 0 ? part_at(load, bytes, load->first_part) : 0;
    size_t end = part_at(load, bytes, load->parts > 0 ? load->end_part : 0);
    CUDA_TRY(cudaMemcpyAsync((unsigned char *)load->slot + first,
                             (const unsigned char *)load->kept + first, end - first,
                             cudaMemcpyHostToDevice, device->copies));
    return OK;
}

/* Queues the copies of N loads of BYTES each. Small ones that nobody waits for take the copy engine
 * as well: that takes longer for each, but beside a kernel that copies what is computed does. */
static Status copy_loads(const Device *device, const Load *loads, uint32_t n, size_t bytes)
{
    SmallLoad together[MOST_TOGETHER];
    if (bytes > LOADED_TOGETHER_BYTES || loads->ahead) {
        for (uint32_t i = 0; i < n; i++)
            TRY(copy_parts(device, &loads[i], bytes));
        return OK;
    }
    for (uint32_t i = 0; i < n; i++)
        together[i] = (SmallLoad){loads[i].kept, loads[i].slot};
    return copy_together(together, n, bytes, device->copies);
}

/* ... between the events of the first of them. */
static Status copy_between(const Device *device, const Load *loads, uint32_t n,
                           const LoadEvents *events)
{
    uint64_t at_least_ns = 0;
    for (uint32_t i = 0; i < n; i++)
        at_least_ns += loads[i].at_least_ns;
    if (loads->first_part == 0)
        CUDA_TRY(cudaEventRecord(events->start, device->copies));
    if (at_least_ns > 0)
        TRY(clock_note(device->throttle_start, device->copies));
    TRY(copy_loads(device, loads, n, bytes_of(device, loads)));
    if (at_least_ns > 0)
        TRY(clock_wait(device->throttle_start, at_least_ns, device->copies));
    CUDA_TRY(cudaEventRecord(events->end, device->copies));
    return OK;
}

static Status begin_together(Device *device, const Load *loads, uint32_t n)
{
    if (loads->after_queue) {
        CUDA_TRY(cudaEventRecord(device->queued, device->stream));
        CUDA_TRY(cudaStreamWaitEvent(device->copies, device->queued, 0));
    }
    TRY(copy_between(device, loads, n, &device->loads[loads->ticket]));
    device->last_load = loads->ticket;
    device->load_order++;
    for (uint32_t i = 0; i < n; i++) {
        LoadEvents *events = &device->loads[loads[i].ticket];
        events->first = loads->ticket;
        events->order = device->load_order;
        events->timed = false;
    }
    return OK;
}

Status cuda_load(Device *device, const Load *loads, uint32_t n)
{
    device->anchored = false;
    for (uint32_t first = 0; first < n;) {
        uint32_t some = count_together(device, loads + first, n - first);
        TRY(begin_together(device, loads + first, some));
        first += some;
    }
    return OK;
}

/* The stream of the copies keeps its order: its last load is waited for. */
Status cuda_await_loads(Device *device, const uint32_t *tickets, uint32_t n)
{
    const LoadEvents *last = NULL;
    for (uint32_t i = 0; i < n; i++) {
        const LoadEvents *load = &device->loads[tickets[i]];
        last = last == NULL || load->order > last->order ? load : last;
    }
    if (last != NULL)
        CUDA_TRY(cudaStreamWaitEvent(device->stream, device->loads[last->first].end, 0));
    return OK;
}

Status cuda_link_idle(Device *device, bool *idle)
{
    *idle = true;
    if (device->load_order == 0)
        return OK;
    cudaError_t error = cudaEventQuery(device->loads[device->last_load].end);
    *idle = error == cudaSuccess;
    if (error == cudaSuccess || error == cudaErrorNotReady)
        return OK;
    return cuda_failed(error, "cudaEventQuery(device->loads[device->last_load].end)");
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
    LoadEvents *events = &device->loads[device->loads[ticket].first];
    int64_t elapsed_ns = 0;
    if (!events->timed) {
        CUDA_TRY(cudaEventSynchronize(events->end));
        TRY(read_time(device, events->start, &events->start_ns));
        TRY(read_elapsed(events->start, events->end, &elapsed_ns));
        events->duration_ns = elapsed_ns > 0 ? (uint64_t)elapsed_ns : 0;
        events->timed = true;
    }
    *start_ns = events->start_ns;
    *duration_ns = events->duration_ns;
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
