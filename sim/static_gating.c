#include "sim/static_gating.h"

#include "policies/capacity.h"
#include "traces/reader.h"

static void count_event(const TraceEvent *event, const TraceLayer *layer, uint32_t capacity,
                        StaticGatingCounts *counts)
{
    counts->slots += (uint64_t)layer->experts * capacity;
    for (uint32_t i = 0; i < event->n_active; i++) {
        uint32_t n = event->active_tokens[i];
        counts->assignments += n;
        counts->dropped += n > capacity ? n - capacity : 0;
    }
}

static Status count_events(TraceReader *reader, const Plan *plan, StaticGatingCounts *counts)
{
    uint32_t n_layers;
    const TraceLayer *layers = trace_reader_layers(reader, &n_layers);
    TraceEvent event;
    Status status;
    while ((status = trace_reader_next_event(reader, &event)) == OK)
        count_event(&event, &layers[event.layer_index], gating_capacity(plan, event.tokens),
                    counts);
    return status == STATUS_END ? OK : status;
}

Status static_gating_count(const char *const *traces, size_t n, const Plan *plan,
                           StaticGatingCounts *counts)
{
    *counts = (StaticGatingCounts){0};
    for (size_t i = 0; i < n; i++) {
        TraceReader *reader;
        TRY(trace_reader_open(traces[i], &reader));
        Status status = count_events(reader, plan, counts);
        trace_reader_close(reader);
        TRY(status);
    }
    return OK;
}
