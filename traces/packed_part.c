#include "traces/packed_part.h"

/* An array that is not moved here would be read from its beginning. */
_Static_assert(sizeof(PackedTrace) == 160, "move the arrays of PackedTrace in packed_trace_part()");

uint64_t packed_trace_part_first_event(const PackedTrace *trace, uint64_t first)
{
    uint64_t events = 0;
    for (uint64_t i = 0; i < first; i++)
        events += trace->step_events[i];
    return events;
}

/* Where the cursor stands before the first event of step STEP. */
static PackedCursor seek(PackedCursor cursor, uint64_t step)
{
    PackedEvent event;
    uint64_t events = packed_trace_part_first_event(cursor.trace, step) - cursor.event;
    for (; events > 0; events--)
        packed_next(&cursor, &event);
    cursor.next_step = step;
    return cursor;
}

/* What the part's own numbers are, from its arrays. */
static void count(PackedTrace *part)
{
    PackedCursor cursor = packed_cursor(part);
    PackedEvent event;
    part->n_assignments = 0;
    part->max_active = 0;
    while (packed_next(&cursor, &event)) {
        const uint8_t *counts = event.counts;
        for (uint32_t i = 0; counts != NULL && i < event.n_active; i++)
            part->n_assignments += packed_count_read(&counts);
        if (counts == NULL)
            part->n_assignments += event.summed ? event.sums.assignments : event.n_active;
        part->max_active = event.n_active > part->max_active ? event.n_active : part->max_active;
    }
}

PackedTrace packed_trace_part(const PackedTrace *trace, uint64_t first, uint64_t end)
{
    if (first == 0 && end == trace->n_steps) {
        PackedTrace whole = *trace;
        whole.n_tokens = 0;
        whole.builder = NULL;
        return whole;
    }
    const PackedCursor from = seek(packed_cursor(trace), first);
    const PackedCursor to = seek(from, end);
    PackedTrace part = *trace;
    part.n_steps = end - first;
    part.n_events = to.event - from.event;
    part.n_lookups = to.lookup - from.lookup;
    part.n_tokens = 0;
    part.step_id += first;
    part.step_events += first;
    part.step_first_layer += first;
    part.step_counts += first;
    part.step_phase += first;
    part.n_active += from.event;
    if (trace->experts != NULL)
        part.experts += from.lookup;
    part.counts += from.count_at;
    part.counts_bytes = to.count_at - from.count_at;
    if (trace->touches_bytes > 0) {
        part.touches += from.touch_at;
        part.touches_bytes = to.touch_at - from.touch_at;
    }
    part.builder = NULL;
    count(&part);
    return part;
}
