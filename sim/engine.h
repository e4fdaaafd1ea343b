/* The discrete-event engine: tasks that wait for one another, on resources that they share.
 *
 * A task occupies its resource for a time that is known when it is added, once all tasks that it
 * waits for have ended. Time is in whole nanoseconds. Ends of tasks are the events; they happen in
 * the total order (time, priority of the task, order of engine_add()), so that the same calls give
 * the same times everywhere. What an event sets free is begun before the next event of the same
 * time.
 *
 * Memory is taken as the number of tasks under way grows, and reused: once that number has been
 * reached, adding and running a task allocates nothing. Not thread-safe. */
#ifndef SIM_ENGINE_H
#define SIM_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum {
    /* One task after the other in the order of engine_add(): the first of them holds up the rest
     * until it is ready, as in a CUDA stream. */
    ENGINE_STREAM,
    /* Ready tasks by (priority, when they became ready): on-demand loads before prefetches. A task
     * that has begun is not interrupted. */
    ENGINE_PRIORITY
} EngineQueue;

typedef struct {
    EngineQueue queue;
    uint32_t servers; /* tasks at a time; of a stream 1 */
} EngineResource;

enum { ENGINE_PRIORITIES = 1 << 16 };

/* In the place of a resource: the task begins when it is ready. A task that waits for nothing is
 * then a timer. */
#define ENGINE_NO_RESOURCE UINT32_MAX

/* Names a task, also after it has ended; never 0. */
typedef uint64_t EngineTask;

typedef struct {
    uint32_t resource;
    uint32_t priority; /* below ENGINE_PRIORITIES; lower goes first */
    uint64_t duration_ns;
    uint64_t tag; /* the caller's */
} EngineSpec;

/* The end of a task. */
typedef struct {
    EngineTask task;
    uint64_t tag;
    uint32_t resource;
    uint64_t ready_ns; /* added, and nothing left to wait for */
    uint64_t start_ns;
    uint64_t end_ns;
} EngineEvent;

typedef struct Engine Engine;

/* RESOURCES are numbered as they come; time begins at 0. */
Status engine_new(const EngineResource *resources, uint32_t n_resources, Engine **engine);
void engine_free(Engine *engine);

/* Adds a task that waits for AFTER[n_after]: those that have ended, or 0, are no wait. It may begin
 * now at the earliest. Fails with ERR_MEMORY; then nothing was added. */
Status engine_add(Engine *engine, const EngineSpec *spec, const EngineTask *after, size_t n_after,
                  EngineTask *task);
/* Takes TASK away when it has not begun; those that wait for it need not any longer. False when it
 * has begun or ended. */
bool engine_cancel(Engine *engine, EngineTask task);
/* True when TASK has begun and not ended: *END_NS is when it will. */
bool engine_begun(const Engine *engine, EngineTask task, uint64_t *end_ns);

/* Goes on to the next end of a task, *EVENT. False when nothing runs; tasks that are still there
 * then wait for one another. */
bool engine_next(Engine *engine, EngineEvent *event);
/* The time of the last event. */
uint64_t engine_now(const Engine *engine);
/* Tasks that have been added and have not ended. */
uint32_t engine_pending(const Engine *engine);

#endif
