/* The signals of several traces, or of other batches than those recorded. */
#ifndef POLICIES_SIGNALS_LOAD_H
#define POLICIES_SIGNALS_LOAD_H

#include "policies/rebatch.h"
#include "traces/signals.h"

/* What packed_trace_load_view() loads, read for its signals. Tokens that are regrouped have no
 * scores and no predictions: ERR_PLAN. */
Status trace_signals_load(const char *const *paths, size_t count, const Batching *batching,
                          const SignalNeeds *needs, size_t n_needs, TraceSignals **signals);

#endif
