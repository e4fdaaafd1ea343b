/* One step of a run: through the executor, into the recorder, to the observer, into the totals. */
#ifndef EXEC_RUN_STEP_H
#define EXEC_RUN_STEP_H

#include "exec/run.h"

typedef struct {
    Executor *executor;
    Recorder *recorder;   /* or NULL */
    RunObserver observer; /* or NULL */
    void *argument;
    bool residency;           /* record it also when the plan's buffer is off */
    ScoreRows scores;         /* to record */
    const volatile int *stop; /* or NULL */
    RunTotals *totals;
} RunContext;

/* Runs INPUT. STEP has number, phase and composition; routing and times are filled in here. */
Status run_step(const RunContext *run, TraceStep *step, const StepInput *input, StepOutput *output);

/* Waits until the recorder needs nothing of the executor's any more: at the end of a run. */
void run_settle(const RunContext *run);

/* True when the user asked to stop; notes it in the totals. */
bool run_must_stop(const RunContext *run);

#endif
