#include "traces/packed_blocks.h"

#include <string.h>

#include "base/memory.h"

/* The pointer at ARRAY, and the bytes it points to. */
typedef struct {
    void *array;
    uint64_t count;
    size_t size;
} Array;

/* An array that is not listed here would be missing in every other process. */
_Static_assert(sizeof(PackedTrace) == 160, "list the arrays of PackedTrace in list_arrays()");

static void list_arrays(PackedTrace *trace, Array arrays[PACKED_BLOCKS])
{
    const Array all[PACKED_BLOCKS] = {
        {&trace->layers, trace->n_layers, sizeof *trace->layers},
        {&trace->step_id, trace->n_steps, sizeof *trace->step_id},
        {&trace->step_events, trace->n_steps, sizeof *trace->step_events},
        {&trace->step_first_layer, trace->n_steps, sizeof *trace->step_first_layer},
        {&trace->step_counts, trace->n_steps, sizeof *trace->step_counts},
        {&trace->step_phase, trace->n_steps, sizeof *trace->step_phase},
        {&trace->n_active, trace->n_events, sizeof *trace->n_active},
        {&trace->experts, trace->n_lookups, sizeof *trace->experts},
        {&trace->counts, trace->counts_bytes, 1},
        {&trace->touches, trace->touches_bytes, 1},
    };
    for (size_t i = 0; i < PACKED_BLOCKS; i++)
        arrays[i] = all[i];
}

void packed_trace_blocks(const PackedTrace *trace, PackedBlock blocks[PACKED_BLOCKS])
{
    PackedTrace view = *trace;
    Array arrays[PACKED_BLOCKS];
    list_arrays(&view, arrays);
    for (size_t i = 0; i < PACKED_BLOCKS; i++) {
        memcpy(&blocks[i].data, arrays[i].array, sizeof blocks[i].data);
        blocks[i].bytes = (size_t)arrays[i].count * arrays[i].size;
    }
}

static void forget_arrays(PackedTrace *trace)
{
    Array arrays[PACKED_BLOCKS];
    list_arrays(trace, arrays);
    for (size_t i = 0; i < PACKED_BLOCKS; i++)
        memset(arrays[i].array, 0, sizeof(void *));
    trace->builder = NULL;
}

Status packed_trace_new_like(const PackedTrace *counts, PackedTrace *trace)
{
    Array arrays[PACKED_BLOCKS];
    Status status = OK;
    *trace = *counts;
    forget_arrays(trace);
    list_arrays(trace, arrays);
    for (size_t i = 0; i < PACKED_BLOCKS && status == OK; i++)
        status = mem_new(arrays[i].array, (size_t)arrays[i].count, arrays[i].size, "packed trace");
    if (status != OK)
        packed_trace_free(trace);
    return status;
}
