/* What an expert buffer is made of. Inside policies/buffer*.c only; the contract is
 * policies/buffer.h. */
#ifndef POLICIES_BUFFER_PARTS_H
#define POLICIES_BUFFER_PARTS_H

#include "policies/eviction.h"
#include "policies/host_share.h"
#include "policies/prefetch.h"

struct ExpertBuffer {
    const EvictionPolicy *policy; /* NULL: everything is resident */
    EvictionRun run;
    uint64_t seed;
    uint32_t n_layers;
    uint32_t n_scopes; /* one, or one a layer */
    Scope *scopes;
    bool bypasses; /* experts may pass through a staging slot */
    bool weighs;   /* the budget is in bytes, and sizes differ */
    ReplayOrder order;
    uint32_t *first_object; /* [n_layers] of each layer within its scope */
    uint64_t *expert_bytes; /* [n_layers] */
    uint64_t *weight;       /* [n_layers] of an expert in the budget of its scope */
    uint32_t *experts;      /* [n_layers] */
    PlanRow *hot;           /* [n_layers] what static keeps, or empty */
    PlanRow *initial;       /* [n_layers] residents at the start, or empty */
    uint16_t *object_layer; /* [objects] scope device: the layer of each */
    ScopeEvent *events;     /* [n_layers] with the counts of lookups and their loads */
    BufferCounts *counts;   /* [n_layers] of prefetching */
    Prefetch *prefetch;     /* or NULL */
    HostShare *host_share;  /* or NULL: misses are loaded */
    BufferAction *actions;  /* of an event, where prefetching must see them and nobody else */
};

static inline bool buffer_has_one_scope(const ExpertBuffer *buffer)
{
    return buffer->n_scopes < buffer->n_layers;
}

static inline Scope *buffer_scope(const ExpertBuffer *buffer, uint32_t layer_index)
{
    return &buffer->scopes[buffer->n_scopes == 1 ? 0 : layer_index];
}

#endif
