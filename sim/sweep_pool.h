/* Threads of one process that replay plans of a study. */
#ifndef SIM_SWEEP_POOL_H
#define SIM_SWEEP_POOL_H

#include "sim/plan_timer.h"

typedef struct SweepPool SweepPool;

/* What became of one plan. */
typedef struct {
    uint64_t item; /* as it was put */
    Status status;
    ReplayResult result; /* status OK: the receiver frees it with replay_result_free() */
    char error[1024];    /* otherwise: the thread's error record */
} SweepFinished;

/* Starts THREADS threads, or as many as the system gives, but one. FUTURE has been prepared for
 * every plan that will be put. TIMER may be NULL: results have no time. What is passed must outlive
 * the pool. */
Status sweep_pool_new(const PackedTrace *trace, const Plan *plans, const ReplayFuture *future,
                      const PlanTimer *timer, uint32_t threads, SweepPool **pool);
/* Drops what has not begun and waits for what has. Accepts NULL. */
void sweep_pool_free(SweepPool *pool);

/* Puts plans[PLAN] into the queue. At most twice the threads may be held: none waits while the next
 * plan comes. */
void sweep_pool_put(SweepPool *pool, uint64_t item, size_t plan);
/* Forgets the plans that no thread has begun. */
void sweep_pool_drop(SweepPool *pool);
/* Takes one that is finished. Waits at most WAIT_MS for it; false when none came. */
bool sweep_pool_get(SweepPool *pool, uint32_t wait_ms, SweepFinished *finished);
/* Plans put and neither dropped nor taken. */
size_t sweep_pool_held(SweepPool *pool);

#endif
