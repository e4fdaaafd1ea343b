/* The made-up routing of the benchmarks of replays. */
#ifndef CLI_BENCH_TRACE_H
#define CLI_BENCH_TRACE_H

#include "traces/packed.h"

typedef struct {
    const char *name;
    uint32_t layers;
    uint32_t experts;
} BenchShape;

enum { BENCH_SHAPES = 2 };

extern const BenchShape BENCH_SHAPE[BENCH_SHAPES];

/* One-token steps of SHAPE, top-8, of so many LOOKUPS at least. */
Status bench_trace_make(const BenchShape *shape, uint64_t lookups, PackedTrace *trace);

#endif
