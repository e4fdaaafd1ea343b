#include "sim/sweep_lead.h"

#include <stdio.h>
#include <time.h>

#include "base/memory.h"
#include "base/threads.h"
#include "sim/study_digest.h"
#include "sim/sweep_message.h"
#include "sim/sweep_plans.h"
#include "traces/packed_blocks.h"

/* MPI can only be asked again and again, and its own waiting spins. */
enum { WAIT_ALONE_MS = 50, WAIT_MS = 1, MAX_THREADS = 1024 };

/* How far a rank was told that no plan comes any more. */
typedef enum { TOLD_NOTHING, TOLD_END, TOLD_TO_DROP } Told;

typedef struct {
    uint32_t threads;
    size_t held; /* plans it got and has not answered */
    Told told;
    bool answered; /* a follower: whether it has room for the inputs */
    bool gone;     /* a follower: nothing comes from it any more */
} Rank;

typedef struct {
    const SweepWork *work;
    StudyDb *db;
    SweepTotals *totals;
    SweepRanks *link; /* NULL: alone */
    SweepPool *pool;
    SweepPlans packed; /* the plans, for the others */
    Rank *ranks;       /* [n_ranks], this one first */
    uint32_t n_ranks;
    uint64_t threads; /* of all ranks */
    size_t next;      /* entry to hand out */
    bool stopping;    /* asked to, here or at another rank */
    bool cut;         /* the ranks cannot speak any more */
    Status status;    /* the first failure, */
    char error[1024]; /* and its error record */
} Leader;

static void note(Leader *leader, Status status)
{
    if (status == OK || leader->status != OK)
        return;
    leader->status = status;
    snprintf(leader->error, sizeof leader->error, "%s", error_message());
}

static bool is_ending(const Leader *leader)
{
    return leader->stopping || leader->status != OK;
}

/* A message that does not go out leaves a rank that waits for it. */
static void send(Leader *leader, uint32_t to, SweepMessage *message)
{
    Status status = sweep_message_send(leader->link, to, message);
    leader->cut = leader->cut || status != OK;
    note(leader, status);
}

static void give(Leader *leader, uint32_t rank)
{
    const size_t item = leader->next;
    const size_t plan = leader->work->entries[item].plan;
    SweepMessage message = {.kind = SWEEP_PLAN, .plan = plan, .finished.item = item};
    if (rank == 0)
        sweep_pool_put(leader->pool, item, plan);
    else
        send(leader, rank, &message);
    leader->ranks[rank].held++;
    leader->next++;
}

/* A rank holds a second plan for each thread, so that none waits for the next; but not when there
 * are threads elsewhere for all that is left. */
static bool has_room(const Leader *leader, const Rank *rank)
{
    size_t left = leader->work->n_entries - leader->next;
    return rank->held < (left > leader->threads ? 2u : 1u) * rank->threads;
}

static void hand_out(Leader *leader)
{
    for (bool given = true; given;) {
        given = false;
        for (uint32_t i = 0; i < leader->n_ranks; i++) {
            if (is_ending(leader) || leader->next == leader->work->n_entries)
                return;
            if (!has_room(leader, &leader->ranks[i]))
                continue;
            give(leader, i);
            given = true;
        }
    }
}

/* Tells every rank once that nothing more comes, and again when what waits there is to be dropped.
 */
static void tell_the_end(Leader *leader)
{
    Told wanted = leader->next == leader->work->n_entries ? TOLD_END : TOLD_NOTHING;
    if (is_ending(leader))
        wanted = TOLD_TO_DROP;
    if (wanted == TOLD_TO_DROP && leader->pool != NULL)
        sweep_pool_drop(leader->pool);
    for (uint32_t i = 1; i < leader->n_ranks && !leader->cut; i++) {
        SweepMessage message = {.kind = SWEEP_END, .drop = wanted == TOLD_TO_DROP};
        Rank *rank = &leader->ranks[i];
        if (rank->gone || rank->told >= wanted)
            continue;
        send(leader, i, &message);
        rank->told = wanted;
    }
}

