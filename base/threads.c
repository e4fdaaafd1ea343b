#define _GNU_SOURCE
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"

struct ThreadPool {
    pthread_mutex_t lock;
    pthread_cond_t work_ready;
    pthread_cond_t work_done;
    ThreadTask task;
    void *argument;
    size_t count;
    _Atomic size_t next;
    _Atomic uint64_t generation; /* counts the loops started */
    _Atomic size_t busy;         /* helpers that have not finished this loop */
    _Atomic bool stopping;
    _Atomic uint64_t awake_ns;
    size_t helpers;
    struct Helper {
        struct ThreadPool *pool;
        size_t worker;
        pthread_t thread;
    } helper[];
};

enum {
    SPINS =
        2000, /* rounds of looking before sleeping: loops follow each other within microseconds */
    MAX_THREADS = 4096,
};

size_t thread_count_default(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int count = CPU_COUNT(&set);
    return count < 1 ? 1 : (size_t)count;
}

static void run_items(ThreadPool *pool, size_t worker)
{
    for (;;) {
        size_t item = atomic_fetch_add(&pool->next, 1);
        if (item >= pool->count)
            return;
        pool->task(pool->argument, item, worker);
    }
}

static bool has_work(ThreadPool *pool, uint64_t seen)
{
    return atomic_load(&pool->generation) != seen || atomic_load(&pool->stopping);
}

/* After a round of looking: whether another one is due. Others may have the processor meanwhile. */
static bool stays_awake(ThreadPool *pool, uint64_t *start_ns)
{
    uint64_t awake_ns = atomic_load(&pool->awake_ns);
    if (awake_ns == 0)
        return false;
    uint64_t now_ns = clock_ns();
    *start_ns = *start_ns == 0 ? now_ns : *start_ns;
    sched_yield();
    return now_ns - *start_ns < awake_ns;
}

static bool wait_for_work(ThreadPool *pool, uint64_t seen)
{
    uint64_t start_ns = 0;
    do {
        for (int i = 0; i < SPINS; i++)
            if (has_work(pool, seen))
                return !atomic_load(&pool->stopping);
    } while (stays_awake(pool, &start_ns));
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->generation) == seen && !atomic_load(&pool->stopping))
        pthread_cond_wait(&pool->work_ready, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    return !atomic_load(&pool->stopping);
}

static void *helper_main(void *argument)
{
    struct Helper *helper = argument;
    ThreadPool *pool = helper->pool;
    uint64_t seen = 0;
    while (wait_for_work(pool, seen)) {
        seen++;
        run_items(pool, helper->worker);
        if (atomic_fetch_sub(&pool->busy, 1) != 1)
            continue;
        pthread_mutex_lock(&pool->lock);
        pthread_cond_signal(&pool->work_done);
        pthread_mutex_unlock(&pool->lock);
    }
    return NULL;
}

Status thread_pool_new(size_t threads, ThreadPool **out)
{
    if (threads == 0)
        threads = thread_count_default();
    ThreadPool *pool;
    if (threads > MAX_THREADS)
        return fail(ERR_INPUT, "threads: %zu, allowed is 1 to %d", threads, MAX_THREADS);
    TRY(mem_new(&pool, 1, sizeof *pool + (threads - 1) * sizeof pool->helper[0], "thread pool"));
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work_ready, NULL);
    pthread_cond_init(&pool->work_done, NULL);
    for (size_t i = 0; i + 1 < threads; i++) {
        struct Helper *helper = &pool->helper[i];
        *helper = (struct Helper){.pool = pool, .worker = i + 1};
        int error = pthread_create(&helper->thread, NULL, helper_main, helper);
        if (error != 0) {
            thread_pool_free(pool);
            return fail(ERR_MEMORY, "threads: cannot start thread %zu: %s", i + 1, strerror(error));
        }
        pool->helpers++;
    }
    *out = pool;
    return OK;
}

void thread_pool_free(ThreadPool *pool)
{
    if (pool == NULL)
        return;
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stopping, true);
    pthread_cond_broadcast(&pool->work_ready);
    pthread_mutex_unlock(&pool->lock);
    for (size_t i = 0; i < pool->helpers; i++)
        pthread_join(pool->helper[i].thread, NULL);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->work_ready);
    pthread_cond_destroy(&pool->work_done);
    mem_free(pool);
}

void thread_pool_keep_awake(ThreadPool *pool, uint64_t ns)
{
    atomic_store(&pool->awake_ns, ns);
}

size_t thread_pool_size(const ThreadPool *pool)
{
    return pool->helpers + 1;
}

static void wait_for_helpers(ThreadPool *pool)
{
    uint64_t start_ns = 0;
    do {
        for (int i = 0; i < SPINS; i++)
            if (atomic_load(&pool->busy) == 0)
                return;
    } while (stays_awake(pool, &start_ns));
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->busy) != 0)
        pthread_cond_wait(&pool->work_done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void thread_pool_run(ThreadPool *pool, size_t count, ThreadTask task, void *argument)
{
    if (pool->helpers == 0 || count <= 1) {
        for (size_t item = 0; item < count; item++)
            task(argument, item, 0);
        return;
    }
    pool->task = task;
    pool->argument = argument;
    pool->count = count;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->busy, pool->helpers);
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->generation, 1);
    pthread_cond_broadcast(&pool->work_ready);
    pthread_mutex_unlock(&pool->lock);
    run_items(pool, 0);
    wait_for_helpers(pool);
}
