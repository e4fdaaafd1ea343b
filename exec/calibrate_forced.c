/* Routing that is laid on the steps that are measured. */
#include "base/lcg.h"
#include "exec/calibrate_parts.h"
#include "traces/layers.h"

ForcedLayer forced_layers(const Calibration *c, Stack stack, uint32_t tokens)
{
    uint32_t n_layers;
    const TraceLayer *layers = executor_layers(c->executor, &n_layers);
    return (ForcedLayer){.experts = c->forced,
                         .stack = stack,
                         .tokens = tokens,
                         .next = layers,
                         .end = layers + n_layers};
}

bool forced_next(ForcedLayer *at)
{
    while (at->next < at->end && at->next->stack != at->stack)
        at->next++;
    if (at->next == at->end)
        return false;
    at->layer = at->next++;
    at->experts += at->n_ids;
    at->n_ids = (size_t)at->tokens * at->layer->top_k;
    return true;
}

void calibration_turn_over(Calibration *c, uint32_t tokens, uint32_t active, bool second)
{
    ForcedLayer at = forced_layers(c, STACK_DECODER, tokens);
    while (forced_next(&at))
        for (size_t id = 0; id < at.n_ids; id++)
            at.experts[id] = (uint16_t)(2 * (id % active) + second);
}

static void draw_experts(Calibration *c, const TraceLayer *layer, uint64_t *random,
                         uint16_t *experts)
{
    memset(c->is_coming, 0, layer->experts * sizeof *c->is_coming);
    for (uint32_t k = 0; k < layer->top_k;) {
        uint32_t expert = (uint32_t)(lcg_next(random) >> 33) % layer->experts;
        if (c->is_coming[expert])
            continue;
        c->is_coming[expert] = true;
        experts[k++] = (uint16_t)expert;
    }
}

void calibration_draw(Calibration *c, uint32_t tokens, uint64_t *random)
{
    ForcedLayer at = forced_layers(c, STACK_DECODER, tokens);
    while (forced_next(&at))
        for (uint32_t t = 0; t < tokens; t++)
            draw_experts(c, at.layer, random, at.experts + (size_t)t * at.layer->top_k);
}

void calibration_drop(Calibration *c, uint32_t tokens, uint32_t active)
{
    ForcedLayer at = forced_layers(c, STACK_DECODER, tokens);
    while (forced_next(&at))
        for (size_t id = active; id < at.n_ids; id++)
            if (!expert_is_among(at.experts, active, at.experts[id]))
                at.experts[id] = EXPERT_DROPPED;
}

void calibration_foretell(Calibration *c, uint32_t tokens)
{
    ForcedLayer at = forced_layers(c, STACK_DECODER, tokens);
    uint16_t *coming = c->coming;
    uint16_t *n_coming = c->n_coming;
    while (forced_next(&at)) {
        uint16_t *first = coming;
        memset(c->is_coming, 0, at.layer->experts * sizeof *c->is_coming);
        for (size_t id = 0; id < at.n_ids; id++)
            c->is_coming[at.experts[id]] = true;
        for (uint32_t e = 0; e < at.layer->experts; e++)
            if (c->is_coming[e])
                *coming++ = (uint16_t)e;
        *n_coming++ = (uint16_t)(coming - first);
    }
}
