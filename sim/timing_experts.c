/* The experts of an event in a step that waits, as exec/expert_slots.c carries them out. */
#include <assert.h>

#include "base/memory.h"
#include "sim/timing_parts.h"

/* One event on its way. */
typedef struct {
    Timing *timing;
    const TimingEvent *event;
    uint32_t price;
    Pending hits;
    Pending loaded;
    ExpertWork host;   /* experts that the host computes */
    size_t first_host; /* their records, which come first */
    bool queued;       /* operations of this event are */
} Event;

/* Time on the compute stream from START on, longer where copies run beside. */
static uint64_t beside_copies(const Timing *timing, uint32_t price, uint64_t start_ns, uint64_t ns)
{
    double slow = timing->costs.prices[price].slow;
    if (slow <= 1 || timing->copy_ns <= start_ns)
        return ns;
    uint64_t beside = timing->copy_ns - start_ns < ns ? timing->copy_ns - start_ns : ns;
    return ns + (uint64_t)((slow - 1) * (double)beside);
}

/* A call's time is from the end of queueing it to its end, while its first kernels run already;
 * behind other work it takes so much more. */
static uint64_t queued_behind(const Timing *timing, uint64_t issue_ns)
{
    return issue_ns > timing->lag_ns ? issue_ns - timing->lag_ns : 0;
}

/* Queues what is pending in LIST. */
static void run_jobs(Event *event, Pending *list)
{
    Timing *timing = event->timing;
    if (list->work.active == 0)
        return;
    uint64_t ns = op_costs_experts(&timing->costs, event->price, &list->work, true);
    if (timing->one_thread) {
        timing->host_ns = later(timing->host_ns, list->ready_ns) + ns;
        timing->gpu_ns = timing->host_ns;
    } else {
        uint64_t issue_ns = timing->costs.prices[event->price].issue_ns;
        timing->host_ns += timing->issue_await_ns * list->tickets + issue_ns;
        uint64_t free_ns = timing->gpu_ns + queued_behind(timing, issue_ns);
        uint64_t start_ns = later(later(free_ns, timing->host_ns), list->ready_ns);
        timing->gpu_ns = start_ns + beside_copies(timing, event->price, start_ns, ns);
    }
    *list = (Pending){0};
}

static void run_pending(Event *event)
{
    run_jobs(event, &event->hits);
    run_jobs(event, &event->loaded);
    event->timing->flush++;
}

static void add_job(Event *event, Pending *list, const BufferAction *action)
{
    Timing *timing = event->timing;
    expert_work_add(&list->work, timing->rows_of[action->expert]);
    timing->slot_used[action->slot] = timing->flush;
}

/* A load from START on; beside computation the link may be slower. */
static uint64_t copy_ns(const Timing *timing, const LayerTime *layer, uint64_t start_ns)
{
    uint64_t ns = layer->copy_ns;
    if (timing->gpu_ns > start_ns && layer->copy_busy_ns > ns) {
        uint64_t beside = timing->gpu_ns - start_ns < ns ? timing->gpu_ns - start_ns : ns;
        ns += (uint64_t)((double)(layer->copy_busy_ns - ns) * (double)beside / (double)ns);
    }
    return later(ns, layer->load_ns);
}

/* Where loads are copies by the calling thread, a slow link is waited for when they are awaited. */
static uint64_t load_in_thread(Timing *timing, const LayerTime *layer, uint64_t *start_ns)
{
    *start_ns = later(timing->copy_ns, timing->host_ns);
    timing->host_ns += layer->copy_ns;
    return later(*start_ns + layer->load_ns, timing->host_ns);
}

static uint64_t begin_load(Event *event, const BufferAction *action, ResidencyRecord *record)
{
    Timing *timing = event->timing;
    const LayerTime *layer = &timing->layers[action->layer_index];
    uint64_t start_ns;
    if (timing->slot_used[action->slot] == timing->flush) {
        run_pending(event);
        event->queued = true;
    }
    uint64_t begun_ns = timing->host_ns;
    timing->host_ns += timing->issue_load_ns;
    uint64_t end_ns;
    if (timing->one_thread) {
        end_ns = load_in_thread(timing, layer, &start_ns);
    } else {
        start_ns = later(timing->copy_ns, begun_ns + timing->lag_ns);
        if (event->queued)
            start_ns = later(start_ns, timing->gpu_ns + timing->sync_ns);
        end_ns = start_ns + copy_ns(timing, layer, start_ns);
    }
    timing->copy_ns = end_ns;
    timing->out.load_ns += end_ns - start_ns;
    timing->out.loads++;
    record->bytes = timing->options.layers[action->layer_index].expert_bytes;
    record->start_ns = start_ns;
    record->duration_ns = end_ns - start_ns;
    timing->out.bytes_loaded += record->bytes;
    return end_ns;
}

static void add_loaded(Event *event, const BufferAction *action, uint64_t end_ns)
{
    add_job(event, &event->loaded, action);
    event->loaded.tickets++;
    event->loaded.ready_ns =
        later(event->loaded.ready_ns, moved(end_ns, event->timing->after_load_ns));
}

static void add_hit(Event *event, const BufferAction *action)
{
    const Timing *timing = event->timing;
    const PrefetchTime *prefetch = &timing->layers[action->layer_index].prefetch[action->expert];
    if (prefetch->step == timing->number)
        add_loaded(event, action, prefetch->end_ns);
    else
        add_job(event, &event->hits, action);
}

