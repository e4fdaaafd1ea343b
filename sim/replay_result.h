/* What a replay counts. */
#ifndef SIM_REPLAY_RESULT_H
#define SIM_REPLAY_RESULT_H

#include "policies/buffer.h"
#include "sim/plan_time.h"

/* In the place of a count that is not known (sim/curve.h). */
#define REPLAY_UNKNOWN UINT64_MAX

typedef struct {
    BufferCounts counts;
    uint64_t assignments;     /* (token, slot) pairs, dropped ones left out */
    uint64_t assignment_hits; /* those whose expert hit */
} ReplayLayer;

/* The same by phase of the step, summed over layers. */
typedef struct {
    uint64_t hits;
    uint64_t misses;
    uint64_t assignments;
    uint64_t assignment_hits;
} ReplayPhase;

typedef struct {
    ReplayLayer total;
    ReplayLayer *layers; /* [n_layers] */
    uint32_t n_layers;
    ReplayPhase phases[PHASE_MIXED + 1]; /* by Phase */
    uint64_t memory_bytes;               /* buffer_memory_bytes() after the last event */
    uint64_t replay_ns;                  /* wall time of the replay loop */
    PlanTime time;                       /* where it was simulated as well */
} ReplayResult;

/* A result of N_LAYERS layers that has counted nothing. Freed with replay_result_free(). */
Status replay_result_new(uint32_t n_layers, ReplayResult *result);
/* Adds what BUFFER, one of those that decided, has counted by layer, and its memory. */
void replay_result_add(ReplayResult *result, const ExpertBuffer *buffer);
/* Makes the total of the layers, once all is added. */
void replay_result_add_up(ReplayResult *result);
void replay_result_free(ReplayResult *result);

/* The stable JSON of `simulate --json`. Freed with cJSON_Delete. */
Status replay_result_json(const ReplayResult *result, const TraceLayer *layers, cJSON **json);

#endif
