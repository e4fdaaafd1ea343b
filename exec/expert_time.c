/* How long experts take the host's cores now, by some that are computed for nobody. */
#include "exec/expert_slots_parts.h"

#include <stdlib.h>

enum { MOST_REPEATS = 8 };

/* Of weights that are read at a time, and how long it goes on: what is measured is how the machine
 * is for a while, and what others do to it changes from second to second. */
static const size_t TIMED_BYTES = (size_t)256 << 20;
static const uint64_t TIMED_NS = 6000000;

/* The next expert that is like those of the first layer, or NULL where none is kept. */
static const void *next_kept(ExpertSlots *slots)
{
    size_t stride = expert_slots_stride(slots, 0);
    uint32_t experts = slots->trace_layers[0].experts;
    for (uint32_t tries = slots->n_layers * experts; tries > 0; tries--) {
        uint32_t at = slots->timed++ % (slots->n_layers * experts);
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

static int compare_ns(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* The threads are awake once they have computed some, which count for nothing. */
Status expert_slots_time_host(ExpertSlots *slots, uint64_t *ns)
{
    HostJob jobs[HOST_TIMED_EXPERTS];
    uint64_t took[MOST_REPEATS + 1];
    uint64_t sum_ns = 0;
    uint32_t n = 0;
    *ns = 0;
    while (n <= MOST_REPEATS && sum_ns < TIMED_NS) {
        for (uint32_t i = 0; i < count_timed(slots); i++) {
            jobs[i] = (HostJob){i, next_kept(slots)};
            if (jobs[i].kept == NULL)
                return OK;
        }
        TRY(slots->backend->time_host(slots->device, slots->layers[0].shape, jobs,
                                      count_timed(slots), &took[n]));
        sum_ns += took[n++];
    }
    uint32_t first = n > 1;
    qsort(took + first, n - first, sizeof *took, compare_ns);
    *ns = took[first + (n - first) / 2];
    return OK;
}
