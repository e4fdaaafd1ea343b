/* Which misses of an event the host computes: plan section "compute". Inside policies/ and its
 * tests only; what it means for residency is said in policies/buffer.h.
 *
 * Mode split follows APTMoE (SC'24), HybriMoE (DAC'25) and Duplex (MICRO'24), which divide experts
 * between two processors by the tokens of each over two measured tables: the larger of both sides'
 * time is made as small as it can be. A load costs the same whatever it is loaded for, an expert on
 * the host costs by its rows, and each side costs something by being taken at all, so that few
 * misses, or tiny experts, may go one way together. So of all sets of K loads the K experts that
 * cost most on the host leave it least to do, and one pass over K finds the best set. */
#ifndef POLICIES_HOST_SHARE_H
#define POLICIES_HOST_SHARE_H

#include "policies/scope.h"

/* A miss of an event. */
typedef struct {
    uint64_t host_ns; /* on the host */
    uint32_t at;      /* position in the event's experts */
} HostMiss;

/* What a layer's misses cost besides what each costs on the host. */
typedef struct {
    uint64_t load_ns;       /* each load */
    uint64_t host_event_ns; /* an event of which the host computes any ... */
    uint64_t load_event_ns; /* ... in which any is loaded */
} ShareCosts;

/* Orders MISSES[n] so that those to be loaded come first, the costliest on the host before the
 * others where not all are loaded (ties: lower position); returns their number. The rest is the
 * host's. The larger of both sides is the least that any choice gives; of equal ones that with
 * fewer loads is taken. */
uint32_t host_share_split(const ShareCosts *costs, HostMiss *misses, uint32_t n);

/* What POINTS[n] of [rows, ns] say of ROWS: the points themselves, linear between them; the first
 * one's time below it, the last one's time per row beyond it. Rounded down, at least 1. */
uint64_t host_share_ns(const PlanTable *table, uint32_t at, uint32_t rows);

typedef struct HostShare HostShare;

/* NULL in *SHARE where PLAN computes everything on the GPU. Fails with ERR_PLAN where a table of
 * PLAN lacks a layer. PLAN's tables must outlive it. */
Status host_share_new(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                      HostShare **share);
void host_share_free(HostShare *share);
void host_share_reset(HostShare *share);

/* EVENT is GIVEN as the scope is to see it: what the host computes is taken out of it and reported.
 */
void host_share_take(HostShare *share, const Scope *scope, const BufferEvent *given,
                     ScopeEvent *event);
/* EVENT has been decided: HIT[given->n] (or NULL) of all that were given. */
void host_share_hits(const HostShare *share, const BufferEvent *given, uint8_t *hit);

/* Experts and rows of the layer that the host has computed. */
void host_share_count(const HostShare *share, uint32_t layer_index, BufferCounts *counts);

#endif
