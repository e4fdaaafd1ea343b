/* The expert buffer's decisions: which experts are resident in which slots, and what to load and
 * evict.
 *
 * This is the one implementation of residency, replay order and eviction; simulator and executor
 * both run it. It sees event after event (one MoE layer of one step: the set A of experts with a
 * token) and answers with the actions in the order in which they happen; it never sees a clock or a
 * device. Contracts: the orders serial, batch and staged as in the plan (README.md, "Replay
 * orders"; the choices they leave open are made in policies/event_loop.h). An event allocates
 * nothing. Not thread-safe.
 *
 * Where a miss runs (plan section "compute"):
 *
 *   - gpu: it is loaded, and computed there.
 *   - host: it is computed on the host, from where it lies, and not loaded (Fiddler, MoNDE,
 *     KTransformers). So what is resident is what the plan begins with, and what prefetches bring.
 *   - split: the misses of an event, found at its start, are divided between loads and the host so
 *     that the larger of both sides' time is least, by the assignments of each and by two tables in
 *     the plan (policies/host_share.h). Not with order serial, where loads of an event change what
 *     misses later in it.
 *
 * To residency and policy an event is as if the experts that the host computes were not in it: they
 * take no slot, evict nobody, and touch nothing (no count, no recency, no ghost entry). They are
 * lookups that missed all the same, what predictors learn from, and no victims of prefetches.
 * Decisions depend on routing and plan alone, never on how fast anything was. */
#ifndef POLICIES_BUFFER_H
#define POLICIES_BUFFER_H

#include "policies/plan.h"
#include "traces/signals.h"

/* One decision. HOST, HIT, LOAD and BYPASS are the event's lookups, each exactly once, HOSTs first
 * in ascending id, the others in the order of their computation; an EVICT stands before the LOAD
 * that takes its slot. Order staged evicts after the event's lookups; with a budget in bytes over
 * experts of different sizes several EVICTs may stand before a LOAD. All PREFETCHes, with the
 * EVICTs that they need, come after the lookups. */
typedef struct {
    uint8_t kind; /* ResidencyKind */
    uint16_t
        layer_index; /* of the expert; an evicted one may be of another layer under device scope */
    uint16_t expert;
    uint32_t slot; /* within the scope; BYPASS uses the staging slot, number slots; HOST none */
} BufferAction;

typedef struct {
    uint64_t hits;
    uint64_t misses;
    uint64_t loads;    /* misses that were loaded, bypasses included */
    uint64_t bypasses; /* loads that were not kept */
    uint64_t evictions;
    uint64_t evicted_newest; /* evictions of the expert loaded last before this load (order staged:
                                before this event): near 1 = a frozen cache */
    uint64_t evicted_young;  /* evictions of one of the newest eighth by load (two at least): near
                                1 of all = a frozen cache, or a policy that means to */
    uint64_t bytes_loaded;   /* by loads */
    uint64_t host_computed;  /* misses that were computed on the host, not loaded */
    uint64_t host_rows;      /* their assignments */

    /* Prefetching (policies/prefetch.h), at the layer that was predicted. */
    uint64_t prefetches;       /* loads ahead of a lookup */
    uint64_t prefetch_hits;    /* of them, those that a lookup found */
    uint64_t prefetch_evicted; /* ... and those evicted before any */
    uint64_t bytes_prefetched;
    uint64_t predictions;      /* events that were predicted */
    uint64_t predictable;      /* their lookups */
    uint64_t predicted;        /* experts predicted for them */
    uint64_t predicted_right;  /* of these, those looked up */
    uint64_t prediction_reads; /* numbers that the predictor read: its cost */
} BufferCounts;

typedef struct ExpertBuffer ExpertBuffer;

/* LAYERS[n_layers] are the trace's or model's MoE layers, in order. The tables of PLAN must outlive
 * the buffer. Fails with ERR_PLAN when the plan's buffer does not fit the layers, or has something
 * to learn. With the buffer off, everything is resident from the start: every lookup hits. */
Status buffer_new(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                  ExpertBuffer **buffer);
void buffer_free(ExpertBuffer *buffer);
/* Forgets everything: cold again, but for what the plan begins with. To the policy those residents
 * are admissions without a lookup, the last layer's first, and of a layer the last listed first. */
void buffer_reset(ExpertBuffer *buffer);

/* Slots of the scope that LAYER_INDEX belongs to (without the staging slot): the plan's, but never
 * more than the scope has experts. Order staged has more, for the misses of an event; with a budget
 * in bytes there is a slot for as many of the smallest expert as fit. */
uint32_t buffer_slots(const ExpertBuffer *buffer, uint32_t layer_index);
/* True when the policy may pass an expert through a staging slot. */
bool buffer_uses_staging(const ExpertBuffer *buffer);
/* True when the policy needs next_use. */
bool buffer_needs_future(const ExpertBuffer *buffer);
/* True when events must bring touches: order staged. */
bool buffer_needs_touches(const ExpertBuffer *buffer);
/* The same of the buffer that PLAN asks for. */
bool plan_needs_touches(const Plan *plan);
/* True when it counts which experts an event needs, and not only how many: there is a buffer, or
 * there are ranks, or a placement is to be learnt. */
