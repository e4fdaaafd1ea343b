/* How well a profile's tables predict what they do not have: each measured point is left out and
 * predicted from the others. Kept are points that hold a jump of costs between them, numbers of
 * tokens next to each other. */
#ifndef ANALYSIS_LEAVE_ONE_OUT_H
#define ANALYSIS_LEAVE_ONE_OUT_H

#include "policies/hardware.h"

/* Of one table. Points at its edges are not counted: without them the others do not reach there. */
typedef struct {
    uint32_t points; /* left out and predicted */
    double mean;     /* relative error, absolute value */
    double p95;
    double noise; /* median over the points of their coefficients of variation */
} LeaveOneOut;

/* Fails with ERR_MEMORY. */
Status leave_one_out(const CostTable *table, LeaveOneOut *out);

#endif
