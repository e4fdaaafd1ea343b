/* The table of eviction policies: one file and one row each. Inside policies/ only.
 *
 * A policy sees residents, the active set A and its own state, never a clock, a device or a file.
 * Its functions are whole event loops, one for each replay order, over as many events as there are:
 * the executor has one, a replay thousands. Most policies make them from a few rules with
 * policies/event_loop.h. */
#ifndef POLICIES_EVICTION_H
#define POLICIES_EVICTION_H

#include "policies/scope.h"

/* Decides the events of a run, one or many, and adds what they come to to EVENTS[n_layers]. */
typedef void (*EvictionRun)(Scope *scope, ScopeEvent *events, const BufferRun *run);

/* A policy's row; what follows the functions is the state that its scopes must hold. */
typedef struct {
    const char *name;
    EvictionRun run[REPLAY_ORDERS];
    /* Loads the event's experts, none resident, in order; evicts residents without a mark only, and
     * stops where there are not enough. Where the policy needs a hot set, all are of it. NULL: the
     * policy cannot admit ahead of a lookup. */
    void (*prefetch)(Scope *scope, ScopeEvent *event);
    bool needs_future;    /* events bring next_use */
    bool needs_scores;    /* events bring signals with scores */
    bool needs_hot;       /* flag is 1 for the plan's hot set, and stays; it is never evicted */
    bool may_bypass;      /* an expert may pass through the staging slot */
    bool needs_heap;      /* heap */
    bool needs_farthest;  /* farthest */
    bool needs_queue;     /* queue */
    bool needs_aged;      /* aged */
    bool needs_counts;    /* count, last */
    bool needs_flags;     /* flag and list */
    bool needs_values;    /* value */
    bool needs_positions; /* position */
    bool needs_turns;     /* turn */
    bool needs_places;    /* places */
    bool has_layer_lists; /* nodes: a list a layer */
    uint32_t n_lists;     /* nodes: so many */
    uint32_t n_rings;
} EvictionPolicy;

/* The table: a new policy is one file with its EVICT_ row, and one line here. */
#define EVICTION_TABLE(ROW)                                                                        \
    ROW(FIFO, "fifo")                                                                              \
    ROW(LIFO, "lifo")                                                                              \
    ROW(LIFO_INACTIVE_FIRST, "lifo-inactive-first")                                                \
    ROW(LRU, "lru")                                                                                \
    ROW(MRU, "mru")                                                                                \
    ROW(LFU, "lfu")                                                                                \
    ROW(LFU_RESIDENT, "lfu-resident")                                                              \
    ROW(LFU_AGED, "lfu-aged")                                                                      \
    ROW(CLOCK, "clock")                                                                            \
    ROW(SIEVE, "sieve")                                                                            \
    ROW(S3_FIFO, "s3-fifo")                                                                        \
    ROW(ARC, "arc")                                                                                \
    ROW(LEAST_STALE, "least-stale")                                                                \
    ROW(COST_AWARE, "cost-aware")                                                                  \
    ROW(STATIC, "static")                                                                          \
    ROW(EMA_SCORE, "ema-score")                                                                    \
    ROW(RANDOM, "random")                                                                          \
    ROW(BELADY, "belady")                                                                          \
    ROW(BELADY_ADMIT, "belady-admit")

#define EVICTION_DECLARE(symbol, name) extern const EvictionPolicy EVICT_##symbol;
EVICTION_TABLE(EVICTION_DECLARE)
#undef EVICTION_DECLARE

/* NULL when there is none of that name. */
const EvictionPolicy *eviction_find(const char *name);

#endif
