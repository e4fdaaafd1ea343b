/* The Pareto front of a study with times: the plans that no other beats in throughput with as
 * little memory. */
#ifndef SIM_STUDY_FRONT_H
#define SIM_STUDY_FRONT_H

#include "sim/plan_time.h"
#include "sim/study_query.h"

typedef struct {
    int64_t plan_id;
    char name[128];
    char evict[32];
    uint32_t slots;
    double miss_ratio;
    PlanTime time;
} FrontPoint;

typedef struct {
    FrontPoint *points; /* [n_points] by memory, the least first; throughput grows with it */
    size_t n_points;
    uint64_t candidates; /* rows that met the conditions */
} StudyFront;

/* Opens PATH read-only. Fails as study_pick(), but for no row: the front is then empty. On failure
 * nothing is held. */
Status study_front(const char *path, const StudyConditions *conditions, StudyFront *front);
/* The same of a study that is open. */
Status study_front_read(const StudyReader *reader, const StudyConditions *conditions,
                        StudyFront *front);
void study_front_free(StudyFront *front);

#endif
