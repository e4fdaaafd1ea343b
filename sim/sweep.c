#include "sim/sweep.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/threads.h"
#include "sim/curve.h"
#include "sim/study_db.h"

enum { MAX_JOBS = 1024, WAIT_MS = 50 };

/* What a worker hands to the writer. */
typedef struct {
    int64_t plan_id;
    Status status;
    ReplayResult result; /* status OK */
    char error[1024];    /* the worker's error record otherwise */
} Finished;

/* Workers take plans by number and put results into a ring; the caller's thread writes them. */
typedef struct {
    const PackedTrace *trace;
    const Study *study;
    const ReplayFuture *future;
    const StudyEntry *entries; /* [n_entries] without a result */
    size_t n_entries;
    size_t n_missing; /* when the sweep began */

    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    pthread_cond_t not_full;
    size_t next; /* below: under the lock */
    bool stop;
    size_t running; /* workers */
    Finished *ring; /* [room] */
    size_t room;
    size_t head;
    size_t count;
} Sweep;

/* The number of the next plan; false when there is none or the sweep stops. */
static bool take_plan(Sweep *sweep, size_t *item)
{
    pthread_mutex_lock(&sweep->lock);
    bool found = !sweep->stop && sweep->next < sweep->n_entries;
    if (found)
        *item = sweep->next++;
    pthread_mutex_unlock(&sweep->lock);
    return found;
}

static void put_finished(Sweep *sweep, const Finished *finished)
{
    pthread_mutex_lock(&sweep->lock);
    while (sweep->count == sweep->room)
        pthread_cond_wait(&sweep->not_full, &sweep->lock);
    sweep->ring[(sweep->head + sweep->count++) % sweep->room] = *finished;
    pthread_cond_signal(&sweep->not_empty);
    pthread_mutex_unlock(&sweep->lock);
}

static void *work(void *argument)
{
    Sweep *sweep = argument;
    size_t item;
    while (take_plan(sweep, &item)) {
        const StudyEntry *entry = &sweep->entries[item];
        const Plan *plan = &sweep->study->plans[entry->plan];
        Finished finished = {.plan_id = entry->plan_id};
        finished.status =
            replay_run(sweep->trace, plan, sweep->future, NULL, NULL, &finished.result);
        if (finished.status != OK)
            snprintf(finished.error, sizeof finished.error, "plan \"%s\": %s", plan->name,
                     error_message());
        put_finished(sweep, &finished);
    }
    pthread_mutex_lock(&sweep->lock);
    sweep->running--;
    pthread_cond_signal(&sweep->not_empty);
    pthread_mutex_unlock(&sweep->lock);
    return NULL;
}

/* Waits at most WAIT_MS for a result. *FOUND tells whether *FINISHED was filled; returns false when
 * no more will come. */
static bool get_finished(Sweep *sweep, Finished *finished, bool *found)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += WAIT_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&sweep->lock);
    int code = 0;
    while (sweep->count == 0 && sweep->running > 0 && code == 0)
        code = pthread_cond_timedwait(&sweep->not_empty, &sweep->lock, &until);
    *found = sweep->count > 0;
    if (*found) {
        *finished = sweep->ring[sweep->head];
        sweep->head = (sweep->head + 1) % sweep->room;
        sweep->count--;
        pthread_cond_signal(&sweep->not_full);
    }
    bool more = *found || sweep->running > 0;
    pthread_mutex_unlock(&sweep->lock);
    return more;
}

static void ask_to_stop(Sweep *sweep)
{
    pthread_mutex_lock(&sweep->lock);
    sweep->stop = true;
    pthread_mutex_unlock(&sweep->lock);
}

/* Writes one result, unless an earlier failure makes it void. */
static Status write_finished(Sweep *sweep, StudyDb *db, Finished *finished, Status before,
                             SweepTotals *totals)
{
    Status status = before;
    if (status == OK && finished->status != OK)
        status = fail(finished->status, "%s", finished->error);
    if (status == OK)
        status = study_db_result(db, finished->plan_id, &finished->result, sweep->trace->layers);
    if (status == OK) {
        totals->done++;
        totals->lookups += sweep->trace->n_lookups;
    }
    if (finished->status == OK)
        replay_result_free(&finished->result);
    return status;
}

