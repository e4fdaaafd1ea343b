/* The tokens of a trace in other steps: what would have been routed, had the engine run so many
 * sequences at once. A trace recorded at batch 1 answers questions about batch 32.
 *
 * Every token keeps its routing as it was recorded, and its place in its request; which tokens
 * share a step is policies/scheduler.h's decision. A request has its prompt (tokens recorded in
 * encode or prefill steps; of a mixed step those below the request's prompt_tokens, or several of
 * one request) and what it generated. Requests are numbered in the order of their first token. The
 * whole trace is held in memory, an id in one or two bytes. */
#ifndef POLICIES_REBATCH_H
#define POLICIES_REBATCH_H

#include "policies/arrivals.h"
#include "policies/scheduler.h"
#include "traces/shards.h"

/* The tokens of a trace by request, with their routing. Read-only: several may regroup them at
 * once, in threads of their own. */
typedef struct RebatchTokens RebatchTokens;

/* Reads all of SHARDS, which stay the caller's. Fails as trace_shards_next_step(), and with
 * ERR_INPUT for a trace of counts alone. */
Status rebatch_tokens_read(TraceShards *shards, RebatchTokens **tokens);
void rebatch_tokens_free(RebatchTokens *tokens);

typedef struct Rebatch Rebatch;

/* Regroups TOKENS, which must outlive *REBATCH. ARRIVALS (NULL: all at once) says when requests
 * come. Fails as arrivals_fill(), and with ERR_PLAN for a BATCHING out of range. */
Status rebatch_open_tokens(const RebatchTokens *tokens, const Batching *batching,
                           const Arrivals *arrivals, Rebatch **rebatch);
/* The same of what SHARDS hold. */
Status rebatch_open(TraceShards *shards, const Batching *batching, const Arrivals *arrivals,
                    Rebatch **rebatch);
void rebatch_close(Rebatch *rebatch);
/* The step that begins at NOW_NS of the arrivals' clock, or STATUS_END after the last. Numbers,
 * phases, requests, positions and experts are set, nothing else; no tokens: nothing can run before
 * *UNTIL_NS, which is then set. Valid until the next call. */
Status rebatch_step_at(Rebatch *rebatch, uint64_t now_ns, TraceStep *step, uint64_t *until_ns);
/* The same where time does not count: the next step as if all had arrived. */
Status rebatch_next_step(Rebatch *rebatch, TraceStep *step);
/* What the scheduler chose for the step given last. */
const ScheduledStep *rebatch_scheduled(const Rebatch *rebatch);
const TraceLayer *rebatch_layers(const Rebatch *rebatch, uint32_t *n_layers);
/* [*n] by number. */
const ScheduledRequest *rebatch_requests(const Rebatch *rebatch, uint32_t *n);

#endif
