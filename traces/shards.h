/* Several traces of one model, shards of one recording, read one after the other as one trace.
 *
 * Steps are numbered on from 0, requests in the order of their first token: the same number in two
 * shards is two requests. */
#ifndef TRACES_SHARDS_H
#define TRACES_SHARDS_H

#include "traces/reader.h"

typedef struct TraceShards TraceShards;

/* Opens each of PATHS[count], which must outlive *SHARDS, to see that their MoE layers are the
 * same. Fails as trace_reader_open(), and with ERR_INPUT when two shards differ ("FILE: layer 3:
 * ..."). */
Status trace_shards_open(const char *const *paths, size_t count, TraceShards **shards);
void trace_shards_close(TraceShards *shards);

const TraceLayer *trace_shards_layers(const TraceShards *shards, uint32_t *count);
/* Fails with ERR_INPUT when a shard's tokens cannot be put into other steps. */
Status trace_shards_check_regroup(const TraceShards *shards);

/* Next step, valid until the next call, then STATUS_END. */
Status trace_shards_next_step(TraceShards *shards, TraceStep *step);
/* The trace that it is from, and what that says of itself; after trace_shards_next_step(). */
const char *trace_shards_path(const TraceShards *shards);
const TraceRun *trace_shards_run(const TraceShards *shards);
/* trace_reader_prediction() of the step given last. */
Status trace_shards_prediction(TraceShards *shards, uint32_t distance, const uint16_t **experts,
                               const uint16_t **scores);
/* Requests met so far: every request number of a step was below this. */
uint32_t trace_shards_requests(const TraceShards *shards);
/* What the shard says of a request met so far: 0 when it says nothing. */
uint32_t trace_shards_prompt_tokens(const TraceShards *shards, uint32_t request);
uint64_t trace_shards_arrival_ns(const TraceShards *shards, uint32_t request);

#endif
