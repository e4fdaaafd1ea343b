/* Predictions of the routing of layers ahead.
 *
 * When the router of an MoE layer has been asked, the routers of MoE layers further on are applied
 * to the same state: the residual stream as this layer's FFN block finds it, after attention and
 * before the experts, under the norm of the layer that is predicted. Eliseev and Mazur 2023 (Fast
 * inference of MoE language models with offloading, section 3.2) load ahead by this guess, as do
 * AdapMoE (Zhong et al. 2024) and HOBBIT (Tang et al. 2024) over several layers. It reads hidden
 * and writes only what is its own, so the step computes the same numbers with it and without. */
#include "exec/forward_parts.h"
#include "base/layout.h"

static bool is_wanted(const Ahead *ahead, uint32_t distance)
{
    return distance <= ahead->recorded || distance == ahead->decided;
}

/* The most MoE layers ahead that are predicted. */
static uint32_t most_distant(const Ahead *ahead)
{
    return ahead->recorded > ahead->decided ? ahead->recorded : ahead->decided;
}

/* Those that the event is decided by, where the host waits for it. */
static bool is_told(const Step *step, uint32_t distance)
{
    return step->waits && distance == step->forward->ahead.decided;
}

void forward_lay_out_ahead(Forward *forward, size_t routed, Arena *arena)
{
    const ModelConfig *config = forward->config;
    Ahead *ahead = &forward->ahead;
    size_t tokens = forward->max_tokens;
    size_t ids = times(ahead->distances, routed);
    if (ids == 0)
        return;
    ahead->normed = lay_out(arena, times(tokens, config->d_model), sizeof(float));
    ahead->routing.scores = lay_out(arena, times(tokens, config->max_experts), sizeof(float));
    ahead->routing.experts = lay_out(arena, ids, sizeof *ahead->routing.experts);
    ahead->routing.weights = lay_out(arena, ids, sizeof *ahead->routing.weights);
}

void forward_lay_out_ahead_pinned(Forward *forward, size_t routed, Arena *arena)
{
    Ahead *ahead = &forward->ahead;
    size_t ids = times(ahead->distances, routed);
    if (ids == 0)
        return;
    ahead->experts = lay_out(arena, ids, sizeof *ahead->experts);
    ahead->weights = lay_out(arena, ids, sizeof *ahead->weights);
}

/* Applies norm and router of MoE layer TARGET; the AT-th entries on are its, which the host is TOLD
 * when it waits next, or fetches with all others. */
static Status predict_layer(const Step *step, uint32_t target, size_t at, bool told)
{
    const Forward *f = step->forward;
    const Ahead *ahead = &f->ahead;
    const LayerWeights *weights = &f->weights.layers[f->slots.layers[target].layer];
    uint32_t tokens = step->input->tokens;
    size_t routed = (size_t)tokens * weights->router.top_k;
    const Routing routing = {.scores = ahead->routing.scores,
                             .experts = ahead->routing.experts + at,
                             .weights = ahead->routing.weights + at};
    TRY(f->backend->norm(f->device, &weights->ffn_norm, f->at.hidden, NULL, tokens,
                         f->config->d_model, ahead->normed));
    TRY(f->backend->route(f->device, &weights->router, ahead->normed, tokens, NULL, NULL,
                          &routing));
    if (!told)
        return OK;
    TRY(f->backend->tell(f->device, ahead->experts + at, routing.experts,
                         routed * sizeof *ahead->experts));
    return f->backend->tell(f->device, ahead->weights + at, routing.weights,
                            routed * sizeof *ahead->weights);
}

/* Entries of the step's layers before MoE layer INDEX of its stack. */
static size_t routed_before(const Step *step, uint32_t index)
{
    const Forward *f = step->forward;
    size_t routed = 0;
    for (uint32_t i = step->first_moe_layer; i < index; i++)
        routed += (size_t)step->input->tokens * f->slots.trace_layers[i].top_k;
    return routed;
}

size_t forward_ahead_at(const Step *step, uint32_t distance)
{
    return (distance - 1) * routed_before(step, step->end_moe_layer) +
           routed_before(step, step->moe_layer + distance) -
           routed_before(step, step->first_moe_layer + distance);
}

bool forward_ahead_reaches(const Step *step, uint32_t distance)
{
    return distance > 0 && distance < step->end_moe_layer - step->moe_layer;
}

Status forward_predict(const Step *step, uint32_t layer)
{
    const Ahead *ahead = &step->forward->ahead;
    uint32_t distances = most_distant(ahead);
    if (distances == 0)
        return OK;
    for (uint32_t d = 1; d <= distances && forward_ahead_reaches(step, d); d++)
        if (is_wanted(ahead, d))
            TRY(predict_layer(step, step->moe_layer + d, forward_ahead_at(step, d),
                              is_told(step, d)));
    return forward_stamp(step, layer, OP_PREDICT);
}

Status forward_fetch_ahead(const Step *step)
{
    const Forward *f = step->forward;
    const Ahead *ahead = &f->ahead;
    uint32_t layers = step->end_moe_layer - step->first_moe_layer;
    size_t routed = routed_before(step, step->end_moe_layer);
    for (uint32_t d = 1; d <= most_distant(ahead) && d < layers; d++) {
        size_t at = (d - 1) * routed;
        size_t n = routed - routed_before(step, step->first_moe_layer + d);
        if (!is_wanted(ahead, d) || is_told(step, d))
            continue;
        TRY(f->backend->fetch(f->device, ahead->experts + at, ahead->routing.experts + at,
                              n * sizeof *ahead->experts));
        TRY(f->backend->fetch(f->device, ahead->weights + at, ahead->routing.weights + at,
                              n * sizeof *ahead->weights));
    }
    return OK;
}
