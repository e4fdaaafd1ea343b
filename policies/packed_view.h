/* The packed form of several traces, or of other batches than those recorded. */
#ifndef POLICIES_PACKED_VIEW_H
#define POLICIES_PACKED_VIEW_H

#include "traces/packed.h"
#include "policies/rebatch.h"

/* Loads PATHS[count] as one trace (traces/shards.h), its tokens regrouped as BATCHING says
 * (policies/rebatch.h). One trace as recorded keeps its step numbers. LOADING may be NULL. On
 * failure nothing is held. */
Status packed_trace_load_view(const char *const *paths, size_t count, const Batching *batching,
                              const PackedLoading *loading, PackedTrace *trace);

#endif
