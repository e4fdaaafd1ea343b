/* Experts that the host's cores compute: steps of a plan that loads none. Weights come from memory
 * where others were read in between, and else from the processor's cache: both are measured, and
 * how many bytes it holds. */
#include <string.h>

#include "exec/calibrate_parts.h"

enum {
    HOST_REPEATS = 4,
    HOST_QUICK_REPEATS = 3,
    MOST_VALUES = 64,
    HOST_ROWS = 256,
    CACHE_PLACES = 16
};

/* Where memory takes less more than the cache, all of a layer's experts are in one or the other. */
static const double CACHE_SHOWS = 1.15;

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

/* Steps of one kind, for which so many sets of experts take turns. */
typedef struct {
    StepKind kind;
    uint32_t active;
    uint32_t sets;
} HostSteps;

/* As many sets as there are without an expert in two: what a set reads is gone when its turn comes,
 * unless the cache holds all of the layer. */
static uint32_t all_sets(const Calibration *c, uint32_t active)
{
    uint32_t sets = c->config->max_experts / active;
    return sets > 0 ? sets : 1;
}

static Status run_set(Calibration *c, const HostSteps *steps, double *load, StepOutput *output)
{
    uint32_t tokens = steps->kind.requests * steps->kind.tokens;
    uint32_t top_k = c->config->max_top_k;
    uint32_t active = steps->active;
    double whole_ns;
    c->first_expert = (c->first_expert + 1) % steps->sets;
    *load = calibration_force(c, STACK_DECODER, tokens, active < top_k ? top_k : active, 0);
    if (active < top_k)
        calibration_drop(c, tokens, active);
    return calibration_step(c, &steps->kind, false, output, &whole_ns);
}

/* The time of each event; a turn of all sets, WARM_UP steps at the least, comes before. */
static Status time_steps(Calibration *c, const HostSteps *steps, uint32_t warm_up, double *load,
                         double *ns, uint32_t *n)
{
    uint32_t repeats = c->options->quick ? HOST_QUICK_REPEATS : HOST_REPEATS;
    *n = 0;
    for (uint32_t i = 0; i < warm_up + repeats; i++) {
        StepOutput output;
        TRY(run_set(c, steps, load, &output));
        if (i >= warm_up)
            *n = event_times(&output, *n, ns);
    }
    return OK;
}

static Status note(Calibration *c, const char *name, const double at[COST_AXES], double *ns,
                   uint32_t n)
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
        return calibration_note(c, name, shape, UNIT_NS, axis, 3, at, median, spread);
    }
    return OK;
}

static double expert_bytes(const Calibration *c)
{
    return (double)executor_expert_slot_bytes(c->executor, 0);
}

/* From memory, and where the cache holds so many experts, from there. */
static Status measure_place(Calibration *c, uint32_t requests, uint32_t tokens, uint32_t active)
{
    HostSteps steps = {.kind = {.requests = requests, .tokens = tokens, .forced = true},
                       .active = active};
    uint32_t all = requests * tokens;
    double ns[MOST_VALUES];
    double load;
    uint32_t n;
    if (requests > c->max_requests || all > c->max_tokens || tokens > c->max_length ||
        calibration_only_counts(c))
        return OK;
    double rows = active < c->config->max_top_k ? 1 : (double)all * c->config->max_top_k / active;
    steps.sets = all_sets(c, active);
    TRY(time_steps(c, &steps, 1, &load, ns, &n));
    double at[COST_AXES] = {active, rows, load};
    TRY(n > 0 ? note(c, "host/experts", at, ns, n) : OK);
    if (active * expert_bytes(c) > c->cache_bytes / 2)
        return OK;
    steps.sets = 1;
    TRY(time_steps(c, &steps, 1, &load, ns, &n));
    return n > 0 ? note(c, "host/warm", at, ns, n) : OK;
}

/* Experts of one token, of which more and more sets take turns: what they read until half of what
 * memory costs more is there. */
static Status measure_cache(Calibration *c)
{
    uint32_t active = c->config->max_top_k;
    uint32_t most = all_sets(c, active);
    HostSteps steps = {.kind = {.requests = 1, .tokens = 1, .forced = true}, .active = active};
    double medians[CACHE_PLACES] = {0};
    uint32_t sets[CACHE_PLACES];
    uint32_t places = 0;
    c->cache_bytes = 0;
    bool known = calibration_constant(c, "host/cache", &c->cache_bytes);
    if (calibration_only_counts(c) || known)
        return OK;
    for (uint32_t n = 1; n <= most && places < CACHE_PLACES; n += 1 + n / 4) {
        double ns[MOST_VALUES];
        double load;
        uint32_t values;
        steps.sets = n;
        TRY(time_steps(c, &steps, n, &load, ns, &values));
        if (values == 0)
            return OK;
        sets[places] = n;
        medians[places++] = calibration_median(ns, values);
    }
    if (places == 0 || medians[places - 1] < medians[0] * CACHE_SHOWS)
        return OK;
    double half = (medians[0] + medians[places - 1]) / 2;
    uint32_t held = places - 1;
    while (held > 0 && medians[held] > half)
        held--;
    c->cache_bytes = sets[held] * active * expert_bytes(c);
    return calibration_note(c, "host/cache", "", UNIT_BYTES, NULL, 0, NULL, c->cache_bytes, 0);
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
    TRY(measure_cache(c));
    for (uint32_t active = 1; active < top_k; active += 1 + active / 2)
        TRY(measure_place(c, 1, 1, active));
    for (uint32_t active = top_k; active < experts; active *= 2)
        TRY(measure_active(c, active));
    return measure_active(c, experts);
}
