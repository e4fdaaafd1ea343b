/* Runs requests, or the steps of a trace, through an executor, and records them. */
#ifndef EXEC_RUN_H
#define EXEC_RUN_H

#include "exec/executor.h"
#include "exec/routing_source.h"
#include "exec/score_rows.h"
#include "exec/tokens.h"
#include "policies/latency.h"
#include "traces/recorder.h"

typedef struct {
    uint32_t batch;                /* requests at a time, 1 or more */
    const Arrivals *arrivals;      /* continuous batching: when requests come; NULL: in groups */
    const ServiceGoals *goals;     /* of these, which the report counts; NULL: none */
    const uint64_t *arrival_ns;    /* [requests] as recorded, for arrivals of a trace or a file;
                                      else NULL */
    uint32_t generate;             /* tokens per request */
    const uint32_t *generate_each; /* [requests] of each, 1 to GENERATE; NULL: GENERATE. Without
                                      beams */
    uint32_t beams;                /* of the search for them; 0 or 1: greedy */
    double length_penalty;         /* of beams: log probability / length^this */
    bool ignore_eos;
    /* Encoder-decoder models: what the decoder of each request begins with, or is scored on; NULL:
     * the model's decoder_start_token_id. */
    const TokenSet *targets;
    uint32_t max_tokens;      /* of one step: the plan's batching.max_tokens */
    LogitsWanted logits;      /* that OBSERVER needs of every step; generating asks for its own */
    bool timing;              /* record each operation's time */
    bool residency;           /* record residency also when the plan's buffer is off */
    uint32_t scores;          /* router scores to record: SCORES_NONE, SCORES_ALL or M */
    RoutingSource *routing;   /* in place of the router's choices; NULL: none */
    const volatile int *stop; /* set by a signal handler; NULL: none. A stop ends after the current
                                 step, with OK. */
} RunOptions;

typedef struct {
    uint64_t steps;
    uint64_t tokens; /* that went through the model; a request's last output token does not */
    uint64_t generated;
    uint64_t prefill_tokens;
    uint64_t prefill_ns; /* time in steps, without recording; mixed steps count here */
    uint64_t decode_tokens;
    uint64_t decode_ns;
    ServingReport serving; /* of continuous batching; else 0 */
    bool stopped;          /* by options.stop */
} RunTotals;

/* Called after each step with what went in and came out; a failure ends the run. STEP is complete
 * as recorded. */
typedef Status (*RunObserver)(void *argument, const TraceStep *step, const StepInput *input,
                              const StepOutput *output);

/* The decoder's first tokens of request I of SET: the request itself, or the target. */
const uint32_t *run_prompt(const ModelConfig *config, const TokenSet *set,
                           const RunOptions *options, uint32_t i, uint32_t *n);

/* Runs SET in groups of options.batch requests: the prompts in prefill steps of at most max_tokens
 * (a longer prompt is cut over steps; requests of different lengths share a step), then one decode
 * step per output token for the requests that are not done. Records each step (and the requests)
 * when RECORDER is not NULL (residency only when the plan's buffer is on, unless asked for: without
 * one every lookup hits). In an encoder-decoder model SET is the sources, which go through the
 * encoder first, each whole in one step, and the prompts are the targets. With beams each is a
 * request of its own in the trace, number request * beams + beam, and all feed the prompt; the
 * source belongs to the first. Every request must fit the executor's max_length with its output.
 *
 * With options.arrivals the requests arrive in real time instead, batch is how many run at once,
 * and policies/scheduler.h composes each step (BATCHING_CONTINUOUS): decoder-only models, greedy,
 * with tokens to generate. The trace tells when requests arrived, on the clock of the steps'
 * start_ns. When OUTPUT is not NULL, OUTPUT[i] ([generate], caller's) receives the tokens of
 * request i and N_OUTPUT[i] their number. */
Status run_requests(Executor *executor, const ModelConfig *config, const TokenSet *set,
                    const RunOptions *options, Recorder *recorder, RunObserver observer,
                    void *argument, uint32_t **output, uint32_t *n_output, RunTotals *totals);

/* How the steps of a trace are run again. */
typedef struct {
    const char *trace;      /* gives step composition: request, position, token */
    bool forced;            /* routing from the trace; otherwise the router decides */
    const TokenSet *tokens; /* token ids of the requests by their number, for those the trace does
                               not have; where it has them they must be equal. NULL: none */
    bool greedy;            /* the decoder's steps choose a token for each of their requests, which
                               goes nowhere; the executor must be open for LOGITS_LAST */
    bool timing;            /* record each operation's time */
    bool held;              /* as in StepInput */
    bool residency;         /* record residency also when the plan's buffer is off */
    uint32_t scores;        /* as in RunOptions */
    const volatile int *stop;
} RunTraceOptions;

/* What executor_open() must be sized for to run TRACE. Fails when the trace does not fit the model:
 * its MoE layers, experts, top_k, token ids or lengths (with routing by the router its token column
 * is needed). */
typedef struct {
    uint32_t max_requests;
    uint32_t max_length;
    uint32_t max_tokens;
    uint64_t steps;
    uint64_t tokens;
} RunTraceShape;

Status run_trace_shape(const RunTraceOptions *options, const ModelConfig *config,
                       RunTraceShape *shape);
/* Runs the steps of the trace as they were composed. With forced routing the future is known, so
 * that policies that need it can run; without it they are refused. */
Status run_trace(Executor *executor, const ModelConfig *config, const RunTraceOptions *options,
                 Recorder *recorder, RunObserver observer, void *argument, RunTotals *totals);

#endif
