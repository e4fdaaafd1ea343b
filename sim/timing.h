/* How long the steps of a trace take under a plan, on the machine of a hardware profile.
 *
 * Plays what the executor does (exec/forward.c, exec/expert_slots.c): the host queues operations,
 * the compute stream runs them in order, the copy stream loads experts. A step in which no expert
 * can be missing is one queue, repeated as a graph from the third step of its shape on; else the
 * host waits at every MoE layer for the event's counts, decides, begins the loads, queues the
 * experts that are in place, and then those that loads bring. Decisions are those of
 * policies/buffer.h, which the caller makes (sim/replay.h) and hands on as actions.
 *
 * Each of the three does one thing after the other, in an order that is known when it is queued: a
 * task begins when its stream is free and all it waits for is over, so that times follow at once,
 * without a queue of events (tests/test_timing.c plays the same tasks on sim/engine.h). Only where
 * prefetches are held back, which loads on demand overtake, the link is played on sim/engine.h
 * (sim/timing_link.c). On a backend that computes when it is called the three are one. Times are
 * whole nanoseconds from 0.
 *
 * Where nobody wants records, what lasts as long as it did before is not played again: steps of one
 * token without a buffer, runs of operations between two layers' experts (sim/timing_runs.c),
 * events (sim/timing_events.c). Times are the same to the nanosecond (tests/test_timed_replay.c).
 *
 * Of a plan with several ranks times are what they would be with a GPU for each, requests and
 * experts shared: each rank is played as such a machine, and all meet at the exchanges between
 * their ports (sim/timing_ranks.c, sim/timing_ports.c). No executor does that yet. */
#ifndef SIM_TIMING_H
#define SIM_TIMING_H

#include "sim/op_costs.h"
#include "sim/rank_split.h"

typedef struct {
    const Hardware *hardware;
    const char *model; /* as in a trace's run.model */
    const Plan *plan;
    const TraceLayer *layers; /* [n_layers] MoE layers of the trace */
    uint32_t n_layers;
    bool logits;  /* decoder steps compute those of the last token of each request */
    bool forced;  /* routing is laid on the model */
    bool stamped; /* every operation is stamped, which costs time, and held (exec/executor.h) */
    bool warm;    /* graphs of all steps without a buffer have been made before */
    bool records; /* steps tell their operations and loads */
    bool bare;    /* steps take nothing besides their operations (step/rest) */
} TimingOptions;

enum { TIMING_MISSING = 16 };

/* Device memory, bytes. */
typedef struct {
    uint64_t weights;
    uint64_t slots;
    uint64_t caches;
    uint64_t activations; /* and all else */
    uint64_t total;
} TimingMemory;

/* What a rank sent and received before (or BACK: after) the experts of an event. */
typedef struct {
    uint32_t layer;
    bool back;
    uint64_t sent_bytes;
    uint64_t received_bytes;
    uint64_t start_ns;
    uint64_t duration_ns;
} PortRecord;

/* One rank of a step. */
typedef struct {
    uint32_t tokens;         /* of its requests */
    const TimingRecord *ops; /* as StepTime's; experts without what they wait for */
    size_t n_ops;
    const ResidencyRecord *residency;
    size_t n_residency;
    const PortRecord *ports;
    size_t n_ports;
    TimingMemory in_use;
} RankStep;

/* One step. Arrays are valid until the next step begins. Of several ranks: from its start on all
 * to its end on all. */
typedef struct {
    uint64_t start_ns;
    uint64_t duration_ns;
    uint64_t exposed_load_ns; /* how much later its MoE layers ended than had every lookup hit */
    uint64_t load_ns;         /* that the link was busy; links, added up, of several ranks */
    uint64_t loads;
    uint64_t bytes_loaded;
    uint64_t prefetches_cancelled; /* before they began (policies/link.h) */
    uint64_t late_loads;           /* hits that had to be loaded, since theirs was */
    TimingMemory in_use;     /* at its end: of what an executor has taken, what holds something;
                                of several ranks, of the fullest */
    const TimingRecord *ops; /* as the executor's; NULL without records, and of several ranks */
    size_t n_ops;
    const ResidencyRecord *residency;
    size_t n_residency;
    const RankStep *ranks; /* [n_ranks] of several, with records */
    uint32_t n_ranks;      /* 0: of one */
} StepTime;

/* Sums over the steps of a phase. */
typedef struct {
    uint64_t steps;
    uint64_t tokens;
    uint64_t ns;
    uint64_t exposed_load_ns;
    uint64_t load_ns;
    uint64_t loads;
    uint64_t bytes_loaded;
    uint64_t prefetches_cancelled;
    uint64_t late_loads;
} PhaseTime;

/* Sums over the steps of one rank of several. */
typedef struct {
    uint64_t compute_ns;  /* of its operations, */
    uint64_t experts_ns;  /* ... and of these its experts */
    uint64_t exchange_ns; /* that it sent or received */
    uint64_t waited_ns;   /* ... and waited for it to begin */
    uint64_t assignments; /* that its experts computed */
    uint64_t load_ns;
    uint64_t loads;
    uint64_t bytes_loaded;
} RankTime;

