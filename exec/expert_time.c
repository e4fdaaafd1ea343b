/* How long experts take the host's cores now, by some that are computed for nobody. */
#include "base/numbers.h"
#include "base/statistics.h"
#include "exec/expert_slots_parts.h"

enum { MOST_REPEATS = 8, BESIDE_REPEATS = 9 };

/* Of weights that are read at a time, and how long it goes on: what is measured is how the machine
 * is for a while, and what others do to it changes from second to second. */
static const size_t TIMED_BYTES = (size_t)256 << 20;
static const uint64_t TIMED_NS = 10000000;

/* Experts of all layers in an order in which neighbours lie far apart: what was read just now by
 * its number is not read again. */
static uint32_t next_number(ExpertSlots *slots)
{
    uint32_t all = slots->n_layers * slots->trace_layers[0].experts;
    uint32_t step = (uint32_t)(0.618 * all) + 1;
    while (greatest_common_divisor(step, all) != 1)
        step++;
    return (uint32_t)((uint64_t)slots->timed++ % all * step % all);
}

/* The next expert that is like those of the first layer, or NULL where none is kept. */
static const void *next_kept(ExpertSlots *slots)
{
    size_t stride = expert_slots_stride(slots, 0);
    uint32_t experts = slots->trace_layers[0].experts;
    for (uint32_t tries = slots->n_layers * experts; tries > 0; tries--) {
        uint32_t at = next_number(slots);
        const LayerSlots *layer = &slots->layers[at / experts];
        uint32_t expert = at % experts;
        if (expert < slots->trace_layers[at / experts].experts && layer->kept[expert] != NULL &&
            expert_slots_stride(slots, at / experts) == stride)
            return layer->kept[expert];
    }
    return NULL;
}

static uint32_t count_timed(const ExpertSlots *slots)
{
    size_t most = TIMED_BYTES / expert_slots_stride(slots, 0);
    uint32_t n = slots->trace_layers[0].experts;
    n = n < HOST_TIMED_EXPERTS ? n : HOST_TIMED_EXPERTS;
    return most < 1 ? 1 : most < n ? (uint32_t)most : n;
}

/* N experts; 0 where none is kept. */
static Status time_once(ExpertSlots *slots, uint32_t n, uint64_t *ns)
{
    HostJob jobs[HOST_TIMED_EXPERTS];
    *ns = 0;
    for (uint32_t i = 0; i < n; i++) {
        jobs[i] = (HostJob){i, next_kept(slots)};
        if (jobs[i].kept == NULL)
            return OK;
    }
    return slots->backend->time_host(slots->device, slots->layers[0].shape, jobs, n, ns);
}

/* The threads are awake once they have computed some, which count for nothing. */
Status expert_slots_time_host(ExpertSlots *slots, uint64_t *ns)
{
    uint64_t took[MOST_REPEATS];
    uint64_t sum_ns = 0;
    uint32_t n = 0;
    TRY(time_once(slots, count_timed(slots), ns));
    while (*ns > 0 && n < MOST_REPEATS && sum_ns < TIMED_NS) {
        TRY(time_once(slots, count_timed(slots), &took[n]));
        sum_ns += took[n++];
    }
    *ns = (uint64_t)median_u64(took, n);
    return OK;
}

/* N experts beside loads of as many and two more, which go to one slot and end after them: what
 * the experts took, and the mean of the loads that were over before, or the first where none was.
 * Without experts N is only that of loads, all of which count. */
static Status time_beside(ExpertSlots *slots, uint32_t n, bool host, uint64_t *host_ns,
                          uint64_t *load_ns)
{
    uint64_t first_ns = 0;
    uint64_t sum_ns = 0;
    uint32_t counted = 0;
    for (uint32_t ticket = 0; ticket < n + 2; ticket++) {
        const Load load = {.shape = slots->layers[0].shape,
                           .kept = next_kept(slots),
                           .slot = expert_slots_address(slots, 0, 0),
                           .ticket = ticket};
        TRY(slots->backend->load(slots->device, &load, 1));
    }
    if (host)
        TRY(time_once(slots, n, host_ns));
    TRY(slots->backend->wait(slots->device));
    for (uint32_t ticket = 0; ticket < n + 2; ticket++) {
        uint64_t start_ns;
        uint64_t ns;
        TRY(slots->backend->load_time(slots->device, ticket, &start_ns, &ns));
        first_ns = ticket == 0 ? start_ns : first_ns;
        if (host && counted > 0 && start_ns + ns > first_ns + *host_ns)
            break;
        sum_ns += ns;
        counted++;
    }
    *load_ns = sum_ns / counted;
    return OK;
}

Status expert_slots_time_beside(ExpertSlots *slots, double *host, double *load)
{
    uint64_t alone[2][BESIDE_REPEATS];
    uint64_t beside[2][BESIDE_REPEATS];
    uint32_t n = count_timed(slots);
    *host = *load = 1;
    if (slots->layers[0].kept[0] == NULL || n + 2 > expert_slots_max_loads(slots))
        return OK;
    for (uint32_t i = 0; i < BESIDE_REPEATS; i++) {
        TRY(time_once(slots, n, &alone[0][i]));
        TRY(time_once(slots, n, &alone[0][i]));
        TRY(time_beside(slots, n, true, &beside[0][i], &beside[1][i]));
        TRY(time_beside(slots, n, false, NULL, &alone[1][i]));
    }
    *host = median_u64(beside[0], BESIDE_REPEATS) / median_u64(alone[0], BESIDE_REPEATS);
    *load = median_u64(beside[1], BESIDE_REPEATS) / median_u64(alone[1], BESIDE_REPEATS);
    return OK;
}
