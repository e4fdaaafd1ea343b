/* Routers: scores, the choice of the top k, weights; and what follows from them. */
#include <math.h>

#include "exec/cpu/cpu.h"
#include "exec/cpu/exponential.h"
#include "exec/gating.h"

enum { ROUTE_ROWS = 32 };

typedef struct {
    const Router *router;
    uint32_t tokens;
    const uint16_t *forced;
    const float *forced_weights;
    const Routing *routing;
} RouteTask;

static bool is_taken(const uint16_t *experts, uint32_t n, uint32_t expert)
{
    for (uint32_t i = 0; i < n; i++)
        if (experts[i] == expert)
            return true;
    return false;
}

/* By how much the choice prefers EXPERT. */
static float choice_score(const Router *router, const float *scores, uint32_t expert)
{
    return scores[expert] + (router->correction != NULL ? router->correction[expert] : 0);
}

/* The sum of the best N (1 or 2) of the group's choice scores. */
static float group_score(const Router *router, const float *scores, uint32_t group, uint32_t size)
{
    float best = -INFINITY;
    float second = -INFINITY;
    for (uint32_t e = group * size; e < (group + 1) * size; e++) {
        float score = choice_score(router, scores, e);
        second = score > best ? best : score > second ? score : second;
        best = score > best ? score : best;
    }
    return router->config->group_best == 2 && size > 1 ? best + second : best;
}

/* True when fewer than top_groups groups go before GROUP: a better score, or the same and a lower
 * number. */
static bool group_is_open(const Router *router, const float *scores, uint32_t group)
{
    const RouterConfig *config = router->config;
    if (config->groups <= 1)
        return true;
    uint32_t size = router->matrix.rows / config->groups;
    float own = group_score(router, scores, group, size);
    uint32_t before = 0;
    for (uint32_t g = 0; g < config->groups; g++) {
        float other = g == group ? own : group_score(router, scores, g, size);
        before += other > own || (other == own && g < group);
    }
    return before < config->top_groups;
}

/* The best choice not yet among EXPERTS[n] whose group is open; the lowest id of equals. When no
 * open group has one left (or all scores are NaN) the lowest id that is free. */
static uint32_t next_best(const Router *router, const float *scores, const uint16_t *experts,
                          uint32_t n)
{
    uint32_t n_experts = router->matrix.rows;
    uint32_t size = n_experts / router->config->groups;
    uint32_t best = UINT32_MAX;
    uint32_t spare = UINT32_MAX;
    for (uint32_t e = 0; e < n_experts; e++) {
        bool free = !is_taken(experts, n, e);
        spare = free && spare == UINT32_MAX ? e : spare;
        if (!free || (best != UINT32_MAX &&
                      !(choice_score(router, scores, e) > choice_score(router, scores, best))))
            continue;
        if (router->config->groups == 1 || group_is_open(router, scores, e / size))
            best = e;
    }
    return best != UINT32_MAX ? best : spare;
}

/* Sparsemixer's weight of CHOICE when the experts TAKEN[n] are out: its share among those whose
 * logit is within 2 * jitter of the best left, relative to the larger of it and their own size. */
static float sparsemixer_weight(const Router *router, const float *logits, const uint16_t *taken,
                                uint32_t n, uint32_t choice)
{
    float most = -INFINITY;
    for (uint32_t e = 0; e < router->matrix.rows; e++)
        if (!is_taken(taken, n, e) && !(logits[e] <= most))
            most = logits[e];
    float sum = 0;
    for (uint32_t e = 0; e < router->matrix.rows; e++) {
        float size = fabsf(logits[e]) > most ? fabsf(logits[e]) : most;
        bool far = (most - logits[e]) / size > 2 * router->config->jitter;
        if (!far && !is_taken(taken, n, e))
            sum += exponential(logits[e] - most);
    }
    float size = fabsf(logits[choice]) > most ? fabsf(logits[choice]) : most;
    bool far = (most - logits[choice]) / size > 2 * router->config->jitter;
    return far ? 0 : exponential(logits[choice] - most) / sum;
}

/* Weights of the choice EXPERTS from SCORES: the logits for a sparsemixer, else the scores. */
static void weigh(const Router *router, const float *scores, const uint16_t *experts,
                  float *weights)
{
    const RouterConfig *config = router->config;
    float sum = 0;
    for (uint32_t slot = 0; slot < router->top_k; slot++) {
        bool dropped = experts[slot] == EXPERT_DROPPED;
        weights[slot] = dropped ? 0
                        : config->kind == ROUTER_SPARSEMIXER
                            ? sparsemixer_weight(router, scores, experts, slot, experts[slot])
                            : scores[experts[slot]];
        sum += weights[slot];
    }
    bool divide = config->normalise || config->kind == ROUTER_TOP_K_SOFTMAX;
    for (uint32_t slot = 0; slot < router->top_k; slot++)
        weights[slot] = (divide && sum != 0 ? weights[slot] / sum : weights[slot]) * config->scale;
}