/* Of several ranks, op_ns and layer_ns are the first one's, which always has requests; its experts
 * are from when it has come to them to when it has their results. */
typedef struct {
    PhaseTime total;
    PhaseTime phases[PHASE_MIXED + 1]; /* by Phase */
    uint64_t op_ns[OPS];               /* by operation, of all layers */
    TimingMemory peak_in_use;          /* of the step with the largest total */
    uint64_t rest_ns;                  /* of steps, outside their operations */
    uint64_t between_ns;               /* outside of steps: timing_between() */
    uint32_t ranks;                    /* that share the experts: 1 or more */
    const RankTime *of_ranks; /* [ranks] where they are several; as long valid as layer_ns */
    uint64_t all_to_all_ns;   /* of op_ns[OP_EXPERTS]: what these send one another */
    uint64_t imbalance_ns; /* ... and how much longer than the mean of all ranks the one took that
                              computed longest, event by event */
    const uint64_t
        *layer_ns; /* [n_model_layers] operations of each layer; valid until the next call */
    uint32_t n_model_layers;
    CostUse op_use[OPS]; /* how the costs were found */
    CostUse other_use;
    const char *missing[TIMING_MISSING]; /* tables that the profile lacks: counted as no time */
    uint32_t n_missing;
} TimingTotals;

/* What is left of the TOTAL_NS of all steps: waiting for others, or for the host. */
static inline uint64_t timing_idle_ns(const RankTime *rank, uint64_t total_ns)
{
    uint64_t busy_ns = rank->compute_ns + rank->exchange_ns;
    return total_ns > busy_ns ? total_ns - busy_ns : 0;
}

typedef struct Timing Timing;

/* Fails with ERR_INPUT when the profile does not know the model, or its MoE layers are not those of
 * the trace, or lacks a table, and for several ranks when the trace does not say how wide a layer
 * is; with ERR_PLAN for a plan of several ranks that has static gating, or a buffer as
 * ranked_replay_check() does. */
Status timing_new(const TimingOptions *options, Timing **timing);
void timing_free(Timing *timing);

/* Fails as timing_new() does of PLAN and LAYERS, whatever the profile: for callers that name the
 * file which is wrong. */
Status timing_check_plan(const Plan *plan, const TraceLayer *layers, uint32_t n_layers);

/* A step begins, at EARLIEST_NS or when the one before has ended. Fails with ERR_MEMORY. */
Status timing_begin(Timing *timing, const StepFeatures *step, uint64_t earliest_ns);
/* One MoE layer of it, in order: N experts with ROWS tokens each (NULL: one each), and what was
 * decided. Fails with ERR_MEMORY, only with records. */
typedef struct {
    uint32_t layer_index;
    uint32_t n;
    const uint16_t *experts; /* [n] */
    const uint32_t *rows;    /* [n] */
    const PackedSums *sums;  /* of rows, each below 128, where no more is known of them and all
                                experts are in place, on one rank; NULL: see above */
} TimingEvent;
Status timing_event(Timing *timing, const TimingEvent *event, const BufferAction *actions,
                    uint32_t n_actions);
/* The same of an event of which HIT[n] says all, N_MISSES of 0, where timing_takes_hits(). */
Status timing_event_hits(Timing *timing, const TimingEvent *event, const uint8_t *hit,
                         uint32_t n_misses);
/* Which rank has which part of an event; NULL of one rank. */
RankSplit *timing_split(Timing *timing);
/* One MoE layer of a step of several ranks with buffers, which timing_split() has: DECIDED[ranks]
 * by each; NULL: nothing was to be, without buffers. Fails with ERR_MEMORY, only with records. */
Status timing_event_split(Timing *timing, uint32_t layer_index, const RankDecision *decided);
/* True when events of at most MOST experts need no actions: all of an event's loads are its own
 * layer's, and go where nobody of it is (buffer_plain_to()). */
bool timing_takes_hits(const Timing *timing, uint32_t most);
/* All events of a step, from the one of layer FIRST on, each of EACH experts with a row: without
 * their names, which count for nothing where nothing is decided and no records are wanted. False,
 * and nothing is played, where that is not so. */
bool timing_plain_events(Timing *timing, uint32_t first, uint32_t n_events, uint32_t each);
/* The same of N_ACTIVE[n_events] experts, of whose rows SUMS[n_events] are known (as TimingEvent
 * has them; PackedSums, not aligned). */
bool timing_summed_events(Timing *timing, uint32_t first, uint32_t n_events,
                          const uint16_t *n_active, const uint8_t *sums);
/* Rows that an expert of the step computes at the most: the plan's gating drops what is over. */
uint32_t timing_most_rows(const Timing *timing);
/* The step ends. */
Status timing_end(Timing *timing, StepTime *step);
/* What passes after the step that has ended before the next one can begin, while requests are
 * served; time moves on by it. 0 where the profile does not say. */
uint64_t timing_between(Timing *timing);

uint64_t timing_now(const Timing *timing);
TimingTotals timing_totals(const Timing *timing);

/* Device memory of an executor that was opened for MAX of FEATURES, bytes; of several ranks, of the
 * fullest. */
TimingMemory timing_memory(const Timing *timing, const TraceFeatures *features);

#endif
