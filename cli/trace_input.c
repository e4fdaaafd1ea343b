#include "cli/trace_input.h"

#include <string.h>

#include "base/memory.h"

Status trace_input(const OptionList *traces, const Plan *plan, PackedTrace *trace)
{
    Batching batching = plan_batching(plan);
    return packed_trace_load_view(traces->items, traces->count, &batching, trace);
}

Status trace_input_signals(const OptionList *traces, const Plan *plan, TraceSignals **signals)
{
    SignalNeeds needs = plan_needs_signals(plan);
    Batching batching = plan_batching(plan);
    *signals = NULL;
    if (!signals_needed(&needs))
        return OK;
    return trace_signals_load(traces->items, traces->count, &batching, &needs, signals);
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
