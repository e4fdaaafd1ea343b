/* The tokens of a trace in other steps: what would have been routed, had the engine run so many
 * sequences at once. A trace recorded at batch 1 answers questions about batch 32.
 *
 * Every token keeps its routing as it was recorded, and its place in its request. Requests wait in
 * the order of their first token, all from the start; at most SEQUENCES run at once; one that has
 * ended makes room for the next (continuous batching). A request has its prompt (tokens recorded in
 * encode or prefill steps; of a mixed step those below the request's prompt_tokens, or several of
 * one request) and what it generated.
 *
 *   BATCHING_APART  while a running request has prompt left, a prefill step takes prompt tokens, in
 *                   the order of the requests, up to MAX_TOKENS; else a decode step takes one token
 *                   of every running request
 *   BATCHING_MIXED  every step takes one generated token of each running request that has no prompt
 *                   left, and fills up with prompt tokens to MAX_TOKENS (chunked prefill)
 *
 * An encoder's tokens of a request are never split: encode steps take whole requests up to
 * MAX_TOKENS, at least one. The whole trace is held in memory, an id in one or two bytes. */
#ifndef TRACES_REBATCH_H
#define TRACES_REBATCH_H

#include "traces/shards.h"

typedef enum { BATCHING_AS_RECORDED, BATCHING_APART, BATCHING_MIXED } BatchingMode;

typedef struct {
    BatchingMode mode;
    uint32_t sequences;  /* running at once, at least 1 */
    uint32_t max_tokens; /* of one step, at least SEQUENCES */
} Batching;

typedef struct Rebatch Rebatch;

/* Reads all of SHARDS, which stay the caller's. Fails as trace_shards_next_step(), and with
 * ERR_INPUT for a trace of counts alone, or a BATCHING out of range. */
Status rebatch_open(TraceShards *shards, const Batching *batching, Rebatch **rebatch);
void rebatch_close(Rebatch *rebatch);
/* Next step, then STATUS_END. Numbers, phases, requests, positions and experts are set, nothing
 * else. Valid until the next call. */
Status rebatch_next_step(Rebatch *rebatch, TraceStep *step);

#endif
