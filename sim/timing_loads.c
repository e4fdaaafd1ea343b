/* The loads of an event, one by one or, small ones, together. */
#include "sim/timing_event.h"

/* The duration of a record whose load is still to be begun. */
#define GATHERED UINT64_MAX
#define PUT_OFF (UINT64_MAX - 1)

/* What a load of NS from START on takes beside experts that the host computes. */
static uint64_t beside_host(const Event *event, uint64_t start_ns, uint64_t ns)
{
    double slow = event->timing->costs.prices[event->price].copy_slow;
    uint64_t from_ns = later(start_ns, event->host_from);
    if (slow <= 1)
        return ns;
    uint64_t end_ns = start_ns + ns < event->host_until ? start_ns + ns : event->host_until;
    return end_ns > from_ns ? ns + (uint64_t)((slow - 1) * (double)(end_ns - from_ns)) : ns;
}

/* A load from START on; beside computation the link may be slower. */
static uint64_t copy_ns(const Event *event, const LayerTime *layer, uint64_t start_ns)
{
    const Timing *timing = event->timing;
    uint64_t ns = layer->copy_ns;
    if (timing->gpu_ns > start_ns && layer->copy_busy_ns > ns) {
        uint64_t beside = timing->gpu_ns - start_ns < ns ? timing->gpu_ns - start_ns : ns;
        ns += (uint64_t)((double)(layer->copy_busy_ns - ns) * (double)beside / (double)ns);
    }
    return later(beside_host(event, start_ns, ns), layer->load_ns);
}

/* Time of BYTES over the link, by REF. */
static uint64_t cross(Timing *timing, const CostRef *ref, uint64_t bytes)
{
    CostPoint point = {0};
    point.at[AXIS_BYTES] = (double)bytes;
    return op_costs_ns(&timing->costs, ref, &point, &timing->costs.other);
}

/* When a load that the host began to begin at BEGUN_NS starts, where the link is free from FREE_NS
 * on. */
static uint64_t load_start(const Event *event, uint64_t begun_ns, uint64_t free_ns)
{
    const Timing *timing = event->timing;
    uint64_t start_ns = later(free_ns + timing->gap_ns, begun_ns + timing->lag_ns);
    return event->queued ? later(start_ns, timing->gpu_ns + event->sync_ns) : start_ns;
}

/* LOADS that take the link from START_NS to END_NS. */
static Status note_load(Timing *timing, uint64_t free_ns, uint64_t start_ns, uint64_t end_ns,
                        uint32_t loads)
{
    timing->out.load_ns += end_ns - start_ns;
    timing->out.loads += loads;
    timing->timed_loads++;
    return link_take(timing, free_ns, end_ns);
}

Status event_begin_load(Event *event, const LayerTime *layer, ResidencyRecord *record)
{
    Timing *timing = event->timing;
    uint64_t begun_ns = timing->host_ns;
    uint64_t start_ns;
    uint64_t end_ns;
    uint64_t free_ns;
    TRY(link_free(timing, &free_ns));
    if (timing->one_thread) {
        start_ns = later(free_ns, timing->host_ns);
        timing->host_ns += layer->copy_ns;
        end_ns = later(start_ns + layer->load_ns, timing->host_ns);
    } else {
        timing->host_ns += timing->issue_load_ns;
        start_ns = load_start(event, begun_ns, free_ns);
        end_ns = start_ns + copy_ns(event, layer, start_ns);
    }
    record->start_ns = start_ns;
    record->duration_ns = end_ns - start_ns;
    return note_load(timing, free_ns, start_ns, end_ns, 1);
}

uint64_t timing_issue_loads_ns(Timing *timing, uint32_t n)
{
    static const CostPoint point = {0};
    if (timing->refs.issue_loads.table == COSTS_NONE)
        return timing->issue_together_ns;
    return (uint64_t)op_costs_by_number(&timing->costs, &timing->refs.issue_loads, &point,
                                        AXIS_LOADS, n, true, &timing->issue_loads,
                                        &timing->costs.other);
}

/* What passes from their start on before they are copied as BYTES are that were begun long before.
 */
static uint64_t start_loads_ns(Timing *timing, uint64_t bytes)
{
    if (timing->refs.load_together.table == COSTS_NONE)
        return timing->start_together_ns;
    bytes = bytes < timing->most_together ? bytes : timing->most_together;
    uint64_t ns = cross(timing, &timing->refs.load_together, bytes);
    uint64_t copy_ns = cross(timing, &timing->refs.together, bytes);
    return ns > copy_ns ? ns - copy_ns : 0;
}

/* Going through the decisions of EVENT, before it begins its first loads; else it is a part of
 * queueing the experts. */
static void carry(Event *event)
{
    Timing *timing = event->timing;
    const CostPoint point = {0};
    if (event->calls > 0 || event->carry_ns > 0 || timing->refs.carry.table == COSTS_NONE)
        return;
    event->carry_ns =
        (uint64_t)op_costs_by_number(&timing->costs, &timing->refs.carry, &point, AXIS_ACTIVE,
                                     event->event->n, true, &timing->carry, &timing->costs.other);
    timing->host_ns += event->carry_ns;
}

/* Begins N small loads, which RECORD is to have the time of: one copy. It has started when the host
 * is still beginning it, where nothing else keeps it waiting. */
