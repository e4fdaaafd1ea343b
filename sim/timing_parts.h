/* What the files of sim/timing.h share; nobody else's. */
#ifndef SIM_TIMING_PARTS_H
#define SIM_TIMING_PARTS_H

#include <string.h>

#include "policies/link.h"
#include "policies/plan_table.h"
#include "sim/engine.h"
#include "sim/timing.h"

/* Experts of one event that are still to be queued. */
typedef struct {
    ExpertWork work;
    uint32_t tickets;  /* loads that it waits for */
    uint64_t ready_ns; /* when the last of them ends */
} Pending;

/* How an expert comes into its slot ahead of its lookup. */
typedef struct PrefetchTime {
    uint64_t end_ns;           /* of its prefetch, unless that is held back */
    struct PrefetchTime *next; /* that is begun together with it */
    size_t record;             /* ... where it is put off: of the residency */
    uint64_t step;             /* 1 + the step in which it was decided; 0: none */
    uint32_t number;           /* of Timing.ahead, where it is */
    bool held;
    bool is_owed; /* it does not: the prefetch was cancelled */
} PrefetchTime;

/* A prefetch of this step that is held back. */
typedef struct {
    uint16_t layer_index;
    uint16_t expert;
    size_t record;          /* of the residency */
    uint32_t begun_at_most; /* parts that have begun or will by themselves */
    uint32_t ended;         /* of these */
    bool handed;            /* the rest was begun at once */
    uint64_t start_ns;      /* once a part has begun */
    uint64_t end_ns;        /* of those that have ended or were handed over */
    EngineTask part[MOST_PREFETCH_PARTS];
} AheadTime;

/* Steps of one shape (exec/backend.h's StepShape, keys counted as exec/forward.c does): the first
 * is run directly, the second becomes a graph, which all others repeat (StepMode). */
typedef struct {
    uint32_t stack;
    uint32_t tokens;
    uint32_t requests;
    uint32_t keys;
    uint32_t source_keys;
} SeenShape;

/* Those that share requests and experts (sim/timing_ranks.c). */
typedef struct Ranks Ranks;

enum { RUN_OPS = 16, RUN_TIMES = 32 };
#define RUN_NONE UINT32_MAX

/* What a run of operations took in step number STEP, when the compute stream was AHEAD_NS ahead of
 * the host. */
typedef struct {
    uint64_t step;
    uint64_t times; /* that op_ns is not counted yet in Timing's */
    int64_t ahead_ns;
    uint64_t gpu_ns; /* that these moved on */
    uint64_t host_ns;
    uint64_t op_ns[RUN_OPS];
    uint64_t before_ns; /* sums of it: of the layer before, ... */
    uint64_t after_ns;  /* ... and of its own */
} RunTime;

/* Operations before the experts of a layer, after those of the layer before (sim/timing_runs.c). */
typedef struct {
    Stack stack;
    uint32_t first; /* in the stack's list, where it is first */
    uint32_t n;
    uint32_t n_before; /* of the layer before; all where there is one layer */
    RunTime times[RUN_TIMES];
} OpRun;

enum { EVENT_TIMES = 128 };

/* What an event of experts with a row each took, for which the link was idle. Times from when the
 * host could be told of the router. */
typedef struct {
    uint64_t calls_priced; /* 1 + OpCosts' then; 0: nothing is known */
    uint32_t kind;         /* of its layer */
    uint32_t n;
    uint32_t n_misses;
    uint64_t late_ns; /* the compute stream had been idle for so long */
    uint64_t gpu_ns;  /* ends */
    uint64_t host_ns;
    uint64_t copy_ns; /* where it loads */
    uint64_t exposed_load_ns;
    uint64_t load_ns;
    uint64_t timed_loads;
    CostUse other; /* how its costs were found, but those of calls, which were known */
} EventTime;

