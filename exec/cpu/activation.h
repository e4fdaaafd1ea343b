/* Activations that are written so that compilers vectorise loops over them. */
#ifndef EXEC_CPU_ACTIVATION_H
#define EXEC_CPU_ACTIVATION_H

#include "exec/cpu/exponential.h"

/* OUT[i] = SiLU(GATE[i]) * UP[i], [n]; OUT may be GATE. */
static inline void multiply_silu(const float *gate, const float *up, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}

#endif
