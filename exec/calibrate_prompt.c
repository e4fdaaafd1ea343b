/* Attention of steps in which a prompt joins requests that generate: both are one call, whose
 * kernel is neither's own. */
#include "exec/calibrate_parts.h"

enum { PROMPT_REPEATS = 5 };

static const StepGrid GRID = {{1, 4, 16, 48}, {1}, {64, 256, 1024, 4096}};
static const uint32_t PROMPTS[] = {16, 64, 256, 512, 1024, 0};

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
    StepKind stamped = *kind;
    StepMeasured measured;
    stamped.stamped_only = true;
    TRY(calibration_measure(c, &stamped, PROMPT_REPEATS, &measured));
    return note(c, &stamped, &measured);
}

Status calibrate_prompt(Calibration *c)
{
    return calibration_prompts(c, &GRID, PROMPTS, measure);
}
