/* What static gating would compute and drop of recorded routing.
 *
 * An expert keeps as many of its assignments as it has room for, so it is needed in a step with
 * static gating when it is needed without: hits and misses of a replay stay as they are. */
#ifndef SIM_STATIC_GATING_H
#define SIM_STATIC_GATING_H

#include <stddef.h>

#include "policies/plan.h"

typedef struct {
    uint64_t assignments; /* (token, slot) pairs of the trace */
    uint64_t dropped;     /* of them, over their expert's capacity */
    uint64_t slots;       /* rows computed: every expert of every event, full or not */
} StaticGatingCounts;

/* Adds up the TRACES [n] as recorded; PLAN's gating is static. Fails as the reader does. */
Status static_gating_count(const char *const *traces, size_t n, const Plan *plan,
                           StaticGatingCounts *counts);

#endif
