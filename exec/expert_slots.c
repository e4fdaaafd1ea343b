/* How an event overlaps, where there is something to load or to compute on the host. The host waits
 * for the event's counts, with which the inputs of host experts come; it decides; it begins the
 * loads, which the copy stream runs one after the other; it queues the hits, then what waits for
 * loads; and only then its own threads compute the host's experts, all of them together, beside the
 * loads and the GPU. What they give is fetched in a stream of its own, and the weighted sum waits
 * for that as for everything else. So an event takes the longest of three: hits and loaded experts
 * on the GPU, the loads, and deciding, queueing and the host's experts one after the other. */
#include "exec/expert_slots.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "exec/gating.h"
#include "exec/layout.h"
#include "policies/link.h"
#include "traces/active.h"

/* Experts of layer LAYER_INDEX that the tokens of a step can reach. */
static size_t most_active(const ExpertSlots *slots, uint32_t layer_index)
{
    const TraceLayer *layer = &slots->trace_layers[layer_index];
    size_t active = times(slots->max_tokens, layer->top_k);
    return active < layer->experts ? active : layer->experts;
}

static size_t slot_stride(const ExpertSlots *slots, uint32_t layer_index)
{
    return ffn_layout(slots->layers[layer_index].shape, slots->weight_bytes).bytes;
}

static size_t widest_stride(const ExpertSlots *slots)
{
    size_t widest = 0;
    for (uint32_t i = 0; i < slots->n_layers; i++) {
        size_t stride = slot_stride(slots, i);
        widest = stride > widest ? stride : widest;
    }
    return widest;
}

/* Lays out the slots of LAYERS (NULL: just adds up) for PLAN, whose state is DECISIONS. */
static void lay_out_slots(const ExpertSlots *slots, const Plan *plan, const ExpertBuffer *decisions,
                          LayerSlots *layers, Arena *arena)
{
    bool on = plan->buffer.on;
    bool shared = on && plan->buffer.scope == SCOPE_DEVICE;
    size_t staging = buffer_uses_staging(decisions) ? 1 : 0;
    unsigned char *first = NULL;
    for (uint32_t i = 0; i < slots->n_layers; i++) {
        size_t stride = shared ? widest_stride(slots) : slot_stride(slots, i);
        size_t count = on ? buffer_slots(decisions, i) + staging : slots->trace_layers[i].experts;
        if (!shared || i == 0)
            first = lay_out(arena, count, stride);
        if (layers == NULL)
            continue;
        layers[i].slot_stride = stride;
        layers[i].slots = first;
    }
}

/* Device memory of the slots of PLAN; SIZE_MAX when it fits in no address. */
static size_t bytes_of_slots(const ExpertSlots *slots, const Plan *plan,
                             const ExpertBuffer *decisions)
{
    Arena sizes = {0};
    lay_out_slots(slots, plan, decisions, NULL, &sizes);
    return sizes.overflow ? SIZE_MAX : sizes.capacity;
}

/* Makes sure of memory for the slots of PLAN. */
static Status make_room(ExpertSlots *slots, const Plan *plan)
{
    ExpertBuffer *decisions;
    TRY(buffer_new(plan, slots->trace_layers, slots->n_layers, &decisions));
    size_t bytes = bytes_of_slots(slots, plan, decisions);
    slots->memory_bytes = bytes > slots->memory_bytes ? bytes : slots->memory_bytes;
    buffer_free(decisions);
    return OK;
}

Status expert_slots_open(ExpertSlots *slots, const Plan *others, size_t n_others)
{
    for (uint32_t i = 0; i < slots->n_layers; i++) {
        slots->layers[i].layer = slots->trace_layers[i].layer;
        slots->layers[i].shape = &slots->config->layers[slots->layers[i].layer].ffn;
    }
    TRY(buffer_new(slots->plan, slots->trace_layers, slots->n_layers, &slots->decisions));
    slots->memory_bytes = bytes_of_slots(slots, slots->plan, slots->decisions);
    for (size_t i = 0; i < n_others; i++)
        TRY(make_room(slots, &others[i]));
    return OK;
}

void expert_slots_close(ExpertSlots *slots)
{
    buffer_free(slots->decisions);
    slots->decisions = NULL;
}

