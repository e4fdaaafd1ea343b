#include "traces/packed.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "traces/active.h"
#include "traces/layers.h"

enum { COUNT_BYTES = 5 }; /* the longest LEB128 of 32 bits */

typedef struct PackedBuilder {
    StackSpan spans[2]; /* by Stack */
    uint64_t expected;  /* steps, as far as that is known */
    uint64_t steps;     /* room in the arrays, in elements */
    uint64_t events;
    uint64_t lookups;
    uint64_t counts;
    uint64_t touches;
    bool no_touches;
    bool no_experts;
    ActiveSet active;
} PackedBuilder;

static Status resize(void *array_pointer, uint64_t count, size_t size)
{
    void *array;
    memcpy(&array, array_pointer, sizeof array);
    void *moved = mem_resize(array, count, size);
    if (moved == NULL)
        return fail_memory("packed trace",
                           count > SIZE_MAX / size ? SIZE_MAX : (size_t)count * size);
    memcpy(array_pointer, &moved, sizeof moved);
    return OK;
}

static Status resize_steps(PackedTrace *trace, uint64_t steps)
{
    TRY(resize(&trace->step_id, steps, sizeof *trace->step_id));
    TRY(resize(&trace->step_events, steps, sizeof *trace->step_events));
    TRY(resize(&trace->step_first_layer, steps, sizeof *trace->step_first_layer));
    TRY(resize(&trace->step_single, steps, sizeof *trace->step_single));
    TRY(resize(&trace->step_phase, steps, sizeof *trace->step_phase));
    trace->builder->steps = steps;
    return OK;
}

static Status resize_events(PackedTrace *trace, uint64_t events)
{
    TRY(resize(&trace->n_active, events, sizeof *trace->n_active));
    trace->builder->events = events;
    return OK;
}

static Status resize_lookups(PackedTrace *trace, uint64_t lookups)
{
    TRY(resize(&trace->experts, lookups, sizeof *trace->experts));
    trace->builder->lookups = lookups;
    return OK;
}

static Status resize_counts(PackedTrace *trace, uint64_t counts)
{
    TRY(resize(&trace->counts, counts, sizeof *trace->counts));
    trace->builder->counts = counts;
    return OK;
}

static Status resize_touches(PackedTrace *trace, uint64_t touches)
{
    TRY(resize(&trace->touches, touches, sizeof *trace->touches));
    trace->builder->touches = touches;
    return OK;
}

/* Room for NEEDED, half as much again as before at least, and up to four times as much where all
 * steps that are expected take that if they are like those so far. */
static uint64_t grown(const PackedTrace *trace, uint64_t capacity, uint64_t needed)
{
    const PackedBuilder *builder = trace->builder;
    uint64_t larger = capacity + capacity / 2 + 64;
    if (trace->n_steps > 0 && builder->expected > trace->n_steps) {
        double like = (double)needed / (double)trace->n_steps * (double)builder->expected * 1.05;
        uint64_t most = 4 * capacity;
        uint64_t wanted = like < (double)most ? (uint64_t)like : most;
        larger = wanted > larger ? wanted : larger;
    }
    return larger > needed ? larger : needed;
}

static Status make_room(PackedTrace *trace, uint64_t events, uint64_t lookups, uint64_t touches)
{
    PackedBuilder *builder = trace->builder;
    if (trace->n_steps + 1 > builder->steps)
        TRY(resize_steps(trace, grown(trace, builder->steps, trace->n_steps + 1)));
    if (trace->n_events + events > builder->events)
        TRY(resize_events(trace, grown(trace, builder->events, trace->n_events + events)));
    if (!builder->no_experts && trace->n_lookups + lookups > builder->lookups)
        TRY(resize_lookups(trace, grown(trace, builder->lookups, trace->n_lookups + lookups)));
    uint64_t counts = trace->counts_bytes + COUNT_BYTES * lookups;
    if (counts > builder->counts)
        TRY(resize_counts(trace, grown(trace, builder->counts, counts)));
    if (trace->touches_bytes + touches > builder->touches)
        TRY(resize_touches(trace, grown(trace, builder->touches, trace->touches_bytes + touches)));
    return OK;
}

static size_t put_count(uint8_t *to, uint32_t value)
{
    size_t n = 0;
    for (; value >= 0x80; value >>= 7)
        to[n++] = (uint8_t)(value | 0x80);
    to[n++] = (uint8_t)value;
    return n;
}

