/* Which tokens run in the next step: one scheduler, asked by the executor in real time, by the
 * simulator in simulated time, and by those who regroup a trace without any time.
 *
 * It has no clock: it is told NOW and answers with the composition of the step that begins then, or
 * that there is nothing to run before the next arrival. Equal questions get equal answers.
 *
 * Requests wait in the order of their arrival (of equal ones the lower number first); at most
 * SEQUENCES run at once, and one that has ended makes room for the next before each step
 * (iteration-level scheduling, Orca: Yu et al. 2022).
 *
 * BATCHING_APART: while a running request has prompt left, a prefill step takes prompt tokens, in
 * the order of arrival, up to MAX_TOKENS; else a decode step takes one token of every running
 * request.
 *
 * BATCHING_MIXED, BATCHING_CONTINUOUS: every step takes one output token of each running request
 * that has no prompt left, and fills up with prompt tokens, in the order of arrival, to MAX_TOKENS
 * (chunked prefill, SARATHI: Agrawal et al. 2023).
 *
 * An encoder's tokens of a request are never split: encode steps take whole requests up to
 * MAX_TOKENS, at least one, and come before anything else. */
#ifndef POLICIES_SCHEDULER_H
#define POLICIES_SCHEDULER_H

#include "traces/trace.h"

typedef enum {
    BATCHING_AS_RECORDED,
    BATCHING_APART,
    BATCHING_MIXED,
    BATCHING_CONTINUOUS
} BatchingMode;

typedef struct {
    BatchingMode mode;
    uint32_t sequences;  /* running at once, at least 1 */
    uint32_t max_tokens; /* of one step, at least SEQUENCES */
} Batching;

/* What a token is to its request, in the order in which they run. */
typedef enum { WORK_ENCODE, WORK_PROMPT, WORK_OUTPUT, WORK_KINDS } WorkKind;

typedef struct {
    uint64_t arrival_ns;       /* on the clock that NOW is of */
    uint32_t work[WORK_KINDS]; /* tokens that go through the model; the last output token, which
                                  nothing follows, does not */
} ScheduledRequest;

/* What one request has in a step. */
typedef struct {
    uint32_t request;
    uint32_t slot; /* the request's own while it runs, below SEQUENCES: the lowest that is free */
    WorkKind kind;
    uint32_t first; /* its tokens of this kind in earlier steps */
    uint32_t count;
    bool gives_token; /* a token comes out: of the end of a prompt, and of output */
} SchedulePart;

typedef struct {
    Phase phase;
    uint32_t tokens;
    uint32_t n_parts;
    const SchedulePart *parts; /* outputs first, then prompts, each in the order of arrival; valid
                                  until the next call */
    uint64_t until_ns;         /* where there is no step: the next arrival, or SCHEDULE_OVER */
} ScheduledStep;

#define SCHEDULE_OVER UINT64_MAX /* no request is left */

typedef struct Scheduler Scheduler;

/* Fails with ERR_PLAN, naming the plan's key, for numbers out of range. */
Status batching_check(const Batching *batching);

/* Copies REQUESTS[n_requests], each of which has work; a BATCHING that batching_check() takes, of a
 * mode other than as recorded. Fails with ERR_MEMORY, and nothing later allocates. */
Status scheduler_new(const Batching *batching, const ScheduledRequest *requests,
                     uint32_t n_requests, Scheduler **scheduler);
void scheduler_free(Scheduler *scheduler);

/* Composes the step that begins at NOW_NS, which never goes back, and counts its tokens as run.
 * False when nothing can run: STEP->until_ns says until when. */
bool scheduler_next(Scheduler *scheduler, uint64_t now_ns, ScheduledStep *step);
/* REQUEST, which runs, has ended before all of its output. */
void scheduler_end(Scheduler *scheduler, uint32_t request);
/* True when nothing of REQUEST is left to run. */
bool scheduler_is_over(const Scheduler *scheduler, uint32_t request);

#endif
