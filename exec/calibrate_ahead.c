/* The router of the next MoE layer, asked before this layer's experts run: what a plan needs that
 * loads ahead by it. */
#include <stdio.h>

#include "exec/calibrate_parts.h"

enum { AHEAD_REPEATS = 5 };

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

/* The first prediction of a step: those of the last layers have nobody to ask. */
static Status measure_place(Calibration *c, uint32_t requests, uint32_t tokens)
{
    static const char *const AXIS[] = {"tokens"};
    const StepKind kind = {.requests = requests, .tokens = tokens};
    const double at = (double)requests * tokens;
    double gpu_ns[AHEAD_REPEATS] = {0};
    double issue_ns[AHEAD_REPEATS] = {0};
    char shape[160] = "";
    if (requests > c->max_requests || requests * tokens > c->max_tokens || tokens > c->max_length ||
        calibration_only_counts(c) || knows_router(c))
        return OK;
    for (int i = -2; i < AHEAD_REPEATS; i++) {
        StepOutput output;
        double ns;
        TRY(calibration_step(c, &kind, true, &output, &ns));
        for (size_t op = output.n_timing; op-- > 0;) {
            if (output.timing[op].op != OP_PREDICT)
                continue;
            gpu_ns[i > 0 ? i : 0] = (double)output.timing[op].duration_ns - c->queue_stamp_ns;
            issue_ns[i > 0 ? i : 0] = (double)output.host.ops[op].duration_ns;
            calibrate_shape(c->config, output.timing[op].layer, OP_PREDICT, c->compute, shape);
        }
    }
    double spread = calibration_spread(gpu_ns, AHEAD_REPEATS);
    double median = calibration_median(gpu_ns, AHEAD_REPEATS);
    TRY(calibration_note(c, "gpu/predict", shape, UNIT_NS, AXIS, 1, &at, median > 0 ? median : 0,
                         spread));
    if (calibration_runs_at_once(c))
        return OK;
    spread = calibration_spread(issue_ns, AHEAD_REPEATS);
    return calibration_note(c, "issue/predict", shape, UNIT_NS, AXIS, 1, &at,
                            calibration_median(issue_ns, AHEAD_REPEATS), spread);
}

Status calibrate_ahead(Calibration *c)
{
    static const uint32_t PLACES[][2] = {{1, 1},   {2, 1},   {4, 1},   {8, 1},    {12, 1},
                                         {16, 1},  {32, 1},  {48, 1},  {64, 1},   {1, 128},
                                         {1, 256}, {4, 128}, {8, 128}, {16, 128}, {16, 256}};
    static const uint32_t QUICK_PLACES[][2] = {{1, 1}, {8, 1}, {1, 64}};
    const uint32_t(*places)[2] = c->options->quick ? QUICK_PLACES : PLACES;
    size_t n = c->options->quick ? COUNT(QUICK_PLACES) : COUNT(PLACES);
    Plan plan = c->plan;
    if (!has_next_layer(c->config))
        return OK;
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "next-gate");
    if (!c->counting)
        TRY(executor_set_plan(c->executor, &plan));
    for (size_t i = 0; i < n; i++)
        TRY(measure_place(c, places[i][0], places[i][1]));
    return c->counting ? OK : executor_set_plan(c->executor, &c->plan);
}
