/* The memory of a packed trace, as it grows. */
#include <string.h>

#include "base/memory.h"
#include "traces/packed_builder.h"

enum { COUNT_BYTES = 5 }; /* the longest LEB128 of 32 bits */

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
    TRY(resize(&trace->step_counts, steps, sizeof *trace->step_counts));
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

Status packed_make_room(PackedTrace *trace, uint64_t events, uint64_t lookups, uint64_t touches)
{
    PackedBuilder *builder = trace->builder;
    uint64_t named = builder->no_experts ? 0 : trace->n_lookups + lookups + TALLY_ROOM;
    uint64_t counts = trace->counts_bytes + COUNT_BYTES * lookups + TALLY_ROOM;
    if (builder->no_experts)
        counts += sizeof(PackedSums) * events;
    if (trace->n_steps + 1 > builder->steps)
        TRY(resize_steps(trace, grown(trace, builder->steps, trace->n_steps + 1)));
    if (trace->n_events + events > builder->events)
        TRY(resize_events(trace, grown(trace, builder->events, trace->n_events + events)));
    if (named > builder->lookups)
        TRY(resize_lookups(trace, grown(trace, builder->lookups, named)));
    if (counts > builder->counts)
        TRY(resize_counts(trace, grown(trace, builder->counts, counts)));
    if (trace->touches_bytes + touches > builder->touches)
        TRY(resize_touches(trace, grown(trace, builder->touches, trace->touches_bytes + touches)));
    return OK;
}

Status packed_reserve(PackedTrace *trace, TraceReader *reader)
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
    return trace->builder->no_experts ? OK : resize_lookups(trace, lookups + TALLY_ROOM);
}

static bool loose(uint64_t capacity, uint64_t used)
{
    return capacity > used + used / 16 + 64;
}

Status packed_trim(PackedTrace *trace)
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
