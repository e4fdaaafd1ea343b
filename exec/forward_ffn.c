/* The feed-forward blocks: dense, of experts, shared. */
#include "base/clock.h"
#include "exec/forward_parts.h"
#include "exec/gating.h"

/* hidden += second(inside(first normed)), the inside weighted by sigmoid(GATES) unless NULL. */
static Status dense_ffn(const Step *step, const FfnShape *shape, const FfnWeights *weights,
                        const float *gates)
{
    const Forward *f = step->forward;
    uint32_t tokens = step->input->tokens;
    const DenseFfn ffn = {.shape = shape,
                          .first = &weights->first,
                          .second = &weights->second,
                          .gates = gates,
                          .hidden = f->at.ffn_hidden,
                          .inside = f->at.ffn_inside};
    return f->backend->ffn(f->device, &ffn, f->at.normed, tokens, f->at.hidden);
}

static Status shared_experts(const Step *step, uint32_t layer)
{
    const Forward *f = step->forward;
    const LayerConfig *config = &f->config->layers[layer];
    const LayerWeights *weights = &f->weights.layers[layer];
    const float *gates = NULL;
    if (config->shared_gate) {
        TRY(f->backend->linear(f->device, f->at.normed, &weights->shared_gate, step->input->tokens,
                               false, f->at.gates));
        gates = f->at.gates;
    }
    TRY(dense_ffn(step, &config->shared, &weights->shared, gates));
    return forward_stamp(step, layer, OP_SHARED_EXPERTS);
}

/* Rows that an expert takes at the most; 0: no limit. The plan's static gating goes before what the
 * model itself says. */
static uint32_t capacity_of(const Step *step, const RouterConfig *router)
{
    uint32_t tokens = step->input->tokens;
    uint32_t capacity = gating_capacity(step->forward->plan, tokens);
    return capacity == 0 && router->capacity > 0 ? gating_share(router->capacity, tokens)
                                                 : capacity;
}

/* The layer's part of the step's routing on the device. */
static Routing routing_of(const Step *step)
{
    const Activations *at = &step->forward->at;
    return (Routing){.scores = at->scores,
                     .experts = at->experts + step->routed,
                     .weights = at->route_weights + step->routed};
}

/* What goes to the host before the next layer's routing takes its place, or before the decisions on
 * this event: of the ids, those that they ask for. */
static Status fetch_event(const Step *step, const LayerConfig *config, const Routing *routing)
{
    const Forward *f = step->forward;
    const ForwardHost *host = &f->host;
    size_t tokens = step->input->tokens;
    if (step->input->scores || f->signals.needs.scores)
        TRY(f->backend->fetch(f->device, host->scores + step->scored, routing->scores,
                              tokens * config->experts * sizeof *host->scores));
    if (!step->waits)
        return OK;
    if (buffer_needs_touches(f->slots.decisions) || f->signals.needs.requests)
        TRY(f->backend->tell(f->device, host->experts + step->routed, routing->experts,
                             tokens * config->top_k * sizeof *host->experts));
    return f->backend->tell(f->device, forward_groups_of(host->row_groups, f, step->moe_layer),
                            forward_groups_of(f->at.row_groups, f, step->moe_layer),
                            ((size_t)config->experts + 1) * sizeof *host->row_groups);
}

/* Norms; asks the router, or puts forced routing in its place; drops what is over CAPACITY; groups
 * the rows by expert. */
static Status route(const Step *step, uint32_t layer, uint32_t capacity, const Routing *routing,
                    const RowGroups *groups)
{
    const Forward *f = step->forward;
    const StepInput *input = step->input;
    const LayerConfig *config = &f->config->layers[layer];
    const LayerWeights *weights = &f->weights.layers[layer];
    const MoeEntry entry = {
        .shape = &config->ffn,
        .norm = &weights->ffn_norm,
        .in = f->at.hidden,
        .normed = f->at.normed,
        .tokens = input->tokens,
        .router = &weights->router,
        .forced = input->forced_experts != NULL ? f->at.forced_experts + step->routed : NULL,
        .forced_weights =
            input->forced_weights != NULL ? f->at.forced_weights + step->routed : NULL,
        .capacity = capacity,
        .normalise_kept = config->router.normalise_kept,
        .routing = *routing,
        .groups = *groups};
    TRY(f->backend->enter_moe(f->device, &entry));
    TRY(fetch_event(step, config, routing));
    return forward_stamp(step, layer, OP_ROUTE);
}

