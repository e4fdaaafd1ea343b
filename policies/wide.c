#include "policies/wide.h"

bool wide_is_supported(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vpopcntdq") &&
           __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
#else
    return false;
#endif
}

void wide_settle(Scope *scope)
{
    const uint32_t *restrict position = scope->position;
    bool *restrict resident = scope->resident;
    for (uint32_t i = 0; i < scope->n_objects; i++)
        resident[i] = position[i] != NOBODY;
}
