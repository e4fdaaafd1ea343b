#include "sim/sweep_pool.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"

typedef struct {
    uint64_t item;
    size_t plan;
} Waiting;

/* Two rings of the same room: what is held fits into either. */
struct SweepPool {
    const PackedTrace *trace;
    const Plan *plans;
    const ReplayFuture *future;
    const PlanTimer *timer; /* or NULL */
    pthread_t *threads;
    uint32_t n_threads;
    size_t room;

    pthread_mutex_t lock;
    pthread_cond_t work_ready;
    pthread_cond_t result_ready;
    bool stopping; /* below: under the lock */
    Waiting *queue;
    size_t queue_head;
    size_t queued;
    SweepFinished *finished;
    size_t finished_head;
    size_t n_finished;
    size_t held;
};

static bool take(SweepPool *pool, Waiting *waiting)
{
    pthread_mutex_lock(&pool->lock);
    while (pool->queued == 0 && !pool->stopping)
        pthread_cond_wait(&pool->work_ready, &pool->lock);
    bool found = !pool->stopping;
    if (found) {
        *waiting = pool->queue[pool->queue_head];
        pool->queue_head = (pool->queue_head + 1) % pool->room;
        pool->queued--;
    }
    pthread_mutex_unlock(&pool->lock);
    return found;
}

static void give_back(SweepPool *pool, const SweepFinished *finished)
{
    pthread_mutex_lock(&pool->lock);
    pool->finished[(pool->finished_head + pool->n_finished++) % pool->room] = *finished;
    pthread_cond_signal(&pool->result_ready);
    pthread_mutex_unlock(&pool->lock);
}

static void *work(void *argument)
{
    SweepPool *pool = argument;
    Waiting waiting;
    while (take(pool, &waiting)) {
        const Plan *plan = &pool->plans[waiting.plan];
        SweepFinished finished = {.item = waiting.item};
        finished.status =
            plan_timer_run(pool->timer, pool->trace, plan, pool->future, &finished.result);
        if (finished.status != OK)
            snprintf(finished.error, sizeof finished.error, "plan \"%s\": %s", plan->name,
                     error_message());
        give_back(pool, &finished);
    }
    return NULL;
}

/* Signals are for the caller's thread: these block them all. */
static Status start_threads(SweepPool *pool, uint32_t wanted)
{
    sigset_t all;
    sigset_t before;
    int code = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool->n_threads < wanted && code == 0) {
        code = pthread_create(&pool->threads[pool->n_threads], NULL, work, pool);
        pool->n_threads += code == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool->n_threads > 0 ? OK : fail(ERR_IO, "cannot start a thread: %s", strerror(code));
}

Status sweep_pool_new(const PackedTrace *trace, const Plan *plans, const ReplayFuture *future,
                      const PlanTimer *timer, uint32_t threads, SweepPool **out)
{
    SweepPool *pool;
    TRY(mem_new(&pool, 1, sizeof *pool, "sweep"));
    pool->trace = trace;
    pool->plans = plans;
    pool->future = future;
    pool->timer = timer;
    pool->room = 2 * (size_t)threads;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work_ready, NULL);
    pthread_cond_init(&pool->result_ready, NULL);
    Status status = mem_new(&pool->threads, threads, sizeof *pool->threads, "sweep");
    if (status == OK)
        status = mem_new(&pool->queue, pool->room, sizeof *pool->queue, "sweep");
    if (status == OK)
        status = mem_new(&pool->finished, pool->room, sizeof *pool->finished, "sweep");
    if (status == OK)
        status = start_threads(pool, threads);
    if (status == OK)
        *out = pool;
    else
        sweep_pool_free(pool);
    return status;
}

void sweep_pool_free(SweepPool *pool)
{
    if (pool == NULL)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->work_ready);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->n_threads; i++)
        pthread_join(pool->threads[i], NULL);
    for (; pool->n_finished > 0; pool->n_finished--) {
        replay_result_free(&pool->finished[pool->finished_head].result);
        pool->finished_head = (pool->finished_head + 1) % pool->room;
    }
    pthread_cond_destroy(&pool->result_ready);
    pthread_cond_destroy(&pool->work_ready);
    pthread_mutex_destroy(&pool->lock);
    mem_free(pool->finished);
    mem_free(pool->queue);
    mem_free(pool->threads);
    mem_free(pool);
}

void sweep_pool_put(SweepPool *pool, uint64_t item, size_t plan)
{
    pthread_mutex_lock(&pool->lock);
    assert(pool->held < pool->room);
    pool->queue[(pool->queue_head + pool->queued++) % pool->room] =
        (Waiting){.item = item, .plan = plan};
    pool->held++;
    pthread_cond_signal(&pool->work_ready);
    pthread_mutex_unlock(&pool->lock);
}

void sweep_pool_drop(SweepPool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->held -= pool->queued;
    pool->queued = 0;
    pthread_mutex_unlock(&pool->lock);
}

static struct timespec after_ms(uint32_t wait_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += wait_ms * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    return until;
}

bool sweep_pool_get(SweepPool *pool, uint32_t wait_ms, SweepFinished *finished)
{
    const struct timespec until = after_ms(wait_ms);
    pthread_mutex_lock(&pool->lock);
    int code = 0;
    while (pool->n_finished == 0 && code == 0)
        code = pthread_cond_timedwait(&pool->result_ready, &pool->lock, &until);
    bool found = pool->n_finished > 0;
    if (found) {
        *finished = pool->finished[pool->finished_head];
        pool->finished_head = (pool->finished_head + 1) % pool->room;
        pool->n_finished--;
        pool->held--;
    }
    pthread_mutex_unlock(&pool->lock);
    return found;
}

size_t sweep_pool_held(SweepPool *pool)
{
    pthread_mutex_lock(&pool->lock);
    size_t held = pool->held;
    pthread_mutex_unlock(&pool->lock);
    return held;
}
