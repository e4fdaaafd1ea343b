#include "exec/expert_slots.h"

#include <time.h>

#include "base/clock.h"
#include "exec/layout.h"

/* Below this a sleep may come back too late. */
enum { SPIN_NS = 150000 };

Status expert_slots_open(ExpertSlots *slots)
{
    return buffer_new(slots->plan, slots->trace_layers, slots->n_layers, &slots->decisions);
}

void expert_slots_close(ExpertSlots *slots)
{
    buffer_free(slots->decisions);
    slots->decisions = NULL;
}

static size_t slot_stride(const ExpertSlots *slots, uint32_t layer_index)
{
    const TraceLayer *layer = &slots->trace_layers[layer_index];
    return times(times(3 * (size_t)layer->d_model, layer->d_ff), slots->backend->weight_bytes);
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

void expert_slots_lay_out_device(ExpertSlots *slots, Arena *arena)
{
    bool shared = slots->plan->buffer.scope == SCOPE_DEVICE;
    size_t staging = buffer_uses_staging(slots->decisions) ? 1 : 0;
    slots->slot_bytes = 0;
    for (uint32_t i = 0; i < slots->n_layers; i++) {
        LayerSlots *layer = &slots->layers[i];
        layer->layer = slots->trace_layers[i].layer;
        layer->slot_stride = shared ? widest_stride(slots) : slot_stride(slots, i);
        if (shared && i > 0) {
            layer->slots = slots->layers[0].slots;
            continue;
        }
        size_t count = buffer_slots(slots->decisions, i) + staging;
        layer->slots = lay_out(arena, count, layer->slot_stride);
        slots->slot_bytes += times(count, layer->slot_stride);
    }
}

void expert_slots_lay_out_host(ExpertSlots *slots, uint32_t max_tokens, Arena *arena)
{
    size_t widest = 0;
    size_t records = 0;
    for (uint32_t i = 0; i < slots->n_layers; i++) {
        const TraceLayer *layer = &slots->trace_layers[i];
        size_t active = times(max_tokens, layer->top_k);
        active = active < layer->experts ? active : layer->experts;
        widest = layer->experts > widest ? layer->experts : widest;
        records += buffer_max_actions(active);
    }
    slots->actions = lay_out(arena, buffer_max_actions(widest), sizeof *slots->actions);
    slots->jobs = lay_out(arena, widest, sizeof *slots->jobs);
    slots->job_slots = lay_out(arena, widest, sizeof *slots->job_slots);
    slots->residency = lay_out(arena, records, sizeof *slots->residency);
}

static void *slot_address(const ExpertSlots *slots, uint32_t layer_index, uint32_t slot)
{
    const LayerSlots *layer = &slots->layers[layer_index];
    return layer->slots + slot * layer->slot_stride;
}

static Status load(ExpertSlots *slots, uint32_t layer_index, uint32_t expert, uint32_t slot)
{
    const LayerTensors *layer = &slots->tensors->layers[slots->layers[layer_index].layer];
    return slots->backend->load_expert(slots->device, &layer->experts[expert],
                                       slot_address(slots, layer_index, slot));
}

/* Asks the decisions where each expert lies, as an event of all of them would find it. */
static Status fill_layer(ExpertSlots *slots, uint32_t layer_index, uint16_t *all)
{
    uint32_t n = slots->trace_layers[layer_index].experts;
    uint32_t n_actions;
    for (uint32_t e = 0; e < n; e++)
        all[e] = (uint16_t)e;
    buffer_event(slots->decisions, layer_index, all, n, NULL, NULL, slots->actions, &n_actions);
    for (uint32_t i = 0; i < n_actions; i++)
        TRY(load(slots, layer_index, slots->actions[i].expert, slots->actions[i].slot));
    return OK;
}

Status expert_slots_fill(ExpertSlots *slots)
{
    if (slots->plan->buffer.on)
        return OK;
    uint16_t *all;
    TRY(mem_new(&all, TRACE_MAX_EXPERTS, sizeof *all, "executor: list of experts"));
    Status status = OK;
    for (uint32_t i = 0; i < slots->n_layers && status == OK; i++)
        status = fill_layer(slots, i, all);
    buffer_reset(slots->decisions);
    mem_free(all);
    return status;
}

static void wait_until(uint64_t end_ns)
{
    uint64_t now;
    while ((now = clock_ns()) < end_ns) {
        if (end_ns - now <= SPIN_NS)
            continue;
        uint64_t sleep_ns = end_ns - now - SPIN_NS;
        struct timespec rest = {.tv_sec = (time_t)(sleep_ns / 1000000000u),
                                .tv_nsec = (long)(sleep_ns % 1000000000u)};
        nanosleep(&rest, NULL);
    }
}

/* A load that takes at least as long as the plan's link would. */
static Status timed_load(ExpertSlots *slots, uint32_t layer_index, uint32_t slot,
                         ResidencyRecord *record)
{
    double gb_per_s = slots->plan->link.h2d_gb_per_s;
    uint64_t start_ns = clock_ns();
    TRY(load(slots, layer_index, record->expert, slot));
    record->bytes = slots->trace_layers[layer_index].expert_bytes;
    if (gb_per_s > 0)
        wait_until(start_ns + (uint64_t)((double)record->bytes / gb_per_s));
    record->duration_ns = clock_ns() - start_ns;
    return OK;
}

void expert_slots_start_step(ExpertSlots *slots)
{
    slots->n_residency = 0;
}

static Status compute(ExpertSlots *slots, const ExpertEvent *event, uint32_t *n_jobs)
{
    uint32_t n = *n_jobs;
    *n_jobs = 0;
    if (n == 0)
        return OK;
    return slots->backend->run_experts(slots->device, event->batch, slots->jobs, n, event->in,
                                       event->out);
}

static bool is_awaited(const ExpertSlots *slots, uint32_t n_jobs, uint32_t slot)
{
    for (uint32_t i = 0; i < n_jobs; i++)
        if (slots->job_slots[i] == slot)
            return true;
    return false;
}

static Status carry_out(ExpertSlots *slots, const ExpertEvent *event, const BufferAction *action,
                        uint32_t *n_jobs)
{
    ResidencyRecord *record = &slots->residency[slots->n_residency++];
    *record = (ResidencyRecord){.layer = slots->layers[action->layer_index].layer,
                                .expert = action->expert,
                                .kind = action->kind,
                                .slot = action->slot,
                                .start_ns = clock_wall_ns()};
    if (action->kind == RESIDENCY_EVICT)
        return OK;
    if (action->kind != RESIDENCY_HIT) {
        if (is_awaited(slots, *n_jobs, action->slot))
            TRY(compute(slots, event, n_jobs));
        record->start_ns = clock_wall_ns();
        TRY(timed_load(slots, event->layer_index, action->slot, record));
    }
    const uint32_t *first = &event->rows->first[action->expert];
    slots->job_slots[*n_jobs] = action->slot;
    slots->jobs[(*n_jobs)++] =
        (ExpertJob){.weights = slot_address(slots, event->layer_index, action->slot),
                    .first_row = first[0],
                    .n_rows = first[1] - first[0]};
    return OK;
}

Status expert_slots_run(ExpertSlots *slots, const ExpertEvent *event)
{
    uint32_t n_actions;
    uint32_t n_jobs = 0;
    buffer_event(slots->decisions, event->layer_index, event->rows->active, event->rows->n_active,
                 event->next_use, NULL, slots->actions, &n_actions);
    for (uint32_t i = 0; i < n_actions; i++)
        TRY(carry_out(slots, event, &slots->actions[i], &n_jobs));
    return compute(slots, event, &n_jobs);
}
