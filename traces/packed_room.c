/* The memory of a packed trace, as it grows. */
#include "base/memory.h"
#include "traces/packed_builder.h"

enum { COUNT_BYTES = 5 }; /* the longest LEB128 of 32 bits */

static const char WHAT[] = "packed trace";

/* Resizes an array that has room for *ROOM items of SIZE bytes. */
static Status resize(void *array_pointer, uint64_t *room, uint64_t count, size_t size)
{
    TRY(mem_resize_array(array_pointer, count, size, WHAT));
    *room = count;
    return OK;
}

static Status resize_steps(PackedTrace *trace, uint64_t steps)
{
    TRY(mem_resize_array(&trace->step_id, steps, sizeof *trace->step_id, WHAT));
    TRY(mem_resize_array(&trace->step_events, steps, sizeof *trace->step_events, WHAT));
    TRY(mem_resize_array(&trace->step_first_layer, steps, sizeof *trace->step_first_layer, WHAT));
    TRY(mem_resize_array(&trace->step_counts, steps, sizeof *trace->step_counts, WHAT));
    TRY(mem_resize_array(&trace->step_phase, steps, sizeof *trace->step_phase, WHAT));
    trace->builder->steps = steps;
    return OK;
}

/* Room for NEEDED, half as much again as before at least, and up to four times as much where all
 * steps that are expected take that if they are like those so far. */
static uint64_t grown(const PackedTrace *trace, uint64_t room, uint64_t needed)
{
    const PackedBuilder *builder = trace->builder;
    uint64_t larger = room + room / 2 + 64;
    if (trace->n_steps > 0 && builder->expected > trace->n_steps) {
        double like = (double)needed / (double)trace->n_steps * (double)builder->expected * 1.05;
        uint64_t most = 4 * room;
        uint64_t wanted = like < (double)most ? (uint64_t)like : most;
        larger = wanted > larger ? wanted : larger;
    }
    return larger > needed ? larger : needed;
}

/* Room for NEEDED items of SIZE bytes in an array that has it for *ROOM. */
static Status fit(const PackedTrace *trace, void *array_pointer, uint64_t *room, uint64_t needed,
                  size_t size)
{
    return needed <= *room ? OK : resize(array_pointer, room, grown(trace, *room, needed), size);
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
    TRY(fit(trace, &trace->n_active, &builder->events, trace->n_events + events,
            sizeof *trace->n_active));
    TRY(fit(trace, &trace->experts, &builder->lookups, named, sizeof *trace->experts));
    TRY(fit(trace, &trace->counts, &builder->counts, counts, 1));
    return fit(trace, &trace->touches, &builder->touches, trace->touches_bytes + touches, 1);
}

Status packed_reserve(PackedTrace *trace, TraceReader *reader)
{
    PackedBuilder *builder = trace->builder;
    uint64_t events;
    uint64_t lookups;
    TRY(trace_reader_bounds(reader, &events, &lookups));
    builder->expected = trace_reader_steps(reader);
    TRY(resize_steps(trace, trace_reader_steps(reader) + 1));
    TRY(resize(&trace->n_active, &builder->events, events + 1, sizeof *trace->n_active));
    if (!builder->no_touches) /* grows for events of more than 256 experts */
        TRY(resize(&trace->touches, &builder->touches, lookups + 1, 1));
    /* Grows where one expert has 128 tokens; untouched where none has more than one. */
    TRY(resize(&trace->counts, &builder->counts, lookups + 1, 1));
    if (builder->no_experts)
        return OK;
    return resize(&trace->experts, &builder->lookups, lookups + TALLY_ROOM, sizeof *trace->experts);
}

/* Gives back what is over where that is more than a little. */
static Status trim(void *array_pointer, uint64_t *room, uint64_t used, size_t size)
{
    return *room <= used + used / 16 + 64 ? OK : resize(array_pointer, room, used + 1, size);
}

Status packed_trim(PackedTrace *trace)
{
    PackedBuilder *builder = trace->builder;
    if (!builder->no_experts)
        TRY(trim(&trace->experts, &builder->lookups, trace->n_lookups, sizeof *trace->experts));
    TRY(trim(&trace->touches, &builder->touches, trace->touches_bytes, 1));
    return trim(&trace->counts, &builder->counts, trace->counts_bytes, 1);
}
