/* How an event overlaps, where there is something to load or to compute on the host. The host waits
 * for the event's counts, with which the inputs of host experts come; it decides; it begins the
 * loads, which the copy stream runs one after the other; it queues the hits, then what waits for
 * loads; and only then its own threads compute the host's experts, all of them together, beside the
 * loads and the GPU. What they give is fetched in a stream of its own, and the weighted sum waits
 * for that as for everything else. Small experts are begun together, and computed with the hits in
 * one call where all of them are there soon (policies/link.h); prefetches of small ones are begun
 * when the host has queued all up to the next counts, which it waits for. So an event takes the
 * longest of three: hits and loaded experts on the GPU, the loads, and deciding, queueing and the
 * host's experts one after the other. */
#include <assert.h>

#include "base/clock.h"
#include "exec/expert_slots_parts.h"
#include "exec/gating.h"
#include "traces/active.h"

static ResidencyRecord *add_record(ExpertSlots *slots, const BufferAction *action,
                                   uint64_t start_ns)
{
    ResidencyRecord *record = &slots->residency[slots->n_residency++];
    *record = (ResidencyRecord){.layer = slots->layers[action->layer_index].layer,
                                .expert = action->expert,
                                .kind = action->kind,
                                .slot = action->slot,
                                .start_ns = start_ns};
    return record;
}

static Status run_jobs(const ExpertSlots *slots, const ExpertEvent *event, JobList *list)
{
    uint32_t n = list->n;
    list->n = 0;
    if (n == 0)
        return OK;
    if (list->tickets != NULL)
        TRY(slots->backend->await_loads(slots->device, list->tickets, n));
    return slots->backend->run_experts(slots->device, event->batch, list->jobs, n, event->in,
                                       event->out);
}

Status expert_slots_begin(ExpertSlots *slots, const Load *loads, uint32_t *n)
{
    const uint32_t some = *n;
    *n = 0;
    if (some == 0)
        return OK;
    uint64_t start_ns = clock_ns();
    TRY(slots->backend->load(slots->device, loads, some));
    uint64_t end_ns = clock_ns();
    slots->load_calls[loads->ticket] = (HostSpan){start_ns, end_ns - start_ns};
    for (uint32_t i = 1; i < some; i++)
        slots->load_calls[loads[i].ticket] = (HostSpan){end_ns, 0};
    return OK;
}

static Status begin_gathered(ExpertSlots *slots)
{
    return expert_slots_begin(slots, slots->gathered, &slots->n_gathered);
}

/* Computes the hits with what short loads bring. */
static void join_hits(ExpertSlots *slots, const ExpertEvent *event)
{
    JobList *hits = &slots->hits;
    JobList *loaded = &slots->loaded;
    if (loaded->n == 0 ||
        !link_joins_hits(loaded->n, expert_slots_stride(slots, event->layer_index),
                         slots->plan->link.h2d_gb_per_s))
        return;
    for (uint32_t i = 0; i < hits->n; i++) {
        loaded->tickets[loaded->n + i] = loaded->tickets[0];
        loaded->jobs[loaded->n + i] = hits->jobs[i];
    }
    loaded->n += hits->n;
    hits->n = 0;
}

/* Queues all that is pending: what is in place first, so that it runs beside the loads. */
static Status run_pending(ExpertSlots *slots, const ExpertEvent *event)
{
    TRY(begin_gathered(slots));
    join_hits(slots, event);
    TRY(run_jobs(slots, event, &slots->hits));
    return run_jobs(slots, event, &slots->loaded);
}

static bool is_in(const JobList *list, uint32_t slot)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (list->jobs[i].slot == slot)
            return true;
    return false;
}

/* ACTION's slot is about to be loaded into: a pending expert that lies in it is computed first.
 * Slots that earlier events read are free: the host has waited for this event's counts. */
