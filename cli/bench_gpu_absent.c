/* In place of the benchmarks of the CUDA backend, where the build found no CUDA. */
#include "cli/bench_ceilings.h"
#include "cli/bench_gpu.h"

Status bench_gpu_attention(const BenchGpuOptions *options)
{
    (void)options;
    return fail(ERR_UNSUPPORTED, "attention: this build has no CUDA (nvcc was not found)");
}

Status bench_gpu_moe_layer(const BenchGpuOptions *options)
{
    (void)options;
    return fail(ERR_UNSUPPORTED, "moe-layer: this build has no CUDA (nvcc was not found)");
}

Status ceilings_measure(Ceilings *ceilings)
{
    (void)ceilings;
    return fail(ERR_UNSUPPORTED, "device cuda: this build has no CUDA (nvcc was not found)");
}
