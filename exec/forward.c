#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "exec/forward_parts.h"
#include "exec/gating.h"

Status forward_stamp(const Step *step, uint32_t layer, Op op)
{
    Forward *f = step->forward;
    if (!step->input->timing)
        return OK;
    f->stamps.layer[f->stamps.n] = layer;
    f->stamps.op[f->stamps.n++] = op;
    return f->backend->stamp(f->device, f->stamps.n);
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
    return OK;
}

/* Forced routing of all MoE layers of the stack. */
static Status send_forced(const Step *step)
{
    const Forward *f = step->forward;
    const StepInput *input = step->input;
    size_t routed = 0;
    uint32_t first;
    uint32_t end;
    if (input->forced_experts == NULL)
        return OK;
    model_stack(f->config, input->stack, &first, &end);
    for (uint32_t i = first; i < end; i++)
        routed += f->config->layers[i].moe ? (size_t)input->tokens * f->config->layers[i].top_k : 0;
    memcpy(f->host.forced_experts, input->forced_experts, routed * sizeof *f->host.forced_experts);
    TRY(f->backend->send(f->device, f->at.forced_experts, f->host.forced_experts,
                         routed * sizeof *f->host.forced_experts));
    if (input->forced_weights == NULL)
        return OK;
    memcpy(f->host.forced_weights, input->forced_weights, routed * sizeof(float));
    return f->backend->send(f->device, f->at.forced_weights, f->host.forced_weights,
                            routed * sizeof(float));
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
    for (uint32_t layer = first; layer < end; layer++) {
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

/* Norms the rows whose logits are wanted into at.normed; *N_ROWS of them. */
static Status final_norm(const Step *step, uint32_t *n_rows)
{
    const Forward *f = step->forward;
    const uint32_t *picked = NULL;
    *n_rows = step->input->tokens;
    if (step->input->logits == LOGITS_LAST) {
        *n_rows = step->spans.n;
        picked = f->at.picked;
        for (uint32_t i = 0; i < *n_rows; i++)
            f->host.picked[i] = f->host.spans[i].first_token + f->host.spans[i].tokens - 1;
        TRY(f->backend->send(f->device, f->at.picked, f->host.picked,
                             *n_rows * sizeof *f->host.picked));
    }
    return f->backend->norm(f->device, &f->weights.final_norm, f->at.hidden, picked, *n_rows,
                            f->config->d_model, f->at.normed);
}

static Status compute_logits(const Step *step, uint32_t *n_rows)
{
    const Forward *f = step->forward;
    size_t vocabulary = f->config->vocabulary;
    TRY(final_norm(step, n_rows));
    for (uint32_t row = 0; row < *n_rows; row += LOGIT_ROWS) {
        uint32_t n = *n_rows - row < LOGIT_ROWS ? *n_rows - row : LOGIT_ROWS;
        TRY(f->backend->linear(f->device, f->at.normed + (size_t)row * f->config->d_model,
                               &f->weights.head, n, false, f->at.logits));
        TRY(f->backend->fetch(f->device, f->host.logits + row * vocabulary, f->at.logits,
                              n * vocabulary * sizeof(float)));
    }
    return forward_stamp(step, f->config->n_layers - 1, OP_HEAD);
}

static Status check_logits(const Step *step, const float *logits, uint32_t n_rows)
{
    size_t vocabulary = step->forward->config->vocabulary;
    for (uint32_t row = 0; row < n_rows; row++) {
        unsigned nan = 0;
        for (size_t i = 0; i < vocabulary; i++)
            nan |= logits[row * vocabulary + i] != logits[row * vocabulary + i];
        if (!nan)
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

/* With the buffer off nobody asked which experts took part; say it now. */
static void note_event(const Step *step, uint32_t moe_layer, const LayerConfig *config,
                       const uint16_t *experts)
{
    Forward *f = step->forward;
    size_t routed = (size_t)step->input->tokens * config->top_k;
    memset(f->counts, 0, ((size_t)config->experts + 1) * sizeof *f->counts);
    for (size_t i = 0; i < routed; i++)
        if (experts[i] != EXPERT_DROPPED)
            f->counts[experts[i] + 1]++;
    for (uint32_t e = 0; e < config->experts; e++)
        f->counts[e + 1] += f->counts[e];
    expert_slots_note(&f->slots, moe_layer, f->active,
                      gating_active(f->counts, config->experts, f->active));
}

/* Layer by layer, what the host learns of the routing when the step is over. */
static Status check_routing(const Step *step)
{
    const Forward *f = step->forward;
    size_t routed = 0;
    uint32_t moe_layer = 0;
    uint32_t first;
    uint32_t end;
    model_stack(f->config, step->input->stack, &first, &end);
    for (uint32_t i = 0; i < end; i++) {
        const LayerConfig *config = &f->config->layers[i];
        if (!config->moe)
            continue;
        if (i >= first) {
            TRY(check_layer_routing(step, i, f->host.weights + routed));
            if (!f->plan->buffer.on)
                note_event(step, moe_layer, config, f->host.experts + routed);
            routed += (size_t)step->input->tokens * config->top_k;
        }
        moe_layer++;
    }
    return OK;
}

static Status read_stamps(Forward *f, uint64_t wall_offset_ns, StepOutput *output)
{
    Stamps *stamps = &f->stamps;
    TRY(f->backend->stamp_times(f->device, stamps->n + 1, stamps->ns));
    for (uint32_t i = 0; i < stamps->n; i++)
        stamps->records[i] = (TimingRecord){.layer = stamps->layer[i],
                                            .op = stamps->op[i],
                                            .start_ns = stamps->ns[i] + wall_offset_ns,
                                            .duration_ns = stamps->ns[i + 1] - stamps->ns[i]};
    output->timing = stamps->records;
    output->n_timing = stamps->n;
    return OK;
}

static uint32_t moe_layers_of(const ModelConfig *config, Stack stack)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < config->n_layers; i++)
        n += config->layers[i].moe && config->layers[i].stack == stack;
    return n;
}

static Spans make_spans(const Span *host, const Span *device, uint32_t n, uint32_t tokens)
{
    Spans spans = {.host = host, .device = device, .n = n, .tokens = tokens};
    for (uint32_t i = 0; i < n; i++)
        spans.most_keys = host[i].keys > spans.most_keys ? host[i].keys : spans.most_keys;
    return spans;
}

/* A long request turns by the long table, and the whole step with it. */
static const RotaryTable *choose_rotary(const Forward *f, const Spans *spans)
{
    return &f->weights.rotary[spans->most_keys > f->config->rope.original_positions];
}

static Step start_step(Forward *f, const StepInput *input, uint32_t n_spans)
{
    uint32_t before = input->stack == STACK_DECODER ? moe_layers_of(f->config, STACK_ENCODER) : 0;
    Step step = {.forward = f,
                 .input = input,
                 .spans = make_spans(f->host.spans, f->at.spans, n_spans, input->tokens),
                 .moe_layer = before,
                 .first_moe_layer = before,
                 .end_moe_layer = before + moe_layers_of(f->config, input->stack),
                 .next_use = input->next_use,
                 .n_coming = input->n_coming,
                 .coming = input->coming};
    if (input->stack == STACK_DECODER && model_is_encoder_decoder(f->config))
        step.source_spans =
            make_spans(f->host.source_spans, f->at.source_spans, n_spans, input->tokens);
    step.rotary = choose_rotary(f, &step.spans);
    memcpy(f->host.ids, input->token, input->tokens * sizeof *f->host.ids);
    f->stamps.n = 0;
    expert_slots_start_step(&f->slots);
    return step;
}

static Status run(Step *step, uint32_t *n_logits)
{
    Forward *f = step->forward;
    TRY(send_input(step));
    TRY(send_forced(step));
    if (step->input->timing)
        TRY(f->backend->stamp(f->device, 0));
    TRY(embed(step));
    TRY(run_layers(step));
    if (step->input->stack == STACK_ENCODER)
        return end_encoder(step);
    return step->input->logits != LOGITS_NONE ? compute_logits(step, n_logits) : OK;
}

Status forward_step(Forward *f, const StepInput *input, uint32_t n_spans, StepOutput *output)
{
    Step step = start_step(f, input, n_spans);
    uint64_t wall_offset_ns = clock_wall_ns() - clock_ns();
    uint32_t n_logits = 0;
    TRY(run(&step, &n_logits));
    TRY(expert_slots_await_prefetches(&f->slots));
    TRY(f->backend->wait(f->device));
    TRY(check_routing(&step));
    TRY(check_logits(&step, f->host.logits, n_logits));
    TRY(expert_slots_end_step(&f->slots, wall_offset_ns));
    *output = (StepOutput){.experts = f->host.experts,
                           .weights = f->host.weights,
                           .residency = f->slots.residency,
                           .n_residency = f->slots.n_residency,
                           .logits = n_logits > 0 ? f->host.logits : NULL,
                           .n_logits = n_logits,
                           .router_scores = input->scores ? f->host.scores : NULL,
                           .n_distances = f->ahead.recorded,
                           .predicted = f->ahead.experts,
                           .predicted_weights = f->ahead.weights};
    return input->timing ? read_stamps(f, wall_offset_ns, output) : OK;
}
