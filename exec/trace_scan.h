/* A first pass over a trace that is to be run again: whether it fits the model, which requests live
 * from which step to which, and what the expert buffer's future is. */
#ifndef EXEC_TRACE_SCAN_H
#define EXEC_TRACE_SCAN_H

#include "traces/request_table.h"
#include "exec/run.h"
#include "traces/packed_future.h"
#include "traces/reader.h"

/* What decisions with a future see, step by step. */
typedef struct {
    PackedTrace trace;
    uint32_t *next_use; /* [trace.n_lookups], or NULL where the eviction needs none */
    uint64_t step;      /* index of the next step */
    uint64_t event;     /* of its first event */
    uint64_t lookup;    /* of its first lookup */
} Future;

typedef struct {
    RequestTable requests;
    RunTraceShape shape;
} TraceScan;

/* Reads OPTIONS->trace to its end. With FUTURE (forced routing), fills it for PLAN. On failure
 * nothing is held. */
/* The id of token I of STEP: the trace's, else the one that OPTIONS->tokens has for its place, else
 * TOKEN_UNKNOWN. */
uint32_t trace_token(const RunTraceOptions *options, const TraceStep *step, uint32_t i);

Status trace_scan(const RunTraceOptions *options, const ModelConfig *config, const Plan *plan,
                  TraceScan *scan, Future *future);
void trace_scan_free(TraceScan *scan);

/* Gives INPUT what is to come for its step, the next one. */
void future_next_step(Future *future, StepInput *input);
void future_free(Future *future);

#endif