/* Of one MoE layer. */
typedef struct {
    uint32_t layer;         /* the model's number */
    uint32_t price;         /* of its experts */
    uint32_t kind;          /* the first layer whose events cost as its own do */
    uint32_t run;           /* of operations before them; RUN_NONE: they are no such */
    uint32_t first_op;      /* ... of the stack's list */
    uint64_t plain_ns;      /* of its event among Timing.plain */
    uint32_t asked;         /* ... and of the router that is asked ahead, where it predicts */
    bool predicts;          /* the plan asks the router of a layer further on, and there is one */
    bool loads_ahead;       /* the plan predicts a layer further on by its events */
    uint64_t slot_bytes;    /* that a load copies */
    uint64_t asked_ns;      /* of a load, by the plan's link; 0: as it comes */
    uint64_t load_ns;       /* ... and with what that costs: at the least */
    uint64_t copy_ns;       /* of a load beside nothing */
    uint64_t copy_busy_ns;  /* ... beside computation */
    bool together;          /* loads of an event are copied together */
    bool puts_off;          /* its prefetches are put off until the host waits */
    bool holds_back;        /* its prefetches are held back ... */
    uint32_t parts;         /* ... and loaded in so many parts */
    uint32_t slots;         /* where they are its own, ... */
    uint32_t residents;     /* ... and so many of them are filled; kept by timing_event_hits() */
    uint64_t part_ns;       /* each as long as this */
    PrefetchTime *prefetch; /* [experts] */
    /* [experts] what the host had read when it had read the expert, and when that was; 0: never;
     * NULL unless the host computes */
    uint64_t *host_read;
    uint64_t *host_read_ns;
} LayerTime;

/* Events of timing_plain_events(), as those of the step before. */
typedef struct {
    uint64_t number; /* of the last step that had them */
    uint32_t first;
    uint32_t n_events;
    uint32_t each;
    uint64_t ns;    /* of all of them */
    uint64_t times; /* that they are not counted yet in layer_ns */
} PlainEvents;

struct Timing {
    TimingOptions options;
    OpCosts costs;
    bool one_thread; /* the backend computes when it is called */
    bool prefetches; /* it runs beside the host, and the plan prefetches */
    Ranks *ranks;    /* several: each has a Timing of its own, and of this one only the sums of its
                        steps count; NULL: one */
    bool is_rank;    /* it is one of several */
    bool idle;       /* ... without a request in the step, of which it computes experts alone */
    struct {
        CostRef issue_load;
        CostRef issue_together;
        CostRef issue_loads;
        CostRef start_together;
        CostRef load_together;
        CostRef turn;
        CostRef issue_turn;
        CostRef sync_together;
        CostRef issue_await;
        CostRef end_load;
        CostRef end_loads;
        CostRef sync;
        CostRef lag;
        CostRef gap;
        CostRef after_load;
        CostRef after_tokens;
        CostRef throttle;
        CostRef throttle_least;
        CostRef issue_throttle;
        CostRef decide;
        CostRef decide_ahead; /* and predict */
        CostRef decide_load;
        CostRef carry;
        CostRef wake;
        CostRef h2d;
        CostRef together;
        CostRef ahead; /* ... and small ones ahead, and beginning them */
        CostRef issue_ahead;
        CostRef reuse;
        CostRef stamp;
        CostRef queue_stamp;
        CostRef stamp_beside;
        CostRef issue_stamp;
        CostRef issue_poll;
        CostRef beside;
        CostRef wait_ahead;
        CostRef rest[2][STEP_MODES]; /* by Stack and StepMode */
        CostRef between;
        CostRef cold;
        CostRef activations;
    } refs;
    KnownCosts decide;      /* by the experts of an event */
    KnownCosts decide_load; /* ... that loads */
    KnownCosts carry;
    KnownCosts issue_loads; /* ... small ones */
    KnownCosts after_load;
    KnownCosts queue_stamp; /* by the tokens of a step, but for more than most_stamped */
    uint64_t most_stamped;
    uint64_t graph_stamp_ns; /* of a step that is replayed */
    uint64_t issue_load_ns;
    uint64_t issue_together_ns;
    uint64_t start_together_ns;
    uint64_t issue_throttle_ns; /* ... of small ones over a slow link */
    uint64_t most_together;     /* bytes of those whose start was measured */
    uint64_t most_synced;       /* tokens of steps whose small loads that await a call were */
    uint64_t most_awaited;      /* small loads ahead, after which being told was */
    uint64_t issue_await_ns;
    uint64_t end_load_ns;
    uint64_t end_loads_ns; /* of a step that has any */
    uint64_t sync_ns;
    uint64_t lag_ns;
    uint64_t gap_ns;
    uint64_t throttle_ns;
    uint64_t throttle_least_ns;
    uint64_t wake_ns;
    uint64_t cold_most_ns;   /* after the step before was queued, at which step/cold was measured */
    uint64_t queued_more_ns; /* that an operation of a step that waits takes beyond its table, which
                                is without a stamp that costs less there */
    uint64_t stamp_ns;       /* 0 unless stamped, as are the next two: */
    uint64_t queue_stamp_ns; /* of steps that wait */
    uint64_t tell_ns;        /* ... what that is, stamped or not */
    uint64_t stamp_beside_ns;
    uint64_t beside_ns; /* ... and of an operation of the step, without one, beside prefetches */
    uint64_t issue_stamp_ns;
    uint64_t issue_poll_ns; /* of an operation while prefetches wait for the link */

