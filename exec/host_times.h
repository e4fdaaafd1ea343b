/* What the host did in a step, and when: times in clock_wall_ns(), as those of the device. */
#ifndef EXEC_HOST_TIMES_H
#define EXEC_HOST_TIMES_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t start_ns;
    uint64_t duration_ns;
} HostSpan;

/* An event whose counts the host waited for, and what it then did. */
typedef struct {
    uint32_t layer;      /* the model's number */
    uint32_t active;     /* experts that took part */
    uint32_t first_load; /* of HostTimes.loads ... */
    uint32_t n_loads;    /* ... this event began so many, prefetches included; of these small ones
                            may be begun while the host waits for the next event */
    HostSpan wait;       /* from the call of Backend.wait() to its return */
    HostSpan decide;     /* from there until the decisions were made */
} HostEvent;

typedef struct {
    /* [n_ops] queueing each operation: from after the stamp before it to before its own, whatever
     * the host does there (waiting, deciding and beginning loads is part of OP_EXPERTS). NULL for a
     * step that the backend repeated as a whole, and for one that neither waits for events nor is
     * timed. */
    const HostSpan *ops;
    size_t n_ops;
    const HostEvent *events; /* [n_events] in their order; none where the step does not wait */
    size_t n_events;
    const HostSpan *loads; /* [n_loads] calls of Backend.load(), in the order of the loads */
    size_t n_loads;
    HostSpan queue; /* queueing all of the step, waits for events included */
    HostSpan wait;  /* for the end of what was queued */
} HostTimes;

#endif
