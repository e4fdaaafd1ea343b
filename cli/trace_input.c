#include "cli/trace_input.h"

#include <string.h>

#include "base/memory.h"
#include "policies/signals_load.h"

Status trace_input(const OptionList *traces, const Plan *plan, PackedTrace *trace)
{
    Batching batching = plan_batching(plan);
    return packed_trace_load_view(traces->items, traces->count, &batching, NULL, trace);
}

Status trace_input_timed(const OptionList *traces, const Plan *plan, bool is_only,
                         PackedTrace *trace, TraceFeatures *features)
{
    Batching batching = plan_batching(plan);
    return trace_features_load(traces->items, traces->count, &batching, is_only ? plan : NULL,
                               trace, features);
}

Status trace_input_signals(const OptionList *traces, const Plan *plans, size_t n_plans,
                           TraceSignals **signals)
{
    SignalNeeds *needs;
    size_t n_needs = 0;
    *signals = NULL;
    TRY(mem_new(&needs, n_plans, sizeof *needs, "signals"));
    for (size_t i = 0; i < n_plans; i++) {
        needs[n_needs] = plan_needs_signals(&plans[i]);
        n_needs += signals_needed(&needs[n_needs]);
    }
    Batching batching = plan_batching(&plans[0]);
    Status status = OK;
    if (n_needs > 0)
        status =
            trace_signals_load(traces->items, traces->count, &batching, needs, n_needs, signals);
    mem_free(needs);
    return status;
}

Status trace_input_json(cJSON *json, const OptionList *traces)
{
    cJSON *list;
    if (traces->count == 1)
        return json_add_text(json, "trace", traces->items[0]);
    TRY(json_add_array(json, "trace", &list));
    for (size_t i = 0; i < traces->count; i++)
        TRY(json_push(list, cJSON_CreateString(traces->items[i])));
    return OK;
}

Status trace_input_text(const OptionList *traces, char **text)
{
    size_t bytes = 1;
    for (size_t i = 0; i < traces->count; i++)
        bytes += strlen(traces->items[i]) + 1;
    TRY(mem_new(text, bytes, 1, "trace names"));
    for (size_t i = 0; i < traces->count; i++) {
        if (i > 0)
            strcat(*text, ",");
        strcat(*text, traces->items[i]);
    }
    return OK;
}