    LayerTime *layers;   /* [n_layers] */
    uint64_t *slot_used; /* [slots of a scope] the flush in which the slot was last queued */
    uint32_t *rows_of;   /* [most experts] of the present event */
    const char *missing[TIMING_MISSING]; /* as in TimingTotals */
    uint32_t n_missing;
    uint64_t flush;
    uint64_t host_done_ns;     /* when the host last had computed experts; 0: never */
    uint64_t host_read;        /* bytes of experts that the host has read, */
    uint64_t host_read_before; /* ... before the present step */
    uint32_t n_resident;
    uint32_t n_initial; /* residents of a fresh buffer */
    uint32_t n_experts;
    uint32_t distance; /* of that router; 0: none is asked */
    double entries;    /* of the memory that the plan's predictor has */
    bool holds_all;
    uint32_t plain_to; /* events of at most so many experts that pass nobody by are plain */
    bool bypasses;     /* some are passed by, which actions tell */
    bool settled;
    uint64_t slot_bytes;     /* of all slots */
    uint64_t initial_bytes;  /* of those that a fresh buffer fills */
    uint64_t resident_bytes; /* ... that are filled */
    TimingMemory peak_in_use;
    uint32_t activation_tokens; /* what the next is of */
    uint64_t activation_bytes;

    /* The step. */
    StepFeatures step;
    uint64_t number; /* 1 + steps before */
    bool waits;
    StepMode mode;
    uint32_t at; /* next operation of the stack's list */
    uint64_t start_ns;
    uint64_t elapsed_ns; /* since the step before was queued */
    uint64_t queued_ns;  /* when the present one was */
    uint32_t n_events;   /* so far */
    uint64_t cold_bytes; /* that an event of the step before loaded or the host read, on average */
    uint64_t after_ns;   /* that a call takes longer after loads, of so many tokens */
    uint64_t sync_together_ns; /* from a call's end to small loads that await it */
    uint64_t again_ns;      /* to queue a call after another one in its event; 0: as in its price */
    uint64_t cold_ns;       /* that queueing took longer since, so far */
    uint64_t host_ns;       /* the host has come so far */
    uint64_t gpu_ns;        /* the compute stream is free */
    uint64_t copy_ns;       /* the copy stream is free */
    uint64_t stamp_at_ns;   /* the last stamp */
    bool holds;             /* operations until all that come before the next event are queued: */
    size_t first_held;      /* ... from this one of the step on */
    uint64_t held_ns;       /* when it would have begun */
    uint64_t prefetched_ns; /* the last prefetch of the step ends */
    uint64_t timed_loads;   /* of the step: those that are copied together have one time */
    StepTime out;

    /* Small prefetches of the last event, which are begun while the host waits for the next. */
    PrefetchTime *put_off; /* in the order of the decisions */
    PrefetchTime *last_put_off;
    const LayerTime *put_off_layer;
    uint32_t n_put_off;
    /* For those that began the host is not told of the next event before. */
    uint64_t told_least_ns;

    /* Only where prefetches are held back. */
    Engine *link;
    AheadTime *ahead; /* [n_ahead] in the order of the decisions */
    uint32_t n_ahead;
    uint32_t first_ahead; /* those before it are over */
    size_t ahead_room;
    uint64_t first_tag; /* of the step's in the engine */

    TimingRecord *ops; /* [op_room] */
    size_t op_room;
    ResidencyRecord *residency; /* [residency_room] */
    size_t residency_room;

    /* Steps that do not wait, of which no records are wanted, are added up: all operations but the
     * experts cost the same in every layer. By stack and price: operations of a step, and the sum
     * of their time over steps. */
    uint32_t *count[2]; /* [n_prices] */
    uint64_t *added_ns[2];
    bool adds; /* the present step is such a one */
    PlainEvents plain;

    EventTime event_times[EVENT_TIMES]; /* by what they are of */
    OpRun *runs;                        /* [n_runs], of steps that wait */
    uint32_t n_runs;

    SeenShape *shapes;   /* [n_shapes] */
    StepMode *next_mode; /* ... how the next of each runs */
    uint32_t n_shapes;
    uint32_t shape_room;

    PhaseTime phases[PHASE_MIXED + 1];
    uint64_t op_ns[OPS]; /* without what was added up, and runs_spread() */
    uint64_t rest_ns;
    uint64_t between_ns;
    uint64_t *layer_ns;  /* [n_model_layers], without what was added up and plain.times */
    uint64_t *layer_sum; /* [n_model_layers] with it, for timing_totals() */
    uint32_t n_model_layers;
};

