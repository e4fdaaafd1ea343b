/* Made-up routing that is like a model's: some experts are asked more often than others, and those
 * of the token before are asked again. */
#ifndef CLI_BENCH_ROUTING_H
#define CLI_BENCH_ROUTING_H

#include <stdint.h>

enum { BENCH_TOP_K = 8, BENCH_MAX_LAYERS = 64, BENCH_MAX_EXPERTS = 256 };

/* Zipf with exponent 0.8 over a ranking of each layer's own; an expert of the step before is kept
 * with probability 0.5. */
typedef struct {
    uint32_t layers;
    uint32_t experts;
    double cumulative[BENCH_MAX_EXPERTS];
    uint16_t ranking[BENCH_MAX_LAYERS][BENCH_MAX_EXPERTS];
    uint64_t random;
} BenchRouter;

void bench_router_start(BenchRouter *router, uint32_t layers, uint32_t experts);
/* What a sequence had before its first token: CHOSEN[BENCH_TOP_K] of LAYER. */
void bench_router_first(const BenchRouter *router, uint32_t layer, uint16_t *chosen);
/* The experts of a sequence's next token, in the place of those of the one before. */
void bench_router_next(BenchRouter *router, uint32_t layer, uint16_t *chosen);

#endif
