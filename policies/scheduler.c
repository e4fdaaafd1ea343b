#include "policies/scheduler.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

typedef struct {
    uint32_t request;
    uint32_t slot;
} Seat;

typedef struct {
    uint64_t arrival_ns;
    uint32_t request;
} Arrival;

struct Scheduler {
    Batching batching;
    ScheduledRequest *requests;   /* [n_requests] */
    uint32_t (*left)[WORK_KINDS]; /* [n_requests] */
    Arrival *arrivals;            /* [n_requests] in the order in which they run */
    uint32_t n_requests;
    uint32_t next; /* of ARRIVALS, to be admitted */
    Seat *running; /* [sequences] in the order of admission */
    uint32_t n_running;
    bool *taken;         /* [sequences] slots */
    SchedulePart *parts; /* [sequences] of the step */
};

Status batching_check(const Batching *batching)
{
    if (batching->sequences < 1 || batching->sequences > TRACE_MAX_TOKENS)
        return fail(ERR_PLAN, "batching.sequences: %u, allowed is 1 to %d", batching->sequences,
                    TRACE_MAX_TOKENS);
    if (batching->max_tokens < batching->sequences || batching->max_tokens > TRACE_MAX_TOKENS)
        return fail(ERR_PLAN, "batching.max_tokens: %u, allowed is %u (batching.sequences) to %d",
                    batching->max_tokens, batching->sequences, TRACE_MAX_TOKENS);
    return OK;
}

static int compare_arrivals(const void *left, const void *right)
{
    const Arrival *a = left;
    const Arrival *b = right;
    if (a->arrival_ns != b->arrival_ns)
        return a->arrival_ns < b->arrival_ns ? -1 : 1;
    return (a->request > b->request) - (a->request < b->request);
}

static Status make_tables(Scheduler *scheduler, const ScheduledRequest *requests)
{
    const size_t n = scheduler->n_requests;
    const size_t seats = scheduler->batching.sequences < n ? scheduler->batching.sequences : n;
    TRY(mem_new(&scheduler->requests, n, sizeof *requests, "scheduler"));
    TRY(mem_new(&scheduler->left, n, sizeof *scheduler->left, "scheduler"));
    TRY(mem_new(&scheduler->arrivals, n, sizeof *scheduler->arrivals, "scheduler"));
    TRY(mem_new(&scheduler->running, seats, sizeof *scheduler->running, "scheduler"));
    TRY(mem_new(&scheduler->taken, seats, sizeof *scheduler->taken, "scheduler"));
    TRY(mem_new(&scheduler->parts, seats, sizeof *scheduler->parts, "scheduler"));
    for (uint32_t i = 0; i < n; i++) {
        scheduler->requests[i] = requests[i];
        memcpy(scheduler->left[i], requests[i].work, sizeof requests[i].work);
        scheduler->arrivals[i] = (Arrival){requests[i].arrival_ns, i};
        assert(!scheduler_is_over(scheduler, i));
    }
    if (n > 0)
        qsort(scheduler->arrivals, n, sizeof *scheduler->arrivals, compare_arrivals);
    return OK;
}

Status scheduler_new(const Batching *batching, const ScheduledRequest *requests,
                     uint32_t n_requests, Scheduler **out)
{
    Scheduler *scheduler;
    assert(batching->mode != BATCHING_AS_RECORDED);
    TRY(batching_check(batching));
    TRY(mem_new(&scheduler, 1, sizeof *scheduler, "scheduler"));
    scheduler->batching = *batching;
    scheduler->n_requests = n_requests;
    Status status = make_tables(scheduler, requests);
    if (status != OK) {
        scheduler_free(scheduler);
        return status;
    }
    *out = scheduler;
    return OK;
}

void scheduler_free(Scheduler *scheduler)
{
    if (scheduler == NULL)
        return;
    mem_free(scheduler->requests);
    mem_free(scheduler->left);
    mem_free(scheduler->arrivals);
    mem_free(scheduler->running);
    mem_free(scheduler->taken);
    mem_free(scheduler->parts);
    mem_free(scheduler);
}

bool scheduler_is_over(const Scheduler *scheduler, uint32_t request)
{
    const uint32_t *left = scheduler->left[request];
    return left[WORK_ENCODE] == 0 && left[WORK_PROMPT] == 0 && left[WORK_OUTPUT] == 0;
}

void scheduler_end(Scheduler *scheduler, uint32_t request)
{
    memset(scheduler->left[request], 0, sizeof scheduler->left[request]);
}