static Status add_record(Timing *timing, const ResidencyRecord *record)
{
    if (!timing->options.records)
        return OK;
    TRY(mem_grow(&timing->residency, &timing->residency_room, timing->out.n_residency,
                 sizeof *timing->residency, "simulated loads"));
    timing->residency[timing->out.n_residency++] = *record;
    return OK;
}

static Status carry_out(Event *event, const BufferAction *action, uint64_t decided_ns)
{
    Timing *timing = event->timing;
    const LayerTime *layer = &timing->layers[action->layer_index];
    PrefetchTime *prefetch = &layer->prefetch[action->expert];
    ResidencyRecord record = {.layer = layer->layer,
                              .expert = action->expert,
                              .kind = action->kind,
                              .slot = action->slot,
                              .start_ns = decided_ns};
    if (action->kind == RESIDENCY_HOST) {
        expert_work_add(&event->host, timing->rows_of[action->expert]);
    } else if (action->kind == RESIDENCY_HIT) {
        add_hit(event, action);
    } else if (action->kind == RESIDENCY_EVICT) {
        prefetch->step = 0;
        timing->n_resident--;
        timing->resident_bytes -= layer->slot_bytes;
    } else {
        uint64_t end_ns = begin_load(event, action, &record);
        if (action->kind != RESIDENCY_BYPASS) {
            timing->n_resident++;
            timing->resident_bytes += layer->slot_bytes;
        }
        if (action->kind == RESIDENCY_PREFETCH) {
            *prefetch = (PrefetchTime){.end_ns = end_ns, .step = timing->number};
            timing->prefetched_ns = later(timing->prefetched_ns, end_ns);
        } else {
            add_loaded(event, action, end_ns);
        }
    }
    return add_record(timing, &record);
}

/* Time of BYTES over the link, by REF. */
static uint64_t cross(Timing *timing, const CostRef *ref, uint64_t bytes)
{
    CostPoint point = {0};
    point.at[AXIS_BYTES] = (double)bytes;
    return op_costs_ns(&timing->costs, ref, &point, &timing->costs.other);
}

static uint64_t row_bytes(const Event *event)
{
    return event->timing->options.layers[event->event->layer_index].d_model * sizeof(float);
}

/* Where the host may have to compute, the tokens and which expert has which come to it before it
 * goes on. */
static void offer_host(const Event *event)
{
    Timing *timing = event->timing;
    const TraceLayer *layer = &timing->options.layers[event->event->layer_index];
    uint64_t tokens = timing->step.tokens;
    if (timing->options.plan->compute.mode == COMPUTE_ON_GPU || timing->one_thread)
        return;
    timing->gpu_ns += cross(timing, &timing->refs.d2h, tokens * row_bytes(event)) +
                      cross(timing, &timing->refs.d2h, (layer->experts + 1) * sizeof(uint32_t)) +
                      cross(timing, &timing->refs.d2h, tokens * layer->top_k * sizeof(uint32_t));
}

/* The host computes its experts when all else is queued; what they give is fetched by the device,
 * and what is queued next waits for it. */
static void run_host(Event *event, const BufferAction *actions, uint32_t n_actions)
{
    Timing *timing = event->timing;
    if (event->host.active == 0)
        return;
    uint64_t start_ns = timing->host_ns;
    timing->host_ns += timing_host_ns(timing, event->price, actions, n_actions);
    uint64_t fetched_ns = timing->host_ns;
    if (!timing->one_thread)
        fetched_ns += cross(timing, &timing->refs.h2d, event->host.rows * row_bytes(event));
    timing->gpu_ns = later(timing->gpu_ns, fetched_ns);
    for (uint32_t i = 0; timing->options.records && i < event->host.active; i++) {
        ResidencyRecord *record = &timing->residency[event->first_host + i];
        record->start_ns = start_ns;
        record->duration_ns = timing->host_ns - start_ns;
    }
}

/* When the event would end, had every lookup hit. */
static uint64_t end_of_hits(const Event *event, const ExpertWork *all)
{
    Timing *timing = event->timing;
    uint64_t ns = op_costs_experts(&timing->costs, event->price, all, true);
    uint64_t issue_ns = timing->costs.prices[event->price].issue_ns;
    if (timing->one_thread)
        return timing->host_ns + ns;
    return later(timing->gpu_ns + queued_behind(timing, issue_ns), timing->host_ns + issue_ns) + ns;
}

Status timing_experts(Timing *timing, const TimingEvent *asked, const BufferAction *actions,
                      uint32_t n_actions, uint32_t price)
{
    Event event = {.timing = timing, .event = asked, .price = price};
    ExpertWork all = {0};
    CostPoint point = {0};
    for (uint32_t i = 0; i < asked->n; i++) {
        timing->rows_of[asked->experts[i]] = asked->rows != NULL ? asked->rows[i] : 1;
        expert_work_add(&all, timing->rows_of[asked->experts[i]]);
    }
    event.first_host = timing->out.n_residency;
    point.at[AXIS_ACTIVE] = asked->n;
    offer_host(&event);
    if (!timing->one_thread)
        timing->host_ns = later(timing->host_ns, timing->gpu_ns) + timing->wake_ns;
    timing->host_ns +=
        op_costs_ns(&timing->costs, &timing->refs.decide, &point, &timing->costs.other);
    uint64_t decided_ns = timing->host_ns;
    uint64_t hits_end_ns = end_of_hits(&event, &all);
    for (uint32_t i = 0; i < n_actions; i++)
        TRY(carry_out(&event, &actions[i], decided_ns));
    run_pending(&event);
    run_host(&event, actions, n_actions);
    if (timing->gpu_ns > hits_end_ns)
        timing->out.exposed_load_ns += timing->gpu_ns - hits_end_ns;
    return OK;
}