/* Writes one result, unless an earlier failure makes it void. */
static void write_finished(Leader *leader, SweepFinished *finished)
{
    const SweepWork *work = leader->work;
    Status status = leader->status;
    if (status == OK)
        status = study_db_result(leader->db, work->entries[finished->item].plan_id,
                                 &finished->result, work->trace->layers);
    note(leader, status);
    if (status == OK) {
        leader->totals->done++;
        leader->totals->lookups += work->trace->n_lookups;
        cost_guesses_add(&leader->totals->guesses, &finished->result.time.guesses);
    }
    replay_result_free(&finished->result);
}

static void accept(Leader *leader, uint32_t rank, SweepFinished *finished)
{
    leader->ranks[rank].held--;
    if (finished->status == OK)
        write_finished(leader, finished);
    else if (leader->status == OK && rank == 0)
        note(leader, fail(finished->status, "%s", finished->error));
    else if (leader->status == OK)
        note(leader, fail(finished->status, "rank %u: %s", rank, finished->error));
}

/* A failure that rank FROM tells. */
static void note_failed(Leader *leader, uint32_t from, const SweepMessage *message)
{
    if (leader->status == OK)
        note(leader, fail(message->finished.status, "rank %u: %s", from, message->finished.error));
}

/* Takes one message; false when none has come. */
static bool hear(Leader *leader, SweepMessage *message, uint32_t *from)
{
    Status status = sweep_message_receive(leader->link, from, message);
    if (status == OK)
        return true;
    if (status == ERR_UNSUPPORTED)
        leader->ranks[*from].gone = true;
    leader->cut = leader->cut || status == ERR_IO;
    if (status != STATUS_END)
        note(leader, status);
    return false;
}

static void hear_all(Leader *leader)
{
    SweepMessage message;
    uint32_t from;
    while (leader->link != NULL && !leader->cut && hear(leader, &message, &from)) {
        if (message.kind == SWEEP_RESULT)
            accept(leader, from, &message.finished);
        else if (message.kind == SWEEP_FAILED)
            note_failed(leader, from, &message);
        leader->stopping = leader->stopping || message.kind == SWEEP_STOP;
        leader->ranks[from].gone = leader->ranks[from].gone || message.kind == SWEEP_BYE;
    }
}

static void take_own(Leader *leader)
{
    SweepFinished finished;
    uint32_t wait_ms = leader->link == NULL ? WAIT_ALONE_MS : WAIT_MS;
    for (; sweep_pool_get(leader->pool, wait_ms, &finished); wait_ms = 0)
        accept(leader, 0, &finished);
}

static bool is_done(const Leader *leader)
{
    bool done = leader->pool == NULL || sweep_pool_held(leader->pool) == 0;
    done = done && (is_ending(leader) || leader->next == leader->work->n_entries);
    for (uint32_t i = 1; i < leader->n_ranks && !leader->cut; i++)
        done = done && leader->ranks[i].gone;
    return done;
}

/* What a stop leaves is committed at once: a launcher that ends its processes gives them a second.
 */
static void replay_all(Leader *leader)
{
    const SweepOptions *options = leader->work->options;
    while (!is_done(leader)) {
        if (options->stop != NULL && *options->stop != 0)
            leader->stopping = true;
        hand_out(leader);
        tell_the_end(leader);
        hear_all(leader);
        if (leader->pool != NULL)
            take_own(leader);
        if (leader->status == OK)
            note(leader, study_db_commit(leader->db, leader->stopping));
        if (options->progress != NULL)
            options->progress(options->argument, leader->totals->done, leader->work->n_entries);
    }
    if (leader->status == OK)
        note(leader, study_db_commit(leader->db, true));
}

static bool all_answered(const Leader *leader)
{
    for (uint32_t i = 1; i < leader->n_ranks; i++)
        if (!leader->ranks[i].answered && !leader->ranks[i].gone)
            return false;
    return true;
}