static void put_touches(PackedTrace *trace, const uint16_t *touches, uint32_t n)
{
    uint8_t *to = trace->touches + trace->touches_bytes;
    for (uint32_t i = 0; i < n && n <= 256; i++)
        to[i] = (uint8_t)touches[i];
    for (uint32_t i = 0; i < n && n > 256; i++) {
        *to++ = (uint8_t)touches[i];
        *to++ = (uint8_t)(touches[i] >> 8);
    }
    trace->touches_bytes += packed_touch_bytes(n);
}

/* Most are below 128, and take a byte. */
static void put_counts(PackedTrace *trace, const uint32_t *counts, uint32_t n)
{
    uint8_t *to = trace->counts + trace->counts_bytes;
    uint32_t all = 0;
    for (uint32_t i = 0; i < n; i++) {
        to[i] = (uint8_t)counts[i];
        all |= counts[i];
    }
    trace->counts_bytes += n;
    if (all < 0x80)
        return;
    trace->counts_bytes -= n;
    for (uint32_t i = 0; i < n; i++)
        trace->counts_bytes += put_count(trace->counts + trace->counts_bytes, counts[i]);
}

/* Appends one event; true when every count is 1. There is room. */
static bool append_event(PackedTrace *trace, const TraceLayer *layer, const uint16_t *experts,
                         size_t ids)
{
    ActiveSet *active = &trace->builder->active;
    bool touched = !trace->builder->no_touches;
    uint32_t n = active_set_order(active, experts, ids, layer->experts, touched);
    uint64_t assignments = 0;
    for (uint32_t i = 0; i < n; i++)
        assignments += active->tokens[i];
    if (n > 0 && !trace->builder->no_experts)
        memcpy(trace->experts + trace->n_lookups, active->active, n * sizeof *trace->experts);
    put_counts(trace, active->tokens, n);
    if (touched)
        put_touches(trace, active->touches, n);
    trace->n_active[trace->n_events++] = (uint16_t)n;
    trace->n_lookups += n;
    trace->n_assignments += assignments;
    trace->max_active = n > trace->max_active ? n : trace->max_active;
    return assignments == n;
}

/* Appends the events of a step of one token that asks nobody twice; else nothing, and false. There
 * is room. */
static bool append_token(PackedTrace *trace, StackSpan span, const uint16_t *experts)
{
    uint32_t top_k = trace->layers[span.first].top_k;
    uint64_t ids = (uint64_t)span.count * top_k;
    if (span.top_k != ids || top_k == 0)
        return false;
    for (uint32_t i = 1; i < span.count; i++)
        if (trace->layers[span.first + i].top_k != top_k)
            return false;
    bool touched = !trace->builder->no_touches;
    bool named = !trace->builder->no_experts;
    if (!active_of_token(experts, span.count, top_k,
                         named ? trace->experts + trace->n_lookups : NULL,
                         touched ? trace->touches + trace->touches_bytes : NULL))
        return false;
    for (uint32_t i = 0; i < span.count; i++)
        trace->n_active[trace->n_events + i] = (uint16_t)top_k;
    trace->n_events += span.count;
    trace->n_lookups += ids;
    trace->n_assignments += ids;
    trace->touches_bytes += touched ? ids : 0;
    trace->max_active = top_k > trace->max_active ? top_k : trace->max_active;
    return true;
}

/* STEP has been checked. */
static Status append_step(PackedTrace *trace, const TraceStep *step)
{
    StackSpan span = trace->builder->spans[step->stack];
    uint64_t lookups = 0;
    uint64_t touches = 0;
    for (uint32_t i = span.first; i < span.first + span.count; i++) {
        uint64_t ids = (uint64_t)step->tokens * trace->layers[i].top_k;
        uint64_t most = ids < trace->layers[i].experts ? ids : trace->layers[i].experts;
        lookups += most;
        touches += trace->builder->no_touches ? 0 : packed_touch_bytes((uint32_t)most);
    }
    TRY(make_room(trace, span.count, lookups, touches));
    size_t counts_before = trace->counts_bytes;
    const uint16_t *experts = step->experts;
    bool single = step->tokens == 1;
    bool done = single && append_token(trace, span, experts);
    for (uint32_t i = span.first; !done && i < span.first + span.count; i++) {
        size_t ids = (size_t)step->tokens * trace->layers[i].top_k;
        single = append_event(trace, &trace->layers[i], experts, ids) && single;
        experts += ids;
    }
    if (single)
        trace->counts_bytes = counts_before;
    trace->step_id[trace->n_steps] = step->step;
    trace->step_events[trace->n_steps] = span.count;
    trace->step_first_layer[trace->n_steps] = span.first;
    trace->step_phase[trace->n_steps] = (uint8_t)step->phase;
    trace->step_single[trace->n_steps++] = single;
    trace->n_tokens += step->tokens;
    return OK;
}

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
    return append_step(trace, step);
}

