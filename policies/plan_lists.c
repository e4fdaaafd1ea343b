/* Lists of experts by layer, checked against the layers they are for. */
#include <inttypes.h>

#include "base/memory.h"
#include "policies/plan.h"

static const TraceLayer *find_layer(const TraceLayer *layers, uint32_t n_layers, uint32_t layer)
{
    for (uint32_t i = 0; i < n_layers; i++)
        if (layers[i].layer == layer)
            return &layers[i];
    return NULL;
}

/* SEEN[experts of LAYER] is zero. */
static Status check_list(const char *key, PlanRow list, const TraceLayer *layer, bool *seen)
{
    for (uint32_t i = 0; i < list.n; i++) {
        uint32_t expert = list.values[i];
        if (expert >= layer->experts)
            return fail(ERR_PLAN, "%s: layer %" PRIu32 ": expert %" PRIu32 ", it has %" PRIu32, key,
                        layer->layer, expert, layer->experts);
        if (seen[expert])
            return fail(ERR_PLAN, "%s: layer %" PRIu32 ": expert %" PRIu32 " twice", key,
                        layer->layer, expert);
        seen[expert] = true;
    }
    return OK;
}

Status plan_lists_check(const char *key, const PlanTable *table, const TraceLayer *layers,
                        uint32_t n_layers)
{
    for (uint32_t at = 0; table != NULL && at < plan_table_layers(table); at++) {
        const TraceLayer *layer = find_layer(layers, n_layers, plan_table_layer(table, at));
        bool *seen;
        if (layer == NULL)
            return fail(ERR_PLAN, "%s: layer %" PRIu32 " is no MoE layer of the model", key,
                        plan_table_layer(table, at));
        TRY(mem_new(&seen, layer->experts, sizeof *seen, key));
        Status status = check_list(key, plan_table_row(table, at, 0), layer, seen);
        mem_free(seen);
        TRY(status);
    }
    return OK;
}
