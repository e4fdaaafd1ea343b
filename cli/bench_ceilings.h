/* What a device can do at the most, measured in the run whose times are compared with it. */
#ifndef CLI_BENCH_CEILINGS_H
#define CLI_BENCH_CEILINGS_H

#include "base/status.h"

typedef struct {
    double bytes_per_s;        /* read and written by a copy within the device's memory */
    double flops_per_s;        /* of a product of two large matrices: bf16 on cuda, f32 on cpu */
    double upload_bytes_per_s; /* of a copy from pinned host memory; cpu: within memory */
} Ceilings;

/* Measures DEVICE, "cpu" or "cuda", which must have 2 GiB free. */
Status ceilings_measure_on(const char *device, Ceilings *ceilings);
/* Measures the GPU; ERR_UNSUPPORTED where the build found no CUDA. */
Status ceilings_measure(Ceilings *ceilings);

#endif
