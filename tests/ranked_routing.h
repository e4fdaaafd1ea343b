/* Routing drawn at random for tests of ranks with buffers. */
#ifndef TESTS_RANKED_ROUTING_H
#define TESTS_RANKED_ROUTING_H

#include "tests/small_layers.h"

#include <stdio.h>

#include "policies/plan.h"
#include "tests/plan_maker.h"
#include "traces/packed.h"

enum { STEPS = 40, MOST_TOKENS = 6, TOP_K = 2, MOST_RANKS = 4 };

static void draw_experts(uint64_t *random, uint16_t *experts)
{
    uint32_t among = random_below(random, 2) ? EXPERTS : 4;
    experts[0] = (uint16_t)random_below(random, among);
    experts[1] = (uint16_t)((experts[0] + 1 + random_below(random, among - 1)) % among);
}

typedef struct {
    uint32_t tokens[STEPS];
    uint16_t experts[STEPS][MOE_LAYERS * MOST_TOKENS * TOP_K];
} Routing;

static void draw_routing(uint64_t *random, Routing *routing)
{
    for (uint32_t i = 0; i < STEPS; i++) {
        routing->tokens[i] = random_below(random, 3) ? 1 : 1 + random_below(random, MOST_TOKENS);
        for (uint32_t j = 0; j < MOE_LAYERS * routing->tokens[i]; j++)
            draw_experts(random, routing->experts[i] + j * TOP_K);
    }
}

/* NUMBER[MOE_LAYERS][EXPERTS] are other names for the experts, EXPERT_DROPPED for those that are
 * left out; NULL: the same. */
static void pack(const Routing *routing, const TraceLayer *layers,
                 const uint16_t (*number)[EXPERTS], PackedTrace *packed)
{
    static const uint32_t SAME[MOST_TOKENS] = {0};
    assert_ok(packed_trace_new(layers, MOE_LAYERS, packed));
    for (uint32_t i = 0; i < STEPS; i++) {
        uint16_t experts[MOE_LAYERS * MOST_TOKENS * TOP_K];
        uint32_t each = routing->tokens[i] * TOP_K;
        for (uint32_t j = 0; j < MOE_LAYERS * each; j++)
            experts[j] =
                number != NULL ? number[j / each][routing->experts[i][j]] : routing->experts[i][j];
        const TraceStep step = {.step = i,
                                .phase = PHASE_DECODE,
                                .tokens = routing->tokens[i],
                                .request = SAME,
                                .position = SAME,
                                .experts = experts};
        assert_ok(packed_trace_add_step(packed, &step));
    }
}

/* Of two ranks one has no experts of the second layer, the other none of the third. BUFFER is JSON.
 * Given back with plan_free(). */
static Plan lopsided_plan(const char *buffer)
{
    static const char MAP[] = "{\"1\": [[0], [0], [0], [0], [0], [1], [1], [1], [1], [1]],"
                              " \"2\": [[1], [1], [1], [1], [1], [1], [1], [1], [1], [1]],"
                              " \"3\": [[0], [0], [0], [0], [0], [0], [0], [0], [0], [0]]}";
    char text[1024];
    snprintf(text, sizeof text,
             "{\"moebius_plan\": 1, \"buffer\": %s,"
             " \"placement\": {\"ranks\": 2, \"method\": \"given\", \"map\": %s}}",
             buffer, MAP);
    return good_plan(text);
}

#endif
