/* The requests of a trace, to be run again as requests: their prompts, how much each generated, and
 * when they came. */
#ifndef EXEC_TRACE_REQUESTS_H
#define EXEC_TRACE_REQUESTS_H

#include "exec/tokens.h"

typedef struct {
    TokenSet set;         /* by ascending number in the trace */
    uint32_t *generate;   /* [set.n_requests] tokens that each gave, at least 1 */
    uint64_t *arrival_ns; /* [set.n_requests] */
    uint32_t most_generate;
    bool has_tokens; /* false: the trace has no token ids, those of SET are 0 */
} TraceRequests;

/* Reads PATH. Fails with ERR_INPUT for traces whose tokens cannot be regrouped, with an encoder, or
 * of requests that do not begin at position 0; and as the trace's reader. On failure nothing is
 * held. */
Status trace_requests_load(const char *path, TraceRequests *requests);
void trace_requests_free(TraceRequests *requests);

#endif