/* Logits -> the scores that the choice is made by. A sparsemixer chooses by the logits. */
static void score(const Router *router, float *scores)
{
    uint32_t n = router->matrix.rows;
    if (router->config->kind == ROUTER_SIGMOID)
        for (uint32_t e = 0; e < n; e++)
            scores[e] = 1.0f / (1.0f + exponential(-scores[e]));
    else if (router->config->kind != ROUTER_SPARSEMIXER)
        softmax(scores, n);
}

static void route_token(const RouteTask *task, size_t token)
{
    const Router *router = task->router;
    size_t at = token * router->top_k;
    float *scores = task->routing->scores + token * router->matrix.rows;
    uint16_t *experts = task->routing->experts + at;
    float *weights = task->routing->weights + at;
    score(router, scores);
    for (uint32_t slot = 0; slot < router->top_k; slot++)
        experts[slot] = task->forced != NULL ? task->forced[at + slot]
                                             : (uint16_t)next_best(router, scores, experts, slot);
    if (task->forced != NULL && task->forced_weights != NULL)
        memcpy(weights, task->forced_weights + at, router->top_k * sizeof *weights);
    else
        weigh(router, scores, experts, weights);
    if (router->config->kind == ROUTER_SPARSEMIXER)
        softmax(scores, router->matrix.rows);
}

static void route_rows(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const RouteTask *task = argument;
    size_t first = item * ROUTE_ROWS;
    for (size_t i = first; i < first + ROUTE_ROWS && i < task->tokens; i++)
        route_token(task, i);
}

Status cpu_route(Device *device, const Router *router, const float *in, uint32_t tokens,
                 const uint16_t *forced, const float *forced_weights, const Routing *routing)
{
    TRY(cpu_linear(device, in, &router->matrix, tokens, false, routing->scores));
    RouteTask task = {router, tokens, forced, forced_weights, routing};
    thread_pool_run(device->pool, divide_up(tokens, ROUTE_ROWS), route_rows, &task);
    return OK;
}

Status cpu_limit(Device *device, uint32_t capacity, uint32_t tokens, uint32_t top_k,
                 uint32_t n_experts, bool normalise, const Routing *routing)
{
    gating_limit(capacity, tokens, top_k, n_experts, device->counts, routing->experts,
                 routing->weights);
    for (size_t token = 0; normalise && token < tokens; token++) {
        float *weights = routing->weights + token * top_k;
        float sum = 0;
        for (uint32_t slot = 0; slot < top_k; slot++)
            sum += weights[slot];
        for (uint32_t slot = 0; sum > 0 && slot < top_k; slot++)
            weights[slot] /= sum;
    }
    return OK;
}

Status cpu_group(Device *device, const uint16_t *experts, uint32_t tokens, uint32_t top_k,
                 uint32_t n_experts, const RowGroups *groups)
{
    (void)device;
    gating_group(experts, tokens, top_k, n_experts, groups->first, groups->rows);
    return OK;
}

typedef struct {
    const Device *device;
    const ExpertBatch *batch;
    float scale;
    const float *in; /* [tokens * top_k][d_model] */
    float *out;
} CombineTask;

static void combine_token(const CombineTask *task, size_t token, float *restrict sum)
{
    const Routing *routing = &task->batch->routing;
    size_t d = task->batch->shape->d_model;
    size_t top_k = task->batch->top_k;
    float *restrict out = task->out + token * d;
    memset(sum, 0, d * sizeof *sum);
    for (size_t row = token * top_k; row < (token + 1) * top_k; row++) {
        float weight = routing->weights[row];
        const float *restrict in = task->in + row * d;
        if (routing->experts[row] == EXPERT_DROPPED)
            continue;
        for (size_t i = 0; i < d; i++)
            sum[i] += weight * in[i];
    }
    for (size_t i = 0; i < d; i++)
        out[i] += task->scale * sum[i];
}

static void combine_rows(void *argument, size_t item, size_t worker)
{
    const CombineTask *task = argument;
    size_t first = item * TILE_ROWS;
    for (size_t token = first; token < first + TILE_ROWS && token < task->batch->tokens; token++)
        combine_token(task, token, cpu_scratch(task->device, worker));
}

Status cpu_combine(Device *device, const ExpertBatch *batch, float scale, const void *in,
                   float *out)
{
    CombineTask task = {device, batch, scale, in, out};
    thread_pool_run(device->pool, divide_up(batch->tokens, TILE_ROWS), combine_rows, &task);
    return OK;
}
