/* The experts of an event in a step that waits, as exec/expert_event.c carries them out. */
#include <assert.h>

#include "base/memory.h"
#include "sim/timing_event.h"

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

/* When what awaits the loads of LIST can begin, as if to take no longer than what awaits none. */
static uint64_t ready_at(Timing *timing, const Pending *list)
{
    if (list->tickets == 0 || list->ready_ns == 0)
        return list->ready_ns;
    CostPoint point = {0};
    point.at[AXIS_BYTES] = (double)timing->layers[0].slot_bytes;
    /* One expert at a time waits for the host, too, to queue its call. */
    uint64_t after_ns = list->work.active > 1 ? timing->after_ns : 0;
    return moved(list->ready_ns + after_ns,
                 op_costs_by_number(&timing->costs, &timing->refs.after_load, &point, AXIS_ACTIVE,
                                    list->work.active, false, &timing->after_load,
                                    &timing->costs.other));
}

/* What passes from the end of a call of LIST that takes NS to a load into its slot. A single expert
 * and its load, which the next load waits for, were measured as a whole: a turn. */
static uint64_t sync_after(const Event *event, const Pending *list, uint64_t ready_ns, uint64_t ns)
{
    Timing *timing = event->timing;
    if (timing->refs.turn.table == COSTS_NONE || list->work.active != 1 || list->tickets != 1)
        return timing->layers[event->event->layer_index].together ? timing->sync_together_ns
                                                                  : timing->sync_ns;
    CostPoint point = {0};
    point.at[AXIS_TOKENS] = timing->step.tokens;
    point.at[AXIS_ROWS] = list->work.rows;
    uint64_t turn_ns =
        op_costs_ns(&timing->costs, &timing->refs.turn, &point, &timing->costs.other);
    uint64_t before_ns = ns + (ready_ns > list->ready_ns ? ready_ns - list->ready_ns : 0);
    return turn_ns > before_ns ? turn_ns - before_ns : 0;
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
        const OpPrice *price = &timing->costs.prices[event->price];
        uint64_t issue_ns = timing->again_ns > 0 ? timing->again_ns : price->again_ns;
        if (event->calls++ == 0) {
            issue_ns = price->issue_ns + timing_cold_ns(timing, event->price);
            issue_ns -= event->carry_ns < issue_ns ? event->carry_ns : issue_ns;
        }
        timing->host_ns += (list->tickets > 0 ? timing->issue_await_ns : 0) + issue_ns;
        uint64_t free_ns = timing->gpu_ns + queued_behind(timing, issue_ns);
        uint64_t ready_ns = ready_at(timing, list);
        uint64_t start_ns = later(later(free_ns, timing->host_ns), ready_ns);
        timing->gpu_ns = start_ns;
        timing->gpu_ns += link_slows(timing) + beside_copies(timing, event->price, start_ns, ns);
        event->sync_ns = sync_after(event, list, ready_ns, ns);
    }
    *list = (Pending){0};
}

static void add_job(Event *event, Pending *list, const BufferAction *action)
{
    Timing *timing = event->timing;
    expert_work_add(&list->work, timing->rows_of[action->expert]);
    timing->slot_used[action->slot] = timing->flush;
}

/* Computes the hits with what short loads bring. */
static void join_hits(Event *event)
{
    const Timing *timing = event->timing;
    const LayerTime *layer = &timing->layers[event->event->layer_index];
    ExpertWork *work = &event->loaded.work;
    if (work->active == 0 ||
        !link_joins_hits(work->active, layer->slot_bytes, timing->options.plan->link.h2d_gb_per_s))
        return;
    expert_work_join(work, &event->hits.work);
    event->hits = (Pending){0};
}

Status event_run_pending(Event *event)
{
    TRY(event_begin_gathered(event));
    join_hits(event);
    run_jobs(event, &event->hits);
    run_jobs(event, &event->loaded);
    event->timing->flush++;
    return OK;
}

/* A slot of ACTION's may be one of the event's own. */
static bool shares_slots(const Event *event, const BufferAction *action)
{
    return action->layer_index == event->event->layer_index ||
           event->timing->options.plan->buffer.scope == SCOPE_DEVICE;
}

/* A pending expert in ACTION's slot is computed before it is loaded into. */
static Status clear_slot(Event *event, const BufferAction *action)
{
    if (!shares_slots(event, action) ||
        event->timing->slot_used[action->slot] != event->timing->flush)
        return OK;
    event->queued = true;
    return event_run_pending(event);
}

