/* The router of the next MoE layer, asked before this layer's experts run: what a plan needs that
 * loads ahead by it. The device's time is measured where all experts are in place and steps are
 * replayed, for where the host queues them it is what the device waits for. */
#include <stdio.h>

#include "exec/calibrate_parts.h"

enum { AHEAD_REPEATS = 5, FILL_STEPS = 3 };

static const char *const TOKENS_AXIS[] = {"tokens"};

bool calibration_has_next_layer(const ModelConfig *config)
{
    uint32_t in_decoder = 0;
    for (uint32_t i = config->n_encoder_layers; i < config->n_layers; i++)
        in_decoder += config->layers[i].moe;
    return in_decoder > 1;
}

bool calibration_looks_ahead(const Calibration *c)
{
    return c->plan.buffer.on && c->plan.compute.mode == COMPUTE_ON_GPU &&
           calibration_has_next_layer(c->config);
}

Plan calibration_ahead_plan(const Calibration *c, bool all)
{
    Plan plan = c->plan;
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "next-gate");
    if (all)
        plan.buffer.slots = c->config->max_experts;
    return plan;
}

/* The shape of the router that a prediction at LAYER asks, that of the next MoE layer; false: there
 * is none. */
static bool asked_shape(const Calibration *c, uint32_t layer, char shape[160])
{
    const ModelConfig *config = c->config;
    for (uint32_t i = layer + 1; i < config->n_layers; i++)
        if (config->layers[i].moe) {
            calibrate_shape(config, i, OP_PREDICT, c->compute, shape);
            return true;
        }
    return false;
}

/* True when the profile has predictions by all routers of the decoder that can be asked. */
static bool knows_routers(const Calibration *c)
{
    char shape[160];
    for (uint32_t i = c->config->n_encoder_layers; i < c->config->n_layers; i++)
        if (c->config->layers[i].moe && asked_shape(c, i, shape) &&
            !calibration_knows(c, "gpu/predict", shape))
            return false;
    return true;
}

/* The mean of ROW over the predictions of a step that ask a router of SHAPE. */
static double mean_prediction(const Calibration *c, const TimingRecord *ops, size_t n,
                              const double *row, const char *shape)
{
    char asked[160];
    double sum = 0;
    double found = 0;
    for (size_t i = 0; i < n; i++) {
        if (ops[i].op != OP_PREDICT || !asked_shape(c, ops[i].layer, asked) ||
            strcmp(asked, shape) != 0)
            continue;
        sum += row[i];
        found++;
    }
    return found > 0 ? sum / found : 0;
}

/* Whether an MoE layer of the decoder before LAYER asks a router of SHAPE. */
static bool asked_before(const Calibration *c, uint32_t layer, const char *shape)
{
    char asked[160];
    for (uint32_t i = c->config->n_encoder_layers; i < layer; i++)
        if (c->config->layers[i].moe && asked_shape(c, i, asked) && strcmp(asked, shape) == 0)
            return true;
    return false;
}

/* Notes the predictions of steps with operations OPS [n], whose times are ROWS
 * [AHEAD_REPEATS][max_ops], STAMP_NS included: for each shape of a router that is asked. */
static Status note_predictions(Calibration *c, const char *name, const StepKind *kind,
                               const TimingRecord *ops, size_t n, const double *rows,
                               uint32_t repeats, double stamp_ns)
{
    const double at = (double)kind->requests * kind->tokens;
    double values[AHEAD_REPEATS];
    char shape[160];
    for (uint32_t i = c->config->n_encoder_layers; i < c->config->n_layers; i++) {
        if (!c->config->layers[i].moe || !asked_shape(c, i, shape) || asked_before(c, i, shape))
            continue;
        for (uint32_t r = 0; r < repeats; r++)
            values[r] = mean_prediction(c, ops, n, rows + (size_t)r * c->max_ops, shape) - stamp_ns;
        double spread = variation_f64(values, repeats);
        TRY(calibration_note(c, name, shape, UNIT_NS, TOKENS_AXIS, 1, &at,
                             at_least_0(median_f64(values, repeats)), spread));
    }
    return OK;
}

/* Where nothing waits. */
static Status measure_device(Calibration *c, const StepKind *kind)
{
    StepMeasured measured;
    TRY(calibration_measure(c, kind, AHEAD_REPEATS, &measured));
    return note_predictions(c, "gpu/predict", kind, measured.ops, measured.n_ops, c->op_ns,
                            measured.repeats, c->stamp_ns);
}

/* Where the host queues all operations. */
static Status measure_issue(Calibration *c, const StepKind *kind)
{
    StepOutput output;
    calibration_seek_quiet(c);
    for (int i = -2; i < AHEAD_REPEATS; i += calibration_counts(c)) {
        double *row = c->issue_ns + (size_t)(i > 0 ? i : 0) * c->max_ops;
        double ns;
        TRY(calibration_step(c, kind, true, &output, &ns));
        for (size_t op = 0; op < output.n_timing; op++)
            row[op] = (double)output.host.ops[op].duration_ns;
    }
    return note_predictions(c, "issue/predict", kind, output.timing, output.n_timing, c->issue_ns,
                            AHEAD_REPEATS, 0);
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
    if (!calibration_has_next_layer(c->config) || (!c->counting && knows_routers(c)))
        return OK;
    TRY(measure_queued(c));
    TRY(measure_settled(c));
    return c->counting ? OK : executor_set_plan(c->executor, &c->plan);
}