Status expert_slots_check_room(const ExpertSlots *slots, const Plan *plan,
                               const ExpertBuffer *decisions)
{
    size_t bytes = bytes_of_slots(slots, plan, decisions);
    if (bytes <= slots->memory_bytes)
        return OK;
    return fail(ERR_UNSUPPORTED,
                "executor: the plan's expert slots want %zu bytes, it was opened with %zu", bytes,
                slots->memory_bytes);
}

uint32_t expert_slots_max_loads(const ExpertSlots *slots)
{
    size_t most = 0;
    for (uint32_t i = 0; i < slots->n_layers; i++)
        most += most_active(slots, i) + buffer_max_prefetches(slots->decisions);
    return (uint32_t)most;
}

void expert_slots_lay_out_device(ExpertSlots *slots, Arena *arena)
{
    slots->memory = lay_out(arena, slots->memory_bytes, 1);
    for (uint32_t i = 0; i < slots->n_layers; i++)
        slots->layers[i].places = lay_out(arena, slots->trace_layers[i].experts, sizeof(ExpertJob));
}

static void lay_out_jobs(JobList *list, size_t n, bool loaded, Arena *arena)
{
    list->jobs = lay_out(arena, n, sizeof *list->jobs);
    if (loaded)
        list->tickets = lay_out(arena, n, sizeof *list->tickets);
}

void expert_slots_lay_out_host(ExpertSlots *slots, Arena *arena)
{
    for (uint32_t i = 0; i < slots->n_layers; i++) {
        LayerSlots *layer = &slots->layers[i];
        uint32_t experts = slots->trace_layers[i].experts;
        layer->kept = lay_out(arena, experts, sizeof *layer->kept);
        layer->prefetched = lay_out(arena, experts, sizeof *layer->prefetched);
        layer->slot_of = lay_out(arena, experts, sizeof *layer->slot_of);
    }
}

void expert_slots_lay_out_deciding(ExpertSlots *slots, Arena *arena)
{
    size_t widest = 0;
    size_t records = 0;
    for (uint32_t i = 0; i < slots->n_layers; i++) {
        uint32_t experts = slots->trace_layers[i].experts;
        widest = experts > widest ? experts : widest;
        records += buffer_max_actions(slots->decisions, most_active(slots, i));
    }
    slots->actions =
        lay_out(arena, buffer_max_actions(slots->decisions, widest), sizeof *slots->actions);
    slots->active = lay_out(arena, widest, sizeof *slots->active);
    slots->place = lay_out(arena, widest, sizeof *slots->place);
    slots->touches = lay_out(arena, widest, sizeof *slots->touches);
    slots->rows = lay_out(arena, widest, sizeof *slots->rows);
    slots->gathered =
        lay_out(arena, widest + buffer_max_prefetches(slots->decisions), sizeof *slots->gathered);
    slots->host_jobs = lay_out(arena, widest, sizeof *slots->host_jobs);
    lay_out_jobs(&slots->hits, widest, false, arena);
    lay_out_jobs(&slots->loaded, widest, true, arena);
    slots->residency = lay_out(arena, records, sizeof *slots->residency);
    slots->load_records =
        lay_out(arena, expert_slots_max_loads(slots), sizeof *slots->load_records);
    slots->load_calls = lay_out(arena, expert_slots_max_loads(slots), sizeof *slots->load_calls);
}

static void *slot_address(const ExpertSlots *slots, uint32_t layer_index, uint32_t slot)
{
    const LayerSlots *layer = &slots->layers[layer_index];
    return layer->slots + slot * layer->slot_stride;
}

/* EXPERT into SLOT, by a load where the host has it. */
static Status put_in_place(const ExpertSlots *slots, uint32_t layer_index, uint32_t expert,
                           uint32_t slot)
{
    const LayerSlots *layer = &slots->layers[layer_index];
    void *to = slot_address(slots, layer_index, slot);
    if (layer->kept[expert] == NULL)
        return slots->backend->store_expert(
            slots->device, layer->shape, &slots->tensors->layers[layer->layer].experts[expert], to);
    const Load load = {.shape = layer->shape, .kept = layer->kept[expert], .slot = to};
    TRY(slots->backend->load(slots->device, &load, 1));
    return slots->backend->await_loads(slots->device, &load.ticket, 1);
}