static uint32_t take_slot(Scheduler *scheduler)
{
    uint32_t slot = 0;
    while (scheduler->taken[slot])
        slot++;
    scheduler->taken[slot] = true;
    return slot;
}

/* Lets ended requests go and those that have arrived in. */
static void admit(Scheduler *scheduler, uint64_t now_ns)
{
    uint32_t stay = 0;
    for (uint32_t i = 0; i < scheduler->n_running; i++) {
        Seat seat = scheduler->running[i];
        if (scheduler_is_over(scheduler, seat.request))
            scheduler->taken[seat.slot] = false;
        else
            scheduler->running[stay++] = seat;
    }
    scheduler->n_running = stay;
    while (scheduler->n_running < scheduler->batching.sequences &&
           scheduler->next < scheduler->n_requests &&
           scheduler->arrivals[scheduler->next].arrival_ns <= now_ns)
        scheduler->running[scheduler->n_running++] =
            (Seat){scheduler->arrivals[scheduler->next++].request, take_slot(scheduler)};
}

/* Takes the next COUNT tokens of SEAT's request. */
static void take(Scheduler *scheduler, Seat seat, WorkKind kind, uint32_t count,
                 ScheduledStep *step)
{
    uint32_t *left = &scheduler->left[seat.request][kind];
    scheduler->parts[step->n_parts++] = (SchedulePart){
        .request = seat.request,
        .slot = seat.slot,
        .kind = kind,
        .first = scheduler->requests[seat.request].work[kind] - *left,
        .count = count,
        .gives_token = kind == WORK_OUTPUT || (kind == WORK_PROMPT && count == *left)};
    *left -= count;
    step->tokens += count;
}

/* Whole requests, the first whatever its length. */
static void take_encode(Scheduler *scheduler, ScheduledStep *step)
{
    const uint32_t most = scheduler->batching.max_tokens;
    for (uint32_t i = 0; i < scheduler->n_running && step->tokens < most; i++) {
        Seat seat = scheduler->running[i];
        uint32_t count = scheduler->left[seat.request][WORK_ENCODE];
        if (step->tokens > 0 && count > most - step->tokens)
            return;
        if (count > 0)
            take(scheduler, seat, WORK_ENCODE, count, step);
    }
}

static void take_prompts(Scheduler *scheduler, ScheduledStep *step)
{
    const uint32_t most = scheduler->batching.max_tokens;
    for (uint32_t i = 0; i < scheduler->n_running && step->tokens < most; i++) {
        Seat seat = scheduler->running[i];
        uint32_t left = scheduler->left[seat.request][WORK_PROMPT];
        uint32_t room = most - step->tokens;
        if (left > 0)
            take(scheduler, seat, WORK_PROMPT, left < room ? left : room, step);
    }
}

/* One of each request that has no prompt left: there is room, for SEQUENCES are at most MAX_TOKENS.
 */
static void take_outputs(Scheduler *scheduler, ScheduledStep *step)
{
    for (uint32_t i = 0; i < scheduler->n_running; i++) {
        Seat seat = scheduler->running[i];
        const uint32_t *left = scheduler->left[seat.request];
        if (left[WORK_PROMPT] == 0 && left[WORK_OUTPUT] > 0)
            take(scheduler, seat, WORK_OUTPUT, 1, step);
    }
}

static void compose(Scheduler *scheduler, ScheduledStep *step)
{
    step->phase = PHASE_ENCODE;
    take_encode(scheduler, step);
    if (step->tokens > 0)
        return;
    if (scheduler->batching.mode != BATCHING_APART)
        take_outputs(scheduler, step);
    uint32_t outputs = step->tokens;
    take_prompts(scheduler, step);
    step->phase = PHASE_DECODE;
    if (step->tokens > outputs)
        step->phase = outputs > 0 ? PHASE_MIXED : PHASE_PREFILL;
    else if (outputs == 0)
        take_outputs(scheduler, step);
}

bool scheduler_next(Scheduler *scheduler, uint64_t now_ns, ScheduledStep *step)
{
    admit(scheduler, now_ns);
    *step = (ScheduledStep){.parts = scheduler->parts, .until_ns = SCHEDULE_OVER};
    if (scheduler->n_running == 0) {
        if (scheduler->next < scheduler->n_requests)
            step->until_ns = scheduler->arrivals[scheduler->next].arrival_ns;
        return false;
    }
    compose(scheduler, step);
    return true;
}
