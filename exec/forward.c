#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "exec/forward_parts.h"
#include "exec/gating.h"

/* Entries of the stack's routing. */
static size_t count_routed(const ModelConfig *config, const StepInput *input)
{
    return input->tokens * model_stack_routed(config, input->stack);
}

/* The step's inputs, where the device copies them from. */
static void put_input(const Step *step)
{
    const Forward *f = step->forward;
    const StepInput *input = step->input;
    const ForwardHost *host = &f->host;
    size_t routed = count_routed(f->config, input);
    memcpy(host->ids, input->token, input->tokens * sizeof *host->ids);
    if (input->logits == LOGITS_LAST)
        for (uint32_t i = 0; i < step->spans.n; i++)
            host->picked[i] = host->spans[i].first_token + host->spans[i].tokens - 1;
    if (input->forced_experts != NULL)
        memcpy(host->forced_experts, input->forced_experts, routed * sizeof *host->forced_experts);
    if (input->forced_experts != NULL && input->forced_weights != NULL)
        memcpy(host->forced_weights, input->forced_weights, routed * sizeof *host->forced_weights);
}

/* Forced routing of all MoE layers of the stack. */
static Status send_forced(const Step *step)
{
    const Forward *f = step->forward;
    const StepInput *input = step->input;
    size_t routed = count_routed(f->config, input);
    if (input->forced_experts == NULL)
        return OK;
    TRY(f->backend->send(f->device, f->at.forced_experts, f->host.forced_experts,
                         routed * sizeof *f->host.forced_experts));
    if (input->forced_weights == NULL)
        return OK;
    return f->backend->send(f->device, f->at.forced_weights, f->host.forced_weights,
                            routed * sizeof *f->host.forced_weights);
}

/* The step's inputs on their way to the device. */
static Status send_input(const Step *step)
{
    const Forward *f = step->forward;
    const Backend *backend = f->backend;
    const ForwardHost *host = &f->host;
    size_t tokens = step->input->tokens;
    size_t n_spans = step->spans.n;
    TRY(backend->send(f->device, f->at.ids, host->ids, tokens * sizeof *host->ids));
    TRY(backend->send(f->device, f->at.spans, host->spans, n_spans * sizeof *host->spans));
    if (model_adds_positions(f->config))
        TRY(backend->send(f->device, f->at.places, host->places, tokens * sizeof *host->places));
    if (step->source_spans.n > 0)
        TRY(backend->send(f->device, f->at.source_spans, host->source_spans,
                          n_spans * sizeof *host->source_spans));
    if (step->input->logits == LOGITS_LAST)
        TRY(backend->send(f->device, f->at.picked, host->picked, n_spans * sizeof *host->picked));
    return send_forced(step);
}

static Status embed(const Step *step)
{
    const Forward *f = step->forward;
    TRY(f->backend->embed(f->device, &f->weights.embedding, f->at.ids, step->input->tokens,
                          f->config->embedding_scale, f->weights.positions, f->at.places,
                          f->at.hidden));
    return forward_stamp(step, 0, OP_EMBED);
}

static Status run_layers(Step *step)
{
    uint32_t first;
    uint32_t end;
    model_stack(step->forward->config, step->input->stack, &first, &end);
    for (uint32_t layer = first; layer < end && layer - first < step->n_layers; layer++) {
        TRY(forward_attention(step, layer));
        if (step->forward->config->layers[layer].cross)
            TRY(forward_cross_attention(step, layer));
        TRY(forward_ffn(step, layer));
    }
    return OK;
}

/* The last norm of the encoder, and what the decoder needs of its output. */
static Status end_encoder(const Step *step)
{
    const Forward *f = step->forward;
    TRY(f->backend->norm(f->device, &f->weights.encoder_norm, f->at.hidden, NULL,
                         step->input->tokens, f->config->d_model, f->at.normed));
    return forward_fill_cross_caches(step);
}

/* What the host gets of N rows of logits, from ROW of the step's on: a token each, or all. */
static Status end_logits(const Step *step, uint32_t row, uint32_t n)
{
    const Forward *f = step->forward;
    size_t vocabulary = f->config->vocabulary;
    uint32_t *found = f->at.found + 1 + row;
    if (step->input->greedy)
        return f->backend->find_best(f->device, f->at.logits, n, (uint32_t)vocabulary, found);
    TRY(f->backend->find_nan(f->device, f->at.logits, n, vocabulary, found));
    return f->backend->fetch(f->device, f->host.logits + row * vocabulary, f->at.logits,
                             n * vocabulary * sizeof(float));
}

