#include "traces/packed.h"

#include <string.h>

#include "base/memory.h"
#include "traces/packed_builder.h"

Status packed_trace_add_step(PackedTrace *trace, const TraceStep *step)
{
    StackSpan span = trace->builder->spans[step->stack];
    if (span.count == 0)
        return fail(ERR_INPUT, "packed trace: step %u: no MoE layer in the %s", step->step,
                    stack_name(step->stack));
    if (step->tokens < 1 || step->tokens > TRACE_MAX_TOKENS)
        return fail(ERR_INPUT, "packed trace: step %u: %u tokens, allowed is 1 to %d", step->step,
                    step->tokens, TRACE_MAX_TOKENS);
    TRY(layers_check_experts("packed trace", trace->layers, span, step->step, step->tokens,
                             step->experts, ERR_INPUT));
    return packed_append_step(trace, step);
}

Status packed_trace_new(const TraceLayer *layers, uint32_t n_layers, PackedTrace *trace)
{
    const PackedLoading all = {0};
    return packed_trace_new_as(layers, n_layers, &all, trace);
}

Status packed_trace_new_as(const TraceLayer *layers, uint32_t n_layers,
                           const PackedLoading *loading, PackedTrace *trace)
{
    *trace = (PackedTrace){0};
    TRY(layers_check("packed trace", layers, n_layers, ERR_INPUT));
    Status status = mem_new(&trace->layers, n_layers, sizeof *layers, "packed trace");
    if (status == OK) {
        memcpy(trace->layers, layers, n_layers * sizeof *layers);
        trace->n_layers = n_layers;
        status = mem_new(&trace->builder, 1, sizeof *trace->builder, "packed trace");
    }
    if (status == OK) {
        PackedBuilder *builder = trace->builder;
        builder->no_touches = loading->no_touches;
        builder->no_experts = loading->no_experts;
        builder->spans[STACK_DECODER] = layers_span(layers, n_layers, STACK_DECODER);
        builder->spans[STACK_ENCODER] = layers_span(layers, n_layers, STACK_ENCODER);
        status = active_set_new(&builder->active, layers_max_experts(layers, n_layers));
    }
    if (status != OK)
        packed_trace_free(trace);
    return status;
}

static Status load_steps(const char *path, TraceReader *reader, const PackedLoading *loading,
                         PackedTrace *trace)
{
    TRY(packed_reserve(trace, reader));
    if (loading->run != NULL)
        TRY(fail_in(
            loading->run(loading->argument, trace_reader_run(reader), trace_reader_steps(reader)),
            "%s", path));
    for (;;) {
        TraceStep step;
        Status status = trace_reader_next_step(reader, &step);
        if (status == STATUS_END)
            return packed_trim(trace);
        TRY(status);
        TRY(packed_append_step(trace, &step));
        if (loading->step != NULL)
            TRY(loading->step(loading->argument, &step));
    }
}

Status packed_trace_load(const char *path, PackedTrace *trace)
{
    const PackedLoading as_it_is = {0};
    return packed_trace_load_as(path, &as_it_is, trace);
}

Status packed_trace_load_as(const char *path, const PackedLoading *loading, PackedTrace *trace)
{
    TraceReader *reader;
    *trace = (PackedTrace){0};
    TRY(trace_reader_open(path, &reader));
    uint32_t n_layers;
    const TraceLayer *layers = trace_reader_layers(reader, &n_layers);
    Status status = trace_reader_routing_bytes(reader);
    if (status == OK)
        status = packed_trace_new_as(layers, n_layers, loading, trace);
    if (status == OK)
        status = load_steps(path, reader, loading, trace);
    trace_reader_close(reader);
    if (status != OK)
        packed_trace_free(trace);
    return status;
}

void packed_trace_free(PackedTrace *trace)
{
    if (trace->builder != NULL) {
        active_set_free(&trace->builder->active);
        mem_free(trace->builder->wide);
    }
    mem_free(trace->builder);
    mem_free(trace->layers);
    mem_free(trace->step_id);
    mem_free(trace->step_events);
    mem_free(trace->step_first_layer);
    mem_free(trace->step_counts);
    mem_free(trace->step_phase);
    mem_free(trace->n_active);
    mem_free(trace->experts);
    mem_free(trace->counts);
    mem_free(trace->touches);
    *trace = (PackedTrace){0};
}

size_t packed_trace_bytes(const PackedTrace *trace)
{
    const PackedBuilder *builder = trace->builder;
    if (builder == NULL)
        return 0;
    size_t per_step = sizeof *trace->step_id + sizeof *trace->step_events +
                      sizeof *trace->step_first_layer + sizeof *trace->step_counts +
                      sizeof *trace->step_phase;
    return sizeof *builder + builder->active.bytes + builder->wide_bytes +
           trace->n_layers * sizeof *trace->layers + builder->steps * per_step +
           builder->events * sizeof *trace->n_active + builder->lookups * sizeof *trace->experts +
           builder->counts + builder->touches;
}

PackedCursor packed_cursor(const PackedTrace *trace)
{
    return (PackedCursor){.trace = trace};
}

bool packed_next_step(PackedCursor *cursor)
{
    const PackedTrace *trace = cursor->trace;
    while (cursor->left == 0) {
        if (cursor->next_step == trace->n_steps)
            return false;
        cursor->step = cursor->next_step++;
        cursor->left = trace->step_events[cursor->step];
    }
    cursor->layer_index = trace->step_first_layer[cursor->step];
    cursor->counts = (PackedCounts)trace->step_counts[cursor->step];
    return true;
}

void packed_take_counts(PackedCursor *cursor, PackedEvent *event)
{
    const uint8_t *at = cursor->trace->counts + cursor->count_at;
    uint8_t all = 0;
    if (cursor->counts == COUNTS_SUMMED) {
        event->summed = true;
        event->sums = packed_take_sums(cursor);
        return;
    }
    event->counts = at;
    for (uint32_t i = 0; i < event->n_active; i++)
        all |= at[i];
    if (all < 0x80)
        at += event->n_active;
    for (uint32_t i = 0; all >= 0x80 && i < event->n_active; i++)
        packed_count_read(&at);
    cursor->count_at = (size_t)(at - cursor->trace->counts);
}

void packed_skip_events(PackedCursor *cursor, uint32_t each)
{
    cursor->event += cursor->left;
    cursor->lookup += (uint64_t)cursor->left * each;
    cursor->touch_at += cursor->left * packed_touch_bytes(each);
    cursor->left = 0;
}

void packed_skip_summed(PackedCursor *cursor)
{
    for (uint32_t i = 0; i < cursor->left; i++)
        cursor->lookup += cursor->trace->n_active[cursor->event++];
    cursor->count_at += cursor->left * sizeof(PackedSums);
    cursor->left = 0;
}

/* Nearly all counts take one byte. */
void packed_rows(const PackedEvent *event, uint32_t *rows)
{
    const uint8_t *at = event->counts;
    uint8_t all = 0;
    for (uint32_t i = 0; i < event->n_active; i++) {
        rows[i] = at != NULL ? at[i] : 1;
        all |= (uint8_t)rows[i];
    }
    for (uint32_t i = 0; all >= 0x80 && i < event->n_active; i++)
        rows[i] = packed_count_read(&at);
}

void packed_touches(const PackedEvent *event, uint16_t *touches)
{
    const uint8_t *at = event->touches;
    for (uint32_t i = 0; i < event->n_active; i++) {
        touches[i] = *at++;
        if (event->n_active > 256)
            touches[i] = (uint16_t)(touches[i] | *at++ << 8);
    }
}
