#include <inttypes.h>

#include "policies/plan.h"

static Status check_size(const Plan *plan, const TraceLayer *layer)
{
    if (layer->expert_bytes == 0)
        return fail(ERR_PLAN,
                    "buffer.bytes: the size of an expert of layer %" PRIu32
                    " is not known, so a budget in bytes cannot be used",
                    layer->layer);
    if (plan->buffer.bytes < layer->expert_bytes && plan->buffer.order != ORDER_STAGED)
        return fail(ERR_PLAN,
                    "buffer.bytes: %" PRIu64 ", one expert of layer %" PRIu32 " takes %" PRIu64,
                    plan->buffer.bytes, layer->layer, layer->expert_bytes);
    return OK;
}

static uint32_t slots_of_bytes(uint64_t bytes, uint64_t expert_bytes)
{
    uint64_t count = bytes / expert_bytes;
    return count < UINT32_MAX ? (uint32_t)count : UINT32_MAX;
}

static Status slots_by_layer(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                             uint32_t *slots)
{
    for (uint32_t i = 0; i < n_layers; i++) {
        TRY(check_size(plan, &layers[i]));
        slots[i] = slots_of_bytes(plan->buffer.bytes, layers[i].expert_bytes);
    }
    return OK;
}

static Status slots_of_device(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                              uint32_t *slots)
{
    uint64_t smallest = UINT64_MAX;
    for (uint32_t i = 0; i < n_layers; i++) {
        TRY(check_size(plan, &layers[i]));
        smallest = layers[i].expert_bytes < smallest ? layers[i].expert_bytes : smallest;
    }
    slots[0] = slots_of_bytes(plan->buffer.bytes, smallest);
    return OK;
}

/* The layers of a table of slots are those of the model, and take no more than what is given. */
static Status slots_of_table(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                             uint32_t *slots)
{
    const PlanTable *table = plan->buffer.budget.table;
    uint64_t used = 0;
    for (uint32_t i = 0; i < n_layers; i++) {
        PlanRow row = plan_table_list(table, layers[i].layer);
        if (row.n == 0)
            return fail(ERR_PLAN, "buffer.budget: layer %" PRIu32 " is missing", layers[i].layer);
        slots[i] = row.values[0];
        if (slots[i] == 0 && plan->buffer.order != ORDER_STAGED)
            return fail(ERR_PLAN, "buffer.budget: layer %" PRIu32 ": 0, allowed with order staged",
                        layers[i].layer);
        used += slots[i] * (plan->buffer.bytes > 0 ? layers[i].expert_bytes : 1);
    }
    if (plan_table_layers(table) != n_layers)
        return fail(ERR_PLAN, "buffer.budget: %" PRIu32 " layers, the model has %" PRIu32,
                    plan_table_layers(table), n_layers);
    uint64_t given = plan->buffer.bytes > 0 ? plan->buffer.bytes : plan->buffer.slots;
    if (given > 0 && used > given * n_layers)
        return fail(ERR_PLAN,
                    "buffer.budget: takes %" PRIu64 ", %" PRIu64 " for each of %" PRIu32
                    " layers is %" PRIu64,
                    used, given, n_layers, given * n_layers);
    return OK;
}

Status plan_slots(const Plan *plan, const TraceLayer *layers, uint32_t n_layers, uint32_t *slots)
{
    bool by_layer = plan->buffer.scope == SCOPE_LAYER || !plan->buffer.on;
    if (plan->buffer.on && plan->buffer.budget.table != NULL)
        return slots_of_table(plan, layers, n_layers, slots);
    if (plan->buffer.on && plan->buffer.bytes > 0)
        return by_layer ? slots_by_layer(plan, layers, n_layers, slots)
                        : slots_of_device(plan, layers, n_layers, slots);
    for (uint32_t i = 0; i < (by_layer ? n_layers : 1); i++)
        slots[i] = plan->buffer.on ? plan->buffer.slots : layers[i].experts;
    return OK;
}

bool plan_holds_all(const Plan *plan, const TraceLayer *layers, uint32_t n_layers)
{
    bool device = plan->buffer.scope == SCOPE_DEVICE;
    uint64_t count = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n_layers; i++) {
        count = (device ? count : 0) + layers[i].experts;
        bytes = (device ? bytes : 0) + layers[i].experts * layers[i].expert_bytes;
        PlanRow own = plan_table_list(plan->buffer.budget.table, layers[i].layer);
        if (plan->buffer.budget.table != NULL && (own.n == 0 || own.values[0] < layers[i].experts))
            return false;
        if (plan->buffer.budget.table != NULL)
            continue;
        if (plan->buffer.slots > 0 ? count > plan->buffer.slots : bytes > plan->buffer.bytes)
            return false;
    }
    return true;
}
