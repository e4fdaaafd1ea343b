#include "exec/routing_skew.h"

#include <math.h>

#include "base/splitmix64.h"
#include "base/layout.h"
#include "traces/layers.h"

/* After so many draws of experts that the token has already, the others are looked through. */
enum { MOST_REJECTED = 32 };

/* 0 to below 1 */
static double next_fraction(uint64_t *state)
{
    *state = splitmix64_mix(*state);
    return (double)(*state >> 11) * 0x1p-53;
}

static void lay_out_skew(RoutingSkew *skew)
{
    Arena *arena = &skew->arena;
    skew->order = lay_out(arena, skew->n_layers, sizeof *skew->order);
    skew->below = lay_out(arena, skew->n_layers, sizeof *skew->below);
    for (uint32_t i = 0; i < skew->n_layers; i++) {
        size_t experts = skew->layers[i].experts;
        uint16_t *order = lay_out(arena, experts, sizeof *order);
        double *below = lay_out(arena, experts + 1, sizeof *below);
        if (skew->order == NULL)
            continue;
        skew->order[i] = order;
        skew->below[i] = below;
    }
}

/* A random order (Fisher and Yates), another for each layer. */
static void shuffle(uint64_t state, uint32_t experts, uint16_t *order)
{
    for (uint32_t i = 0; i < experts; i++) {
        uint32_t j = (uint32_t)(next_fraction(&state) * (i + 1));
        order[i] = order[j];
        order[j] = (uint16_t)i;
    }
}

Status routing_skew_open(double s, const TraceLayer *layers, uint32_t n_layers, uint64_t seed,
                         RoutingSkew *skew)
{
    *skew = (RoutingSkew){.layers = layers, .n_layers = n_layers, .seed = seed};
    lay_out_skew(skew);
    TRY(arena_commit(&skew->arena, "routing: skew"));
    lay_out_skew(skew);
    for (uint32_t i = 0; i < n_layers; i++) {
        shuffle(splitmix64_mix(seed ^ splitmix64_mix(i)), layers[i].experts, skew->order[i]);
        for (uint32_t r = 0; r < layers[i].experts; r++)
            skew->below[i][r + 1] = skew->below[i][r] + pow(r + 1, -s);
    }
    return OK;
}

void routing_skew_close(RoutingSkew *skew)
{
    arena_free(&skew->arena);
    *skew = (RoutingSkew){0};
}

/* The place whose share of the weight WANTED lies in. */
static uint32_t place_of(const double *below, uint32_t experts, double wanted)
{
    uint32_t low = 0;
    uint32_t high = experts;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (below[middle] <= wanted)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The same draw when most of the weight is gone: from what is left, place by place. */
static uint16_t draw_from_rest(const RoutingSkew *skew, uint32_t layer_index, double fraction,
                               const uint16_t *experts, uint32_t n)
{
    const uint16_t *order = skew->order[layer_index];
    const double *below = skew->below[layer_index];
    uint32_t count = skew->layers[layer_index].experts;
    double left = 0;
    uint16_t last = 0;
    for (uint32_t r = 0; r < count; r++)
        left += expert_is_among(experts, n, order[r]) ? 0 : below[r + 1] - below[r];
    left *= fraction;
    for (uint32_t r = 0; r < count; r++) {
        if (expert_is_among(experts, n, order[r]))
            continue;
        last = order[r];
        left -= below[r + 1] - below[r];
        if (left < 0)
            break;
    }
    return last;
}

void routing_skew_draw(const RoutingSkew *skew, uint32_t layer_index, uint32_t request,
                       uint32_t position, uint16_t *experts)
{
    const TraceLayer *layer = &skew->layers[layer_index];
    const double *below = skew->below[layer_index];
    uint64_t state =
        splitmix64_mix(skew->seed + 1) ^ splitmix64_mix(((uint64_t)request << 32) + position);
    state = splitmix64_mix(state ^ splitmix64_mix(~(uint64_t)layer_index));
    for (uint32_t n = 0; n < layer->top_k; n++) {
        uint32_t rejected = 0;
        uint16_t expert;
        do {
            double wanted = next_fraction(&state) * below[layer->experts];
            expert = skew->order[layer_index][place_of(below, layer->experts, wanted)];
        } while (expert_is_among(experts, n, expert) && ++rejected < MOST_REJECTED);
        if (rejected == MOST_REJECTED)
            expert = draw_from_rest(skew, layer_index, next_fraction(&state), experts, n);
        experts[n] = expert;
    }
}