/* What a load takes over a slow link that is to take ASKED_NS, when its copy takes COPY_NS. */
static inline uint64_t throttled(const Timing *timing, uint64_t asked_ns, uint64_t copy_ns)
{
    uint64_t link_ns = asked_ns + timing->throttle_ns;
    uint64_t least_ns = copy_ns + timing->throttle_least_ns;
    return link_ns > least_ns ? link_ns : least_ns;
}

/* NS later, or earlier where it is negative. */
static inline uint64_t moved(uint64_t at_ns, int64_t ns)
{
    return ns < 0 && (uint64_t)-ns > at_ns ? 0 : at_ns + (uint64_t)ns;
}

/* What a table that is there costs by tokens alone. */
static inline uint64_t timing_tokens_ns(Timing *timing, const CostRef *ref, uint64_t tokens)
{
    CostPoint point = {0};
    point.at[AXIS_TOKENS] = (double)tokens;
    return op_costs_ns(&timing->costs, ref, &point, &timing->costs.other);
}

static inline uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* What queueing the operation of PRICE takes longer than it does again and again. */
static inline uint64_t timing_cold_ns(Timing *timing, uint32_t price)
{
    uint64_t ns = 0;
    if (timing->cold_bytes > timing->costs.prices[price].cold_from)
        ns = op_costs_cold_ns(&timing->costs, price, timing->number, timing->step.tokens,
                              timing->cold_bytes);
    timing->cold_ns += ns;
    return ns;
}

/* Whether OP is run and is no experts' call. */
bool timing_is_played(const Timing *timing, const StepOp *op);

/* Finds the tables that the plan's times need, and prices what is the same in every step. Fails
 * with ERR_INPUT, naming the first that is missing; but what passes between operations and loads is
 * noted as missing, and results tell it (sim/timing_tables.c). */
Status timing_find_tables(Timing *timing);
/* Fails with ERR_INPUT: the profile has no table NAME of SHAPE, which may be "". */
Status timing_lacks(const Timing *timing, const char *name, const char *shape);

/* What the host needs to begin N small loads, but for what a slow link adds. */
uint64_t timing_issue_loads_ns(Timing *timing, uint32_t n);

/* The host is about to wait, for an event's counts or the end of the step: it begins what was put
 * off. Fails with ERR_MEMORY. */
Status timing_begin_put_off(Timing *timing);

/* The link (sim/timing_link.c). All fail with ERR_MEMORY. */
Status link_open(Timing *timing);
Status link_begin_step(Timing *timing);
/* From when on the link is free for a load that the host begins now. */
Status link_free(Timing *timing, uint64_t *free_ns);
/* It is: the load occupies it until END_NS. */
Status link_take(Timing *timing, uint64_t free_ns, uint64_t end_ns);
/* ACTION's expert is prefetched, as far as nothing else is in the way. */
Status link_prefetch(Timing *timing, const BufferAction *action);
/* What is left of PREFETCH, which is held back, is loaded on demand; *END_NS is when it ends. */
Status link_take_over(Timing *timing, const PrefetchTime *prefetch, uint64_t *end_ns);
/* What is left of it is cancelled: its expert leaves. */
Status link_forget(Timing *timing, const PrefetchTime *prefetch);
/* The event of LAYER_INDEX is decided: prefetches for it that have not begun are cancelled. */
Status link_pass(Timing *timing, uint32_t layer_index);
/* Whether it still is when the compute stream is free, by what is known of it. */
bool link_is_busy(Timing *timing);
/* What an operation that begins then takes longer beside prefetches. */
static inline uint64_t link_slows(Timing *timing)
{
    return timing->beside_ns > 0 && link_is_busy(timing) ? timing->beside_ns : 0;
}
/* Whether it copies anything at AT_NS, by what is known of it: between the parts of prefetches it
 * does not, while the host begins the next. */
bool link_copies(Timing *timing, uint64_t at_ns);
/* Whether prefetches wait for it, by what is known of it. */
bool link_is_awaited(Timing *timing);
/* All that is left of prefetches is loaded, and counted. */
Status link_end_step(Timing *timing);

/* Opens the ranks of a plan that has several. Fails with ERR_PLAN for a plan whose time on
 * several ranks is not known, with ERR_INPUT when the trace does not say a layer's width or the
 * profile has no table for as many, or as placement_map() and timing_new() do. */
