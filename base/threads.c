#define _GNU_SOURCE
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"

/* What is written by different threads lies in lines of its own. */
#define LINE _Alignas(64)

struct ThreadPool {
    /* Of the loop: written while it is closed, and read by those who have joined it. */
    ThreadTask task;
    const ThreadParts *parts; /* in place of TASK, of a loop that is run apart; NULL else */
    void *argument;
    void *owner; /* of a loop that is run apart */
    _Atomic size_t count;
    uint64_t loops; /* that the caller has begun */
    bool spares_caller;
    _Atomic uint64_t awake_ns;
    /* Of the loop that may be joined: twice its number, and 1 more where it is run apart; 0: none
     */
    LINE _Atomic uint64_t open;
    _Atomic bool stopping;
    _Atomic uint64_t rouses;  /* calls of thread_pool_rouse() */
    LINE _Atomic size_t next; /* item */
    LINE _Atomic size_t
        joined; /* helpers that are in the loop, or are looking whether it is open */
    LINE _Atomic size_t sleeping; /* helpers */
    _Atomic bool caller_sleeps;
    pthread_mutex_t lock;
    pthread_cond_t work_ready;
    pthread_cond_t work_done;
    size_t helpers;
    struct Helper {
        /* What it does of a loop that is run apart: see apart_word(). */
        LINE _Atomic uint64_t apart;
        struct ThreadPool *pool;
        size_t worker;
        pthread_t thread;
    } helper[];
};

enum {
    LOOKS = 200 /* with a pause after each, before others may have the processor, or sleep */,
    FEW_LOOKS = 20 /* before the clock is read */,
    MOST_LOOKS = 100 * LOOKS /* for an item to be taken where some have been */,
    LEAST_PATIENCE_NS = 5000 /* until an item is done again */,
    MAX_THREADS = 4096,
    PAGE_BYTES = 4096,
    TOUCHED_BYTES = 4 << 20 /* by one thread at a time */,
};

/* Of a helper in a loop that is run apart: the caller may take the item of one that computes over,
 * which then is in no loop. */
typedef enum { AWAY, COMPUTES, TAKEN_OVER } Apart;

enum { APART_BITS = 2, ITEM_BITS = 30 };

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

/* ---- loops that are run apart ---- */

/* STATE in the loop that OPEN is of, with ITEM: no other word of the next 2^31 loops is the same.
 */
static uint64_t apart_word(uint64_t open, size_t item, Apart state)
{
    return open << (APART_BITS + ITEM_BITS) | item << APART_BITS | state;
}

static size_t apart_item(uint64_t word)
{
    return (size_t)(word >> APART_BITS) % (1 << ITEM_BITS);
}

/* Computes items, and ends them, until there are no more, or one was taken over: false. */
static bool run_items_apart(ThreadPool *pool, struct Helper *helper, uint64_t open)
{
    const ThreadParts *parts = pool->parts;
    void *argument = pool->argument;
    void *owner = pool->owner;
    size_t item;
    while ((item = atomic_fetch_add(&pool->next, 1)) < pool->count) {
        uint64_t computes = apart_word(open, item, COMPUTES);
        parts->take(argument, item, helper->worker);
        atomic_store_explicit(&helper->apart, computes, memory_order_release);
        parts->compute(owner, helper->worker);
        if (!atomic_compare_exchange_strong(&helper->apart, &computes, AWAY)) {
            atomic_store(&helper->apart, AWAY);
            return false;
        }
        parts->finish(argument, item, helper->worker);
    }
    return true;
}

