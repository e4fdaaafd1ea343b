#include "cli/bench_routing.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/splitmix64.h"
#include "traces/layers.h"

void bench_router_start(BenchRouter *router, uint32_t layers, uint32_t experts)
{
    double sum = 0;
    *router = (BenchRouter){.layers = layers, .experts = experts, .random = 1};
    for (uint32_t e = 0; e < experts; e++)
        router->cumulative[e] = sum += pow(e + 1, -0.8);
    for (uint32_t e = 0; e < experts; e++)
        router->cumulative[e] /= sum;
    for (uint32_t l = 0; l < layers; l++)
        for (uint32_t e = 0; e < experts; e++) {
            uint32_t other = (uint32_t)(splitmix64_next(&router->random) % (e + 1));
            router->ranking[l][e] = router->ranking[l][other];
            router->ranking[l][other] = (uint16_t)e;
        }
}

static uint16_t draw_expert(BenchRouter *router, uint32_t layer)
{
    double at = splitmix64_share(&router->random);
    uint32_t low = 0;
    uint32_t high = router->experts - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (router->cumulative[middle] < at)
            low = middle + 1;
        else
            high = middle;
    }
    return router->ranking[layer][low];
}

void bench_router_first(const BenchRouter *router, uint32_t layer, uint16_t *chosen)
{
    memcpy(chosen, router->ranking[layer], BENCH_TOP_K * sizeof *chosen);
}

void bench_router_next(BenchRouter *router, uint32_t layer, uint16_t *chosen)
{
    uint16_t next[BENCH_TOP_K];
    uint32_t n = 0;
    for (uint32_t i = 0; i < BENCH_TOP_K; i++)
        if (splitmix64_next(&router->random) >> 63)
            next[n++] = chosen[i];
    while (n < BENCH_TOP_K) {
        uint16_t expert = draw_expert(router, layer);
        if (!expert_is_among(next, n, expert))
            next[n++] = expert;
    }
    memcpy(chosen, next, sizeof next);
}
