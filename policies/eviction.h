/* The table of eviction policies: one file and one row each. Inside policies/ only.
 *
 * A policy sees residents, the active set A and its own state, never a clock, a device or a file.
 * Its event functions are whole event loops, one for each replay order, so that the table is called
 * once per event; most policies make them from a few rules with policies/event_loop.h. */
#ifndef POLICIES_EVICTION_H
#define POLICIES_EVICTION_H

#include "policies/scope.h"

/* Decides one event and returns its hits. */
typedef uint32_t (*EvictionEvent)(Scope *scope, ScopeEvent *event);

typedef struct {
    const char *name;
    EvictionEvent event[REPLAY_ORDERS];
    bool needs_future; /* events bring next_use */
    bool may_bypass;   /* an expert may pass through the staging slot */
    bool needs_heap;   /* state that the scope must hold: its heap ... */
    bool needs_where;  /* ... in which any object's key may change ... */
    bool needs_counts; /* ... and count, last and aside */
} EvictionPolicy;

/* The table: a new policy is one file with its EVICT_ row, and one line here. */
#define EVICTION_TABLE(ROW)                                                                        \
    ROW(FIFO, "fifo")                                                                              \
    ROW(LIFO, "lifo")                                                                              \
    ROW(LIFO_INACTIVE_FIRST, "lifo-inactive-first")                                                \
    ROW(LRU, "lru")                                                                                \
    ROW(MRU, "mru")                                                                                \
    ROW(LFU, "lfu")                                                                                \
    ROW(RANDOM, "random")                                                                          \
    ROW(BELADY, "belady")                                                                          \
    ROW(BELADY_ADMIT, "belady-admit")

#define EVICTION_DECLARE(symbol, name) extern const EvictionPolicy EVICT_##symbol;
EVICTION_TABLE(EVICTION_DECLARE)
#undef EVICTION_DECLARE

/* NULL when there is none of that name. */
const EvictionPolicy *eviction_find(const char *name);

#endif