static Status compute_logits(const Step *step)
{
    const Forward *f = step->forward;
    const uint32_t *picked = step->input->logits == LOGITS_LAST ? f->at.picked : NULL;
    TRY(f->backend->norm(f->device, &f->weights.final_norm, f->at.hidden, picked, step->n_logits,
                         f->config->d_model, f->at.normed));
    for (uint32_t row = 0; row < step->n_logits; row += LOGIT_ROWS) {
        uint32_t n = step->n_logits - row < LOGIT_ROWS ? step->n_logits - row : LOGIT_ROWS;
        TRY(f->backend->linear(f->device, f->at.normed + (size_t)row * f->config->d_model,
                               &f->weights.head, n, false, f->at.logits));
        TRY(end_logits(step, row, n));
    }
    return forward_stamp(step, f->config->n_layers - 1, OP_HEAD);
}

static Status check_logits(const Step *step)
{
    for (uint32_t row = 0; row < step->n_logits; row++) {
        if (step->forward->host.found[1 + row] != (step->input->greedy ? UINT32_MAX : 1))
            continue;
        const Span *span = &step->spans.host[step->input->logits == LOGITS_ALL ? 0 : row];
        uint32_t token =
            step->input->logits == LOGITS_ALL ? row : span->first_token + span->tokens - 1;
        return fail(ERR_INPUT,
                    "output head: token %u of the step, position %u: the logits are not numbers "
                    "(NaN)",
                    token, step->input->position[token]);
    }
    return OK;
}

static Status check_layer_routing(const Step *step, uint32_t layer, const float *weights)
{
    uint32_t top_k = step->forward->config->layers[layer].top_k;
    for (uint32_t i = 0; i < step->input->tokens; i++)
        if (isnan(weights[(size_t)i * top_k]))
            return fail(ERR_INPUT,
                        "layer %u: token %u of the step, position %u: the router's "
                        "probabilities are not numbers (NaN)",
                        layer, i, step->input->position[i]);
    return OK;
}

uint32_t *forward_groups_of(uint32_t *row_groups, const Forward *forward, uint32_t moe_layer)
{
    return row_groups + moe_layer * ((size_t)forward->config->max_experts + 1);
}

ExpertEvent forward_event(const Step *step, const EventSignals *signals)
{
    const Forward *f = step->forward;
    size_t top_k = f->slots.trace_layers[step->moe_layer].top_k;
    return (ExpertEvent){.layer_index = step->moe_layer,
                         .first = forward_groups_of(f->host.row_groups, f, step->moe_layer),
                         .experts = f->host.experts + step->routed,
                         .n_ids = step->input->tokens * top_k,
                         .next_use = step->next_use,
                         .n_coming = step->n_coming,
                         .coming = step->coming,
                         .signals = signals};
}

void forward_next_event(Step *step, uint32_t n_active)
{
    if (step->next_use != NULL)
        step->next_use += n_active;
    if (step->coming != NULL) {
        step->coming += n_active;
        step->n_coming++;
    }
}

/* Where nobody waited for an event's counts, it is noted now. */
static void note_event(Step *step)
{
    Forward *f = step->forward;
    EventSignals signals;
    const ExpertEvent event = forward_event(step, &signals);
    forward_signals(step, &signals);
    forward_next_event(step, expert_slots_note(&f->slots, &event));
}

/* Layer by layer, what the host learns of the routing when the step is over. */
static Status check_routing(Step *step)
{
    const Forward *f = step->forward;
    step->routed = 0;
    step->scored = 0;
    for (step->moe_layer = step->first_moe_layer; step->moe_layer < step->end_moe_layer;
         step->moe_layer++) {
        const TraceLayer *layer = &f->slots.trace_layers[step->moe_layer];
        if (f->host.found[0])
            TRY(check_layer_routing(step, layer->layer, f->host.weights + step->routed));
        if (!step->waits)
            note_event(step);
        step->routed += (size_t)step->input->tokens * layer->top_k;
        step->scored += (size_t)step->input->tokens * layer->experts;
    }
    return OK;
}

static uint32_t moe_layers_of(const ModelConfig *config, Stack stack)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < config->n_layers; i++)
        n += config->layers[i].moe && config->layers[i].stack == stack;
    return n;
}

/* Keys are counted in such steps, so that a request that grows keeps the shape of its steps, and
 * beyond the room of a request, so that its numbers and its time do not depend on that. */
enum { KEYS_AT_ONCE = 256 };

static uint32_t round_keys(uint32_t keys)
{
    return (keys + KEYS_AT_ONCE - 1) / KEYS_AT_ONCE * KEYS_AT_ONCE;
}

