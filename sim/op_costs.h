/* The operations of a model's step, and what each costs in a given step: the tables of a hardware
 * profile (sim/costs.h) under the names that policies/hardware.h gives them. */
#ifndef SIM_OP_COSTS_H
#define SIM_OP_COSTS_H

#include "policies/plan.h"
#include "sim/costs.h"
#include "sim/features.h"

/* Places on the axes that tables may have. */
typedef enum {
    AXIS_TOKENS,
    AXIS_REQUESTS,
    AXIS_CONTEXT,
    AXIS_ROWS,
    AXIS_ACTIVE,
    AXIS_LOAD,
    AXIS_BYTES,
    AXIS_SHARE,
    AXIS_ELAPSED,
    AXIS_SKEW,
    AXIS_ENTRIES,
    AXIS_LOADS,
    AXES
} Axis;

typedef struct {
    double at[AXES];
} CostPoint;

/* A table with its axes found. */
typedef struct {
    uint32_t table; /* of costs_at(), or COSTS_NONE */
    uint32_t n_axes;
    uint8_t axis[COST_AXES]; /* Axis */
} CostRef;

/* Experts that one call computes. */
typedef struct {
    uint32_t active;
    uint32_t rows;  /* (token, slot) pairs of all of them */
    double load;    /* sum of cost_load_of() each expert's */
    double squares; /* of the rows of each, added up */
} ExpertWork;

static inline void expert_work_add(ExpertWork *work, uint32_t rows)
{
    work->active++;
    work->rows += rows;
    work->load += cost_load_of(rows);
    work->squares += (double)rows * rows;
}

/* Adds the experts of MORE. */
static inline void expert_work_join(ExpertWork *work, const ExpertWork *more)
{
    work->active += more->active;
    work->rows += more->rows;
    work->load += more->load;
    work->squares += more->squares;
}

/* N experts with a row each. */
static inline ExpertWork expert_work_single(uint32_t n)
{
    return (ExpertWork){.active = n, .rows = n, .load = n, .squares = n};
}

/* Experts of ROWS[n]. */
ExpertWork expert_work_of(const uint32_t *rows, uint32_t n);
/* ALL of them, those whose HIT[n] is 1, and the others, for which it is 0. */
void expert_work_split(const uint32_t *rows, const uint8_t *hit, uint32_t n, const ExpertWork *all,
                       ExpertWork *hits, ExpertWork *others);

/* What was looked up for calls of such work, however uneven; none: ACTIVE is 0. */
typedef struct {
    uint32_t active;
    uint32_t rows;
    double load;
    double ns;
    uint64_t whole_ns; /* of evenly shared rows */
    double even_ns;    /* with the load of evenly shared rows, if HAS_EVEN */
    double uneven_ns;  /* that it adds to be as uneven as was measured, ... */
    double unevenness; /* ... which is so much */
    bool has_even;
} KnownCall;

enum { KNOWN_CALLS = 4096, KNOWN_NUMBERS = 128, KNOWN_SINGLES = 128 };

/* Calls of so many experts with a row each; of 0: not known. */
typedef struct {
    uint32_t active;
    double queued_ns; /* given a list */
    double gpu_ns;
} KnownSingle;

/* Costs of a table by one number, the other axes being fixed, as they were found before. */
typedef struct {
    struct {
        uint32_t number; /* 1 + it; 0: none */
        CostStatus status;
        int64_t ns;
    } at[KNOWN_NUMBERS];
} KnownCosts;

/* One operation of the list; those with the same op and shape have the same price. */
typedef struct {
    uint32_t layer;
    Op op;
    uint32_t price;
} StepOp;

