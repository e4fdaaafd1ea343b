#include <stdio.h>
#include <time.h>

#include "base/memory.h"
#include "sim/study_digest.h"
#include "sim/sweep.h"
#include "sim/sweep_message.h"
#include "sim/sweep_plans.h"
#include "traces/packed_blocks.h"

enum { WAIT_MS = 1 }; /* MPI can only be asked again and again, and its own waiting spins */

/* What a follower has got from rank 0. */
typedef struct {
    SweepRanks *ranks;
    const SweepSignals *reads; /* or NULL */
    TraceSignals *signals;
    SweepPlans plans; /* those of the study */
    PackedTrace trace;
    ReplayFuture future;
    SweepPool *pool;
    uint32_t threads;
    bool ended; /* no plan comes any more */
    bool told;  /* rank 0, that this rank was asked to stop */
} Follower;

static Status tell(const Follower *follower, SweepMessageKind kind)
{
    SweepMessage message = {.kind = kind};
    return sweep_message_send(follower->ranks, 0, &message);
}

/* Tells rank 0 how STATUS went; a failure's reason is the error record. */
static Status tell_status(const Follower *follower, SweepMessageKind kind, Status status)
{
    SweepMessage message = {.kind = kind, .threads = follower->threads};
    message.finished.status = status;
    if (status != OK)
        snprintf(message.finished.error, sizeof message.finished.error, "%s", error_message());
    return sweep_message_send(follower->ranks, 0, &message);
}

static Status wait_for_message(Follower *follower, SweepMessage *message)
{
    const struct timespec pause = {.tv_nsec = WAIT_MS * 1000000L};
    uint32_t from;
    for (;;) {
        Status status = sweep_message_receive(follower->ranks, &from, message);
        if (status != STATUS_END)
            return status;
        nanosleep(&pause, NULL);
    }
}

static Status make_room(Follower *follower, const SweepMessage *begin)
{
    TRY(sweep_plans_new(begin->n_plans, begin->table_bytes, &follower->plans));
    TRY(packed_trace_new_like(&begin->trace, &follower->trace));
    follower->threads = begin->threads > 0 ? begin->threads : follower->ranks->threads;
    return OK;
}

/* Takes part in what rank 0 shares. */
static Status take_inputs(Follower *follower)
{
    SweepRanks *ranks = follower->ranks;
    PackedBlock blocks[PACKED_BLOCKS];
    packed_trace_blocks(&follower->trace, blocks);
    TRY(sweep_plans_share(ranks, &follower->plans));
    sweep_plans_unpack(&follower->plans);
    for (size_t i = 0; i < PACKED_BLOCKS; i++)
        TRY(ranks->transport->share(ranks, blocks[i].data, blocks[i].bytes));
    return OK;
}

/* Those of the trace that rank 0 reads. */
static Status read_signals(Follower *follower, const SweepMessage *begin)
{
    if (!begin->has_signals)
        return OK;
    if (follower->reads == NULL)
        return fail(ERR_UNSUPPORTED, "plans read scores, predictions or requests of a trace");
    TRY(follower->reads->load(follower->reads->argument, follower->plans.plans,
                              (size_t)follower->plans.n_plans, &follower->signals));
    if (study_signals_crc(follower->signals) != begin->signals_crc)
        return fail(ERR_INPUT, "the trace has other scores, predictions or requests than rank 0's");
    follower->future.signals = follower->signals;
    follower->future.signals_skipped = begin->skipped;
    return OK;
}

static Status start(Follower *follower, const SweepMessage *begin)
{
    const Plan *plans = follower->plans.plans;
    TRY(read_signals(follower, begin));
    for (size_t i = 0; i < follower->plans.n_plans; i++)
        TRY(replay_prepare(&follower->trace, &plans[i], &follower->future));
    return sweep_pool_new(&follower->trace, plans, &follower->future, NULL, follower->threads,
                          &follower->pool);
}

static void obey(Follower *follower, const SweepMessage *message)
{
    if (message->kind == SWEEP_PLAN && follower->pool != NULL)
        sweep_pool_put(follower->pool, message->finished.item, (size_t)message->plan);
    if (message->kind == SWEEP_END) {
        follower->ended = true;
        if (message->drop && follower->pool != NULL)
            sweep_pool_drop(follower->pool);
    }
}

static Status obey_all(Follower *follower)
{
    SweepMessage message;
    uint32_t from;
    for (;;) {
        Status status = sweep_message_receive(follower->ranks, &from, &message);
        if (status != OK)
            return status == STATUS_END ? OK : status;
        obey(follower, &message);
    }
}

static Status send_result(const Follower *follower, const SweepFinished *finished)
{
    SweepMessage message = {.kind = SWEEP_RESULT, .finished = *finished};
    Status status = sweep_message_send(follower->ranks, 0, &message);
    replay_result_free(&message.finished.result);
    return status;
}

/* Replays what comes until rank 0 says that it was all. */
static Status replay_plans(Follower *follower, const volatile int *stop)
{
    while (!follower->ended || sweep_pool_held(follower->pool) > 0) {
        SweepFinished finished;
        TRY(obey_all(follower));
        if (stop != NULL && *stop != 0 && !follower->told) {
            TRY(tell(follower, SWEEP_STOP));
            follower->told = true;
        }
        if (sweep_pool_get(follower->pool, WAIT_MS, &finished))
            TRY(send_result(follower, &finished));
    }
    return tell(follower, SWEEP_BYE);
}

/* After GO. */
static Status work(Follower *follower, const SweepMessage *begin, const volatile int *stop)
{
    TRY(take_inputs(follower));
    Status status = start(follower, begin);
    if (status == OK)
        return replay_plans(follower, stop);
    TRY(tell_status(follower, SWEEP_FAILED, status));
    while (!follower->ended) {
        SweepMessage message;
        TRY(wait_for_message(follower, &message));
        obey(follower, &message);
    }
    return tell(follower, SWEEP_BYE);
}

Status sweep_follow(SweepRanks *ranks, const SweepSignals *signals, const volatile int *stop)
{
    Follower follower = {.ranks = ranks, .reads = signals};
    SweepMessage message;
    SweepMessage begin;
    Status status = wait_for_message(&follower, &begin);
    if (status == ERR_UNSUPPORTED) /* another version of the program leads */
        return tell_status(&follower, SWEEP_READY, status);
    if (status == OK && begin.kind == SWEEP_BEGIN) {
        status = tell_status(&follower, SWEEP_READY, make_room(&follower, &begin));
        if (status == OK)
            status = wait_for_message(&follower, &message);
        if (status == OK && message.kind == SWEEP_GO)
            status = work(&follower, &begin, stop);
    }
    sweep_pool_free(follower.pool);
    packed_trace_free(&follower.trace);
    replay_future_free(&follower.future);
    trace_signals_free(follower.signals);
    sweep_plans_free(&follower.plans);
    return status;
}
