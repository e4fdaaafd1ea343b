/* A run of steps of a packed trace, as a trace of its own. */
#ifndef TRACES_PACKED_PART_H
#define TRACES_PACKED_PART_H

#include "traces/packed.h"

/* Steps FIRST to END - 1 of TRACE (FIRST <= END <= n_steps), which lends its arrays: the part is
 * not to be freed, no step can be added to it, and it lives no longer than TRACE. Step numbers are
 * those of TRACE. n_tokens is not known of a part and 0. */
PackedTrace packed_trace_part(const PackedTrace *trace, uint64_t first, uint64_t end);
/* Events of TRACE before step FIRST. */
uint64_t packed_trace_part_first_event(const PackedTrace *trace, uint64_t first);

#endif
