/* What a trace's timing table adds up to: the time of each operation, by phase. */
#ifndef CLI_INFO_TIMING_H
#define CLI_INFO_TIMING_H

#include "base/json.h"
#include "traces/reader.h"

enum { INFO_MAX_OPS = 32, INFO_PHASES = PHASE_MIXED + 1 };

typedef struct {
    uint64_t ns[INFO_MAX_OPS][INFO_PHASES]; /* of all steps; operations beyond count as the last */
    uint64_t steps[INFO_PHASES];            /* that were timed */
} OpTimes;

/* Adds the timing rows of rank 0 of a step of READER. */
Status op_times_add(TraceReader *reader, const TraceStep *step, OpTimes *times);
/* Adds "ops": a list of names with the nanoseconds of a mean step of each phase that was timed. */
Status op_times_add_json(cJSON *json, const TraceReader *reader, const OpTimes *times);
/* The same for people. */
Status op_times_print(const TraceReader *reader, const OpTimes *times);

#endif