Status timing_ranks_open(Timing *timing);
void timing_ranks_close(Timing *timing);
/* What timing.h has under these names, of several ranks. */
Status timing_ranks_begin(Timing *timing, const StepFeatures *step, uint64_t earliest_ns);
Status timing_ranks_event(Timing *timing, const TimingEvent *event);
Status timing_ranks_end(Timing *timing, StepTime *step);
uint64_t timing_ranks_between(Timing *timing);
TimingTotals timing_ranks_totals(const Timing *timing);
TimingMemory timing_ranks_memory(const Timing *timing, const TraceFeatures *features);

/* Plays what comes before the experts of layer LAYER_INDEX, which *EXPERTS then is. */
Status timing_reach(Timing *timing, uint32_t layer_index, const StepOp **experts);
/* Plays the experts of EVENT, which timing_stamp() notes. */
Status timing_compute(Timing *timing, const TimingEvent *event, const BufferAction *actions,
                      uint32_t n_actions, const StepOp *experts);
/* What stamps take in the step that begins, where it waits (sim/timing_stamps.c). */
void timing_price_stamps(Timing *timing);
/* In a stamped step that waits, what comes from here on up to the next event begins when all of it
 * is queued; ... */
void timing_hold(Timing *timing);
/* ... it is: where the compute stream was free, all of it comes as much later. */
void timing_release(Timing *timing);
/* What an operation of NS takes, with its stamp where it has one. */
uint64_t timing_with_stamp(Timing *timing, const OpPrice *price, uint64_t ns);
/* What the stamp behind an operation of NS takes longer where something is copied then. */
uint64_t timing_stamp_beside_ns(Timing *timing, uint64_t ns);
/* Notes that OP has run since the last stamp. */
Status timing_stamp(Timing *timing, const StepOp *op);
/* Counts TIMING->plain, as often as it happened, to its layers. */
void timing_spread_plain(const Timing *timing, uint64_t *layer_ns);
/* Counts the step that ends to its phase. */
void timing_count_step(Timing *timing);
/* Adds the phases up. */
void timing_sum_phases(const Timing *timing, TimingTotals *totals);

/* Counts the device memory of the step that ends (sim/timing_memory.c). */
void timing_count_memory(Timing *timing);

/* How a step that does not wait runs; notes its shape (sim/timing_shapes.c). */
Status timing_step_mode(Timing *timing, const StepFeatures *step, StepMode *mode);

/* Plays OP, which is not called in vain where it is not played. Fails with ERR_MEMORY, with
 * records. */
Status timing_play(Timing *timing, const StepOp *op);

/* An event of experts with a row each that is played as it was before; false: it was not. */
bool event_repeats(Timing *timing, const LayerTime *layer, uint32_t n, uint32_t n_misses);
/* What has been played since event_begins() can be repeated, unless there were new costs, or the
 * link was not idle. */
typedef struct {
    EventTime time;
    uint64_t from_ns;
    uint64_t cold_ns; /* as in Timing: what comes but once in a step is not repeated */
    bool idle;
} EventStart;
EventStart event_begins(const Timing *timing, const LayerTime *layer, uint32_t n,
                        uint32_t n_misses);
void event_ends(Timing *timing, const EventStart *start);

/* Fails with ERR_MEMORY. */
Status runs_open(Timing *timing);
/* Plays all operations before the experts of LAYER, if they are a run that can be; *PLAYED says so.
 * Fails with ERR_MEMORY. */
Status runs_play(Timing *timing, const LayerTime *layer, bool *played);

/* Adds what runs took that is not in Timing.op_ns. */
void runs_spread(const Timing *timing, uint64_t op_ns[OPS]);

/* The experts of one event: decisions carried out (sim/timing_experts.c). GPU_NS moves on to the
 * end of the last call. */
Status timing_experts(Timing *timing, const TimingEvent *event, const BufferAction *actions,
                      uint32_t n_actions, uint32_t price);
/* Whether of events of N experts that pass nobody by nothing counts but how many hit. */
bool timing_is_plain(const Timing *timing, uint32_t n);
/* The same where of EVENT, of a row each, nobody is passed by; *IS_PLAIN tells whether it was so,
 * else nothing is done. */
Status timing_experts_plain(Timing *timing, const TimingEvent *event, const BufferAction *actions,
                            uint32_t n_actions, uint32_t price, bool *is_plain);
/* The same where HIT says all. */
Status timing_experts_hits(Timing *timing, const TimingEvent *event, const uint8_t *hit,
                           uint32_t n_misses, uint32_t price);

#endif
