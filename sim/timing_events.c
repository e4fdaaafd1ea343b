/* Events of a step that waits, of experts with a row each: how long they take depends on how many
 * there are and how many of them miss, where the link has nothing to do. What one took is kept. */
#include "sim/timing_parts.h"

/* From when on the host can go on, as it learns of the router. */
static uint64_t told_ns(const Timing *timing)
{
    return later(timing->host_ns, timing->gpu_ns);
}

/* Nothing that was loaded before makes a difference: neither to loads that the host begins from now
 * on, nor to what computes beside them. */
static bool is_link_idle(const Timing *timing)
{
    return timing->copy_ns + timing->gap_ns <= told_ns(timing) + timing->lag_ns &&
           timing->copy_ns <= timing->gpu_ns;
}

static EventTime *place_of(Timing *timing, uint32_t kind, uint32_t n, uint32_t n_misses,
                           uint64_t late_ns)
{
    return &timing->event_times[(n_misses + 8 * n + 32 * kind + late_ns) % EVENT_TIMES];
}

bool event_repeats(Timing *timing, const LayerTime *layer, uint32_t n, uint32_t n_misses)
{
    uint64_t from_ns = told_ns(timing);
    uint64_t late_ns = from_ns - timing->gpu_ns;
    const EventTime *time = place_of(timing, layer->kind, n, n_misses, late_ns);
    if (time->calls_priced != 1 + timing->costs.calls_priced || time->kind != layer->kind ||
        time->n != n || time->n_misses != n_misses || time->late_ns != late_ns ||
        !is_link_idle(timing))
        return false;
    timing->gpu_ns = from_ns + time->gpu_ns;
    timing->host_ns = from_ns + time->host_ns;
    timing->copy_ns = n_misses > 0 ? from_ns + time->copy_ns : timing->copy_ns;
    timing->out.exposed_load_ns += time->exposed_load_ns;
    timing->out.load_ns += time->load_ns;
    timing->out.loads += n_misses;
    timing->timed_loads += time->timed_loads;
    cost_use_add(&timing->costs.other, &time->other);
    return true;
}

EventStart event_begins(const Timing *timing, const LayerTime *layer, uint32_t n, uint32_t n_misses)
{
    EventStart start = {.from_ns = told_ns(timing), .idle = is_link_idle(timing)};
    start.time = (EventTime){.calls_priced = 1 + timing->costs.calls_priced,
                             .kind = layer->kind,
                             .n = n,
                             .n_misses = n_misses,
                             .late_ns = start.from_ns - timing->gpu_ns};
    start.time.exposed_load_ns = timing->out.exposed_load_ns;
    start.time.load_ns = timing->out.load_ns;
    start.time.timed_loads = timing->timed_loads;
    start.cold_ns = timing->cold_ns;
    start.time.other = timing->costs.other;
    return start;
}

void event_ends(Timing *timing, const EventStart *start)
{
    EventTime time = start->time;
    if (!start->idle || timing->cold_ns != start->cold_ns ||
        time.calls_priced != 1 + timing->costs.calls_priced)
        return;
    time.gpu_ns = timing->gpu_ns - start->from_ns;
    time.host_ns = timing->host_ns - start->from_ns;
    time.copy_ns = timing->copy_ns - start->from_ns;
    time.exposed_load_ns = timing->out.exposed_load_ns - time.exposed_load_ns;
    time.load_ns = timing->out.load_ns - time.load_ns;
    time.timed_loads = timing->timed_loads - time.timed_loads;
    for (CostStatus status = COST_OK; status < COST_STATUSES; status++)
        time.other.n[status] = timing->costs.other.n[status] - time.other.n[status];
    *place_of(timing, time.kind, time.n, time.n_misses, time.late_ns) = time;
}
