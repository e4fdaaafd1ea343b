/* All tokens of a trace by request, for policies/rebatch.c. */
#ifndef POLICIES_REBATCH_STORE_H
#define POLICIES_REBATCH_STORE_H

#include "policies/scheduler.h"
#include "traces/layers.h"
#include "traces/shards.h"

#define NO_TOKEN UINT32_MAX

typedef struct {
    size_t ids;        /* where its ids begin: [layers of its stack][top_k] */
    uint32_t position; /* in its request */
    uint32_t next;     /* token of the same request and kind, or NO_TOKEN */
} StoredToken;

/* Tokens of one kind that a request has left. */
typedef struct {
    uint32_t first; /* or NO_TOKEN */
    uint32_t last;
    uint32_t count;
} Work;

typedef struct {
    StackSpan spans[2]; /* by Stack */
    size_t id_bytes;
    StoredToken *tokens; /* [n_tokens] in the trace's order */
    uint32_t n_tokens;
    size_t token_room;
    unsigned char *ids; /* [ids_used][id_bytes] */
    size_t ids_used;
    size_t ids_room;
    Work (*work)[WORK_KINDS]; /* [n_requests] */
    uint32_t n_requests;
    size_t work_room;
} RebatchStore;

/* Reads all of SHARDS. On failure STORE holds what rebatch_store_free() frees. */
Status rebatch_store_read(TraceShards *shards, RebatchStore *store);
void rebatch_store_free(RebatchStore *store);
/* COUNT ids of a token from its FIRST on, widened. */
void rebatch_store_ids(const RebatchStore *store, const StoredToken *token, size_t first,
                       size_t count, uint16_t *experts);

#endif