bool plan_needs_experts(const Plan *plan);
/* True when events must bring rows: the plan's compute is not "gpu". */
bool buffer_needs_rows(const ExpertBuffer *buffer);
/* True when events must bring what comes: the predictor needs the future. */
bool buffer_needs_coming(const ExpertBuffer *buffer);
/* What events must bring besides to the buffer that PLAN asks for. */
SignalNeeds plan_needs_signals(const Plan *plan);
/* Where EXPERT lies now, BUFFER_NO_SLOT when it is not resident. Before the first event these are
 * the residents that the plan begins with, which are to be in place. */
#define BUFFER_NO_SLOT UINT32_MAX
uint32_t buffer_slot_of(const ExpertBuffer *buffer, uint32_t layer_index, uint32_t expert);
/* Most prefetches that one event can give; 0 without a predictor. */
uint32_t buffer_max_prefetches(const ExpertBuffer *buffer);
/* Bytes of device memory that slots and staging slots take, by expert_bytes; under order staged the
 * budget, or the most that was resident at once so far where that is more. */
uint64_t buffer_memory_bytes(const ExpertBuffer *buffer);
/* Most actions that one event of N_ACTIVE experts can give. */
size_t buffer_max_actions(const ExpertBuffer *buffer, size_t n_active);

/* One MoE layer of one step. */
typedef struct {
    uint32_t layer_index;
    uint32_t n;
    const uint16_t *experts;  /* [n] ascending ids with at least one token */
    const uint32_t *next_use; /* [n] as packed_next_use(); NULL unless buffer_needs_future() */
    const uint16_t *touches;  /* [n] as packed_touches(); NULL unless buffer_needs_touches() */
    const uint32_t *rows;     /* [n] assignments of each; NULL unless buffer_needs_rows() */
    /* The active sets of this event and of those after it in the step: their sizes, and their
     * experts one event after the other. NULL unless buffer_needs_coming(). */
    const uint16_t *n_coming;
    const uint16_t *coming;
    const EventSignals *signals; /* as plan_needs_signals() says; NULL when it asks for nothing */
} BufferEvent;

/* Decides one event. ACTIONS (room for buffer_max_actions(n), or NULL) receives *N_ACTIONS actions;
 * HIT (room for n, or NULL) receives 1 for each expert that hit, 0 for each that missed. Returns
 * the number of hits. */
uint32_t buffer_event(ExpertBuffer *buffer, const BufferEvent *event, uint8_t *hit,
                      BufferAction *actions, uint32_t *n_actions);

/* One event of a run: its experts begin at FIRST of the run's. */
typedef struct {
    uint32_t first;
    uint16_t n;
    uint16_t layer_index;
} BufferSpan;

/* Events that are decided in order without telling the actions: what replays ask for. */
typedef struct {
    const BufferSpan *spans; /* [n_spans]; all of one scope */
    uint32_t n_spans;
    const uint16_t *experts;  /* as in BufferEvent, of all events, like the next three */
    const uint32_t *next_use; /* or NULL */
    const uint16_t *touches;  /* or NULL */
    uint8_t *hit;             /* 1 for each that hit, 0 for each that missed; or NULL */
} BufferRun;

/* True when buffer_run() can take this buffer's events: nothing is prefetched, and nothing is read
 * that a run does not bring. */
bool buffer_takes_runs(const ExpertBuffer *buffer);
/* What an event of at most so many experts does to its layer's slots follows from which of them
 * hit: every miss that is not passed by (buffer_uses_staging()) is loaded into a slot, a free one
 * while there is one, else that of one expert outside the event. 0 unless the order is batch and
 * each layer has slots of its own. */
uint32_t buffer_plain_to(const ExpertBuffer *buffer);
/* True when all layers share one scope, so that a run has them in the order of the trace; else it
 * has one layer. */
bool buffer_is_shared(const ExpertBuffer *buffer);
/* The same decisions as buffer_event() makes of one event after the other. */
void buffer_run(ExpertBuffer *buffer, const BufferRun *run);
/* N lookups of a layer, which all hit: with the buffer off. */
void buffer_count_hits(ExpertBuffer *buffer, uint32_t layer_index, uint64_t n);
/* From now on runs are decided as on any machine: without AVX-512, which changes nothing but the
 * time. For tests. */
void buffer_decide_plainly(ExpertBuffer *buffer);
/* Lookups of a layer since the start, and how many hit. */
void buffer_tally(const ExpertBuffer *buffer, uint32_t layer_index, uint64_t *lookups,
                  uint64_t *hits);

/* Counts since the start, of one layer's lookups (evictions count at the layer whose load caused
 * them). */
BufferCounts buffer_counts(const ExpertBuffer *buffer, uint32_t layer_index);
/* Adds MORE to SUM. */
void buffer_counts_add(BufferCounts *sum, const BufferCounts *more);

/* Names of all eviction policies, NULL-terminated, in table order. */
const char *const *eviction_names(void);
/* True when the policy NAME needs the future; false for unknown names. */
bool eviction_needs_future(const char *name);
/* True when it keeps a hot set, which plans give or learn; false for unknown names. */
bool eviction_needs_hot(const char *name);
/* The same for router scores. */
bool eviction_needs_scores(const char *name);

#endif