/* The host must know the event's experts to decide what to load. */
static Status buffered_experts(Step *step, const ExpertBatch *batch)
{
    Forward *f = step->forward;
    EventSignals signals;
    ExpertEvent event = forward_event(step, &signals);
    event.batch = batch;
    event.in = f->at.normed;
    event.out = f->at.expert_out;
    HostEvent *note = &f->notes.events[f->notes.n_events++];
    *note = (HostEvent){.layer = f->slots.layers[step->moe_layer].layer,
                        .first_load = f->slots.n_loads};
    forward_release(step);
    uint64_t start_ns = clock_ns();
    if (f->plan->compute.mode != COMPUTE_ON_GPU)
        TRY(f->backend->offer_host(f->device, batch, f->at.normed));
    TRY(expert_slots_wait(&f->slots));
    note->wait = forward_span(start_ns);
    uint64_t woken_ns = clock_ns();
    forward_signals(step, &signals);
    TRY(expert_slots_run(&f->slots, &event, &note->active));
    note->decide = (HostSpan){woken_ns, f->slots.decided_ns - woken_ns};
    note->n_loads = f->slots.n_loads - note->first_load;
    forward_next_event(step, note->active);
    return OK;
}

/* The experts of BATCH and the weighted sum of what they give, added to the hidden state. */
static Status run_experts(Step *step, uint32_t layer, const ExpertBatch *batch)
{
    const Forward *f = step->forward;
    float scale = f->config->layers[layer].router.output_scale;
    if (batch->capacity > 0) {
        TRY(f->backend->run_static(f->device, batch, scale, f->at.normed, f->at.expert_out,
                                   f->at.hidden));
        return forward_stamp(step, layer, OP_EXPERTS);
    }
    if (step->waits)
        TRY(buffered_experts(step, batch));
    else
        TRY(f->backend->run_experts(f->device, batch, NULL, 0, f->at.normed, f->at.expert_out));
    TRY(forward_stamp(step, layer, OP_EXPERTS));
    TRY(forward_hold(step));
    TRY(f->backend->combine(f->device, batch, scale, f->at.expert_out, f->at.hidden));
    return forward_stamp(step, layer, OP_COMBINE);
}

/* hidden += sum of the experts' outputs, weighted */
static Status moe_ffn(Step *step, uint32_t layer)
{
    Forward *f = step->forward;
    const LayerConfig *config = &f->config->layers[layer];
    const LayerSlots *slots = &f->slots.layers[step->moe_layer];
    uint32_t tokens = step->input->tokens;
    uint32_t capacity = capacity_of(step, &config->router);
    bool padded = gating_capacity(f->plan, tokens) > 0 && !f->plan->buffer.on;
    const ExpertBatch batch = {
        .shape = &config->ffn,
        .tokens = tokens,
        .top_k = config->top_k,
        .n_experts = config->experts,
        .capacity = padded ? capacity : 0,
        .mask = padded && f->plan->gating.dispatch == DISPATCH_MASK,
        .routing = routing_of(step),
        .groups = {forward_groups_of(f->at.row_groups, f, step->moe_layer), f->at.group_rows},
        .slots = slots->slots,
        .slot_stride = slots->slot_stride,
        .placed = slots->placed};
    TRY(route(step, layer, capacity, &batch.routing, &batch.groups));
    TRY(forward_predict(step, layer));
    TRY(run_experts(step, layer, &batch));
    if (config->shared.d_ff > 0)
        TRY(shared_experts(step, layer));
    step->routed += (size_t)tokens * config->top_k;
    step->scored += (size_t)tokens * config->experts;
    step->moe_layer++;
    return OK;
}

Status forward_ffn(Step *step, uint32_t layer)
{
    const Forward *f = step->forward;
    if (f->config->layers[layer].moe)
        return moe_ffn(step, layer);
    TRY(f->backend->norm(f->device, &f->weights.layers[layer].ffn_norm, f->at.hidden, NULL,
                         step->input->tokens, f->config->d_model, f->at.normed));
    TRY(forward_stamp(step, layer, OP_FFN_NORM));
    TRY(dense_ffn(step, &f->config->layers[layer].ffn, &f->weights.layers[layer].dense, NULL));
    return forward_stamp(step, layer, OP_DENSE_FFN);
}
