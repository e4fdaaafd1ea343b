/* Picks the best plan out of study.db. */
#ifndef SIM_STUDY_PICK_H
#define SIM_STUDY_PICK_H

#include "policies/plan.h"

typedef enum {
    PICK_TIME,   /* shortest time; ERR_UNSUPPORTED: the study has no times */
    PICK_MISSES, /* fewest bytes over the link (loaded and prefetched), then fewest misses, then
                    least memory, then table order */
    PICK_MEMORY  /* least memory, then fewest bytes over the link, fewest misses, table order */
} PickBest;

typedef struct {
    PickBest best;
    const char *where;     /* an SQL expression over the columns of result; NULL: all rows */
    double misses_at_most; /* miss ratio; 1: no limit */
    bool with_bounds;      /* also policies that know the future */
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
    uint64_t candidates; /* rows that met every condition */
    uint64_t missing;    /* plans of the study that have no result yet */
} Pick;

/* Opens PATH read-only. options->where may only read the table result. Fails with ERR_INPUT when
 * PATH is no study, the expression is wrong (with SQLite's words), or no row meets the conditions;
 * ERR_SCHEMA, ERR_CORRUPT, ERR_UNSUPPORTED. */
Status study_pick(const char *path, const PickOptions *options, Pick *pick);

#endif