static void pause_a_little(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* A loop that SEEN, the last one that was joined, is not, or the end. */
static bool has_work(ThreadPool *pool, uint64_t seen)
{
    uint64_t open = atomic_load(&pool->open);
    return (open != 0 && open != seen) || atomic_load(&pool->stopping);
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

/* Looks until there is work or it is time to sleep: true when there is. *ROUSES have been noticed.
 */
static bool look_for_work(ThreadPool *pool, uint64_t seen, uint64_t *rouses)
{
    uint64_t start_ns = 0;
    do {
        for (int i = 0; i < LOOKS; i++) {
            if (has_work(pool, seen))
                return true;
            pause_a_little();
        }
        uint64_t now = atomic_load_explicit(&pool->rouses, memory_order_relaxed);
        start_ns = now != *rouses ? 0 : start_ns;
        *rouses = now;
    } while (stays_awake(pool, &start_ns));
    return false;
}

/* Whoever opens a loop looks for sleepers after that, and who goes to sleep is counted before it
 * looks a last time: one of them sees the other, since all four are in one order. */
static void sleep_until_called(ThreadPool *pool, uint64_t seen, uint64_t rouses)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleeping, 1);
    while (!has_work(pool, seen) && atomic_load(&pool->rouses) == rouses)
        pthread_cond_wait(&pool->work_ready, &pool->lock);
    atomic_fetch_sub(&pool->sleeping, 1);
    pthread_mutex_unlock(&pool->lock);
}

static bool wait_for_work(ThreadPool *pool, uint64_t seen)
{
    uint64_t rouses = atomic_load(&pool->rouses);
    while (!look_for_work(pool, seen, &rouses))
        sleep_until_called(pool, seen, rouses);
    return !atomic_load(&pool->stopping);
}

static void wake_sleepers(ThreadPool *pool)
{
    if (atomic_load(&pool->sleeping) == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->work_ready);
    pthread_mutex_unlock(&pool->lock);
}

static void leave(ThreadPool *pool)
{
    if (atomic_fetch_sub(&pool->joined, 1) != 1 || !atomic_load(&pool->caller_sleeps))
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->work_done);
    pthread_mutex_unlock(&pool->lock);
}

/* Joins the loop that is open, unless it has no items left or is closed meanwhile; returns its
 * number. */
static uint64_t take_part(ThreadPool *pool, struct Helper *helper)
{
    uint64_t open = atomic_load(&pool->open);
    if (open == 0 || atomic_load_explicit(&pool->next, memory_order_relaxed) >=
                         atomic_load_explicit(&pool->count, memory_order_relaxed))
        return open;
    bool stays = true;
    atomic_fetch_add(&pool->joined, 1);
    if (atomic_load(&pool->open) == open && open % 2 == 1)
        stays = run_items_apart(pool, helper, open);
    else if (atomic_load(&pool->open) == open)
        run_items(pool, helper->worker);
    if (stays)
        leave(pool);
    return open;
}

static void *helper_main(void *argument)
{
    struct Helper *helper = argument;
    ThreadPool *pool = helper->pool;
    uint64_t seen = 0;
    while (wait_for_work(pool, seen)) {
        uint64_t open = take_part(pool, helper);
        seen = open != 0 ? open : seen;
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

void thread_pool_spare_caller(ThreadPool *pool)
{
    pool->spares_caller = true;
}

void thread_pool_rouse(ThreadPool *pool)
{
    atomic_fetch_add(&pool->rouses, 1);
    wake_sleepers(pool);
}

size_t thread_pool_size(const ThreadPool *pool)
{
    return pool->helpers + 1;
}

static void wait_for_helpers(ThreadPool *pool)
{
    uint64_t start_ns = 0;
    do {
        for (int i = 0; i < LOOKS; i++) {
            if (atomic_load(&pool->joined) == 0)
                return;
            pause_a_little();
        }
    } while (stays_awake(pool, &start_ns));
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->joined) != 0)
        pthread_cond_wait(&pool->work_done, &pool->lock);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->lock);
}

/* Until the helpers have taken all items; or for a round of looking in which none comes, and some
 * more where those who came take none. */
static void wait_for_items(ThreadPool *pool)
{
    size_t last = 0;
    for (int looks = 0; looks < (last > 0 ? MOST_LOOKS : LOOKS); looks++) {
        size_t next = atomic_load_explicit(&pool->next, memory_order_relaxed);
        if (next >= pool->count)
            return;
        looks = next == last ? looks : 0;
        last = next;
        pause_a_little();
    }
}

