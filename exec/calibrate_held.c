/* What an operation takes among those that the host queues one by one, when none of them waits for
 * it, beyond what its table has, which is of steps that are repeated as a whole: kernels follow
 * each other otherwise there, and so do stamps. With its stamp. */
#include <stdio.h>

#include "exec/calibrate_parts.h"

enum { HELD_STEPS = 5, HELD_WARM_UP = 2 };

static const char *const TOKENS_AXIS[] = {"tokens"};

/* Held steps of KIND into ROWS, after such as are not. */
static Status measure(Calibration *c, const StepKind *kind, StepMeasured *measured)
{
    StepKind held = *kind;
    StepOutput output;
    double ns;
    held.held = true;
    *measured = (StepMeasured){.repeats = HELD_STEPS};
    for (int i = 0; i < HELD_WARM_UP; i++)
        TRY(calibration_step(c, kind, true, &output, &ns));
    calibration_seek_quiet(c);
    for (uint32_t r = 0; r < HELD_STEPS; r += calibration_counts(c)) {
        TRY(calibration_step(c, &held, true, &output, &ns));
        calibration_list(c, kind->stack, &output);
        for (size_t i = 0; i < output.n_timing; i++)
            c->op_ns[(size_t)r * c->max_ops + i] = (double)output.timing[i].duration_ns;
        measured->ops = output.timing;
        measured->n_ops = (uint32_t)output.n_timing;
    }
    return OK;
}

/* What the table of OP has for steps of KIND; false: it has no such place. */
static bool find_cost(const Calibration *c, const StepKind *kind, Op op, const char *shape,
                      double *ns)
{
    const char *axis[COST_AXES];
    double at[COST_AXES];
    char name[48];
    uint32_t n_axes = calibration_place(c, op, kind, at, axis);
    snprintf(name, sizeof name, "forced/%s", op_name(op));
    const CostTable *table =
        op == OP_ROUTE || op == OP_EMBED ? calibration_table(c, name, shape) : NULL;
    snprintf(name, sizeof name, "gpu/%s", op_name(op));
    if (table == NULL)
        table = calibration_table(c, name, shape);
    if (table == NULL)
        return false;
    uint32_t nearest = cost_table_nearest(table, at);
    *ns = table->value[nearest];
    return memcmp(table->at + (size_t)nearest * n_axes, at, n_axes * sizeof *at) == 0;
}

/* Notes what operations take more than that. */
static Status note_all(Calibration *c, const StepKind *kind, const StepMeasured *measured)
{
    double tokens = (double)kind->requests * kind->tokens;
    for (uint32_t i = 0; i < measured->n_ops; i++) {
        Op op = measured->ops[i].op;
        char name[48];
        double spread;
        double ns;
        if (op == OP_EXPERTS || !calibration_is_first(c, i) ||
            !find_cost(c, kind, op, c->shape[i], &ns))
            continue;
        snprintf(name, sizeof name, "held/%s", op_name(op));
        double held_ns = calibration_cost(c, c->op_ns, measured, i, &spread);
        TRY(calibration_note(c, name, c->shape[i], UNIT_NS, TOKENS_AXIS, 1, &tokens, held_ns - ns,
                             spread));
    }
    return OK;
}

/* Whose experts are in place. */
static Status measure_place(Calibration *c, Stack stack, uint32_t requests, uint32_t tokens)
{
    const StepKind kind = {.stack = stack, .requests = requests, .tokens = tokens, .forced = true};
    uint32_t all = requests * tokens;
    uint32_t top_k = c->config->max_top_k;
    uint32_t most = c->config->max_experts - 1;
    uint32_t active = all * top_k < most ? all * top_k : most;
    StepMeasured measured;
    if (requests > c->max_requests || all > c->max_tokens || tokens > c->max_length ||
        active < top_k || calibration_only_counts(c))
        return OK;
    calibration_force(c, stack, all, active, 0);
    TRY(measure(c, &kind, &measured));
    return note_all(c, &kind, &measured);
}

Status calibrate_held(Calibration *c)
{
    static const uint32_t PLACES[][2] = {{1, 1},   {1, 128}, {16, 1},   {2, 1},   {4, 1},  {8, 1},
                                         {32, 1},  {64, 1},  {1, 16},   {1, 32},  {1, 64}, {16, 16},
                                         {1, 512}, {16, 64}, {16, 128}, {16, 256}};
    size_t n = c->options->quick ? 3 : COUNT(PLACES);
    if (calibration_runs_at_once(c))
        return OK;
    for (size_t i = 0; i < n; i++)
        TRY(measure_place(c, STACK_DECODER, PLACES[i][0], PLACES[i][1]));
    for (size_t i = 0; i < n && model_is_encoder_decoder(c->config); i++)
        TRY(measure_place(c, STACK_ENCODER, PLACES[i][0], PLACES[i][1]));
    return OK;
}
