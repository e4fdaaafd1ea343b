/* Weights into device memory, at the start and as loads.
 *
 * The host's copy of an expert is the mapped checkpoint itself, in the file's own element type: a
 * load converts from the map into the slot, so that beside the slots there is only page cache,
 * which the system takes back when it needs to. A load is done on return of its first part; what
 * the plan's link throttle adds is waited for by whoever awaits the load, so that the throttled
 * link is busy beside the compute as a copy engine would be. */
#include <time.h>

#include "base/clock.h"
#include "exec/cpu/cpu.h"

enum {
    STORE_ELEMENTS = 1 << 16, /* that one thread converts at a time */
    SPIN_NS = 150000          /* below this a sleep may come back too late */
};

typedef struct {
    const Part *part;
    float *to;
    uint32_t rows_at_once;
} StoreTask;

static void store_rows(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const StoreTask *task = argument;
    const Part *part = task->part;
    size_t first = item * task->rows_at_once;
    size_t end = first + least(task->rows_at_once, part->rows - (uint32_t)first);
    if (part->column_step == 1 && part->row_step == part->columns) {
        tensor_floats(&part->tensor, part->first + first * part->columns,
                      (end - first) * part->columns, task->to + first * part->columns);
        return;
    }
    for (size_t row = first; row < end; row++)
        part_row(part, (uint32_t)row, task->to + row * part->columns);
}

Status cpu_store_floats(Device *device, const Part *part, float *to)
{
    uint32_t at_once = STORE_ELEMENTS / (part->columns > 0 ? part->columns : 1) + 1;
    StoreTask task = {part, to, at_once};
    thread_pool_run(device->pool, divide_up(part->rows, at_once), store_rows, &task);
    return OK;
}

Status cpu_store(Device *device, const Part *part, void *to)
{
    return cpu_store_floats(device, part, to);
}

Status cpu_store_ffn(Device *device, const FfnShape *shape, const FfnTensors *tensors, void *to)
{
    FfnLayout layout = ffn_layout(shape, sizeof(float));
    float *first = (float *)(void *)((unsigned char *)to + layout.first);
    float *first_bias = (float *)(void *)((unsigned char *)to + layout.first_bias);
    if (shape->gated)
        TRY(cpu_store(device, &tensors->gate, first));
    TRY(cpu_store(device, &tensors->up,
                  first + (shape->gated ? (size_t)shape->d_ff * shape->d_model : 0)));
    TRY(cpu_store(device, &tensors->down, (unsigned char *)to + layout.second));
    if (!shape->bias)
        return OK;
    if (shape->gated)
        TRY(cpu_store_floats(device, &tensors->gate_bias, first_bias));
    TRY(cpu_store_floats(device, &tensors->up_bias, first_bias + (shape->gated ? shape->d_ff : 0)));
    return cpu_store_floats(device, &tensors->down_bias,
                            (float *)(void *)((unsigned char *)to + layout.second_bias));
}

Status cpu_keep_expert(Device *device, const FfnShape *shape, const FfnTensors *tensors,
                       const void **kept)
{
    (void)device;
    (void)shape;
    *kept = tensors;
    return OK;
}

static Status load_one(Device *device, const Load *load)
{
    LoadTime *time = &device->loads[load->ticket];
    uint64_t now = clock_ns();
    uint64_t start_ns = device->link_free_ns > now ? device->link_free_ns : now;
    uint64_t end_ns = start_ns + load->at_least_ns;
    if (load->first_part == 0) {
        TRY(cpu_store_ffn(device, load->shape, load->kept, load->slot));
        uint64_t copied_ns = clock_ns();
        end_ns = end_ns > copied_ns ? end_ns : copied_ns;
        time->start_ns = start_ns;
    }
    time->end_ns = end_ns;
    device->link_free_ns = end_ns;
    return OK;
}

Status cpu_load(Device *device, const Load *loads, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        TRY(load_one(device, &loads[i]));
    return OK;
}

Status cpu_link_idle(Device *device, bool *idle)
{
    *idle = device->link_free_ns <= clock_ns();
    return OK;
}

static void wait_until(uint64_t end_ns)
{
    uint64_t now;
    while ((now = clock_ns()) < end_ns) {
        if (end_ns - now <= SPIN_NS)
            continue;
        uint64_t sleep_ns = end_ns - now - SPIN_NS;
        struct timespec rest = {.tv_sec = (time_t)(sleep_ns / 1000000000u),
                                .tv_nsec = (long)(sleep_ns % 1000000000u)};
        nanosleep(&rest, NULL);
    }
}

Status cpu_await_loads(Device *device, const uint32_t *tickets, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        wait_until(device->loads[tickets[i]].end_ns);
    return OK;
}

Status cpu_load_time(Device *device, uint32_t ticket, uint64_t *start_ns, uint64_t *duration_ns)
{
    const LoadTime *time = &device->loads[ticket];
    wait_until(time->end_ns);
    *start_ns = time->start_ns;
    *duration_ns = time->end_ns - time->start_ns;
    return OK;
}