static uint32_t most_keys(const Span *spans, uint32_t n)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++)
        most = spans[i].keys > most ? spans[i].keys : most;
    return most;
}

static Spans make_spans(const Span *host, const Span *device, uint32_t n, uint32_t tokens)
{
    return (Spans){.host = host,
                   .device = device,
                   .n = n,
                   .tokens = tokens,
                   .most_keys = round_keys(most_keys(host, n))};
}

/* A long request turns by the long table, and the whole step with it. */
static bool turns_long(const Forward *f, uint32_t n_spans)
{
    return most_keys(f->host.spans, n_spans) > f->config->rope.original_positions;
}

static uint32_t count_logits(const StepInput *input, uint32_t n_spans)
{
    if (input->logits == LOGITS_NONE)
        return 0;
    return input->logits == LOGITS_LAST ? n_spans : input->tokens;
}

static Step start_step(Forward *f, const StepInput *input, uint32_t n_spans)
{
    uint32_t before = input->stack == STACK_DECODER ? moe_layers_of(f->config, STACK_ENCODER) : 0;
    Step step = {.forward = f,
                 .input = input,
                 .n_layers = f->config->n_layers,
                 .n_logits = count_logits(input, n_spans),
                 .ops = &f->stamps.lists[input->stack][input->logits != LOGITS_NONE],
                 .spans = make_spans(f->host.spans, f->at.spans, n_spans, input->tokens),
                 .rotary = &f->weights.rotary[turns_long(f, n_spans)],
                 .moe_layer = before,
                 .first_moe_layer = before,
                 .end_moe_layer = before + moe_layers_of(f->config, input->stack),
                 .next_use = input->next_use,
                 .n_coming = input->n_coming,
                 .coming = input->coming};
    if (input->stack == STACK_DECODER && model_is_encoder_decoder(f->config))
        step.source_spans =
            make_spans(f->host.source_spans, f->at.source_spans, n_spans, input->tokens);
    return step;
}

/* Large routings go to another place each time, small ones always to the same. */
static bool is_large(const Step *step)
{
    return count_routed(step->forward->config, step->input) >= LARGE_ROUTING;
}

static void choose_place(const Step *step)
{
    Forward *f = step->forward;
    const HostRouting *place =
        is_large(step) ? &f->host.large[f->large_steps++ % ROUTINGS_KEPT] : &f->host.small;
    f->host.experts = place->experts;
    f->host.weights = place->weights;
}

static Status fetch_choices(const Step *step)
{
    const Forward *f = step->forward;
    size_t routed = count_routed(f->config, step->input);
    TRY(f->backend->fetch(f->device, f->host.experts, f->at.experts,
                          routed * sizeof *f->host.experts));
    return f->backend->fetch(f->device, f->host.weights, f->at.route_weights,
                             routed * sizeof *f->host.weights);
}

/* What the host learns of the routing of all layers, in one copy each; large ones are fetched
 * outside of what the backend repeats. */
static Status fetch_routing(const Step *step)
{
    const Forward *f = step->forward;
    size_t groups =
        (step->end_moe_layer - step->first_moe_layer) * ((size_t)f->config->max_experts + 1);
    TRY(f->backend->find_nan(f->device, f->at.route_weights, 1, step->routed, f->at.found));
    TRY(f->backend->fetch(f->device, f->host.found, f->at.found,
                          ((size_t)step->n_logits + 1) * sizeof *f->host.found));
    TRY(forward_fetch_ahead(step));
    if (!is_large(step))
        TRY(fetch_choices(step));
    return f->backend->fetch(f->device,
                             forward_groups_of(f->host.row_groups, f, step->first_moe_layer),
                             forward_groups_of(f->at.row_groups, f, step->first_moe_layer),
                             groups * sizeof *f->host.row_groups);
}

static Status queue_step(Step *step)
{
    TRY(send_input(step));
    TRY(forward_begin_notes(step));
    TRY(embed(step));
    TRY(run_layers(step));
    if (step->input->stack == STACK_ENCODER)
        TRY(end_encoder(step));
    if (step->n_logits > 0)
        TRY(compute_logits(step));
    return fetch_routing(step);
}