static Status begin_together(Event *event, const LayerTime *layer, uint32_t n,
                             ResidencyRecord *record)
{
    Timing *timing = event->timing;
    carry(event);
    uint64_t begun_ns = timing->host_ns;
    uint64_t free_ns;
    TRY(link_free(timing, &free_ns));
    uint64_t bytes = n * layer->slot_bytes;
    timing->host_ns += timing_issue_loads_ns(timing, n) + timing->issue_throttle_ns;
    uint64_t start_ns = load_start(event, begun_ns, free_ns);
    uint64_t from_ns = later(start_ns, begun_ns + timing->lag_ns + start_loads_ns(timing, bytes));
    uint64_t ns = cross(timing, &timing->refs.together, bytes);
    if (layer->asked_ns > 0)
        ns = throttled(timing, n * layer->asked_ns, ns);
    record->start_ns = start_ns;
    record->duration_ns = from_ns + ns - start_ns;
    return note_load(timing, free_ns, start_ns, from_ns + ns, n);
}

Status event_begin_gathered(Event *event)
{
    Timing *timing = event->timing;
    uint32_t n = event->gathered;
    ResidencyRecord record;
    if (n == 0)
        return OK;
    TRY(begin_together(event, event->gathered_layer, n, &record));
    for (size_t i = event->first_gathered; timing->options.records && i < timing->out.n_residency;
         i++) {
        if (timing->residency[i].duration_ns != GATHERED)
            continue;
        timing->residency[i].start_ns = record.start_ns;
        timing->residency[i].duration_ns = record.duration_ns;
    }
    uint64_t end_ns = record.start_ns + record.duration_ns;
    event->gathered = 0;
    if (event->ahead == NULL)
        event->loaded.ready_ns = later(event->loaded.ready_ns, end_ns);
    else
        timing->prefetched_ns = later(timing->prefetched_ns, end_ns);
    for (; event->ahead != NULL; event->ahead = event->ahead->next)
        event->ahead->end_ns = end_ns;
    return OK;
}

void event_gather(Event *event, const LayerTime *layer, ResidencyRecord *record)
{
    if (event->gathered++ == 0)
        event->first_gathered = event->timing->out.n_residency;
    event->gathered_layer = layer;
    record->duration_ns = GATHERED;
}

void event_put_off(Event *event, const LayerTime *layer, PrefetchTime *prefetch,
                   ResidencyRecord *record)
{
    Timing *timing = event->timing;
    if (timing->n_put_off++ == 0)
        timing->put_off = prefetch;
    else
        timing->last_put_off->next = prefetch;
    timing->last_put_off = prefetch;
    timing->put_off_layer = layer;
    prefetch->record = timing->out.n_residency;
    record->duration_ns = PUT_OFF;
}

/* PREFETCH has the time of LOAD. */
static void take_time(Timing *timing, PrefetchTime *prefetch, const ResidencyRecord *load)
{
    prefetch->end_ns = load->start_ns + load->duration_ns;
    timing->prefetched_ns = later(timing->prefetched_ns, prefetch->end_ns);
    if (!timing->options.records)
        return;
    timing->residency[prefetch->record].start_ns = load->start_ns;
    timing->residency[prefetch->record].duration_ns = load->duration_ns;
}

/* N small loads of LAYER ahead, which RECORD is to have the time of: one after the other. */
static Status begin_ahead(Event *event, const LayerTime *layer, uint32_t n, ResidencyRecord *record)
{
    Timing *timing = event->timing;
    CostPoint point = {0};
    uint64_t begun_ns = timing->host_ns;
    uint64_t free_ns;
    point.at[AXIS_BYTES] = (double)layer->slot_bytes;
    point.at[AXIS_LOADS] = n;
    TRY(link_free(timing, &free_ns));
    timing->host_ns +=
        op_costs_ns(&timing->costs, &timing->refs.issue_ahead, &point, &timing->costs.other);
    record->start_ns = load_start(event, begun_ns, free_ns);
    record->duration_ns =
        op_costs_ns(&timing->costs, &timing->refs.ahead, &point, &timing->costs.other);
    return note_load(timing, free_ns, record->start_ns, record->start_ns + record->duration_ns, n);
}

/* The host began to begin N small loads ahead at BEGUN_NS: it is not told of the next event before
 * some time has passed. */
static void put_off_told(Timing *timing, uint64_t begun_ns, uint32_t n)
{
    CostPoint point = {0};
    if (timing->refs.wait_ahead.table == COSTS_NONE)
        return;
    point.at[AXIS_LOADS] = n < timing->most_awaited ? n : (double)timing->most_awaited;
    timing->told_least_ns = begun_ns + op_costs_ns(&timing->costs, &timing->refs.wait_ahead, &point,
                                                   &timing->costs.other);
}

Status timing_begin_put_off(Timing *timing)
{
    const LayerTime *layer = timing->put_off_layer;
    const uint32_t loads = timing->n_put_off;
    const uint64_t begun_ns = timing->host_ns;
    uint32_t n = loads;
    ResidencyRecord load = {0};
    timing->n_put_off = 0;
    if (n == 0)
        return OK;
    Event event = {.timing = timing, .price = layer->price};
    bool measured = layer->together && timing->refs.ahead.table != COSTS_NONE;
    if (measured)
        TRY(begin_ahead(&event, layer, n, &load));
    for (PrefetchTime *prefetch = timing->put_off; n > 0; n--, prefetch = prefetch->next) {
        if (!measured)
            TRY(event_begin_load(&event, layer, &load));
        take_time(timing, prefetch, &load);
    }
    if (measured)
        put_off_told(timing, begun_ns, loads);
    return OK;
}