static void add_loaded(Event *event, const BufferAction *action, uint64_t end_ns)
{
    add_job(event, &event->loaded, action);
    event->loaded.tickets++;
    event->loaded.ready_ns = later(event->loaded.ready_ns, end_ns);
}

static Status load_on_demand(Event *event, const BufferAction *action, ResidencyRecord *record)
{
    Timing *timing = event->timing;
    const LayerTime *layer = &timing->layers[action->layer_index];
    record->bytes = timing->options.layers[action->layer_index].expert_bytes;
    timing->out.bytes_loaded += record->bytes;
    if (layer->together) {
        event_gather(event, layer, record);
        add_loaded(event, action, 0);
        return OK;
    }
    TRY(event_begin_load(event, layer, record));
    add_loaded(event, action, record->start_ns + record->duration_ns);
    return OK;
}

static Status carry_out_hit(Event *event, const BufferAction *action, ResidencyRecord *record)
{
    Timing *timing = event->timing;
    PrefetchTime *prefetch = &timing->layers[action->layer_index].prefetch[action->expert];
    uint64_t end_ns = prefetch->end_ns;
    if (prefetch->is_owed) {
        prefetch->is_owed = false;
        timing->out.late_loads++;
        return load_on_demand(event, action, record);
    }
    if (prefetch->step != timing->number) {
        add_job(event, &event->hits, action);
        return OK;
    }
    if (prefetch->held)
        TRY(link_take_over(timing, prefetch, &end_ns));
    add_loaded(event, action, end_ns);
    return OK;
}

static Status carry_out_prefetch(Event *event, const BufferAction *action, ResidencyRecord *record)
{
    Timing *timing = event->timing;
    const LayerTime *layer = &timing->layers[action->layer_index];
    if (layer->holds_back)
        return link_prefetch(timing, action);
    record->bytes = timing->options.layers[action->layer_index].expert_bytes;
    timing->out.bytes_loaded += record->bytes;
    PrefetchTime *prefetch = &layer->prefetch[action->expert];
    *prefetch = (PrefetchTime){.step = timing->number};
    if (layer->puts_off && !event->queued) {
        event_put_off(event, layer, prefetch, record);
        return OK;
    }
    if (layer->together) {
        event_gather(event, layer, record);
        prefetch->next = event->ahead;
        event->ahead = prefetch;
        return OK;
    }
    TRY(event_begin_load(event, layer, record));
    prefetch->end_ns = record->start_ns + record->duration_ns;
    timing->prefetched_ns = later(timing->prefetched_ns, prefetch->end_ns);
    return OK;
}

