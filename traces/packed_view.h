/* The packed form of several traces, or of other batches than those recorded. */
#ifndef TRACES_PACKED_VIEW_H
#define TRACES_PACKED_VIEW_H

#include "traces/packed.h"
#include "traces/rebatch.h"

/* Loads PATHS[count] as one trace (traces/shards.h), its tokens regrouped as BATCHING says
 * (traces/rebatch.h). One trace as recorded keeps its step numbers. On failure nothing is held. */
Status packed_trace_load_view(const char *const *paths, size_t count, const Batching *batching,
                              PackedTrace *trace);

#endif
