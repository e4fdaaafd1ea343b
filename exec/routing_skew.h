/* Experts drawn at random, with a zipf skew or none. */
#ifndef EXEC_ROUTING_SKEW_H
#define EXEC_ROUTING_SKEW_H

#include "base/memory.h"
#include "traces/trace.h"

typedef struct {
    const TraceLayer *layers; /* [n_layers] */
    uint32_t n_layers;
    uint64_t seed;
    uint16_t **order; /* [n_layers][experts]: the expert in each place */
    double **below;   /* [n_layers][experts + 1]: weight of the places before each */
    Arena arena;
} RoutingSkew;

/* SKEW's exponent is S; 0: none. SKEW must be zeroed, and routing_skew_close() is due in any case.
 */
Status routing_skew_open(double s, const TraceLayer *layers, uint32_t n_layers, uint64_t seed,
                         RoutingSkew *skew);
void routing_skew_close(RoutingSkew *skew);
/* The top_k different experts of one token in layer LAYER_INDEX. */
void routing_skew_draw(const RoutingSkew *skew, uint32_t layer_index, uint32_t request,
                       uint32_t position, uint16_t *experts);

#endif