static Status fill_layer(ExpertSlots *slots, uint32_t layer_index)
{
    LayerSlots *layer = &slots->layers[layer_index];
    const FfnTensors *experts = slots->tensors->layers[layer->layer].experts;
    layer->placed = NULL;
    for (uint32_t e = 0; e < slots->trace_layers[layer_index].experts; e++) {
        uint32_t slot = buffer_slot_of(slots->decisions, layer_index, e);
        layer->slot_of[e] = (ExpertJob){e, slot};
        layer->prefetched[e] = 0;
        slots->n_resident += slots->plan->buffer.on && slot != BUFFER_NO_SLOT;
        if (slots->plan->buffer.on && layer->kept[e] == NULL)
            TRY(slots->backend->keep_expert(slots->device, layer->shape, &experts[e],
                                            &layer->kept[e]));
        if (slot != BUFFER_NO_SLOT)
            TRY(put_in_place(slots, layer_index, e, slot));
    }
    return OK;
}

Status expert_slots_fill(ExpertSlots *slots)
{
    Arena memory = {.base = slots->memory, .capacity = slots->memory_bytes};
    lay_out_slots(slots, slots->plan, slots->decisions, slots->layers, &memory);
    slots->slot_bytes = memory.used;
    slots->holds_all = plan_holds_all(slots->plan, slots->trace_layers, slots->n_layers);
    slots->settled = !slots->plan->buffer.on;
    slots->n_residency = 0;
    slots->n_loads = 0;
    slots->n_resident = 0;
    slots->n_experts = 0;
    for (uint32_t i = 0; i < slots->n_layers; i++) {
        TRY(fill_layer(slots, i));
        slots->n_experts += slots->trace_layers[i].experts;
    }
    return slots->backend->wait(slots->device);
}

/* With all experts resident nothing is ever loaded, and so nothing evicted. */
static Status settle(ExpertSlots *slots)
{
    for (uint32_t i = 0; i < slots->n_layers; i++) {
        LayerSlots *layer = &slots->layers[i];
        TRY(slots->backend->upload(slots->device, layer->places, layer->slot_of,
                                   slots->trace_layers[i].experts * sizeof *layer->slot_of));
        layer->placed = layer->places;
    }
    slots->settled = true;
    return OK;
}

static void forget_prefetch(ExpertSlots *slots, const ResidencyRecord *record)
{
    for (uint32_t i = 0; i < slots->n_layers; i++)
        if (slots->layers[i].layer == record->layer)
            slots->layers[i].prefetched[record->expert] = 0;
}

Status expert_slots_start_step(ExpertSlots *slots, bool *waits)
{
    for (size_t i = 0; i < slots->n_residency; i++)
        if (slots->residency[i].kind == RESIDENCY_PREFETCH)
            forget_prefetch(slots, &slots->residency[i]);
    slots->n_residency = 0;
    slots->n_loads = 0;
    if (!slots->settled && slots->holds_all && slots->n_resident == slots->n_experts)
        TRY(settle(slots));
    *waits = !slots->settled;
    return OK;
}

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

/* Begins the loads that were gathered. */
static Status begin_gathered(ExpertSlots *slots)
{
    uint32_t n = slots->n_gathered;
    slots->n_gathered = 0;
    if (n == 0)
        return OK;
    uint64_t start_ns = clock_ns();
    TRY(slots->backend->load(slots->device, slots->gathered, n));
    slots->load_calls[slots->gathered->ticket] = (HostSpan){start_ns, clock_ns() - start_ns};
    for (uint32_t i = 1; i < n; i++)
        slots->load_calls[slots->gathered[i].ticket] = (HostSpan){clock_ns(), 0};
    return OK;
}

