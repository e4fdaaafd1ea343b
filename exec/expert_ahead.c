/* Prefetches on their way to the link (policies/link.h). They are begun by the thread that queues
 * the step, in between and while it waits: it looks whether the link is idle. */
#include "exec/expert_slots_parts.h"

#include "base/clock.h"

static LayerSlots *layer_of(const ExpertSlots *slots, const AheadLoad *ahead)
{
    return &slots->layers[ahead->layer_index];
}

/* Begins the parts of AHEAD before END, as far as they have not. */
static Status begin_parts(ExpertSlots *slots, AheadLoad *ahead, uint32_t end)
{
    ResidencyRecord *record = &slots->residency[ahead->record];
    uint64_t bytes = slots->trace_layers[ahead->layer_index].expert_bytes;
    if (ahead->begun == 0) {
        ahead->load =
            expert_slots_load(slots, ahead->layer_index, ahead->expert, ahead->slot, record);
        slots->load_calls[ahead->load.ticket] = (HostSpan){clock_ns(), 0};
    }
    Load load = ahead->load;
    load.after_queue = ahead->after_queue;
    load.first_part = ahead->begun;
    load.end_part = end;
    load.parts = ahead->parts;
    load.at_least_ns = load.at_least_ns * (end - ahead->begun) / ahead->parts;
    uint64_t start_ns = clock_ns();
    TRY(slots->backend->load(slots->device, &load, 1));
    slots->load_calls[load.ticket].duration_ns += clock_ns() - start_ns;
    record->bytes = bytes * end / ahead->parts;
    ahead->begun = end;
    slots->last_ahead = load.ticket;
    return OK;
}

/* All of AHEAD is to be begun with others that are as small: beginning them takes the host as long
 * as queueing some operations, which the device would wait for, and slows the experts that then
 * begin. */
static void gather(ExpertSlots *slots, AheadLoad *ahead)
{
    ResidencyRecord *record = &slots->residency[ahead->record];
    ahead->load = expert_slots_load(slots, ahead->layer_index, ahead->expert, ahead->slot, record);
    ahead->load.after_queue = ahead->after_queue;
    ahead->load.ahead = true;
    ahead->begun = ahead->parts;
    record->bytes = slots->trace_layers[ahead->layer_index].expert_bytes;
    slots->last_ahead = ahead->load.ticket;
    if (ahead->after_queue)
        slots->gathered[slots->n_gathered++] = ahead->load;
    else
        slots->put_off[slots->n_put_off++] = ahead->load;
}

static Status begin_put_off(ExpertSlots *slots)
{
    if (slots->n_put_off > 0)
        slots->last_ahead = slots->put_off[slots->n_put_off - 1].ticket;
    return expert_slots_begin(slots, slots->put_off, &slots->n_put_off);
}

Status ahead_add(ExpertSlots *slots, const ExpertEvent *event, const BufferAction *action,
                 const ResidencyRecord *record)
{
    bool shares = expert_slots_share(slots, action->layer_index, event->layer_index);
    size_t bytes = expert_slots_stride(slots, action->layer_index);
    AheadLoad *ahead = &slots->ahead[slots->n_ahead++];
    *ahead = (AheadLoad){.layer_index = action->layer_index,
                         .expert = action->expert,
                         .slot = action->slot,
                         .record = (uint32_t)(record - slots->residency),
                         .parts = link_parts(bytes),
                         .after_queue = shares && slots->queued};
    layer_of(slots, ahead)->prefetched[action->expert] = slots->n_ahead;
    if (link_holds_back(bytes, slots->plan->link.h2d_gb_per_s))
        return expert_slots_hand_over(slots);
    gather(slots, ahead);
    return OK;
}

Status expert_slots_hand_over(ExpertSlots *slots)
{
    while (slots->first_ahead < slots->n_ahead) {
        AheadLoad *ahead = &slots->ahead[slots->first_ahead];
        bool idle = false;
        if (ahead->begun == ahead->parts || ahead->cancelled) {
            slots->first_ahead++;
            continue;
        }
        TRY(slots->backend->link_idle(slots->device, &idle));
        if (!idle)
            return OK;
        TRY(begin_parts(slots, ahead, ahead->begun + 1));
    }
    return OK;
}

Status ahead_take_over(ExpertSlots *slots, uint32_t layer_index, uint32_t expert, uint32_t *ticket)
{
    AheadLoad *ahead = &slots->ahead[slots->layers[layer_index].prefetched[expert] - 1];
    if (ahead->begun < ahead->parts)
        TRY(begin_parts(slots, ahead, ahead->parts));
    *ticket = ahead->load.ticket;
    return OK;
}

void ahead_forget(ExpertSlots *slots, uint32_t layer_index, uint32_t expert)
{
    LayerSlots *layer = &slots->layers[layer_index];
    if (layer->prefetched[expert] > 0) {
        AheadLoad *ahead = &slots->ahead[layer->prefetched[expert] - 1];
        ahead->cancelled = ahead->begun < ahead->parts;
        layer->prefetched[expert] = 0;
    }
    layer->is_owed[expert] = false;
}

void ahead_pass(ExpertSlots *slots, uint32_t layer_index)
{
    for (uint32_t i = slots->first_ahead; i < slots->n_ahead && !slots->holds_all; i++) {
        AheadLoad *ahead = &slots->ahead[i];
        if (ahead->layer_index != layer_index || ahead->begun > 0 || ahead->cancelled)
            continue;
        ahead->cancelled = true;
        layer_of(slots, ahead)->prefetched[ahead->expert] = 0;
        layer_of(slots, ahead)->is_owed[ahead->expert] = true;
    }
}

void ahead_note_wait(ExpertSlots *slots)
{
    for (uint32_t i = slots->first_ahead; i < slots->n_ahead; i++)
        slots->ahead[i].after_queue = false;
}

Status expert_slots_wait(ExpertSlots *slots)
{
    bool done = false;
    TRY(begin_put_off(slots));
    while (!done && slots->first_ahead < slots->n_ahead) {
        TRY(slots->backend->poll(slots->device, &done));
        if (!done)
            TRY(expert_slots_hand_over(slots));
    }
    return done ? OK : slots->backend->wait(slots->device);
}

Status expert_slots_await_prefetches(ExpertSlots *slots)
{
    TRY(begin_put_off(slots));
    for (uint32_t i = slots->first_ahead; i < slots->n_ahead; i++) {
        AheadLoad *ahead = &slots->ahead[i];
        if (ahead->begun < ahead->parts && !ahead->cancelled)
            TRY(begin_parts(slots, ahead, ahead->parts));
    }
    slots->first_ahead = slots->n_ahead;
    for (uint32_t i = 0; i < slots->n_ahead; i++)
        if (slots->ahead[i].begun > 0)
            return slots->backend->await_loads(slots->device, &slots->last_ahead, 1);
    return OK;
}

void expert_slots_forget_prefetches(ExpertSlots *slots)
{
    for (uint32_t i = 0; i < slots->n_ahead; i++)
        layer_of(slots, &slots->ahead[i])->prefetched[slots->ahead[i].expert] = 0;
    slots->n_put_off = 0;
    slots->n_ahead = 0;
    slots->first_ahead = 0;
}
