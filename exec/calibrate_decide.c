/* What the decisions on an event take the host where they predict a layer further on: by predictor,
 * for one copies a list and another goes through all pairs of experts. Decided is in steps that the
 * executor runs, whose caches hold as much of it as those of any step do. */
#include <stdio.h>

#include "exec/calibrate_parts.h"
#include "policies/link.h"

enum { DECIDE_REPEATS = 5, DECIDE_WARM_UP = 2, PREFETCHES = 4 };

/* Those that remember requests go through all of them. */
static const char *const PREDICTORS[] = {
    "frequency", "previous-step",     "transition",         "next-gate",          "pre-gate",
    "oracle:1",  "synthetic:0.7,0.7", "activation-match:8", "activation-match:64"};
static const char *const QUICK_PREDICTORS[] = {"previous-step", "synthetic:0.7,0.7"};

/* A step of as many requests with a token each, whose layers need ACTIVE experts that are others
 * than those of the step before. */
static Status step(Calibration *c, uint32_t requests, uint32_t active, StepOutput *output)
{
    const StepKind kind = {.requests = requests, .tokens = 1, .forced = true};
    double ns;
    c->first_expert = (c->first_expert + 1) % c->config->max_experts;
    calibration_force(c, STACK_DECODER, requests, active, 0);
    calibration_foretell(c, requests);
    return calibration_step(c, &kind, false, output, &ns);
}

/* The mean over the events of a step that predict a layer: all but the last. */
static double mean_decision(const HostTimes *host)
{
    double sum = 0;
    for (size_t i = 0; i + 1 < host->n_events; i++)
        sum += (double)host->events[i].decide.duration_ns;
    return host->n_events > 1 ? sum / (double)(host->n_events - 1) : 0;
}

static Status measure_place(Calibration *c, const char *predictor, uint32_t requests,
                            uint32_t active)
{
    double values[DECIDE_REPEATS];
    char shape[160];
    char name[48];
    const char *axis[COST_AXES];
    double at[] = {active, 0};
    StepOutput output;
    if (requests > c->max_requests || calibration_only_counts(c) ||
        !calibration_experts_shape(c, shape))
        return OK;
    uint32_t n_axes = hardware_decide_table(predictor, name, axis, &at[1]);
    if (n_axes > 1)
        at[0] = requests;
    for (int i = 0; i < DECIDE_WARM_UP; i++)
        TRY(step(c, requests, active, &output));
    calibration_seek_quiet(c);
    for (int i = 0; i < DECIDE_REPEATS; i += calibration_counts(c)) {
        TRY(step(c, requests, active, &output));
        values[i] = mean_decision(&output.host);
    }
    double spread = variation_f64(values, DECIDE_REPEATS);
    return calibration_note(c, name, shape, UNIT_NS, axis, n_axes, at,
                            median_f64(values, DECIDE_REPEATS), spread);
}

/* Requests that nobody goes on with fill what the predictor remembers. */
static Status fill(Calibration *c, const char *predictor)
{
    char name[48];
    const char *axis[COST_AXES];
    double entries = 0;
    StepOutput output;
    if (hardware_decide_table(predictor, name, axis, &entries) < 2)
        return OK;
    for (double n = 0; n < entries; n += c->max_requests) {
        c->first_request += c->max_requests;
        TRY(step(c, c->max_requests, c->config->max_top_k, &output));
    }
    return OK;
}

Plan calibration_predicting_plan(const Calibration *c, const char *predictor, uint32_t prefetches)
{
    Plan plan = c->plan;
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s", predictor);
    plan.prefetch.max_inflight = prefetches;
    plan.buffer.slots = c->config->max_experts * 3 / 4;
    return plan;
}

static Status measure_predictor(Calibration *c, const char *predictor)
{
    Plan plan = calibration_predicting_plan(c, predictor, PREFETCHES);
    uint32_t top_k = c->config->max_top_k;
    uint32_t most = c->config->max_experts - 1;
    if (!c->counting) {
        /* Loads of large experts would take long, and decisions do not depend on them. */
        if (executor_expert_slot_bytes(c->executor, 0) > LOADED_TOGETHER_BYTES)
            plan.buffer.slots = c->plan.buffer.slots;
        TRY(executor_set_plan(c->executor, &plan));
        TRY(fill(c, predictor));
    }
    for (uint32_t active = top_k; active < most; active *= 2)
        TRY(measure_place(c, predictor, (active + top_k - 1) / top_k, active));
    return measure_place(c, predictor, (most + top_k - 1) / top_k, most);
}

Status calibrate_decide(Calibration *c)
{
    bool quick = c->options->quick;
    const char *const *predictors = quick ? QUICK_PREDICTORS : PREDICTORS;
    size_t n = quick ? COUNT(QUICK_PREDICTORS) : COUNT(PREDICTORS);
    for (size_t i = 0; i < n; i++)
        TRY(measure_predictor(c, predictors[i]));
    TRY(calibrate_poll(c));
    return c->counting ? OK : executor_set_plan(c->executor, &c->plan);
}