/* Computes the hits with what short loads bring. */
static void join_hits(ExpertSlots *slots, const ExpertEvent *event)
{
    JobList *hits = &slots->hits;
    JobList *loaded = &slots->loaded;
    if (loaded->n == 0 || !link_joins_hits(loaded->n, slot_stride(slots, event->layer_index),
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

/* Begins the load of ACTION, on demand or ahead, or gathers it with others that are as small;
 * *QUEUED tells whether operations of this event are
 * queued. A slot that a pending expert lies in is computed with first. Slots that earlier events
 * read are free: the host has waited for this event's counts. */
static Status begin_load(ExpertSlots *slots, const ExpertEvent *event, const BufferAction *action,
                         bool *queued, ResidencyRecord *record)
{
    const LayerSlots *layer = &slots->layers[action->layer_index];
    double gb_per_s = slots->plan->link.h2d_gb_per_s;
    if (is_in(&slots->hits, action->slot) || is_in(&slots->loaded, action->slot)) {
        TRY(run_pending(slots, event));
        *queued = true;
    }
    record->bytes = slots->trace_layers[action->layer_index].expert_bytes;
    slots->load_records[slots->n_loads] = (uint32_t)(record - slots->residency);
    const Load load = {.shape = layer->shape,
                       .kept = layer->kept[action->expert],
                       .slot = slot_address(slots, action->layer_index, action->slot),
                       .after_queue = *queued,
                       .at_least_ns =
                           gb_per_s > 0 ? (uint64_t)((double)record->bytes / gb_per_s) : 0,
                       .ticket = slots->n_loads++};
    slots->gathered[slots->n_gathered++] = load;
    return slot_stride(slots, action->layer_index) > LOADED_TOGETHER_BYTES ? begin_gathered(slots)
                                                                           : OK;
}

static void add_loaded(JobList *loaded, const BufferAction *action, uint32_t ticket)
{
    loaded->tickets[loaded->n] = ticket;
    loaded->jobs[loaded->n++] = (ExpertJob){action->expert, action->slot};
}

/* The expert is in its slot: to be computed, after its prefetch where that may be under way. */
static void add_hit(ExpertSlots *slots, const BufferAction *action)
{
    uint32_t prefetched = slots->layers[action->layer_index].prefetched[action->expert];
    if (prefetched > 0)
        add_loaded(&slots->loaded, action, prefetched - 1);
    else
        slots->hits.jobs[slots->hits.n++] = (ExpertJob){action->expert, action->slot};
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
                        uint64_t start_ns, bool *queued)
{
    ResidencyRecord *record = add_record(slots, action, start_ns);
    uint32_t *prefetched = &slots->layers[action->layer_index].prefetched[action->expert];
    note_place(slots, action);
    if (action->kind == RESIDENCY_HIT)
        add_hit(slots, action);
    if (action->kind == RESIDENCY_EVICT)
        *prefetched = 0;
    if (action->kind == RESIDENCY_HIT || action->kind == RESIDENCY_EVICT)
        return OK;
    TRY(begin_load(slots, event, action, queued, record));
    if (action->kind == RESIDENCY_PREFETCH)
        *prefetched = slots->n_loads;
    else
        add_loaded(&slots->loaded, action, slots->n_loads - 1);
    return OK;
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
    bool queued = false;
    *n_active = decide(slots, event, &n_actions);
    slots->decided_ns = clock_ns();
    uint64_t start_ns = clock_wall_ns();
    ResidencyRecord *host_records = slots->residency + slots->n_residency;
    uint32_t n_host = take_host_jobs(slots, n_actions);
    for (uint32_t i = n_host; i < n_actions; i++)
        TRY(carry_out(slots, event, &slots->actions[i], start_ns, &queued));
    TRY(run_pending(slots, event));
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

Status expert_slots_await_prefetches(const ExpertSlots *slots)
{
    for (uint32_t ticket = slots->n_loads; ticket-- > 0;)
        if (slots->residency[slots->load_records[ticket]].kind == RESIDENCY_PREFETCH)
            return slots->backend->await_loads(slots->device, &ticket, 1);
    return OK;
}

Status expert_slots_end_step(ExpertSlots *slots, uint64_t wall_offset_ns)
{
    for (uint32_t ticket = 0; ticket < slots->n_loads; ticket++) {
        ResidencyRecord *record = &slots->residency[slots->load_records[ticket]];
        uint64_t start_ns;
        TRY(slots->backend->load_time(slots->device, ticket, &start_ns, &record->duration_ns));
        record->start_ns = start_ns + wall_offset_ns;
    }
    return OK;
}
