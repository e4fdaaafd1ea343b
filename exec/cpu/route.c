/* The router: softmax over all experts, then the top k. */
#include "exec/cpu/cpu.h"
#include "exec/cpu/exponential.h"

enum { ROUTE_ROWS = 32 };

typedef struct {
    uint32_t tokens;
    uint32_t n_experts;
    uint32_t top_k;
    bool normalise;
    float *scores;
    uint16_t *experts;
    float *weights;
} RouteTask;

static bool is_taken(const uint16_t *experts, uint32_t n, uint32_t expert)
{
    for (uint32_t i = 0; i < n; i++)
        if (experts[i] == expert)
            return true;
    return false;
}

/* The largest score not yet among EXPERTS[n]; the lowest id of equals, and of NaN. */
static uint32_t next_best(const float *scores, uint32_t n_experts, const uint16_t *experts,
                          uint32_t n)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t e = 0; e < n_experts; e++)
        if ((best == UINT32_MAX || scores[e] > scores[best]) && !is_taken(experts, n, e))
            best = e;
    return best;
}

static void route_token(const RouteTask *task, size_t token)
{
    float *scores = task->scores + token * task->n_experts;
    uint16_t *experts = task->experts + token * task->top_k;
    float *weights = task->weights + token * task->top_k;
    float sum = 0;
    softmax(scores, task->n_experts);
    for (uint32_t slot = 0; slot < task->top_k; slot++) {
        experts[slot] = (uint16_t)next_best(scores, task->n_experts, experts, slot);
        weights[slot] = scores[experts[slot]];
        sum += weights[slot];
    }
    for (uint32_t slot = 0; task->normalise && slot < task->top_k; slot++)
        weights[slot] /= sum;
}

static void route_rows(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const RouteTask *task = argument;
    size_t first = item * ROUTE_ROWS;
    for (size_t i = first; i < first + ROUTE_ROWS && i < task->tokens; i++)
        route_token(task, i);
}

Status cpu_route(Device *device, const float *in, const Matrix *router, uint32_t tokens,
                 uint32_t top_k, bool normalise, float *scores, uint16_t *experts, float *weights)
{
    TRY(cpu_linear(device, in, router, tokens, false, scores));
    RouteTask task = {tokens, router->rows, top_k, normalise, scores, experts, weights};
    thread_pool_run(device->pool, divide_up(tokens, ROUTE_ROWS), route_rows, &task);
    return OK;
}
