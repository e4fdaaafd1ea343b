#include <inttypes.h>

#include "policies/plan.h"

static Status slots_of_bytes(const Plan *plan, const TraceLayer *layer, uint32_t *slots)
{
    uint64_t bytes = plan->buffer.bytes;
    if (layer->expert_bytes == 0)
        return fail(ERR_INPUT,
                    "buffer.bytes: the size of an expert of layer %" PRIu32
                    " is not known, so a budget in bytes cannot be used",
                    layer->layer);
    if (bytes < layer->expert_bytes)
        return fail(ERR_INPUT,
                    "buffer.bytes: %" PRIu64 ", one expert of layer %" PRIu32 " takes %" PRIu64,
                    bytes, layer->layer, layer->expert_bytes);
    uint64_t count = bytes / layer->expert_bytes;
    *slots = count < UINT32_MAX ? (uint32_t)count : UINT32_MAX;
    return OK;
}

static Status check_equal_sizes(const TraceLayer *layers, uint32_t n_layers)
{
    for (uint32_t i = 1; i < n_layers; i++)
        if (layers[i].expert_bytes != layers[0].expert_bytes)
            return fail(ERR_INPUT,
                        "buffer.bytes: experts of layer %" PRIu32 " take %" PRIu64
                        " bytes and those of layer %" PRIu32 " %" PRIu64
                        "; scope \"device\" needs one size",
                        layers[0].layer, layers[0].expert_bytes, layers[i].layer,
                        layers[i].expert_bytes);
    return OK;
}

Status plan_slots(const Plan *plan, const TraceLayer *layers, uint32_t n_layers, uint32_t *slots)
{
    bool by_layer = plan->buffer.scope == SCOPE_LAYER || !plan->buffer.on;
    if (plan->buffer.on && plan->buffer.bytes > 0 && !by_layer)
        TRY(check_equal_sizes(layers, n_layers));
    for (uint32_t i = 0; i < (by_layer ? n_layers : 1); i++) {
        if (!plan->buffer.on)
            slots[i] = layers[i].experts;
        else if (plan->buffer.bytes > 0)
            TRY(slots_of_bytes(plan, &layers[i], &slots[i]));
        else
            slots[i] = plan->buffer.slots;
    }
    return OK;
}