Status packed_trace_new(const TraceLayer *layers, uint32_t n_layers, PackedTrace *trace)
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
        builder->spans[STACK_DECODER] = layers_span(layers, n_layers, STACK_DECODER);
        builder->spans[STACK_ENCODER] = layers_span(layers, n_layers, STACK_ENCODER);
        status = active_set_new(&builder->active, layers_max_experts(layers, n_layers));
    }
    if (status != OK)
        packed_trace_free(trace);
    return status;
}

void packed_trace_leave_touches(PackedTrace *trace)
{
    trace->builder->no_touches = true;
}

void packed_trace_leave_experts(PackedTrace *trace)
{
    trace->builder->no_experts = true;
}

/* Room for the whole trace at once, if its steps are of one token. */
static Status reserve(PackedTrace *trace, TraceReader *reader)
{
    uint64_t events;
    uint64_t lookups;
    TRY(trace_reader_bounds(reader, &events, &lookups));
    trace->builder->expected = trace_reader_steps(reader);
    TRY(resize_steps(trace, trace_reader_steps(reader) + 1));
    TRY(resize_events(trace, events + 1));
    if (!trace->builder->no_touches)
        TRY(resize_touches(trace, lookups + 1)); /* grows for events of more than 256 experts */
    TRY(resize_counts(trace, lookups + 1)); /* ... of 128 tokens of one; untouched where none is */
    return trace->builder->no_experts ? OK : resize_lookups(trace, lookups + 1);
}

static bool loose(uint64_t capacity, uint64_t used)
{
    return capacity > used + used / 16 + 64;
}

/* Gives back what a bound was too high. */
static Status trim(PackedTrace *trace)
{
    PackedBuilder *builder = trace->builder;
    if (!builder->no_experts && loose(builder->lookups, trace->n_lookups))
        TRY(resize_lookups(trace, trace->n_lookups + 1));
    if (loose(builder->touches, trace->touches_bytes))
        TRY(resize_touches(trace, trace->touches_bytes + 1));
    if (loose(builder->counts, trace->counts_bytes))
        TRY(resize_counts(trace, trace->counts_bytes + 1));
    return OK;
}

static Status load_steps(const char *path, TraceReader *reader, const PackedLoading *loading,
                         PackedTrace *trace)
{
    TRY(reserve(trace, reader));
    if (loading->run != NULL)
        TRY(fail_in(loading->run(loading->argument, trace_reader_run(reader)), "%s", path));
    for (;;) {
        TraceStep step;
        Status status = trace_reader_next_step(reader, &step);
        if (status == STATUS_END)
            return trim(trace);
        TRY(status);
        TRY(append_step(trace, &step));
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
    trace_reader_routing_only(reader);
    uint32_t n_layers;
    const TraceLayer *layers = trace_reader_layers(reader, &n_layers);
    Status status = packed_trace_new(layers, n_layers, trace);
    if (status == OK && loading->no_touches)
        packed_trace_leave_touches(trace);
    if (status == OK && loading->no_experts)
        packed_trace_leave_experts(trace);
    if (status == OK)
        status = load_steps(path, reader, loading, trace);
    trace_reader_close(reader);
    if (status != OK)
        packed_trace_free(trace);
    return status;
}

void packed_trace_free(PackedTrace *trace)
{
    if (trace->builder != NULL)
        active_set_free(&trace->builder->active);
    mem_free(trace->builder);
    mem_free(trace->layers);
    mem_free(trace->step_id);
    mem_free(trace->step_events);
    mem_free(trace->step_first_layer);
    mem_free(trace->step_single);
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
                      sizeof *trace->step_first_layer + sizeof *trace->step_single +
                      sizeof *trace->step_phase;
    return sizeof *builder + builder->active.bytes + trace->n_layers * sizeof *trace->layers +
           builder->steps * per_step + builder->events * sizeof *trace->n_active +
           builder->lookups * sizeof *trace->experts + builder->counts + builder->touches;
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
    cursor->counted = !trace->step_single[cursor->step];
    return true;
}

void packed_skip_counts(PackedCursor *cursor, const PackedEvent *event)
{
    const uint8_t *at = event->counts;
    uint8_t all = 0;
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

void packed_touches(const PackedEvent *event, uint16_t *touches)
{
    const uint8_t *at = event->touches;
    for (uint32_t i = 0; i < event->n_active; i++) {
        touches[i] = *at++;
        if (event->n_active > 256)
            touches[i] = (uint16_t)(touches[i] | *at++ << 8);
    }
}