/* All that queue_step() goes by, where it does not wait. */
static StepShape shape_of(const Step *step)
{
    const Forward *f = step->forward;
    const StepInput *input = step->input;
    const uint32_t bits[] = {input->logits == LOGITS_LAST,
                             input->logits == LOGITS_ALL,
                             input->timing,
                             input->scores,
                             input->forced_experts != NULL,
                             input->forced_weights != NULL,
                             step->rotary == &f->weights.rotary[1],
                             input->greedy};
    uint32_t variant = 0;
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
        variant |= bits[i] << i;
    return (StepShape){.stack = input->stack,
                       .tokens = input->tokens,
                       .spans = step->spans.n,
                       .most_keys = step->spans.most_keys,
                       .most_source_keys = step->source_spans.most_keys,
                       .variant = variant};
}

/* Queues the step, or has the backend repeat one like it. */
static Status queue_whole(Step *step)
{
    const Forward *f = step->forward;
    const StepShape shape = shape_of(step);
    Step noted = *step;
    bool again;
    TRY(f->backend->begin_step(f->device, &shape, &step->repeated));
    Status status = step->repeated ? OK : queue_step(step);
    Status ended = f->backend->end_step(f->device, status == OK, &again);
    if (!again)
        return status != OK ? status : ended;
    status = queue_step(&noted);
    ended = f->backend->end_step(f->device, status == OK, &again);
    return status != OK ? status : ended;
}

static Status queue_and_wait(Step *step)
{
    Forward *f = step->forward;
    uint64_t start_ns = clock_ns();
    Status status = step->waits ? queue_step(step) : queue_whole(step);
    forward_release(step);
    TRY(status);
    if (is_large(step))
        TRY(fetch_choices(step));
    TRY(expert_slots_await_prefetches(&f->slots));
    f->notes.queue = forward_span(start_ns);
    start_ns = clock_ns();
    TRY(f->backend->wait(f->device));
    f->notes.wait = forward_span(start_ns);
    return OK;
}

Status forward_warm_up(Forward *f, const StepInput *input, uint32_t n_spans, uint32_t layers)
{
    Step step = start_step(f, input, n_spans);
    step.n_layers = layers;
    put_input(&step);
    choose_place(&step);
    TRY(queue_step(&step));
    return f->backend->wait(f->device);
}

/* A shape that comes again is captured, whatever ran when it came first: here nothing does. */
static Status capture_as(const Step *step, const StepShape *shape)
{
    const Forward *f = step->forward;
    bool repeated;
    bool again = false;
    for (int i = 0; i < 2; i++) {
        TRY(f->backend->begin_step(f->device, shape, &repeated));
        TRY(f->backend->end_step(f->device, true, &again));
    }
    if (!again)
        return OK;
    Step noted = *step;
    Status status = queue_step(&noted);
    Status ended = f->backend->end_step(f->device, status == OK, &again);
    return status != OK ? status : ended;
}

Status forward_warm_up_graphs(Forward *f, const StepInput *input, uint32_t n_spans, uint32_t n)
{
    const Step step = start_step(f, input, n_spans);
    StepShape shape = shape_of(&step);
    choose_place(&step);
    for (uint32_t i = 0; i < n; i++) {
        shape.variant = UINT32_MAX - i; /* of no step */
        TRY(capture_as(&step, &shape));
    }
    TRY(f->backend->wait(f->device));
    return f->backend->begin_anew(f->device, expert_slots_max_loads(&f->slots));
}

Status forward_step(Forward *f, const StepInput *input, uint32_t n_spans, StepOutput *output)
{
    Step step = start_step(f, input, n_spans);
    uint64_t wall_offset_ns = clock_wall_ns() - clock_ns();
    TRY(expert_slots_start_step(&f->slots, &step.waits));
    put_input(&step);
    choose_place(&step);
    f->notes.n_events = 0;
    TRY(queue_and_wait(&step));
    TRY(check_routing(&step));
    TRY(check_logits(&step));
    TRY(expert_slots_end_step(&f->slots, wall_offset_ns));
    *output = (StepOutput){.kept_for = is_large(&step) ? ROUTINGS_KEPT : 1,
                           .experts = f->host.experts,
                           .weights = f->host.weights,
                           .residency = f->slots.residency,
                           .n_residency = f->slots.n_residency,
                           .logits = step.n_logits > 0 && !input->greedy ? f->host.logits : NULL,
                           .n_logits = step.n_logits,
                           .best = input->greedy ? f->host.found + 1 : NULL,
                           .router_scores = input->scores ? f->host.scores : NULL,
                           .n_distances = f->ahead.recorded,
                           .predicted = f->ahead.experts,
                           .predicted_weights = f->ahead.weights};
    forward_read_notes(&step, wall_offset_ns, output);
    if (!input->timing)
        return OK;
    return forward_read_stamps(&step, wall_offset_ns, output);
}
