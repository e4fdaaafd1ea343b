#include "cli/bench_gpu.h"

#include <string.h>

static const BenchGpu BENCHES[] = {{"moe-layer", bench_gpu_moe_layer},
                                   {"attention", bench_gpu_attention}};

const BenchGpu *bench_gpu_find(const char *name)
{
    for (size_t i = 0; name != NULL && i < sizeof BENCHES / sizeof *BENCHES; i++)
        if (strcmp(BENCHES[i].name, name) == 0)
            return &BENCHES[i];
    return NULL;
}
