/* Attention of steps in which a prompt joins requests that generate: both are one call, whose
 * kernel is neither's own. */
#include "exec/calibrate_parts.h"

enum { PROMPT_REPEATS = 5 };

static const StepGrid GRID = {{1, 4, 16, 48}, {16, 64, 256, 512, 1024}, {64, 256, 1024, 4096}};

static bool has_room(const Calibration *c, const StepKind *kind)
{
    return kind->requests < c->max_requests && kind->requests + kind->prompt <= c->max_tokens &&
           kind->context + kind->tokens <= c->max_length && kind->prompt <= c->max_length;
}

static Status note(Calibration *c, const StepKind *kind, const StepMeasured *measured)
{
    static const char *const AXES[] = {"requests", "tokens", "context"};
    const double at[] = {kind->requests, kind->prompt, kind->context};
    for (uint32_t i = 0; i < measured->n_ops; i++) {
        double spread;
        if (c->op[i] != OP_ATTENTION || !calibration_is_first(c, i))
            continue;
        double ns = calibration_cost(c, c->op_ns, measured, i, &spread) - c->stamp_ns;
        TRY(calibration_note(c, "mixed/attention", c->shape[i], UNIT_NS, AXES, 3, at,
                             at_least_0(ns), spread));
    }
    return OK;
}

static Status measure(Calibration *c, const StepKind *kind)
{
    StepMeasured measured;
    if (calibration_only_counts(c) || !has_room(c, kind))
        return OK;
    TRY(calibration_measure(c, kind, PROMPT_REPEATS, &measured));
    return note(c, kind, &measured);
}

Status calibrate_prompt(Calibration *c)
{
    if (model_is_encoder_decoder(c->config))
        return OK;
    for (const uint32_t *context = GRID.contexts; *context > 0; context++)
        for (const uint32_t *requests = GRID.requests; *requests > 0; requests++)
            for (const uint32_t *prompt = GRID.tokens; *prompt > 0; prompt++) {
                const StepKind kind = {.requests = *requests,
                                       .tokens = 1,
                                       .context = *context,
                                       .prompt = *prompt,
                                       .stamped_only = true};
                TRY(measure(c, &kind));
            }
    return OK;
}
