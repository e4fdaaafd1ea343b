/* The router of the next MoE layer, asked before this layer's experts run: what a plan needs that
 * loads ahead by it. The device's time is measured where all experts are in place and steps are
 * replayed, for where the host queues them it is what the device waits for. */
#include <stdio.h>

#include "exec/calibrate_parts.h"

enum { AHEAD_REPEATS = 5, FILL_STEPS = 3 };

static const char *const TOKENS_AXIS[] = {"tokens"};

static bool has_next_layer(const ModelConfig *config)
{
    uint32_t in_decoder = 0;
    for (uint32_t i = config->n_encoder_layers; i < config->n_layers; i++)
        in_decoder += config->layers[i].moe;
    return in_decoder > 1;
}

bool calibration_looks_ahead(const Calibration *c)
{
    return c->plan.buffer.on && c->plan.compute.mode == COMPUTE_ON_GPU && has_next_layer(c->config);
}

Plan calibration_ahead_plan(const Calibration *c, bool all)
{
    Plan plan = c->plan;
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "next-gate");
    if (all)
        plan.buffer.slots = c->config->max_experts;
    return plan;
}

/* True when the profile has predictions by all routers of the decoder. */
static bool knows_router(const Calibration *c)
{
    char shape[160];
    for (uint32_t i = c->config->n_encoder_layers; i < c->config->n_layers; i++) {
        calibrate_shape(c->config, i, OP_PREDICT, c->compute, shape);
        if (c->config->layers[i].moe && !calibration_knows(c, "gpu/predict", shape))
            return false;
    }
    return true;
}

/* The operations of a step that predict: all but the last, which has nobody to ask. Returns how
 * many, and one of them. */
static uint32_t find_predictions(const TimingRecord *ops, size_t n, uint32_t *first, uint32_t *last)
{
    uint32_t found = 0;
    uint32_t before = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (ops[i].op != OP_PREDICT)
            continue;
        *first = found == 0 ? i : *first;
        *last = before;
        before = i;
        found++;
    }
    return found > 0 ? found - 1 : 0;
}

/* The mean of ROW over the predictions of a step. */
static double mean_prediction(const TimingRecord *ops, size_t n, const double *row)
{
    uint32_t first = 0;
    uint32_t last = 0;
    uint32_t found = find_predictions(ops, n, &first, &last);
    double sum = 0;
    for (uint32_t i = first; found > 0 && i <= last; i++)
        sum += ops[i].op == OP_PREDICT ? row[i] : 0;
    return found > 0 ? sum / found : 0;
}

static Status note_values(Calibration *c, const char *name, const StepKind *kind, double *values,
                          uint32_t n)
{
    const double at = (double)kind->requests * kind->tokens;
    char shape[160] = "";
    for (uint32_t i = c->config->n_encoder_layers; i < c->config->n_layers; i++)
        if (c->config->layers[i].moe)
            calibrate_shape(c->config, i, OP_PREDICT, c->compute, shape);
    double spread = calibration_spread(values, n);
    double median = calibration_median(values, n);
    return calibration_note(c, name, shape, UNIT_NS, TOKENS_AXIS, 1, &at, at_least_0(median),
                            spread);
}

/* Where nothing waits. */
static Status measure_device(Calibration *c, const StepKind *kind)
{
    StepMeasured measured;
    double gpu_ns[AHEAD_REPEATS];
    TRY(calibration_measure(c, kind, AHEAD_REPEATS, &measured));
    for (uint32_t r = 0; r < measured.repeats; r++)
        gpu_ns[r] =
            mean_prediction(measured.ops, measured.n_ops, c->op_ns + (size_t)r * c->max_ops) -
            c->stamp_ns;
    return note_values(c, "gpu/predict", kind, gpu_ns, measured.repeats);
}

/* Where the host queues all operations. */
static Status measure_issue(Calibration *c, const StepKind *kind)
{
    double issue_ns[AHEAD_REPEATS];
    calibration_seek_quiet(c);
    for (int i = -2; i < AHEAD_REPEATS; i++) {
        StepOutput output;
        double ns;
        TRY(calibration_step(c, kind, true, &output, &ns));
        for (size_t op = 0; op < output.n_timing; op++)
            c->issue_ns[op] = (double)output.host.ops[op].duration_ns;
        issue_ns[i > 0 ? i : 0] = mean_prediction(output.timing, output.n_timing, c->issue_ns);
    }
    return note_values(c, "issue/predict", kind, issue_ns, AHEAD_REPEATS);
}

static Status measure_places(Calibration *c, Status (*measure)(Calibration *, const StepKind *))
{
    static const uint32_t PLACES[][2] = {
        {1, 1},  {2, 1},   {3, 1},  {4, 1},   {6, 1},    {8, 1},    {9, 1},    {12, 1},
        {16, 1}, {17, 1},  {20, 1}, {24, 1},  {25, 1},   {32, 1},   {33, 1},   {40, 1},
        {48, 1}, {56, 1},  {64, 1}, {1, 96},  {1, 128},  {1, 192},  {1, 256},  {1, 257},
        {4, 96}, {4, 128}, {8, 96}, {8, 128}, {12, 128}, {16, 128}, {12, 256}, {16, 256}};
    static const uint32_t QUICK_PLACES[][2] = {{1, 1}, {8, 1}, {1, 64}};
    const uint32_t(*places)[2] = c->options->quick ? QUICK_PLACES : PLACES;
    size_t n = c->options->quick ? COUNT(QUICK_PLACES) : COUNT(PLACES);
    for (size_t i = 0; i < n; i++) {
        const StepKind kind = {
            .requests = places[i][0], .tokens = places[i][1], .stamped_only = true};
        if (kind.requests <= c->max_requests && kind.requests * kind.tokens <= c->max_tokens &&
            kind.tokens <= c->max_length && !calibration_only_counts(c))
            TRY(measure(c, &kind));
    }
    return OK;
}

/* Brings all experts of STACK to their places. */
static Status load_all(Calibration *c, Stack stack)
{
    uint32_t tokens = (c->config->max_experts + c->config->max_top_k - 1) / c->config->max_top_k;
    const StepKind kind = {.stack = stack, .requests = 1, .tokens = tokens, .forced = true};
    StepOutput output;
    double ns;
    calibration_force(c, stack, tokens, c->config->max_experts, 0);
    for (int i = 0; i < FILL_STEPS; i++)
        TRY(calibration_step(c, &kind, false, &output, &ns));
    return OK;
}

static Status measure_settled(Calibration *c)
{
    const Plan plan = calibration_ahead_plan(c, true);
    if (c->counting)
        return measure_places(c, measure_device);
    TRY(executor_set_plan(c->executor, &plan));
    if (model_is_encoder_decoder(c->config))
        TRY(load_all(c, STACK_ENCODER));
    TRY(load_all(c, STACK_DECODER));
    return measure_places(c, measure_device);
}

static Status measure_queued(Calibration *c)
{
    const Plan plan = calibration_ahead_plan(c, false);
    if (calibration_runs_at_once(c))
        return OK;
    if (!c->counting)
        TRY(executor_set_plan(c->executor, &plan));
    return measure_places(c, measure_issue);
}

Status calibrate_ahead(Calibration *c)
{
    if (!has_next_layer(c->config) || (!c->counting && knows_router(c)))
        return OK;
    TRY(measure_queued(c));
    TRY(measure_settled(c));
    return c->counting ? OK : executor_set_plan(c->executor, &c->plan);
}
