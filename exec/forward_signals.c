/* What the plan's decisions see of an event besides its experts: the numbers that a trace of this
 * very step would give them (traces/signals.h), rounded to f16 as the recorder does. */
#include "exec/forward_parts.h"
#include "base/layout.h"
#include "traces/f16.h"

void forward_lay_out_signals(Forward *forward, Arena *arena)
{
    const ModelConfig *config = forward->config;
    DecisionSignals *signals = &forward->signals;
    size_t experts = config->max_experts;
    size_t per_token = signals->needs.scores ? experts : config->max_top_k;
    if (!signals->needs.scores && signals->needs.distance == 0)
        return;
    signals->halves =
        lay_out(arena, times(forward->max_tokens, per_token), sizeof *signals->halves);
    signals->scores = lay_out(arena, experts, sizeof *signals->scores);
    signals->sums = lay_out(arena, experts, sizeof *signals->sums);
    signals->predicted = lay_out(arena, experts, sizeof *signals->predicted);
    signals->predicted_weights = lay_out(arena, experts, sizeof *signals->predicted_weights);
}

static void add_scores(const Step *step, EventSignals *event)
{
    const Forward *f = step->forward;
    const DecisionSignals *signals = &f->signals;
    uint32_t experts = f->slots.trace_layers[step->moe_layer].experts;
    f16_encode(f->host.scores + step->scored, (size_t)event->tokens * experts, signals->halves);
    signals_mean(signals->halves, event->tokens, experts, signals->scores);
    event->scores = signals->scores;
}

static void add_predictions(const Step *step, EventSignals *event)
{
    const Forward *f = step->forward;
    const DecisionSignals *signals = &f->signals;
    const TraceLayer *target = &f->slots.trace_layers[step->moe_layer + signals->needs.distance];
    size_t at = forward_ahead_at(step, signals->needs.distance);
    size_t ids = (size_t)event->tokens * target->top_k;
    f16_encode(f->ahead.weights + at, ids, signals->halves);
    event->n_predicted =
        signals_predicted(f->ahead.experts + at, signals->halves, ids, target->experts,
                          signals->sums, signals->predicted, signals->predicted_weights);
    event->predicted = signals->predicted;
    event->predicted_weights = signals->predicted_weights;
}

void forward_signals(const Step *step, EventSignals *event)
{
    const Forward *f = step->forward;
    const SignalNeeds *needs = &f->signals.needs;
    *event = (EventSignals){.tokens = step->input->tokens};
    if (needs->requests) {
        event->request = step->input->request;
        event->routing = f->host.experts + step->routed;
    }
    if (needs->scores)
        add_scores(step, event);
    if (forward_ahead_reaches(step, needs->distance))
        add_predictions(step, event);
}