static Status clear_slot(ExpertSlots *slots, const ExpertEvent *event, const BufferAction *action)
{
    if (!expert_slots_share(slots, action->layer_index, event->layer_index) ||
        (!is_in(&slots->hits, action->slot) && !is_in(&slots->loaded, action->slot)))
        return OK;
    slots->queued = true;
    return run_pending(slots, event);
}

static void add_loaded(JobList *loaded, const BufferAction *action, uint32_t ticket)
{
    loaded->tickets[loaded->n] = ticket;
    loaded->jobs[loaded->n++] = (ExpertJob){action->expert, action->slot};
}

/* Begins the load of ACTION's expert, or gathers it with others that are as small. */
static Status load_on_demand(ExpertSlots *slots, const BufferAction *action,
                             ResidencyRecord *record)
{
    Load load = expert_slots_load(slots, action->layer_index, action->expert, action->slot, record);
    load.after_queue = slots->queued;
    record->bytes = slots->trace_layers[action->layer_index].expert_bytes;
    slots->gathered[slots->n_gathered++] = load;
    add_loaded(&slots->loaded, action, load.ticket);
    return expert_slots_stride(slots, action->layer_index) > LOADED_TOGETHER_BYTES
               ? begin_gathered(slots)
               : OK;
}

/* The expert has its slot: it is computed, after its load where that may be under way or is still
 * owed. */
static Status carry_out_hit(ExpertSlots *slots, const BufferAction *action, ResidencyRecord *record)
{
    LayerSlots *layer = &slots->layers[action->layer_index];
    uint32_t ticket;
    if (layer->is_owed[action->expert]) {
        layer->is_owed[action->expert] = false;
        return load_on_demand(slots, action, record);
    }
    if (layer->prefetched[action->expert] == 0) {
        slots->hits.jobs[slots->hits.n++] = (ExpertJob){action->expert, action->slot};
        return OK;
    }
    TRY(ahead_take_over(slots, action->layer_index, action->expert, &ticket));
    add_loaded(&slots->loaded, action, ticket);
    return OK;
}

/* Keeps in mind where the experts are. */
static void note_place(ExpertSlots *slots, const BufferAction *action)
{
    ExpertJob *place = &slots->layers[action->layer_index].slot_of[action->expert];
    if (action->kind == RESIDENCY_EVICT) {
        place->slot = NO_SLOT;
        slots->n_resident--;
    } else if (action->kind == RESIDENCY_LOAD || action->kind == RESIDENCY_PREFETCH) {
        place->slot = action->slot;
        slots->n_resident++;
    }
}

static Status carry_out(ExpertSlots *slots, const ExpertEvent *event, const BufferAction *action,
                        uint64_t start_ns)
{
    ResidencyRecord *record = add_record(slots, action, start_ns);
    note_place(slots, action);
    if (action->kind == RESIDENCY_HIT)
        return carry_out_hit(slots, action, record);
    if (action->kind == RESIDENCY_EVICT) {
        ahead_forget(slots, action->layer_index, action->expert);
        return OK;
    }
    TRY(clear_slot(slots, event, action));
    return action->kind == RESIDENCY_PREFETCH ? ahead_add(slots, event, action, record)
                                              : load_on_demand(slots, action, record);
}

/* The lookups come first, and then what is prefetched: the device computes by then, unless
 * prefetches may go where pending experts lie. */
static Status carry_out_all(ExpertSlots *slots, const ExpertEvent *event,
                            const BufferAction *actions, uint32_t n)
{
    uint64_t start_ns = clock_wall_ns();
    uint32_t i = 0;
    for (; i < n && actions[i].kind != RESIDENCY_PREFETCH; i++)
        TRY(carry_out(slots, event, &actions[i], start_ns));
    TRY(begin_gathered(slots));
    ahead_pass(slots, event->layer_index);
    if (slots->plan->buffer.scope == SCOPE_LAYER)
        TRY(run_pending(slots, event));
    for (; i < n; i++)
        TRY(carry_out(slots, event, &actions[i], start_ns));
    return run_pending(slots, event);
}

