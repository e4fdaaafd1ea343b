/* Compares two residency event logs one by one, while they are made.
 *
 * One side is expected (the simulator's actions), the other actual (the executor's records). Both
 * are pushed in the order of the decisions; neither is kept but for what one side is ahead and the
 * last few records around the first difference. Two records agree when step, layer, expert, kind
 * and slot are equal; bytes and times are not compared. */
#ifndef ANALYSIS_COMPARE_H
#define ANALYSIS_COMPARE_H

#include <stdbool.h>

#include "base/json.h"
#include "traces/trace.h"

enum { COMPARE_AROUND = 3 /* records shown before and after the first difference */ };

typedef struct Compare Compare;

/* A record and its place. */
typedef struct {
    uint32_t step;
    ResidencyRecord record;
} CompareRecord;

/* What one log has around the first difference. */
typedef struct {
    CompareRecord before[COMPARE_AROUND]; /* [n_before], the last ones that agreed */
    uint32_t n_before;
    bool has_here; /* false: this log had ended */
    CompareRecord here;
    CompareRecord after[COMPARE_AROUND]; /* [n_after] */
    uint32_t n_after;
} CompareSide;

typedef struct {
    bool agreed;
    uint64_t compared; /* pairs that were equal, up to the first difference */
    uint64_t expected; /* records of each log */
    uint64_t actual;
    uint64_t by_kind[RESIDENCY_KINDS]; /* of the pairs that were equal */
    uint64_t at;                       /* number of the first record that differs, from 0 */
    CompareSide expected_side;         /* when not agreed */
    CompareSide actual_side;
} CompareReport;

Status compare_new(Compare **compare);
void compare_free(Compare *compare);

/* Appends one record to a log. Allocates only while one log is ahead of the other further than ever
 * before; after the first difference nothing. Fails with ERR_MEMORY. A kind out of range is
 * compared like any other number. */
Status compare_expect(Compare *compare, uint32_t step, const ResidencyRecord *record);
Status compare_actual(Compare *compare, uint32_t step, const ResidencyRecord *record);

/* Ends both logs; what one has more than the other is a difference. */
CompareReport compare_finish(Compare *compare);

/* OK, or ERR_MISMATCH with "event N: step S: layer L: expected ..., got ...". */
Status compare_status(const CompareReport *report);
/* A table for people, several lines; freed with mem_free. */
Status compare_text(const CompareReport *report, char **text);
/* {"agreed", "compared", "expected", "actual", "by_kind": {...}, "first_difference": {...}|null};
 * freed with cJSON_Delete. */
Status compare_json(const CompareReport *report, cJSON **json);

#endif
