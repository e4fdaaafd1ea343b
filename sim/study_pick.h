/* Picks the best plan out of study.db. */
#ifndef SIM_STUDY_PICK_H
#define SIM_STUDY_PICK_H

#include "policies/plan.h"
#include "sim/plan_time.h"
#include "sim/study_query.h"

/* Of equal memory, as all have where the trace does not say how large experts are, the fewest slots
 * come first. */
typedef enum {
    PICK_TIME,   /* shortest time, then least memory; the study must have times */
    PICK_MISSES, /* fewest bytes over the link (loaded and prefetched), then fewest misses, then
                    least memory, then table order */
    PICK_MEMORY  /* least memory, then the shortest time where the study has times, fewest bytes
                    over the link, fewest misses, table order */
} PickBest;

typedef struct {
    PickBest best;
    StudyConditions conditions;
} PickOptions;

typedef struct {
    int64_t plan_id;
    Plan plan; /* with what it learnt: it needs no trace; freed with plan_free() */
    uint64_t lookups;
    uint64_t hits;
    uint64_t misses;
    uint64_t loads;
    uint64_t bytes_loaded;
    uint64_t memory_bytes;
    PlanTime time;       /* where the study has times */
    uint64_t candidates; /* rows that met every condition */
    uint64_t missing;    /* plans of the study that have no result yet */
} Pick;

/* Opens PATH read-only. Fails with ERR_INPUT when PATH is no study, the expression is wrong (with
 * SQLite's words), no row meets the conditions, or times are asked for that the study has not;
 * ERR_SCHEMA, ERR_CORRUPT. */
Status study_pick(const char *path, const PickOptions *options, Pick *pick);

#endif