/* Drains the ring until every worker is gone. */
static Status write_all(Sweep *sweep, StudyDb *db, const SweepOptions *options, SweepTotals *totals)
{
    Status status = OK;
    Finished finished;
    bool found;
    while (get_finished(sweep, &finished, &found)) {
        if (found)
            status = write_finished(sweep, db, &finished, status, totals);
        if (status == OK)
            status = study_db_commit(db, false);
        bool wanted = options->stop != NULL && *options->stop != 0;
        if (status != OK || wanted)
            ask_to_stop(sweep);
        if (options->progress != NULL)
            options->progress(options->argument, totals->done, sweep->n_missing);
    }
    return status == OK ? study_db_commit(db, true) : status;
}

/* Signals are for the caller's thread: workers block them all. */
static Status start_workers(Sweep *sweep, pthread_t *threads, size_t wanted, size_t *started)
{
    sigset_t all;
    sigset_t before;
    int code = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (*started = 0; *started < wanted && code == 0; *started += code == 0) {
        pthread_mutex_lock(&sweep->lock);
        sweep->running++;
        pthread_mutex_unlock(&sweep->lock);
        code = pthread_create(&threads[*started], NULL, work, sweep);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code == 0)
        return OK;
    pthread_mutex_lock(&sweep->lock);
    sweep->running--;
    pthread_mutex_unlock(&sweep->lock);
    return *started > 0 ? OK : fail(ERR_IO, "cannot start a thread: %s", strerror(code));
}

static Status run_workers(Sweep *sweep, StudyDb *db, const SweepOptions *options, size_t jobs,
                          SweepTotals *totals)
{
    pthread_t *threads = NULL;
    size_t started = 0;
    sweep->room = 2 * jobs;
    Status status = mem_new(&threads, jobs, sizeof *threads, "sweep");
    if (status == OK)
        status = mem_new(&sweep->ring, sweep->room, sizeof *sweep->ring, "sweep");
    pthread_mutex_init(&sweep->lock, NULL);
    pthread_cond_init(&sweep->not_empty, NULL);
    pthread_cond_init(&sweep->not_full, NULL);
    if (status == OK)
        status = start_workers(sweep, threads, jobs, &started);
    if (status == OK)
        status = write_all(sweep, db, options, totals);
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    pthread_cond_destroy(&sweep->not_full);
    pthread_cond_destroy(&sweep->not_empty);
    pthread_mutex_destroy(&sweep->lock);
    mem_free(sweep->ring);
    mem_free(threads);
    return status;
}

static Status prepare_futures(const Sweep *sweep, ReplayFuture *future)
{
    for (size_t i = 0; i < sweep->n_entries; i++)
        TRY(replay_prepare(sweep->trace, &sweep->study->plans[sweep->entries[i].plan], future));
    return OK;
}

static size_t count_jobs(const SweepOptions *options, size_t plans)
{
    size_t jobs = options->jobs > 0 ? options->jobs : thread_count_default();
    jobs = jobs < MAX_JOBS ? jobs : MAX_JOBS;
    return jobs < plans ? jobs : plans;
}

static size_t keep_missing(StudyEntry *entries, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (!entries[i].done)
            entries[kept++] = entries[i];
    return kept;
}

/* Plans that differ in nothing but their size, as far as a replay sees. */
static bool is_same_curve(const Plan *left, const Plan *right)
{
    return curve_is_exact(right) && left->buffer.scope == right->buffer.scope &&
           strcmp(left->buffer.evict, right->buffer.evict) == 0;
}

/* A pass costs as much as a replay for each 64 experts or so of a scope that its lookups must go
 * by, and answers for all sizes. */