static void open_loop(ThreadPool *pool, size_t count, bool apart)
{
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->count, count, memory_order_relaxed);
    atomic_store(&pool->open, 2 * ++pool->loops + apart);
    wake_sleepers(pool);
    if (pool->spares_caller)
        wait_for_items(pool);
}

/* A helper joins, and then looks again whether the loop is open; the caller closes it, and then
 * looks who has joined. So nobody works on a loop that has been returned from. */
void thread_pool_run(ThreadPool *pool, size_t count, ThreadTask task, void *argument)
{
    if (pool->helpers == 0 || count <= 1) {
        for (size_t item = 0; item < count; item++)
            task(argument, item, 0);
        return;
    }
    pool->task = task;
    pool->argument = argument;
    open_loop(pool, count, false);
    run_items(pool, 0);
    atomic_store(&pool->open, 0);
    wait_for_helpers(pool);
}

static void do_item(const ThreadPool *pool, size_t item)
{
    pool->parts->take(pool->argument, item, 0);
    pool->parts->compute(pool->owner, 0);
    pool->parts->finish(pool->argument, item, 0);
}

/* Takes over what HELPER computes, if it does, and does that itself. */
static void take_over(ThreadPool *pool, struct Helper *helper)
{
    uint64_t word = atomic_load(&helper->apart);
    size_t item = apart_item(word);
    uint64_t open = 2 * pool->loops + 1;
    if (word != apart_word(open, item, COMPUTES) ||
        !atomic_compare_exchange_strong(&helper->apart, &word, apart_word(open, item, TAKEN_OVER)))
        return;
    atomic_fetch_sub(&pool->joined, 1);
    do_item(pool, item);
}

/* Until no helper is in the loop, all items of which are taken; from UNTIL_NS on what they still
 * compute is taken over. */
static void wait_apart(ThreadPool *pool, uint64_t until_ns)
{
    for (uint32_t looks = 1; atomic_load(&pool->joined) != 0; looks++) {
        pause_a_little();
        if (looks % FEW_LOOKS != 0 || clock_ns() < until_ns)
            continue;
        for (size_t i = 0; i < pool->helpers; i++)
            take_over(pool, &pool->helper[i]);
        sched_yield();
    }
}

void thread_pool_run_apart(ThreadPool *pool, size_t count, const ThreadParts *parts, void *argument,
                           void *owner)
{
    uint64_t start_ns = clock_ns();
    size_t item = 0;
    pool->parts = parts;
    pool->argument = argument;
    pool->owner = owner;
    if (pool->helpers == 0 || count <= 1 || count >= 1 << ITEM_BITS) {
        for (; item < count; item++)
            do_item(pool, item);
        return;
    }
    open_loop(pool, count, true);
    while ((item = atomic_fetch_add(&pool->next, 1)) < count)
        do_item(pool, item);
    uint64_t now_ns = clock_ns();
    uint64_t item_ns = (now_ns - start_ns) * thread_pool_size(pool) / count;
    atomic_store(&pool->open, 0);
    wait_apart(pool, now_ns + 2 * item_ns + LEAST_PATIENCE_NS);
}

void thread_pool_settle(ThreadPool *pool)
{
    for (size_t i = 0; i < pool->helpers; i++)
        while (atomic_load(&pool->helper[i].apart) != AWAY)
            sched_yield();
}

typedef struct {
    unsigned char *memory;
    size_t bytes;
} Touched;

static void touch_piece(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const Touched *touched = argument;
    size_t first = item * TOUCHED_BYTES;
    size_t left = touched->bytes - first;
    size_t end = first + (left < TOUCHED_BYTES ? left : TOUCHED_BYTES);
    for (size_t at = first; at < end; at += PAGE_BYTES)
        touched->memory[at] = 0;
}

void thread_pool_touch(ThreadPool *pool, void *memory, size_t bytes)
{
    Touched touched = {memory, bytes};
    thread_pool_run(pool, (bytes + TOUCHED_BYTES - 1) / TOUCHED_BYTES, touch_piece, &touched);
}
