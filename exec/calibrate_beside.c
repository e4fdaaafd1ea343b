/* How much longer an operation takes that has no stamp while prefetches are copied one by one: what
 * the device is to run it reads over the link, too, behind what is under way there. */
#include "exec/calibrate_parts.h"
#include "policies/link.h"

enum { BESIDE_STEPS = 9, BESIDE_WARM_UP = 3, PREFETCHES = 4 };

/* From the decisions on an event to the counts of the next one: the mean of a step. */
static double mean_between(const HostTimes *host)
{
    double sum = 0;
    for (size_t i = 0; i + 1 < host->n_events; i++) {
        const HostSpan *decided = &host->events[i].decide;
        const HostSpan *wait = &host->events[i + 1].wait;
        sum += ns_between(decided->start_ns + decided->duration_ns,
                          wait->start_ns + wait->duration_ns);
    }
    return host->n_events > 1 ? sum / (double)(host->n_events - 1) : 0;
}

/* Operations between two events, one's experts included, of the mean. */
static double count_between(const Calibration *c)
{
    uint32_t first = UINT32_MAX;
    uint32_t last = 0;
    double n = 0;
    for (uint32_t i = 0; i < c->n_ops; i++) {
        if (c->op[i] != OP_EXPERTS)
            continue;
        first = first == UINT32_MAX ? i : first;
        last = i;
        n++;
    }
    return n > 1 ? (last - first) / (n - 1) : 0;
}

/* Steps that hit the ACTIVE experts they need, while others are prefetched, unless PREDICTOR is
 * none: *NS passes between two events. */
static Status time_steps(Calibration *c, const StepKind *kind, uint32_t active,
                         const char *predictor, double *ns)
{
    Plan plan = calibration_predicting_plan(c, predictor, PREFETCHES);
    double values[BESIDE_STEPS];
    StepOutput output;
    double whole_ns;
    plan.buffer.slots = active + 2 * PREFETCHES;
    TRY(executor_set_plan(c->executor, &plan));
    for (int i = 0; i < BESIDE_WARM_UP; i++)
        TRY(calibration_step(c, kind, true, &output, &whole_ns));
    calibration_list(c, STACK_DECODER, &output);
    calibration_seek_quiet(c);
    for (uint32_t r = 0; r < BESIDE_STEPS; r += calibration_counts(c)) {
        TRY(calibration_step(c, kind, false, &output, &whole_ns));
        values[r] = mean_between(&output.host);
    }
    *ns = median_f64(values, BESIDE_STEPS);
    return OK;
}

static Status measure(Calibration *c, uint32_t requests)
{
    static const char *const AXIS[] = {"tokens"};
    const StepKind kind = {.requests = requests, .tokens = 1, .forced = true};
    const double at = requests;
    uint32_t active = c->config->max_experts / 4;
    double idle_ns;
    double busy_ns;
    char shape[160];
    if (active > requests * c->config->max_top_k)
        active = requests * c->config->max_top_k;
    if (active < c->config->max_top_k || requests > c->max_requests)
        return OK;
    calibration_force(c, STACK_DECODER, requests, active, 0);
    calibration_foretell(c, requests);
    TRY(time_steps(c, &kind, active, "none", &idle_ns));
    TRY(time_steps(c, &kind, active, "synthetic:1,0.5", &busy_ns));
    if (count_between(c) == 0)
        return OK;
    calibration_experts_shape(c, shape);
    return calibration_note(c, "beside", shape, UNIT_NS, AXIS, 1, &at,
                            at_least_0(busy_ns - idle_ns) / count_between(c), 0);
}

Status calibrate_beside(Calibration *c)
{
    if (calibration_runs_at_once(c) || calibration_only_counts(c) ||
        !link_holds_back(executor_expert_slot_bytes(c->executor, 0), 0))
        return OK;
    TRY(measure(c, 1));
    TRY(measure(c, 16));
    return executor_set_plan(c->executor, &c->plan);
}
