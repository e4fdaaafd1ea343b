#include "traces/recorder_check.h"

#include <inttypes.h>
#include <string.h>

#include "traces/layers.h"

Status recorder_check_options(const char *path, const RecorderOptions *options)
{
    if (options->ring_slots > 1u << 20)
        return fail(ERR_INPUT, "%s: ring_slots: %" PRIu32 ", allowed is 0 to %u", path,
                    options->ring_slots, 1u << 20);
    if (options->transaction_ns > (uint64_t)INT64_MAX / 2)
        return fail(ERR_INPUT, "%s: transaction_ns: %" PRIu64 " is too long", path,
                    options->transaction_ns);
    return OK;
}

Status recorder_check_head(const char *path, const TraceLayer *layers, uint32_t n_layers)
{
    TRY(layers_check(path, layers, n_layers, ERR_INPUT));
    for (uint32_t i = 0; i < n_layers; i++) {
        const TraceLayer *layer = &layers[i];
        if (memchr(layer->name, '\0', sizeof layer->name) == NULL ||
            memchr(layer->gate, '\0', sizeof layer->gate) == NULL)
            return fail(ERR_INPUT, "%s: layer %u: a text has no end", path, layer->layer);
        if (layer->expert_bytes > INT64_MAX)
            return fail(ERR_INPUT, "%s: layer %u: expert_bytes: %" PRIu64 " is too large", path,
                        layer->layer, layer->expert_bytes);
    }
    return OK;
}

static Status check_predictions(const char *path, const TraceLayer *layers, StackSpan span,
                                const TraceStep *step)
{
    size_t stride = (size_t)step->tokens * span.top_k;
    for (uint32_t d = 1; d <= step->n_distances && d < span.count; d++)
        TRY(layers_check_experts(path, layers, layers_ahead(layers, span, d), step->step,
                                 step->tokens, step->predicted + (d - 1) * stride, ERR_INPUT));
    return OK;
}

Status recorder_check_step(const char *path, const TraceLayer *layers, const StackSpan *spans,
                           const TraceStep *step, bool lent, size_t n_residency, size_t n_timing)
{
    const uint64_t blob_limit = 1000000000; /* SQLite's */
    if (step->tokens < 1 || step->tokens > TRACE_MAX_TOKENS)
        return fail(ERR_INPUT, "%s: step %u: %u tokens, allowed is 1 to %d", path, step->step,
                    step->tokens, TRACE_MAX_TOKENS);
    if (step->stack != phase_stack(step->phase))
        return fail(ERR_INPUT, "%s: step %u: phase %s cannot cover the %s", path, step->step,
                    phase_name(step->phase), stack_name(step->stack));
    StackSpan span = spans[step->stack];
    if (span.count == 0)
        return fail(ERR_INPUT, "%s: step %u: the model has no MoE layer in the %s", path,
                    step->step, stack_name(step->stack));
    if (step->start_ns > INT64_MAX || step->duration_ns > INT64_MAX)
        return fail(ERR_INPUT, "%s: step %u: a time is too large", path, step->step);
    uint64_t ids = span.top_k * step->tokens;
    if (2 * ids > blob_limit || step->score_count > blob_limit / 2 ||
        n_residency > blob_limit / sizeof(ResidencyRecord) ||
        n_timing > blob_limit / sizeof(TimingRecord))
        return fail(ERR_INPUT, "%s: step %u: larger than %" PRIu64 " bytes in one column", path,
                    step->step, blob_limit);
    if (!lent)
        TRY(layers_check_experts(path, layers, span, step->step, step->tokens, step->experts,
                                 ERR_INPUT));
    return check_predictions(path, layers, span, step);
}
