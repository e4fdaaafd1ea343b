/* What small or large prefetches cost a step without stamps. While large ones are copied, one by
 * one, any operation takes longer: what the device is to run it reads over the link, too, behind
 * what is under way there. Small ones begin to be copied when the host has queued all up to the
 * next event, and it is not told of that before some time has passed. */
#include "exec/calibrate_parts.h"
#include "policies/link.h"

enum { BESIDE_STEPS = 9, BESIDE_WARM_UP = 3, PREFETCHES = 4, MOST_SMALL = 8, SMALL_ROUNDS = 3 };

/* What is told so much later than else is late for the copies. */
static const double LATE_NS = 1000;

/* Names all experts that are needed, which are in place, and as many others. */
static const char PREDICTOR[] = "synthetic:1,0.5";

/* To the counts of an event, means over those of a step but the first. */
typedef struct {
    double between_ns; /* from the decisions on the event before */
    double waited_ns;  /* from where the host has queued all */
} Told;

static Told mean_told(const HostTimes *host)
{
    Told sum = {0};
    double n = host->n_events > 1 ? (double)host->n_events - 1 : 1;
    for (size_t i = 0; i + 1 < host->n_events; i++) {
        const HostSpan *decided = &host->events[i].decide;
        const HostSpan *wait = &host->events[i + 1].wait;
        sum.between_ns += ns_between(decided->start_ns + decided->duration_ns,
                                     wait->start_ns + wait->duration_ns) /
                          n;
        sum.waited_ns += (double)wait->duration_ns / n;
    }
    return sum;
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

/* Steps that hit the ACTIVE experts they need, while PREFETCHES others are loaded ahead, unless
 * PREDICTOR is none. */
static Status time_steps(Calibration *c, const StepKind *kind, uint32_t active,
                         const char *predictor, uint32_t prefetches, Told *median)
{
    Plan plan = calibration_predicting_plan(c, predictor, prefetches);
    double between[BESIDE_STEPS];
    double waited[BESIDE_STEPS];
    StepOutput output;
    double whole_ns;
    plan.buffer.slots = active + 2 * prefetches;
    TRY(executor_set_plan(c->executor, &plan));
    for (int i = 0; i < BESIDE_WARM_UP; i++)
        TRY(calibration_step(c, kind, true, &output, &whole_ns));
    calibration_list(c, STACK_DECODER, &output);
    calibration_seek_quiet(c);
    for (uint32_t r = 0; r < BESIDE_STEPS; r += calibration_counts(c)) {
        TRY(calibration_step(c, kind, false, &output, &whole_ns));
        const Told told = mean_told(&output.host);
        between[r] = told.between_ns;
        waited[r] = told.waited_ns;
    }
    *median = (Told){median_f64(between, BESIDE_STEPS), median_f64(waited, BESIDE_STEPS)};
    return OK;
}

/* Forces REQUESTS on a quarter of the experts, ACTIVE; false: so few need more, or there are fewer
 * requests. */
static bool force(Calibration *c, uint32_t requests, uint32_t *active)
{
    *active = c->config->max_experts / 4;
    if (*active > requests * c->config->max_top_k)
        *active = requests * c->config->max_top_k;
    if (*active < c->config->max_top_k || requests > c->max_requests)
        return false;
    calibration_force(c, STACK_DECODER, requests, *active, 0);
    calibration_foretell(c, requests);
    return true;
}

static Status measure(Calibration *c, uint32_t requests)
{
    static const char *const AXIS[] = {"tokens"};
    const StepKind kind = {.requests = requests, .tokens = 1, .forced = true};
    const double at = requests;
    uint32_t active;
    Told idle;
    Told busy;
    char shape[160];
    if (!force(c, requests, &active))
        return OK;
    TRY(time_steps(c, &kind, active, "none", PREFETCHES, &idle));
    TRY(time_steps(c, &kind, active, PREDICTOR, PREFETCHES, &busy));
    if (count_between(c) == 0)
        return OK;
    calibration_experts_shape(c, shape);
    return calibration_note(c, "beside", shape, UNIT_NS, AXIS, 1, &at,
                            at_least_0(busy.between_ns - idle.between_ns) / count_between(c), 0);
}

/* Of a step whose device is ahead of the host. */
static Status measure_small(Calibration *c, uint32_t prefetches)
{
    static const char *const AXIS[] = {"loads"};
    const StepKind kind = {.requests = 1, .tokens = 1, .forced = true};
    const double at = prefetches;
    uint32_t active;
    Told idle;
    Told busy;
    char shape[160];
    if (!force(c, 1, &active) || active + 2 * prefetches > c->config->max_experts)
        return OK;
    TRY(time_steps(c, &kind, active, "none", prefetches, &idle));
    TRY(time_steps(c, &kind, active, PREDICTOR, prefetches, &busy));
    double ns = busy.waited_ns > idle.waited_ns + LATE_NS ? busy.waited_ns : 0;
    calibration_experts_shape(c, shape);
    return calibration_note(c, "wait/ahead", shape, UNIT_NS, AXIS, 1, &at, ns, 0);
}

Status calibrate_beside(Calibration *c)
{
    if (calibration_runs_at_once(c) || calibration_only_counts(c))
        return OK;
    if (link_holds_back(executor_expert_slot_bytes(c->executor, 0), 0)) {
        TRY(measure(c, 1));
        TRY(measure(c, 16));
    } else {
        for (int round = 0; round < SMALL_ROUNDS; round++)
            for (uint32_t n = 1; n <= MOST_SMALL; n++)
                TRY(measure_small(c, n));
    }
    return executor_set_plan(c->executor, &c->plan);
}
