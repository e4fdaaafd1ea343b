/* Rank 0's part of a sweep: hands out plans to its own threads and to the other ranks, and writes
 * what comes back. */
#ifndef SIM_SWEEP_LEAD_H
#define SIM_SWEEP_LEAD_H

#include "sim/study_db.h"
#include "sim/sweep.h"

typedef struct {
    const PackedTrace *trace; /* what is scored */
    const Plan *plans;        /* [n_plans] of the study, with nothing left to learn */
    size_t n_plans;
    const StudyEntry *entries; /* [n_entries] without a result, in this order */
    size_t n_entries;
    const ReplayFuture *future; /* of all of them */
    const PlanTimer *timer;     /* or NULL */
    uint64_t signals_skipped;   /* as in ReplayFuture */
    const SweepOptions *options;
} SweepWork;

/* Replays every entry of WORK and writes it into DB, until options->stop. TOTALS gets done and
 * lookups. The followers are dismissed on return, unless they cannot be reached. */
Status sweep_lead(const SweepWork *work, StudyDb *db, SweepTotals *totals);

#endif
