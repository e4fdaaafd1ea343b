/* A fixed set of worker threads that share the items of one loop at a time. */
#ifndef BASE_THREADS_H
#define BASE_THREADS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct ThreadPool ThreadPool;

/* ITEM runs from 0; WORKER tells which thread runs it, 0 to thread_pool_size() - 1. */
typedef void (*ThreadTask)(void *argument, size_t item, size_t worker);

/* The processors this process may use. */
size_t thread_count_default(void);

/* THREADS counts the caller, who works too; 1 makes no thread. 0 means thread_count_default().
 * Fails with ERR_INPUT above 4096, with ERR_MEMORY when the system gives no more threads. */
Status thread_pool_new(size_t threads, ThreadPool **pool);
void thread_pool_free(ThreadPool *pool);
size_t thread_pool_size(const ThreadPool *pool);

/* Threads that have nothing to do look for work for at least NS before they sleep: waking one up
 * takes longer than small loops do. 0, as at first: for some microseconds. Not while a loop runs.
 */
void thread_pool_keep_awake(ThreadPool *pool, uint64_t ns);
/* Work is near: threads that sleep wake up, and all look for it as long as after a loop. Costs
 * little where none sleeps. */
void thread_pool_rouse(ThreadPool *pool);

/* From now on the caller only waits for the helpers, if there are any, so that its caches keep what
 * it does otherwise. Not while a loop runs. */
void thread_pool_spare_caller(ThreadPool *pool);

/* Runs TASK for items 0 to COUNT - 1, each once, in any order on any thread; returns when all are
 * done. A thread that comes late is not waited for. Allocates nothing. Only one caller at a time.
 */
void thread_pool_run(ThreadPool *pool, size_t count, ThreadTask task, void *argument);

/* Writes 0 into every page of BYTES of MEMORY, which is zeroed, so that the system gives all of it
 * now: who first writes to a page waits for that. */
void thread_pool_touch(ThreadPool *pool, void *memory, size_t bytes);

/* An item in three parts, of which the long one may be done more than once, and go on when the loop
 * is over. */
typedef struct {
    ThreadTask take;                             /* notes for WORKER alone what is to be done */
    void (*compute)(void *owner, size_t worker); /* does it, and writes what is WORKER's alone */
    ThreadTask finish; /* writes what others read: for each item once, by who computed it */
} ThreadParts;

/* As thread_pool_run(), but a thread that is kept from an item for longer than items take, because
 * the system gave its processor to somebody else, is not waited for: the caller does that item
 * again. OWNER, and what compute() reads and writes, outlive the loop, until thread_pool_settle();
 * what compute() reads may change then, and nothing comes of it. */
void thread_pool_run_apart(ThreadPool *pool, size_t count, const ThreadParts *parts, void *argument,
                           void *owner);
/* Returns when no thread is left behind in a loop that is over. */
void thread_pool_settle(ThreadPool *pool);

#endif
