/* The MoE layers of a small made-up model. */
#ifndef TESTS_SMALL_LAYERS_H
#define TESTS_SMALL_LAYERS_H

#include "tests/support.h"

#include <string.h>

#include "traces/trace.h"

enum { MOE_LAYERS = 3, EXPERTS = 10 };

static void make_layers(TraceLayer layers[MOE_LAYERS])
{
    memset(layers, 0, MOE_LAYERS * sizeof *layers);
    for (uint32_t i = 0; i < MOE_LAYERS; i++)
        layers[i] =
            (TraceLayer){.layer = 1 + i, .experts = EXPERTS, .top_k = 2, .expert_bytes = 1000};
}

#endif
