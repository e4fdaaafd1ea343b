/* Replays one trace under every plan of a study, on all processors, into study.db. */
#ifndef SIM_SWEEP_H
#define SIM_SWEEP_H

#include "sim/study.h"
#include "traces/packed.h"

typedef struct {
    uint32_t jobs;            /* threads that replay; 0: thread_count_default() */
    const volatile int *stop; /* set by a signal handler; NULL: none. Replays that run are finished
                                 and kept. */
    /* Called by the caller's thread now and then, with plans done of those missing; NULL: none. */
    void (*progress)(void *argument, uint64_t done, uint64_t total);
    void *argument;
} SweepOptions;

typedef struct {
    uint64_t plans;   /* different plans of the study, bounds included */
    uint64_t bounds;  /* added to the study's own */
    uint64_t kept;    /* had their result from an earlier run */
    uint64_t done;    /* got it now */
    uint64_t lookups; /* replayed now */
    uint64_t elapsed_ns;
    bool stopped; /* by options.stop, with plans missing */
} SweepTotals;

/* Loads nothing but OUT: TRACE and STUDY are the caller's, TRACE_PATH is noted in OUT. OUT is made,
 * or continued when it holds results of this trace (see sim/study_db.h). Results are the same
 * whatever JOBS is, and however often it was stopped. A stop returns OK with totals->stopped. */
Status sweep_run(const PackedTrace *trace, const char *trace_path, const Study *study,
                 const char *out, const SweepOptions *options, SweepTotals *totals);

#endif
