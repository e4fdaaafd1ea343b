/* Experts on the host's cores. */
#include "sim/timing_parts.h"

static uint32_t count_host(const BufferAction *actions, uint32_t n)
{
    uint32_t active = 0;
    for (uint32_t i = 0; i < n; i++)
        active += actions[i].kind == RESIDENCY_HOST;
    return active;
}

/* The host reads the expert of ACTION: the share of it that comes from memory, by what was read
 * since the last time. */
static double read_expert(Timing *timing, const BufferAction *action)
{
    LayerTime *layer = &timing->layers[action->layer_index];
    uint64_t *read = &layer->host_read[action->expert];
    CostPoint point = {0};
    point.at[AXIS_BYTES] = (double)(timing->host_read - *read + layer->slot_bytes);
    bool is_first = *read == 0;
    timing->host_read += layer->slot_bytes;
    *read = timing->host_read;
    if (is_first || timing->refs.reuse.table == COSTS_NONE)
        return is_first;
    return op_costs_at(&timing->costs, &timing->refs.reuse, &point, &timing->costs.other);
}

/* Each takes its share of the time of as many that have as many rows. */
uint64_t timing_host_ns(Timing *timing, uint32_t price, const BufferAction *actions,
                        uint32_t n_actions)
{
    uint32_t active = count_host(actions, n_actions);
    double ns = 0;
    for (uint32_t i = 0; i < n_actions; i++) {
        if (actions[i].kind != RESIDENCY_HOST)
            continue;
        double cold = read_expert(timing, &actions[i]);
        ns += op_costs_host_expert(&timing->costs, price, active,
                                   timing->rows_of[actions[i].expert], cold) /
              active;
    }
    return (uint64_t)ns;
}
