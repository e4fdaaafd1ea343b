/* Experts: steps whose routing is forced, so that so many experts have so many rows each. */
#include <string.h>

#include "exec/calibrate_parts.h"

enum { EXPERT_REPEATS = 5, EXPERT_QUICK_REPEATS = 3, MOST_ROWS = 1 << 17 };

/* The rows of expert I of ACTIVE that share ROWS, where the first has FIRST of them. */
static uint32_t rows_of(uint32_t i, uint32_t active, uint32_t rows, uint32_t first)
{
    if (i == 0)
        return first;
    uint32_t left = rows - first;
    return left / (active - 1) + (i - 1 < left % (active - 1));
}

/* Deals the rows of the experts to the tokens one after the other: as none has more rows than there
 * are tokens, a token never gets an expert twice. */
static void deal(const TraceLayer *layer, uint32_t tokens, uint32_t active, uint32_t first,
                 uint32_t first_expert, uint16_t *experts)
{
    uint32_t rows = tokens * layer->top_k;
    uint32_t row = 0;
    for (uint32_t i = 0; i < active; i++) {
        uint32_t n = active == 1 ? rows : rows_of(i, active, rows, first);
        /* Spread over all experts, others in each layer. */
        uint64_t spread = (uint64_t)i * layer->experts / active;
        uint32_t expert = (uint32_t)((spread + layer->layer * 7 + first_expert) % layer->experts);
        for (uint32_t r = 0; r < n; r++, row++)
            experts[(size_t)(row % tokens) * layer->top_k + row / tokens] = (uint16_t)expert;
    }
}

/* Rows of the first of ACTIVE experts: its even share, or as many as SKEW asks for, and always so
 * many that none has more rows than there are tokens, and each has one. */
static uint32_t first_rows(uint32_t tokens, uint32_t top_k, uint32_t active, double skew)
{
    uint32_t rows = tokens * top_k;
    uint32_t even = (rows + active - 1) / active;
    uint32_t wanted = even + (uint32_t)(skew * (tokens - even));
    return rows - wanted < active - 1 ? rows - (active - 1) : wanted;
}

static double mean_load(uint32_t tokens, uint32_t top_k, uint32_t active, uint32_t first)
{
    uint32_t rows = tokens * top_k;
    double load = 0;
    for (uint32_t i = 0; i < active; i++)
        load += cost_load_of(active == 1 ? rows : rows_of(i, active, rows, first));
    return load / active;
}

double calibration_force(Calibration *c, Stack stack, uint32_t tokens, uint32_t active, double skew)
{
    uint32_t n_layers;
    const TraceLayer *layers = executor_layers(c->executor, &n_layers);
    uint16_t *experts = c->forced;
    double load = 1;
    for (uint32_t i = 0; i < n_layers; i++) {
        if (layers[i].stack != stack)
            continue;
        uint32_t rows = tokens * layers[i].top_k;
        uint32_t taking_part = active < rows ? active : rows;
        uint32_t first = first_rows(tokens, layers[i].top_k, taking_part, skew);
        deal(&layers[i], tokens, taking_part, first, c->first_expert, experts);
        load = mean_load(tokens, layers[i].top_k, taking_part, first);
        experts += (size_t)tokens * layers[i].top_k;
    }
    return load;
}

/* The most requests that TOKENS can be shared among evenly. */
static uint32_t requests_for(const Calibration *c, uint32_t tokens)
{
    uint32_t requests = tokens < c->max_requests ? tokens : c->max_requests;
    while (tokens % requests != 0)
        requests--;
    return requests;
}

static Status measure_place(Calibration *c, uint32_t tokens, uint32_t active, double skew)
{
    uint32_t requests = requests_for(c, tokens);
    uint32_t repeats = c->options->quick ? EXPERT_QUICK_REPEATS : EXPERT_REPEATS;
    const StepKind kind = {
        .requests = requests, .tokens = tokens / requests, .forced = true, .stamped_only = true};
    StepMeasured measured;
    if (kind.tokens > c->max_length)
        return OK;
    if (calibration_only_counts(c))
        return OK;
    double load = calibration_force(c, STACK_DECODER, tokens, active, skew);
    double rows = (double)tokens * c->config->max_top_k / active;
    TRY(calibration_measure(c, &kind, repeats, &measured));
    return calibration_note_experts(c, &measured, active, rows, load);
}

/* ACTIVE experts of as many rows as TOKENS give; unevenly, too, where that makes a difference. */
static Status measure_tokens(Calibration *c, uint32_t tokens, uint32_t active)
{
    uint32_t top_k = c->config->max_top_k;
    TRY(measure_place(c, tokens, active, 0));
    double even = mean_load(tokens, top_k, active, first_rows(tokens, top_k, active, 0));
    double steep = mean_load(tokens, top_k, active, first_rows(tokens, top_k, active, 1));
    return steep > even * 1.001 ? measure_place(c, tokens, active, 1) : OK;
}

/* Rows that each of ACTIVE experts has, from 1 on. */
static Status measure_active(Calibration *c, uint32_t active)
{
    static const double ROWS[] = {1,  1.5, 2,   3,   4,   6,   8,   16,  32,
                                  64, 96,  128, 192, 256, 384, 512, 1024};
    static const double QUICK_ROWS[] = {1, 2, 4, 16};
    const double *rows = c->options->quick ? QUICK_ROWS : ROWS;
    size_t n = c->options->quick ? sizeof QUICK_ROWS / sizeof *rows : sizeof ROWS / sizeof *rows;
    uint32_t top_k = c->config->max_top_k;
    uint32_t before = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t tokens = (uint32_t)(rows[i] * active / top_k);
        if (tokens == before || tokens == 0 || tokens > c->max_tokens ||
            tokens * top_k > MOST_ROWS || tokens * top_k < active)
            continue;
        before = tokens;
        TRY(measure_tokens(c, tokens, active));
    }
    return OK;
}

/* Forced routing takes MoE layers to be alike. */
static Status check_layers(const Calibration *c)
{
    const ModelConfig *config = c->config;
    for (uint32_t i = 0; i < config->n_layers; i++)
        if (config->layers[i].moe && (config->layers[i].experts != config->max_experts ||
                                      config->layers[i].top_k != config->max_top_k))
            return fail(ERR_UNSUPPORTED,
                        "%s: layer %u has %u experts and top %u, another has %u and top %u: such "
                        "models cannot be calibrated",
                        c->model, i, config->layers[i].experts, config->layers[i].top_k,
                        config->max_experts, config->max_top_k);
    return OK;
}

Status calibrate_experts(Calibration *c)
{
    uint32_t top_k = c->config->max_top_k;
    uint32_t experts = c->config->max_experts;
    if (c->config->n_moe_layers == 0)
        return OK;
    TRY(check_layers(c));
    for (uint32_t active = top_k; active < experts;) {
        TRY(measure_active(c, active));
        active += active < 4 * top_k ? top_k : active / 2;
    }
    return measure_active(c, experts);
}