static Status carry_out_eviction(Event *event, const BufferAction *action)
{
    Timing *timing = event->timing;
    const LayerTime *layer = &timing->layers[action->layer_index];
    PrefetchTime *prefetch = &layer->prefetch[action->expert];
    timing->n_resident--;
    timing->resident_bytes -= layer->slot_bytes;
    if (prefetch->held && prefetch->step == timing->number)
        TRY(link_forget(timing, prefetch));
    *prefetch = (PrefetchTime){0};
    return OK;
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

static bool is_on_demand(const BufferAction *action)
{
    return action->kind == RESIDENCY_LOAD || action->kind == RESIDENCY_BYPASS;
}

static Status carry_out_load(Event *event, const BufferAction *action, ResidencyRecord *record)
{
    Timing *timing = event->timing;
    TRY(clear_slot(event, action));
    if (action->kind != RESIDENCY_BYPASS) {
        timing->n_resident++;
        timing->resident_bytes += timing->layers[action->layer_index].slot_bytes;
    }
    return action->kind == RESIDENCY_PREFETCH ? carry_out_prefetch(event, action, record)
                                              : load_on_demand(event, action, record);
}

static Status carry_out(Event *event, const BufferAction *action, uint64_t decided_ns)
{
    Timing *timing = event->timing;
    ResidencyRecord record = {.layer = timing->layers[action->layer_index].layer,
                              .expert = action->expert,
                              .kind = action->kind,
                              .slot = action->slot,
                              .start_ns = decided_ns};
    if (action->kind == RESIDENCY_HOST)
        expert_work_add(&event->host, timing->rows_of[action->expert]);
    else if (action->kind == RESIDENCY_HIT)
        TRY(carry_out_hit(event, action, &record));
    else if (action->kind == RESIDENCY_EVICT)
        TRY(carry_out_eviction(event, action));
    else
        TRY(carry_out_load(event, action, &record));
    return add_record(timing, &record);
}

/* The lookups come first, and then what is prefetched, which may go where pending experts lie only
 * where all layers have one pool of slots. */
static Status carry_out_all(Event *event, const BufferAction *actions, uint32_t n)
{
    Timing *timing = event->timing;
    uint64_t decided_ns = timing->host_ns;
    uint32_t i = 0;
    for (; i < n && actions[i].kind != RESIDENCY_PREFETCH; i++)
        TRY(carry_out(event, &actions[i], decided_ns));
    TRY(event_begin_gathered(event));
    if (timing->link != NULL)
        TRY(link_pass(timing, event->event->layer_index));
    if (timing->options.plan->buffer.scope == SCOPE_LAYER) {
        TRY(event_run_pending(event));
        event->queued = false;
    }
    for (; i < n; i++)
        TRY(carry_out(event, &actions[i], decided_ns));
    return event_run_pending(event);
}

/* When the event would end, had every lookup hit. */
static uint64_t end_of_hits(const Event *event, const ExpertWork *all)
{
    Timing *timing = event->timing;
    uint64_t ns = all->active > 0 ? op_costs_experts(&timing->costs, event->price, all, true) : 0;
    uint64_t issue_ns = timing->costs.prices[event->price].issue_ns;
    if (timing->one_thread)
        return timing->host_ns + ns;
    return later(timing->gpu_ns + queued_behind(timing, issue_ns), timing->host_ns + issue_ns) + ns;
}

/* Deciding on an event of N experts that predicts a layer further on. */
static uint64_t decide_ahead_ns(Timing *timing, uint32_t n)
{
    CostPoint point = {0};
    point.at[AXIS_ACTIVE] = n;
    point.at[AXIS_REQUESTS] = timing->step.requests;
    point.at[AXIS_ENTRIES] = timing->entries;
    return op_costs_ns(&timing->costs, &timing->refs.decide_ahead, &point, &timing->costs.other);
}

/* Deciding on an event of N experts, of which some are loaded or none. */
static uint64_t decide_ns(Timing *timing, const LayerTime *layer, uint32_t n, uint32_t n_loads)
{
    static const CostPoint point = {0};
    bool loads = n_loads > 0 && timing->refs.decide_load.table != COSTS_NONE;
    if (layer->loads_ahead && timing->refs.decide_ahead.table != COSTS_NONE)
        return decide_ahead_ns(timing, n);
    return (uint64_t)op_costs_by_number(
        &timing->costs, loads ? &timing->refs.decide_load : &timing->refs.decide, &point,
        AXIS_ACTIVE, n, true, loads ? &timing->decide_load : &timing->decide, &timing->costs.other);
}

/* When the host would be told by what comes behind a stamp: it is told as late without one, for
 * what tells it begins behind the router no sooner than behind its stamp. */
static uint64_t told_ns(const Timing *timing)
{
    return timing->gpu_ns - timing->queue_stamp_ns + timing->tell_ns;
}

/* The event is decided: the host has the counts, and knows what it will do. */
void event_decide(Event *event, const ExpertWork *all, uint64_t *hits_end_ns)
{
    Timing *timing = event->timing;
    event->first_host = timing->out.n_residency;
    event_offer_host(event);
    if (!timing->one_thread)
        timing->host_ns =
            later(later(timing->host_ns, told_ns(timing)) + timing->wake_ns, timing->told_least_ns);
    timing->host_ns += decide_ns(timing, &timing->layers[event->event->layer_index],
                                 event->event->n, event->n_loads);
    *hits_end_ns = end_of_hits(event, all);
}

void event_note_exposed(Timing *timing, uint64_t hits_end_ns)
{
    if (timing->gpu_ns > hits_end_ns)
        timing->out.exposed_load_ns += timing->gpu_ns - hits_end_ns;
}

Status timing_experts(Timing *timing, const TimingEvent *asked, const BufferAction *actions,
                      uint32_t n_actions, uint32_t price)
{
    Event event = {.timing = timing, .event = asked, .price = price};
    ExpertWork all = {0};
    uint64_t hits_end_ns;
    for (uint32_t i = 0; i < asked->n; i++) {
        timing->rows_of[asked->experts[i]] = asked->rows != NULL ? asked->rows[i] : 1;
        expert_work_add(&all, timing->rows_of[asked->experts[i]]);
    }
    for (uint32_t i = 0; i < n_actions; i++)
        event.n_loads += is_on_demand(&actions[i]);
    TRY(timing_begin_put_off(timing));
    event_decide(&event, &all, &hits_end_ns);
    event_expect_host(&event, actions, n_actions);
    TRY(carry_out_all(&event, actions, n_actions));
    event_run_host(&event);
    event_note_exposed(timing, hits_end_ns);
    return OK;
}
