/* A packed trace taken apart into its arrays, to be sent to another process. */
#ifndef TRACES_PACKED_BLOCKS_H
#define TRACES_PACKED_BLOCKS_H

#include "traces/packed.h"

enum { PACKED_BLOCKS = 10 };

typedef struct {
    void *data;
    size_t bytes;
} PackedBlock;

/* The arrays of TRACE, always in the same order. They stay the trace's. */
void packed_trace_blocks(const PackedTrace *trace, PackedBlock blocks[PACKED_BLOCKS]);

/* A trace with the numbers of COUNTS, whose pointers are not looked at, and with room in every
 * array, all zero: to be filled through packed_trace_blocks(). No step can be added to it. */
Status packed_trace_new_like(const PackedTrace *counts, PackedTrace *trace);

#endif
