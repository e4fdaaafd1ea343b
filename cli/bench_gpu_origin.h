/* Where the figures of the CUDA backend's benchmarks come from, as those of whole steps tell it. */
#ifndef CLI_BENCH_GPU_ORIGIN_H
#define CLI_BENCH_GPU_ORIGIN_H

#include "base/json.h"
#include "cli/bench_ceilings.h"
#include "cli/bench_gpu.h"

/* The command line, the program's version and commit, the driver, the GPU, and the ceilings. */
Status bench_gpu_add_origin(cJSON *json, const BenchGpuOptions *options, const Ceilings *ceilings);
/* GPU and ceilings, on stdout. */
Status bench_gpu_print_origin(const Ceilings *ceilings);

#endif
