/* Experts of an event on the host's cores. */
#include "sim/timing_event.h"

/* Longer than any cache keeps what nobody reads. */
static const double NEVER_NS = 1e12;

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

/* What the expert of ACTION, one of ACTIVE, takes longer than its share of host/experts by the time
 * since the host was at it last. */
static double aged_ns(Timing *timing, const CostRef *aged, uint32_t active,
                      const BufferAction *action)
{
    uint64_t *read_ns = &timing->layers[action->layer_index].host_read_ns[action->expert];
    CostPoint point = {0};
    point.at[AXIS_ACTIVE] = active;
    point.at[AXIS_ELAPSED] = *read_ns == 0                ? NEVER_NS
                             : timing->host_ns > *read_ns ? (double)(timing->host_ns - *read_ns)
                                                          : 0;
    *read_ns = timing->host_ns > 0 ? timing->host_ns : 1;
    if (aged->table == COSTS_NONE)
        return 0;
    return op_costs_at(&timing->costs, aged, &point, &timing->costs.other) / active;
}

/* How long the host's cores compute the experts that ACTIONS leave to them, at least one: each
 * takes its share of the time of as many that have as many rows. */
static uint64_t experts_ns(Timing *timing, uint32_t price, const BufferAction *actions,
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
        ns += aged_ns(timing, &timing->costs.prices[price].aged, active, &actions[i]);
    }
    return ns > 0 ? (uint64_t)ns : 0;
}

/* What ACTIVE experts take the host longer when it begins with them at START. */
static uint64_t rested_ns(Timing *timing, const Event *event, uint32_t active, uint64_t start_ns)
{
    const OpPrice *price = &timing->costs.prices[event->price];
    if (price->rested.table == COSTS_NONE)
        return 0;
    CostPoint point = {0};
    point.at[AXIS_ACTIVE] = active;
    point.at[AXIS_ELAPSED] =
        start_ns > timing->host_done_ns ? (double)(start_ns - timing->host_done_ns) : 0;
    return op_costs_ns(&timing->costs, &price->rested, &point, &timing->costs.other);
}

/* What experts take the host from START on that take it NS alone: loads read the same memory. */
static uint64_t beside_loads(const Event *event, uint64_t start_ns, uint64_t ns)
{
    const Timing *timing = event->timing;
    double slow = timing->costs.prices[event->price].host_slow;
    if (slow <= 1 || timing->copy_ns <= start_ns)
        return ns;
    double beside_ns = (double)(timing->copy_ns - start_ns);
    double all_ns = (double)ns * slow;
    return (uint64_t)(all_ns <= beside_ns ? all_ns : (double)ns + beside_ns - beside_ns / slow);
}

void event_offer_host(const Event *event)
{
    Timing *timing = event->timing;
    if (timing->options.plan->compute.mode == COMPUTE_ON_GPU || timing->one_thread)
        return;
    timing->gpu_ns +=
        timing_tokens_ns(timing, &timing->costs.prices[event->price].offer, timing->step.tokens);
}

void event_expect_host(Event *event, const BufferAction *actions, uint32_t n_actions)
{
    Timing *timing = event->timing;
    uint32_t n_loads = 0;
    if (n_actions == 0 || actions[0].kind != RESIDENCY_HOST)
        return;
    for (uint32_t i = 0; i < n_actions; i++)
        n_loads += actions[i].kind == RESIDENCY_LOAD || actions[i].kind == RESIDENCY_BYPASS;
    event->host_ns = experts_ns(timing, event->price, actions, n_actions);
    event->host_from = timing->host_ns + n_loads * timing->issue_load_ns;
    event->host_until = event->host_from + (uint64_t)((double)event->host_ns *
                                                      timing->costs.prices[event->price].host_slow);
}

void event_run_host(Event *event)
{
    Timing *timing = event->timing;
    if (event->host.active == 0)
        return;
    uint64_t start_ns = timing->host_ns;
    timing->host_ns += beside_loads(event, start_ns, event->host_ns);
    timing->host_ns += rested_ns(timing, event, event->host.active, start_ns);
    uint64_t computed_ns = timing->host_ns;
    timing->host_done_ns = computed_ns;
    uint64_t fetched_ns = computed_ns;
    if (!timing->one_thread) {
        CostPoint point = {0};
        const OpPrice *price = &timing->costs.prices[event->price];
        point.at[AXIS_ROWS] =
            event->host.rows < HOST_ROWS_AT_ONCE ? event->host.rows : HOST_ROWS_AT_ONCE;
        fetched_ns += op_costs_ns(&timing->costs, &price->fetch, &point, &timing->costs.other);
        timing->host_ns +=
            op_costs_ns(&timing->costs, &price->issue_fetch, &point, &timing->costs.other);
    }
    timing->gpu_ns = later(timing->gpu_ns, fetched_ns);
    for (uint32_t i = 0; timing->options.records && i < event->host.active; i++) {
        ResidencyRecord *record = &timing->residency[event->first_host + i];
        record->start_ns = start_ns;
        record->duration_ns = computed_ns - start_ns;
    }
}