typedef struct {
    Op op;
    CostRef gpu;
    CostRef mixed;       /* attention: of a prompt beside requests that generate */
    CostRef forced;      /* route, embed: of routing that is forced */
    CostRef queued;      /* experts: of a call that is given a list */
    CostRef uneven;      /* experts: what unevenly shared rows add, ... */
    CostRef unevenness;  /* ... and how uneven they were */
    CostRef host;        /* experts: on the host's cores, */
    CostRef warm;        /* ... with weights that its caches hold; */
    CostRef offer;       /* ... what comes to the host for that, */
    CostRef fetch;       /* ... and what comes back, */
    CostRef issue_fetch; /* ... with the host's part of that */
    CostRef host_beside; /* ... beside loads, a factor, */
    CostRef copy_beside; /* ... and of loads beside them, */
    CostRef rested;      /* ... what they take longer when the host had none for a while, */
    CostRef aged;        /* ... and when it had not these */
    CostRef issue;
    CostRef varied; /* experts: what queueing others than before takes longer */
    CostRef again;  /* experts: a call that follows another one in its event */
    CostRef cold;   /* what queueing takes longer after many bytes were loaded */
    CostRef slowdown;
    CostRef held;    /* all but experts: what is added where none waits for the host, stamp
                        and all */
    CostRef limited; /* route, experts: of static gating */
    CostRef predict; /* route: the same router asked for a layer before its own */
    CostRef issue_predict;
    uint64_t gpu_ns; /* of the step that was priced last; experts: see op_costs_experts() */
    int64_t held_ns; /* what that adds */
    uint64_t issue_ns;
    uint64_t again_ns;
    uint64_t predict_ns;
    uint64_t issue_predict_ns;
    uint64_t cold_from; /* from so many bytes on; UINT64_MAX: no table tells */
    uint64_t cold_most; /* that were measured at the most */
    uint64_t step;      /* in which it was last queued; 0: none */
    int64_t queued_ns;  /* of its kernels behind its issue, for which ... */
    int64_t last_ns;    /* ... the last of them has so much: op_price_last_ns() */
    uint32_t kernels;   /* that are queued in this time, about */
    double slow;        /* factor beside copies, at least 1 */
    double host_slow;   /* ... of experts on the host, */
    double copy_slow;   /* ... and of copies beside those */
    KnownSingle singles[KNOWN_SINGLES];
    KnownCall *calls[2]; /* [KNOWN_CALLS] experts: of all, or of a list; else NULL */
} OpPrice;

/* What prices depend on but those of attention; no tokens: none were found yet. */
typedef struct {
    uint32_t tokens;
    uint32_t requests;
    uint32_t issued; /* 0 or 1, as is the next */
    uint32_t forced;
} PlainKey;

typedef struct {
    const Hardware *hardware;
    const HardwareModel *model;
    Costs *costs;
    StepOp *ops[2]; /* by Stack, in order */
    uint32_t n_ops[2];
    OpPrice *prices;
    uint32_t n_prices;
    uint64_t launch_ns; /* to queue one kernel */
    const Plan *limits; /* static gating limits the rows of experts; NULL: gating is dynamic */
    const Plan
        *fixed; /* ... and every expert computes its capacity, as without a buffer; or NULL */
    uint64_t calls_priced;  /* by new look-ups: what was known may be so no longer */
    bool predicts;          /* routers are asked ahead: that is priced, too, */
    bool holds;             /* ... as is what does not wait for the host */
    CostUse use[OPS];       /* by operation */
    CostUse other;          /* of all other tables */
    PlainKey plain;         /* of the step that was priced last */
    CostUse plain_use[OPS]; /* how its costs were found, attention's left out */
    CostUse plain_other;
} OpCosts;

/* MODEL is a name as in a trace, PLAN says how is gated. HARDWARE and PLAN must outlive it. Fails
 * with ERR_INPUT when the profile does not know the model. */
Status op_costs_new(const Hardware *hardware, const char *model, const Plan *plan, OpCosts *costs);
void op_costs_free(OpCosts *costs);

/* The table NAME of SHAPE, or of no shape. Fails with ERR_INPUT when it has an axis that is not
 * known. */
Status op_costs_find(const OpCosts *costs, const char *name, const char *shape, CostRef *ref);
/* The cost at POINT, counted in USE; 0 when there is no table. */
double op_costs_at(const OpCosts *costs, const CostRef *ref, const CostPoint *point, CostUse *use);
/* What a profile may hold is held at eleven days, so that sums of it stay times. */
#define OP_COSTS_MOST_NS 1e15
static inline uint64_t op_costs_whole(double ns)
{
    if (!(ns > 0))
        return 0;
    return ns < OP_COSTS_MOST_NS ? (uint64_t)(ns + 0.5) : (uint64_t)OP_COSTS_MOST_NS;
}
/* The same in whole nanoseconds, at least 0 and at most eleven days. */
uint64_t op_costs_ns(const OpCosts *costs, const CostRef *ref, const CostPoint *point,
                     CostUse *use);
/* ... of what may be negative, and is no further from 0; towards which it is rounded. */
int64_t op_costs_signed_ns(const OpCosts *costs, const CostRef *ref, const CostPoint *point,
                           CostUse *use);

