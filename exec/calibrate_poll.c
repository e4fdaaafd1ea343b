/* Prefetches that wait for the link: with every operation that it queues the host asks whether the
 * link is idle. */
#include "exec/calibrate_parts.h"
#include "policies/link.h"

enum { POLL_STEPS = 7, POLL_WARM_UP = 2, PREFETCHES = 4 };

/* Queueing an operation between the first event of a step and the last: the mean. */
static double mean_between(const Calibration *c, const HostTimes *host)
{
    uint32_t first = 0;
    uint32_t last = 0;
    double sum = 0;
    double n = 0;
    for (uint32_t i = 0; i < c->n_ops; i++)
        last = c->op[i] == OP_EXPERTS ? i : last;
    while (first < last && c->op[first] != OP_EXPERTS)
        first++;
    for (uint32_t i = first; i < last; i++) {
        if (c->op[i] == OP_EXPERTS)
            continue;
        sum += (double)host->ops[i].duration_ns;
        n++;
    }
    return n > 0 ? sum / n : 0;
}

/* The same in steps of one token that miss every expert, the median. With PREDICTOR each event
 * loads on demand for longer than the host queues what comes before the next. */
static Status measure(Calibration *c, const char *predictor, double *ns)
{
    const StepKind kind = {.requests = 1, .tokens = 1, .forced = true};
    double values[POLL_STEPS];
    StepOutput output;
    double whole_ns;
    Plan plan = calibration_predicting_plan(c, predictor, PREFETCHES);
    TRY(executor_set_plan(c->executor, &plan));
    calibration_seek_quiet(c);
    for (int i = -POLL_WARM_UP; i < POLL_STEPS; i += calibration_counts(c)) {
        c->first_expert = (c->first_expert + 1) % c->config->max_experts;
        calibration_force(c, STACK_DECODER, 1, c->config->max_top_k, 0);
        calibration_foretell(c, 1);
        TRY(calibration_step(c, &kind, false, &output, &whole_ns));
        values[i > 0 ? i : 0] = mean_between(c, &output.host);
    }
    *ns = median_f64(values, POLL_STEPS);
    return OK;
}

static Status list_operations(Calibration *c)
{
    const StepKind kind = {.requests = 1, .tokens = 1, .forced = true};
    StepOutput output;
    double ns;
    calibration_force(c, STACK_DECODER, 1, c->config->max_top_k, 0);
    TRY(calibration_step(c, &kind, true, &output, &ns));
    calibration_list(c, STACK_DECODER, &output);
    return OK;
}

Status calibrate_poll(Calibration *c)
{
    double waiting_ns;
    double ns;
    if (calibration_runs_at_once(c) || calibration_only_counts(c) ||
        !link_holds_back(executor_expert_slot_bytes(c->executor, 0), 0))
        return OK;
    TRY(list_operations(c));
    TRY(measure(c, "none", &ns));
    TRY(measure(c, "oracle:1", &waiting_ns));
    return calibration_note(c, "issue/poll", "", UNIT_NS, NULL, 0, NULL,
                            at_least_0(waiting_ns - ns), 0);
}
