#include "exec/expert_slots_parts.h"

#include "base/clock.h"
#include "base/layout.h"

/* Experts of layer LAYER_INDEX that the tokens of a step can reach. */
static size_t most_active(const ExpertSlots *slots, uint32_t layer_index)
{
    const TraceLayer *layer = &slots->trace_layers[layer_index];
    size_t active = times(slots->max_tokens, layer->top_k);
    return active < layer->experts ? active : layer->experts;
}

size_t expert_slots_stride(const ExpertSlots *slots, uint32_t layer_index)
{
    return ffn_layout(slots->layers[layer_index].shape, slots->weight_bytes).bytes;
}

static size_t widest_stride(const ExpertSlots *slots)
{
    size_t widest = 0;
    for (uint32_t i = 0; i < slots->n_layers; i++) {
        size_t stride = expert_slots_stride(slots, i);
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
        size_t stride = shared ? widest_stride(slots) : expert_slots_stride(slots, i);
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

/* Prefetches of a step. */
static size_t max_ahead(const ExpertSlots *slots)
{
    return (size_t)slots->n_layers * buffer_max_prefetches(slots->decisions);
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
        layer->is_owed = lay_out(arena, experts, sizeof *layer->is_owed);
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
    slots->put_off =
        lay_out(arena, buffer_max_prefetches(slots->decisions), sizeof *slots->put_off);
    slots->ahead = lay_out(arena, max_ahead(slots), sizeof *slots->ahead);
    slots->host_jobs = lay_out(arena, widest, sizeof *slots->host_jobs);
    lay_out_jobs(&slots->hits, widest, false, arena);
    lay_out_jobs(&slots->loaded, widest, true, arena);
    slots->residency = lay_out(arena, records, sizeof *slots->residency);
    slots->load_records =
        lay_out(arena, expert_slots_max_loads(slots), sizeof *slots->load_records);
    slots->load_calls = lay_out(arena, expert_slots_max_loads(slots), sizeof *slots->load_calls);
}

void *expert_slots_address(const ExpertSlots *slots, uint32_t layer_index, uint32_t slot)
{
    const LayerSlots *layer = &slots->layers[layer_index];
    return layer->slots + slot * layer->slot_stride;
}

Load expert_slots_load(ExpertSlots *slots, uint32_t layer_index, uint32_t expert, uint32_t slot,
                       ResidencyRecord *record)
{
    const LayerSlots *layer = &slots->layers[layer_index];
    double gb_per_s = slots->plan->link.h2d_gb_per_s;
    double bytes = (double)slots->trace_layers[layer_index].expert_bytes;
    slots->load_records[slots->n_loads] = (uint32_t)(record - slots->residency);
    return (Load){.shape = layer->shape,
                  .kept = layer->kept[expert],
                  .slot = expert_slots_address(slots, layer_index, slot),
                  .at_least_ns = gb_per_s > 0 ? (uint64_t)(bytes / gb_per_s) : 0,
                  .ticket = slots->n_loads++};
}

/* EXPERT into SLOT, by a load where the host has it. */
static Status put_in_place(const ExpertSlots *slots, uint32_t layer_index, uint32_t expert,
                           uint32_t slot)
{
    const LayerSlots *layer = &slots->layers[layer_index];
    void *to = expert_slots_address(slots, layer_index, slot);
    if (layer->kept[expert] == NULL)
        return slots->backend->store_expert(
            slots->device, layer->shape, &slots->tensors->layers[layer->layer].experts[expert], to);
    const Load load = {.shape = layer->shape, .kept = layer->kept[expert], .slot = to};
    TRY(slots->backend->load(slots->device, &load, 1));
    return slots->backend->await_loads(slots->device, &load.ticket, 1);
}

static Status fill_layer(ExpertSlots *slots, uint32_t layer_index, bool in_place)
{
    LayerSlots *layer = &slots->layers[layer_index];
    const FfnTensors *experts = slots->tensors->layers[layer->layer].experts;
    layer->placed = NULL;
    for (uint32_t e = 0; e < slots->trace_layers[layer_index].experts; e++) {
        uint32_t slot = buffer_slot_of(slots->decisions, layer_index, e);
        layer->slot_of[e] = (ExpertJob){e, slot};
        layer->prefetched[e] = 0;
        layer->is_owed[e] = false;
        slots->n_resident += slots->plan->buffer.on && slot != BUFFER_NO_SLOT;
        if (slots->plan->buffer.on && layer->kept[e] == NULL)
            TRY(slots->backend->keep_expert(slots->device, layer->shape, &experts[e],
                                            &layer->kept[e]));
        if (slot != BUFFER_NO_SLOT && !in_place)
            TRY(put_in_place(slots, layer_index, e, slot));
    }
    return OK;
}

Status expert_slots_fill(ExpertSlots *slots)
{
    Arena memory = {.base = slots->memory, .capacity = slots->memory_bytes};
    const bool in_place = slots->whole && !slots->plan->buffer.on;
    slots->whole = false;
    lay_out_slots(slots, slots->plan, slots->decisions, slots->layers, &memory);
    slots->slot_bytes = memory.used;
    slots->holds_all = plan_holds_all(slots->plan, slots->trace_layers, slots->n_layers);
    slots->settled = !slots->plan->buffer.on;
    slots->n_residency = 0;
    slots->n_loads = 0;
    slots->n_ahead = 0;
    slots->first_ahead = 0;
    slots->n_resident = 0;
    slots->n_experts = 0;
    for (uint32_t i = 0; i < slots->n_layers; i++) {
        TRY(fill_layer(slots, i, in_place));
        slots->n_experts += slots->trace_layers[i].experts;
    }
    TRY(slots->backend->wait(slots->device));
    slots->whole = !slots->plan->buffer.on;
    return OK;
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

Status expert_slots_start_step(ExpertSlots *slots, bool *waits)
{
    expert_slots_forget_prefetches(slots);
    slots->n_residency = 0;
    slots->n_loads = 0;
    if (!slots->settled && slots->holds_all && slots->n_resident == slots->n_experts)
        TRY(settle(slots));
    *waits = !slots->settled;
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
