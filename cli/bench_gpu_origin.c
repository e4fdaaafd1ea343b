#include "cli/bench_gpu_origin.h"

#include <stdio.h>

#include "cli/bench_command.h"
#include "exec/cuda/check.h"

Status bench_gpu_add_origin(cJSON *json, const BenchGpuOptions *options, const Ceilings *ceilings)
{
    char device[512];
    TRY(bench_add_command(json, options->argc, options->argv));
    TRY(cuda_describe_gpu("bf16", device, sizeof device));
    TRY(json_add_text(json, "device", device));
    return bench_add_ceilings(json, ceilings);
}

Status bench_gpu_print_origin(const Ceilings *ceilings)
{
    char device[512];
    TRY(cuda_describe_gpu("bf16", device, sizeof device));
    printf("%s; times in ms\n", device);
    bench_print_ceilings(ceilings);
    return OK;
}
