/* Timelines of steps in the Chrome trace format, which Perfetto and chrome://tracing open.
 *
 * A process is who ran the steps, "executor" or "simulator"; its tracks are "host" (steps, and the
 * experts that it computes), "compute" (operations) and "copies H2D" (loads), and a counter of
 * device memory. Slices have the same names from both, so that they can be laid side by side. Of
 * several ranks each is a process, "simulator, rank 0", with two tracks more, "port out" and "port
 * in", of what it sends to others and receives: "dispatch" before experts, "combine" after. */
#ifndef ANALYSIS_TIMELINE_H
#define ANALYSIS_TIMELINE_H

#include "sim/timing.h"

typedef enum { TIMELINE_EXECUTOR, TIMELINE_SIMULATOR } TimelineProcess;

/* Device memory that holds something at the end of a step, bytes. */
typedef struct {
    uint64_t weights;
    uint64_t slots;
    uint64_t caches;
    uint64_t activations;
} TimelineMemory;

typedef struct {
    uint32_t step;
    Phase phase;
    uint32_t tokens;
    uint64_t start_ns;
    uint64_t duration_ns;
    const TimingRecord *ops; /* [n_ops] */
    size_t n_ops;
    const ResidencyRecord *residency; /* [n_residency]; those with a duration are drawn */
    size_t n_residency;
    TimelineMemory memory; /* all 0: not known, and not drawn */
    uint32_t rank;
    uint32_t ranks;          /* 0 or 1: one */
    const PortRecord *ports; /* [n_ports] */
    size_t n_ports;
} TimelineStep;

typedef struct Timeline Timeline;

/* Begins PATH, which appears when timeline_close() has succeeded. */
Status timeline_open(const char *path, Timeline **timeline);
/* The first step of a process is put at time 0. Ranks are the simulator's, below
 * PLACEMENT_MAX_RANKS. */
Status timeline_add(Timeline *timeline, TimelineProcess process, const TimelineStep *step);
/* Ends the file. TIMELINE is gone in any case. */
Status timeline_close(Timeline *timeline);
/* Drops it. TIMELINE may be NULL. */
void timeline_abandon(Timeline *timeline);

#endif
