/* Experts that the host's cores compute: steps of a plan that loads none. */
#include <string.h>

#include "exec/calibrate_parts.h"

enum { HOST_REPEATS = 4, HOST_QUICK_REPEATS = 3, MOST_VALUES = 64, HOST_ROWS = 256 };

/* The time of each event of STEP on the host: the first records of a layer are the host's, and have
 * one time. */
static uint32_t event_times(const StepOutput *output, uint32_t n, double *ns)
{
    uint32_t last_layer = UINT32_MAX;
    for (size_t i = 0; i < output->n_residency && n < MOST_VALUES; i++) {
        const ResidencyRecord *record = &output->residency[i];
        if (record->kind != RESIDENCY_HOST || record->layer == last_layer)
            continue;
        last_layer = record->layer;
        ns[n++] = (double)record->duration_ns;
    }
    return n;
}

/* A step is run with other experts than the one before, so that none are in a cache still. */
static Status time_steps(Calibration *c, const StepKind *kind, uint32_t active, double *load,
                         double *ns, uint32_t *n)
{
    uint32_t repeats = c->options->quick ? HOST_QUICK_REPEATS : HOST_REPEATS;
    uint32_t tokens = kind->requests * kind->tokens;
    uint32_t top_k = c->config->max_top_k;
    *n = 0;
    for (uint32_t i = 0; i <= repeats; i++) {
        StepOutput output;
        double whole_ns;
        c->first_expert += active;
        *load = calibration_force(c, STACK_DECODER, tokens, active < top_k ? top_k : active, 0);
        if (active < top_k)
            calibration_drop(c, tokens, active);
        TRY(calibration_step(c, kind, false, &output, &whole_ns));
        if (i > 0)
            *n = event_times(&output, *n, ns);
    }
    return OK;
}

static Status note(Calibration *c, const double at[COST_AXES], double *ns, uint32_t n)
{
    const char *axis[COST_AXES];
    double spread = calibration_spread(ns, n);
    double median = calibration_median(ns, n);
    hardware_op_axes(OP_EXPERTS, axis);
    for (uint32_t i = c->config->n_encoder_layers; i < c->config->n_layers; i++) {
        char shape[160];
        if (!c->config->layers[i].moe)
            continue;
        calibrate_shape(c->config, i, OP_EXPERTS, c->compute, shape);
        return calibration_note(c, "host/experts", shape, UNIT_NS, axis, 3, at, median, spread);
    }
    return OK;
}

static Status measure_place(Calibration *c, uint32_t requests, uint32_t tokens, uint32_t active)
{
    const StepKind kind = {.requests = requests, .tokens = tokens, .forced = true};
    uint32_t all = requests * tokens;
    double ns[MOST_VALUES];
    double load;
    uint32_t n;
    if (requests > c->max_requests || all > c->max_tokens || tokens > c->max_length ||
        calibration_only_counts(c))
        return OK;
    TRY(time_steps(c, &kind, active, &load, ns, &n));
    double rows = active < c->config->max_top_k ? 1 : (double)all * c->config->max_top_k / active;
    const double at[COST_AXES] = {active, rows, load};
    return n > 0 ? note(c, at, ns, n) : OK;
}

/* ACTIVE experts of 1 row each and more. */
static Status measure_active(Calibration *c, uint32_t active)
{
    static const uint32_t ROWS[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 0};
    static const uint32_t QUICK_ROWS[] = {1, 4, 0};
    uint32_t before = 0;
    for (const uint32_t *rows = c->options->quick ? QUICK_ROWS : ROWS; *rows > 0; rows++) {
        uint32_t tokens = *rows * active / c->config->max_top_k;
        uint32_t requests = tokens < c->max_requests ? tokens : c->max_requests;
        if (tokens == 0 || tokens == before || active * *rows > HOST_ROWS * c->config->max_top_k)
            continue;
        before = tokens;
        while (tokens % requests != 0)
            requests--;
        TRY(measure_place(c, requests, tokens / requests, active));
    }
    return OK;
}

Status calibrate_host(Calibration *c)
{
    uint32_t top_k = c->config->max_top_k;
    uint32_t experts = c->config->max_experts;
    if (c->config->n_moe_layers == 0)
        return OK;
    for (uint32_t active = 1; active < top_k; active += 1 + active / 2)
        TRY(measure_place(c, 1, 1, active));
    for (uint32_t active = top_k; active < experts; active *= 2)
        TRY(measure_active(c, active));
    return measure_active(c, experts);
}
