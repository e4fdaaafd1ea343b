/* Several ranks on their way: what sim/timing_ranks.c and sim/timing_ports.c share. */
#ifndef SIM_TIMING_RANKS_H
#define SIM_TIMING_RANKS_H

#include "sim/rank_split.h"
#include "sim/timing_parts.h"

/* One rank: a machine of its own, which has its requests and its experts, and two ports. */
typedef struct {
    Timing *timing;
    uint64_t sends_ns;    /* the outgoing port is free, */
    uint64_t receives_ns; /* ... and the incoming one */
    uint64_t ready_ns;    /* it has come to the present exchange */
    uint64_t experts_ns;  /* of the present event */
    uint64_t exposed_ns;  /* ... that it waited for loads */
    const StepOp *op;     /* ... in the list of operations */
    RankTime sums;
    PortRecord *ports; /* [n_ports] of the step, with records */
    size_t n_ports;
    size_t port_room;
    uint64_t compute_from_ns; /* of the present event: for its record */
} Rank;

enum { KNOWN_EXCHANGES = 256 };

/* An exchange that was priced before; none: all is 0. */
typedef struct {
    uint32_t most;
    uint32_t row_bytes;
    uint64_t sum;
    uint64_t ns;
} KnownExchange;

struct Ranks {
    Plan plan; /* of each: as of one rank */
    RankSplit split;
    Rank *of;         /* [split.ranks] */
    RankStep *steps;  /* [split.ranks] of the step that ended, for its StepTime */
    RankTime *totals; /* [split.ranks] for timing_totals() */
    bool prefetches;  /* so that a rank decides without experts to compute, too */
    CostRef exchange; /* one way, before or after the experts */
    uint64_t issue_ns;
    uint32_t value_bytes; /* of activations */
    KnownExchange known[KNOWN_EXCHANGES];
    uint64_t exchange_ns;  /* of all events, both ways */
    uint64_t imbalance_ns; /* that experts took longer than had all ranks had the mean */
};

#endif