static bool is_worth_a_pass(const Sweep *sweep, const Plan *plan, size_t first)
{
    size_t experts = 0;
    size_t count = 0;
    for (uint32_t i = 0; i < sweep->trace->n_layers; i++)
        experts += sweep->trace->layers[i].experts;
    if (plan->buffer.scope == SCOPE_LAYER)
        experts /= sweep->trace->n_layers;
    for (size_t i = first; i < sweep->n_entries; i++)
        count += is_same_curve(plan, &sweep->study->plans[sweep->entries[i].plan]);
    return count >= 4 + experts / 64;
}

/* Writes the results of all plans from FIRST on that lie on the same curve. */
static Status write_curve(StudyDb *db, Sweep *sweep, StudyEntry *entries, size_t first,
                          SweepTotals *totals)
{
    MissCurve curve;
    const Plan *of = &sweep->study->plans[entries[first].plan];
    TRY(curve_run(sweep->trace, of, sweep->future, &curve));
    totals->lookups += sweep->trace->n_lookups;
    Status status = OK;
    for (size_t i = first; i < sweep->n_entries && status == OK; i++) {
        const Plan *plan = &sweep->study->plans[entries[i].plan];
        ReplayResult result;
        if (!is_same_curve(of, plan))
            continue;
        status = curve_result(&curve, sweep->trace, plan, &result);
        if (status == OK)
            status = study_db_result(db, entries[i].plan_id, &result, sweep->trace->layers);
        replay_result_free(&result);
        entries[i].done = status == OK;
        totals->done += status == OK;
    }
    curve_free(&curve);
    return status == OK ? study_db_commit(db, false) : status;
}

/* One pass for the sizes of each stack policy; what is left for the workers stays in ENTRIES. */
static Status answer_curves(StudyDb *db, Sweep *sweep, StudyEntry *entries,
                            const SweepOptions *options, SweepTotals *totals)
{
    Status status = OK;
    for (size_t i = 0; i < sweep->n_entries && status == OK; i++) {
        const Plan *plan = &sweep->study->plans[entries[i].plan];
        bool stop = options->stop != NULL && *options->stop != 0;
        if (stop || entries[i].done || !curve_is_exact(plan) || !is_worth_a_pass(sweep, plan, i))
            continue;
        status = write_curve(db, sweep, entries, i, totals);
        if (options->progress != NULL)
            options->progress(options->argument, totals->done, sweep->n_missing);
    }
    sweep->n_entries = keep_missing(entries, sweep->n_entries);
    return status == OK ? study_db_commit(db, true) : status;
}

static Status run_missing(StudyDb *db, Sweep *sweep, StudyEntry *entries,
                          const SweepOptions *options, SweepTotals *totals)
{
    ReplayFuture future = {0};
    Status status = prepare_futures(sweep, &future);
    sweep->future = &future;
    if (status == OK)
        status = answer_curves(db, sweep, entries, options, totals);
    if (status == OK && sweep->n_entries > 0)
        status = run_workers(sweep, db, options, count_jobs(options, sweep->n_entries), totals);
    replay_future_free(&future);
    return status;
}

Status sweep_run(const PackedTrace *trace, const char *trace_path, const Study *study,
                 const char *out, const SweepOptions *options, SweepTotals *totals)
{
    TraceDigest digest = study_trace_digest(trace);
    uint64_t start_ns = clock_ns();
    StudyEntry *entries = NULL;
    size_t n_entries = 0;
    StudyDb *db = NULL;
    Status status = mem_new(&entries, study->n_plans, sizeof *entries, "sweep");
    if (status == OK)
        status = study_db_open(out, &digest, &db);
    if (status == OK)
        status = study_db_add(db, study, trace, trace_path, entries, &n_entries);
    *totals = (SweepTotals){.plans = n_entries, .bounds = study->n_bounds};
    Sweep sweep = {.trace = trace, .study = study, .entries = entries};
    sweep.n_entries = keep_missing(entries, n_entries);
    sweep.n_missing = sweep.n_entries;
    totals->kept = n_entries - sweep.n_missing;
    if (status == OK)
        status = run_missing(db, &sweep, entries, options, totals);
    study_db_close(db);
    mem_free(entries);
    totals->stopped = status == OK && totals->done < sweep.n_missing;
    totals->elapsed_ns = clock_ns() - start_ns;
    return status;
}
