/* Replays one trace under every plan of a study, on all processors of one machine or of several,
 * into study.db. */
#ifndef SIM_SWEEP_H
#define SIM_SWEEP_H

#include "sim/parts.h"
#include "sim/plan_timer.h"
#include "sim/study.h"
#include "sim/sweep_ranks.h"
#include "traces/packed.h"
#include "traces/signals.h"

typedef struct {
    PartsAsked parts; /* of the trace: what is learnt from and what is scored (sim/parts.h) */
    uint32_t jobs;    /* threads of each rank that replay; 0: all its processors */
    const volatile int *stop; /* set by a signal handler; NULL: none. Replays that run are finished
                                 and kept. */
    /* Called by the caller's thread now and then, with plans done of those missing; NULL: none. */
    void (*progress)(void *argument, uint64_t done, uint64_t total);
    void *argument;
    const TraceSignals *signals; /* of the trace, that plans of the study need; other ranks read
                                    them themselves; NULL: none */
    const PlanTimer *timer; /* results have times: of the whole trace, on one rank; NULL: none */
    SweepRanks *ranks;      /* this process is rank 0 of them; NULL: alone */
} SweepOptions;

typedef struct {
    uint64_t plans;   /* different plans of the study, bounds included */
    uint64_t bounds;  /* added to the study's own */
    uint64_t kept;    /* had their result from an earlier run */
    uint64_t done;    /* got it now */
    uint64_t lookups; /* replayed now */
    uint64_t elapsed_ns;
    TraceParts parts;
    uint64_t steps;      /* of the whole trace */
    uint32_t ranks;      /* that shared the work */
    CostGuesses guesses; /* of the profile, by what was replayed now */
    bool stopped;        /* by options.stop, with plans missing */
} SweepTotals;

/* Loads nothing but OUT: TRACE and STUDY are the caller's, TRACE_PATH is noted in OUT. OUT is made,
 * or continued when it holds results of this trace (see sim/study_db.h). Results are the same
 * whatever JOBS is, however many ranks there are, and however often it was stopped. A stop returns
 * OK with totals->stopped. A failure of another rank is returned with its number. */
Status sweep_run(const PackedTrace *trace, const char *trace_path, const Study *study,
                 const char *out, const SweepOptions *options, SweepTotals *totals);

/* Rank 0: sends the other ranks away, unless sweep_run() has. To be called before it leaves, after
 * a failure too. Accepts NULL. */
Status sweep_dismiss(SweepRanks *ranks);

/* How a rank that follows reads signals: as rank 0 has read its own. */
typedef struct {
    /* Those that PLANS[n] need, freed with trace_signals_free(). */
    Status (*load)(void *argument, const Plan *plans, size_t n_plans, TraceSignals **signals);
    void *argument;
} SweepSignals;

/* Any other rank: takes part in the sweep that rank 0 runs, or does not run, and returns when it is
 * over. SIGNALS is asked where plans need some; NULL: they are then refused. STOP as in
 * SweepOptions: rank 0 then stops the whole sweep. What fails here is told to rank 0 and reported
 * by it; a failure is returned only when the ranks cannot speak any more. */
Status sweep_follow(SweepRanks *ranks, const SweepSignals *signals, const volatile int *stop);

#endif
