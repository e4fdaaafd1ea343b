/* Events whose experts are others than those of the event before: deciding on them and queueing
 * them takes the host longer than what it has just done, and does again. */
#include "exec/calibrate_parts.h"

enum { VARIED_STEPS = 16, MOST_EVENTS = 256, LEAST_EVENTS = 5 };

typedef struct {
    uint32_t n;
    double active; /* sum over the events */
    double decide_ns[MOST_EVENTS];
    double queue_ns[MOST_EVENTS];
} Events;

/* Keeps the events that load nothing. */
static void keep(Calibration *c, const StepOutput *output, Events *events)
{
    const HostTimes *host = &output->host;
    size_t event = 0;
    calibration_keep_host_times(host, c->issue_ns, c->decide_ns);
    for (uint32_t i = 0; i < c->n_ops; i++) {
        if (c->op[i] != OP_EXPERTS)
            continue;
        const HostEvent *waited = &host->events[event++];
        if (waited->n_loads > 0 || events->n == MOST_EVENTS)
            continue;
        events->active += waited->active;
        events->decide_ns[events->n] = c->decide_ns[i];
        events->queue_ns[events->n++] = c->issue_ns[i];
    }
}

static Status note(Calibration *c, uint32_t tokens, Events *varied, Events *again)
{
    static const char *const ACTIVE_AXIS[] = {"active"};
    static const char *const TOKENS_AXIS[] = {"tokens"};
    const double active = (double)(uint32_t)(varied->active / varied->n + 0.5);
    const double at = tokens;
    char shape[160];
    if (!calibration_experts_shape(c, shape))
        return OK;
    double spread = variation_f64(varied->decide_ns, varied->n);
    TRY(calibration_note(c, "decide/none", shape, UNIT_NS, ACTIVE_AXIS, 1, &active,
                         median_f64(varied->decide_ns, varied->n), spread));
    return calibration_note(
        c, "issue/varied", shape, UNIT_NS, TOKENS_AXIS, 1, &at,
        at_least_0(median_f64(varied->queue_ns, varied->n) - median_f64(again->queue_ns, again->n)),
        0);
}

static Status measure(Calibration *c, uint32_t requests)
{
    const StepKind kind = {.requests = requests, .tokens = 1, .forced = true};
    uint64_t random = requests;
    Events varied = {0};
    Events again = {0};
    StepOutput output;
    double ns;
    calibration_draw(c, requests, &random);
    TRY(calibration_step(c, &kind, true, &output, &ns));
    calibration_list(c, STACK_DECODER, &output);
    calibration_seek_quiet(c);
    for (int i = 0; i < VARIED_STEPS;) {
        const Events varied_before = varied;
        const Events again_before = again;
        calibration_draw(c, requests, &random);
        TRY(calibration_step(c, &kind, false, &output, &ns));
        keep(c, &output, &varied);
        TRY(calibration_step(c, &kind, false, &output, &ns));
        keep(c, &output, &again);
        if (calibration_counts(c)) {
            i++;
            continue;
        }
        varied = varied_before;
        again = again_before;
    }
    return varied.n >= LEAST_EVENTS && again.n >= LEAST_EVENTS ? note(c, requests, &varied, &again)
                                                               : OK;
}

Status calibrate_varied(Calibration *c)
{
    static const uint32_t REQUESTS[] = {1, 2, 4, 8, 16, 32, 64};
    size_t n = c->options->quick ? 1 : COUNT(REQUESTS);
    if (c->queue_round > 0 || calibration_only_counts(c) || calibration_runs_at_once(c))
        return OK;
    for (size_t i = 0; i < n; i++)
        if (REQUESTS[i] <= c->max_requests)
            TRY(measure(c, REQUESTS[i]));
    return OK;
}