/* Waits until every follower has said whether it has room for the inputs. */
static void gather_ready(Leader *leader)
{
    const struct timespec pause = {.tv_nsec = WAIT_MS * 1000000L};
    while (!all_answered(leader) && !leader->cut) {
        SweepMessage message;
        uint32_t from;
        if (!hear(leader, &message, &from)) {
            nanosleep(&pause, NULL);
            continue;
        }
        leader->ranks[from].answered = true;
        leader->ranks[from].threads = message.threads;
        leader->threads += message.threads;
        if (message.finished.status != OK)
            note_failed(leader, from, &message);
    }
}

static Status share_inputs(Leader *leader)
{
    SweepRanks *link = leader->link;
    PackedBlock blocks[PACKED_BLOCKS];
    packed_trace_blocks(leader->work->trace, blocks);
    TRY(sweep_plans_share(link, &leader->packed));
    for (size_t i = 0; i < PACKED_BLOCKS; i++)
        TRY(link->transport->share(link, blocks[i].data, blocks[i].bytes));
    return OK;
}

/* Gives the followers what they need. Where one has no room for it, all are sent away. */
static void begin_followers(Leader *leader)
{
    const SweepWork *work = leader->work;
    SweepMessage message = {.kind = SWEEP_BEGIN,
                            .threads = work->options->jobs,
                            .has_signals = work->options->signals != NULL,
                            .signals_crc = study_signals_crc(work->options->signals),
                            .skipped = work->signals_skipped,
                            .trace = *work->trace,
                            .n_plans = leader->packed.n_plans,
                            .table_bytes = leader->packed.table_bytes};
    for (uint32_t i = 1; i < leader->n_ranks && !leader->cut; i++)
        send(leader, i, &message);
    gather_ready(leader);
    message = (SweepMessage){.kind = leader->status == OK ? SWEEP_GO : SWEEP_END};
    for (uint32_t i = 1; i < leader->n_ranks && !leader->cut; i++) {
        send(leader, i, &message);
        leader->ranks[i].gone = message.kind == SWEEP_END;
    }
    if (leader->status != OK)
        return;
    Status status = share_inputs(leader);
    leader->cut = leader->cut || status != OK;
    note(leader, status);
}

/* Never more threads than plans. */
static uint32_t own_threads(const SweepWork *work)
{
    const SweepRanks *ranks = work->options->ranks;
    size_t threads = work->options->jobs;
    if (threads == 0)
        threads = ranks != NULL ? ranks->threads : thread_count_default();
    threads = threads < MAX_THREADS ? threads : MAX_THREADS;
    return (uint32_t)(threads < work->n_entries ? threads : work->n_entries);
}

Status sweep_lead(const SweepWork *work, StudyDb *db, SweepTotals *totals)
{
    Leader leader = {.work = work, .db = db, .totals = totals, .link = work->options->ranks};
    leader.n_ranks = leader.link != NULL ? leader.link->count : 1;
    if (leader.link != NULL)
        TRY(sweep_plans_pack(work->plans, work->n_plans, &leader.packed));
    Status status = mem_new(&leader.ranks, leader.n_ranks, sizeof *leader.ranks, "sweep");
    if (status != OK) {
        sweep_plans_free(&leader.packed);
        return status;
    }
    leader.ranks[0].threads = own_threads(work);
    leader.threads = leader.ranks[0].threads;
    if (leader.link != NULL)
        begin_followers(&leader);
    if (leader.status == OK)
        note(&leader, sweep_pool_new(work->trace, work->plans, work->future, work->timer,
                                     leader.ranks[0].threads, &leader.pool));
    replay_all(&leader);
    sweep_pool_free(leader.pool);
    mem_free(leader.ranks);
    sweep_plans_free(&leader.packed);
    if (leader.link != NULL)
        leader.link->dismissed = !leader.cut;
    return leader.status == OK ? OK : fail(leader.status, "%s", leader.error);
}
