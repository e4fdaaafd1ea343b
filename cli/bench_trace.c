#include "cli/bench_trace.h"

#include "base/memory.h"
#include "cli/bench_routing.h"

const BenchShape BENCH_SHAPE[BENCH_SHAPES] = {{"24x128 top-8", 24, 128}, {"58x256 top-8", 58, 256}};

static Status add_steps(BenchRouter *router, uint64_t lookups, PackedTrace *trace)
{
    const uint32_t zero = 0;
    uint16_t chosen[BENCH_MAX_LAYERS * BENCH_TOP_K];
    for (uint32_t l = 0; l < router->layers; l++)
        bench_router_first(router, l, &chosen[l * BENCH_TOP_K]);
    for (uint32_t step = 0; trace->n_lookups < lookups; step++) {
        for (uint32_t l = 0; l < router->layers; l++)
            bench_router_next(router, l, &chosen[l * BENCH_TOP_K]);
        const TraceStep made = {.step = step,
                                .phase = PHASE_DECODE,
                                .tokens = 1,
                                .request = &zero,
                                .position = &step,
                                .experts = chosen};
        TRY(packed_trace_add_step(trace, &made));
    }
    return OK;
}

Status bench_trace_make(const BenchShape *shape, uint64_t lookups, PackedTrace *trace)
{
    BenchRouter *router;
    TraceLayer layers[BENCH_MAX_LAYERS] = {0};
    for (uint32_t i = 0; i < shape->layers; i++) {
        layers[i].layer = i;
        layers[i].experts = shape->experts;
        layers[i].top_k = BENCH_TOP_K;
        layers[i].expert_bytes = 1;
    }
    TRY(mem_new(&router, 1, sizeof *router, "bench"));
    bench_router_start(router, shape->layers, shape->experts);
    Status status = packed_trace_new(layers, shape->layers, trace);
    if (status == OK) {
        status = add_steps(router, lookups, trace);
        if (status != OK)
            packed_trace_free(trace);
    }
    mem_free(router);
    return status;
}