/* Where the decisions ask for it, the order in which the N_ACTIVE experts were last touched. */
static const uint16_t *order_touches(const ExpertSlots *slots, const ExpertEvent *event,
                                     uint32_t n_active)
{
    if (!buffer_needs_touches(slots->decisions))
        return NULL;
    last_touches(event->experts, event->n_ids, slots->active, n_active, slots->place,
                 slots->touches);
    return slots->touches;
}

/* ... and how many rows each of them has. */
static const uint32_t *count_rows(const ExpertSlots *slots, const ExpertEvent *event,
                                  uint32_t n_active)
{
    if (!buffer_needs_rows(slots->decisions))
        return NULL;
    for (uint32_t i = 0; i < n_active; i++)
        slots->rows[i] = event->first[slots->active[i] + 1] - event->first[slots->active[i]];
    return slots->rows;
}

/* Fills slots->actions[*n_actions]; returns how many experts take part. */
static uint32_t decide(ExpertSlots *slots, const ExpertEvent *event, uint32_t *n_actions)
{
    uint32_t n_active =
        gating_active(event->first, slots->trace_layers[event->layer_index].experts, slots->active);
    const BufferEvent asked = {.layer_index = event->layer_index,
                               .n = n_active,
                               .experts = slots->active,
                               .next_use = event->next_use,
                               .touches = order_touches(slots, event, n_active),
                               .rows = count_rows(slots, event, n_active),
                               .n_coming = event->n_coming,
                               .coming = event->coming,
                               .signals = event->signals};
    buffer_event(slots->decisions, &asked, NULL, slots->actions, n_actions);
    return n_active;
}

/* The actions of the event that begin with the host's: how many those are. Appends their records.
 */
static uint32_t take_host_jobs(ExpertSlots *slots, uint32_t n_actions)
{
    uint32_t n = 0;
    for (; n < n_actions && slots->actions[n].kind == RESIDENCY_HOST; n++) {
        const BufferAction *action = &slots->actions[n];
        slots->host_jobs[n] =
            (HostJob){action->expert, slots->layers[action->layer_index].kept[action->expert]};
        add_record(slots, action, 0);
    }
    return n;
}

/* They are computed together, so that RECORDS[n] have one time. */
static Status run_on_host(const ExpertSlots *slots, const ExpertEvent *event,
                          ResidencyRecord *records, uint32_t n)
{
    if (n == 0)
        return OK;
    uint64_t start_ns = clock_wall_ns();
    TRY(slots->backend->run_host(slots->device, event->batch, slots->host_jobs, n, event->in,
                                 event->out));
    uint64_t duration_ns = clock_wall_ns() - start_ns;
    for (uint32_t i = 0; i < n; i++) {
        records[i].start_ns = start_ns;
        records[i].duration_ns = duration_ns;
    }
    return OK;
}

Status expert_slots_run(ExpertSlots *slots, const ExpertEvent *event, uint32_t *n_active)
{
    uint32_t n_actions;
    slots->queued = false;
    ahead_note_wait(slots);
    *n_active = decide(slots, event, &n_actions);
    slots->decided_ns = clock_ns();
    ResidencyRecord *host_records = slots->residency + slots->n_residency;
    uint32_t n_host = take_host_jobs(slots, n_actions);
    TRY(carry_out_all(slots, event, slots->actions + n_host, n_actions - n_host));
    return run_on_host(slots, event, host_records, n_host);
}

uint32_t expert_slots_note(ExpertSlots *slots, const ExpertEvent *event)
{
    uint32_t n_actions;
    uint32_t n_active = decide(slots, event, &n_actions);
    uint64_t start_ns = clock_wall_ns();
    for (uint32_t i = 0; i < n_actions; i++) {
        assert(slots->actions[i].kind == RESIDENCY_HIT);
        add_record(slots, &slots->actions[i], start_ns);
    }
    return n_active;
}
