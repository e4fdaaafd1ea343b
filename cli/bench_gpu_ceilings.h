/* What the device can do, measured in the run that compares with it. */
#ifndef CLI_BENCH_GPU_CEILINGS_H
#define CLI_BENCH_GPU_CEILINGS_H

#include "base/status.h"

typedef struct {
    double bytes_per_s; /* read and written by a copy */
    double flops_per_s; /* of a bf16 product */
} Ceilings;

Status ceilings_measure(Ceilings *ceilings);

#endif