/* op_costs_signed_ns() of FIXED, or for a table that IS_TIME op_costs_ns(), with NUMBER in the
 * place of what AXIS has; other places must be the same in every call with KNOWN. The first of what
 * is not known. */
int64_t op_costs_by_new_number(const OpCosts *costs, const CostRef *ref, const CostPoint *fixed,
                               Axis axis, uint32_t number, bool is_time, KnownCosts *known,
                               CostUse *use);
static inline int64_t op_costs_by_number(const OpCosts *costs, const CostRef *ref,
                                         const CostPoint *fixed, Axis axis, uint32_t number,
                                         bool is_time, KnownCosts *known, CostUse *use)
{
    uint32_t place = number % KNOWN_NUMBERS;
    if (known->at[place].number != number + 1)
        return op_costs_by_new_number(costs, ref, fixed, axis, number, is_time, known, use);
    use->n[known->at[place].status]++;
    return known->at[place].ns;
}

/* Prices every operation of a step but its experts; ISSUED: the host queues them one by one and
 * waits at every event, and its part is priced as well; FORCED: routing is not the router's. */
void op_costs_price(OpCosts *costs, const StepFeatures *step, bool issued, bool forced);
/* What queueing the operation of PRICE in step STEP, from 1 on, of TOKENS, takes longer than its
 * issue_ns, where events of the step before loaded BYTES each. */
uint64_t op_costs_cold_ns(OpCosts *costs, uint32_t price, uint64_t step, uint32_t tokens,
                          uint64_t bytes);
/* About how many kernels the host queues in ISSUE_NS, at least 1. */
uint32_t op_costs_kernels(const OpCosts *costs, uint64_t issue_ns);
/* ACTIVE experts of ROWS rows each that the host's cores compute together, with weights that come
 * from memory by the share COLD, 0 to 1, and else from its caches. */
double op_costs_host_expert(OpCosts *costs, uint32_t price, uint32_t active, uint32_t rows,
                            double cold);

/* What is left for the last of PRICE's kernels, which take QUEUED_NS more than queueing them. */
static inline int64_t op_price_last_ns(OpPrice *price, int64_t queued_ns)
{
    if (queued_ns == price->queued_ns)
        return price->last_ns;
    price->queued_ns = queued_ns;
    price->last_ns = queued_ns / (int64_t)price->kernels;
    return price->last_ns;
}

/* What is known of calls like WORK, if it is. */
static inline KnownCall *op_costs_known(OpPrice *price, const ExpertWork *work, bool queued)
{
    return &price->calls[queued][(work->active + (work->rows << 5)) % KNOWN_CALLS];
}

/* Beyond what was measured to be so uneven, as much more at the most. */
#define OP_COSTS_MOST_UNEVEN 1.5

/* What it adds that WORK's rows are shared unevenly. */
static inline double op_costs_uneven_ns(const KnownCall *known, const OpPrice *price,
                                        const ExpertWork *work)
{
    if (price->uneven.table == COSTS_NONE || work->squares == work->active) /* a row each */
        return 0;
    double unevenness = cost_unevenness(work->active, work->rows, work->squares);
    if (unevenness <= 0 || known->unevenness <= 0)
        return 0;
    double share = unevenness / known->unevenness;
    return known->uneven_ns * (share < OP_COSTS_MOST_UNEVEN ? share : OP_COSTS_MOST_UNEVEN);
}

/* op_costs_experts() of what is not known, or has many rows. */
uint64_t op_costs_any_experts(OpCosts *costs, uint32_t price, const ExpertWork *work, bool queued);

/* Of one call that computes WORK; QUEUED: it is given a list of experts. */
static inline uint64_t op_costs_experts(OpCosts *costs, uint32_t number, const ExpertWork *work,
                                        bool queued)
{
    OpPrice *price = &costs->prices[number];
    const KnownCall *known = op_costs_known(price, work, queued);
    if (work->active == 0)
        return 0;
    /* Where no expert has so many rows that they count, evenly shared ones would not either. */
    if (known->active != work->active || known->rows != work->rows || work->load != work->active ||
        known->load != work->load)
        return op_costs_any_experts(costs, number, work, queued);
    double added_ns = op_costs_uneven_ns(known, price, work);
    return added_ns > 0 ? op_costs_whole(known->ns + added_ns) : known->whole_ns;
}

#endif
