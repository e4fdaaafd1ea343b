/* Experts that the host has not computed for a while: its cores had nothing to do, and what small
 * experts have in the caches is gone, for other machines use these as well. */
#include "base/clock.h"
#include "exec/calibrate_host.h"

enum {
    RESTED_REPEATS = 7,
    AGED_REPEATS = 7,
    AGED_MOST = 32, /* experts at once */
    MOST_EVENTS = 15
};

static const char *const ELAPSED_AXES[] = {"active", "elapsed"};

/* The host's experts of a step, event by event. */
typedef struct {
    uint32_t n;
    uint64_t start_ns[MOST_EVENTS];
    double ns[MOST_EVENTS];
} HostEvents;

static void take_events(const StepOutput *output, HostEvents *events)
{
    events->n = 0;
    for (size_t i = 0; i < output->n_timing && events->n < MOST_EVENTS; i++) {
        const ResidencyRecord *host = NULL;
        if (output->timing[i].op != OP_EXPERTS ||
            calibration_count_host(output, output->timing[i].layer, &host) == 0)
            continue;
        events->start_ns[events->n] = host->start_ns;
        events->ns[events->n++] = (double)host->duration_ns;
    }
}

/* From the end of event I of EVENTS to START_NS. */
static double since(const HostEvents *events, uint32_t i, uint64_t start_ns)
{
    return (double)(start_ns - events->start_ns[i]) - events->ns[i];
}

static void wait_for(double ns)
{
    uint64_t start_ns = clock_ns();
    while ((double)(clock_ns() - start_ns) < ns)
        continue;
}

/* What the first event of a step took longer than the median of the others, how long the host's
 * cores had rested before it, and before the second. */
typedef struct {
    uint32_t n;
    double longer_ns[RESTED_REPEATS];
    double rested_ns[RESTED_REPEATS];
    double others_ns[RESTED_REPEATS];
} RestedTimes;

/* Two steps, the second when WAIT_NS have passed: adds its times to TIMES, unless it has only one
 * event. */
static Status time_rested(Calibration *c, const HostSteps *steps, double wait_ns,
                          RestedTimes *times)
{
    HostEvents before;
    HostEvents events;
    StepOutput output;
    TRY(calibration_host_step(c, steps, &output));
    take_events(&output, &before);
    wait_for(wait_ns);
    TRY(calibration_host_step(c, steps, &output));
    take_events(&output, &events);
    if (before.n == 0 || events.n < 2)
        return OK;
    times->longer_ns[times->n] = events.ns[0] - median_f64(events.ns + 1, events.n - 1);
    times->rested_ns[times->n] = since(&before, before.n - 1, events.start_ns[0]);
    times->others_ns[times->n++] = since(&events, 0, events.start_ns[1]);
    return OK;
}

/* Memory and cores that had nothing to do for a while are slower at first. */
static Status measure_rested(Calibration *c, uint32_t active, double wait_ns)
{
    RestedTimes times = {0};
    char shape[160];
    HostSteps steps;
    if (!calibration_host_steps(c, 1, active, &steps) || !calibration_experts_shape(c, shape))
        return OK;
    for (uint32_t i = 0; i < RESTED_REPEATS && times.n == i; i++)
        TRY(time_rested(c, &steps, wait_ns, &times));
    if (times.n < RESTED_REPEATS)
        return OK;
    const double longer_ns = median_f64(times.longer_ns, times.n);
    const double at[2] = {active, median_f64(times.rested_ns, times.n)};
    const double others_at[2] = {active, median_f64(times.others_ns, times.n)};
    if (wait_ns == 0 && others_at[1] < at[1])
        TRY(calibration_note(c, "host/rested", shape, UNIT_NS, ELAPSED_AXES, 2, others_at, 0, 0));
    return calibration_note(c, "host/rested", shape, UNIT_NS, ELAPSED_AXES, 2, at,
                            at_least_0(longer_ns), 0);
}

Status calibrate_host_rested(Calibration *c)
{
    static const double WAIT_NS[] = {0, 1e6, 3e6, 1e7};
    uint32_t few = c->config->max_top_k < 4 ? c->config->max_top_k : 4;
    if (c->options->quick || calibration_runs_at_once(c) || calibration_only_counts(c))
        return OK;
    for (uint32_t i = 0; i < COUNT(WAIT_NS); i++)
        for (uint32_t active = 1; active <= few; active += few > 1 ? few - 1 : 1)
            TRY(measure_rested(c, active, WAIT_NS[i]));
    return OK;
}

/* What ACTIVE experts of one row each take, of SHAPE: as measured, or 0. */
static double known_ns(const Calibration *c, const char *shape, double active)
{
    const CostTable *table = calibration_table(c, "host/experts", shape);
    for (uint32_t i = 0; table != NULL && i < table->n_points; i++)
        if (table->at[2 * i] == 1 && table->at[2 * i + 1] == active)
            return table->value[i];
    return 0;
}

/* What steps took, and how long ago their experts were begun before. */
typedef struct {
    uint32_t n;
    double took_ns[AGED_REPEATS];
    double elapsed_ns[AGED_REPEATS];
} AgedTimes;

/* Two steps of the same experts, the second when WAIT_NS have passed: adds the medians over its
 * layers to TIMES, but for the first, which is rested, unless it has only that. */
static Status time_aged(Calibration *c, const HostSteps *steps, double wait_ns, AgedTimes *times)
{
    HostEvents before;
    HostEvents events;
    StepOutput output;
    double elapsed[MOST_EVENTS];
    TRY(calibration_host_step(c, steps, &output));
    take_events(&output, &before);
    wait_for(wait_ns);
    TRY(calibration_host_step(c, steps, &output));
    take_events(&output, &events);
    if (events.n < 2 || before.n != events.n)
        return OK;
    for (uint32_t i = 0; i < events.n; i++)
        elapsed[i] = (double)(events.start_ns[i] - before.start_ns[i]);
    times->took_ns[times->n] = median_f64(events.ns + 1, events.n - 1);
    times->elapsed_ns[times->n++] = median_f64(elapsed + 1, events.n - 1);
    return OK;
}

/* What small experts take longer than others of as many rows, which are those of many steps ago. */
static Status measure_aged(Calibration *c, uint32_t active, double wait_ns)
{
    AgedTimes times = {0};
    char shape[160];
    HostSteps steps;
    uint32_t top_k = c->config->max_top_k;
    if (!calibration_experts_shape(c, shape) || known_ns(c, shape, active) == 0 ||
        !calibration_host_steps(c, active < top_k ? 1 : active / top_k, active, &steps))
        return OK;
    steps.sets = 1;
    for (uint32_t i = 0; i < AGED_REPEATS && times.n == i; i++)
        TRY(time_aged(c, &steps, wait_ns, &times));
    if (times.n < AGED_REPEATS)
        return OK;
    const double at[2] = {active, median_f64(times.elapsed_ns, times.n)};
    double longer_ns = median_f64(times.took_ns, times.n) - known_ns(c, shape, active);
    return calibration_note(c, "host/aged", shape, UNIT_NS, ELAPSED_AXES, 2, at, longer_ns,
                            variation_f64(times.took_ns, times.n));
}

Status calibrate_host_aged(Calibration *c)
{
    static const double WAIT_NS[] = {0, 1e6, 2e6, 4e6, 8e6, 1.6e7, 4e7};
    static const uint32_t ACTIVE[] = {1, 2, 4, 8, AGED_MOST};
    if (c->options->quick || calibration_runs_at_once(c) || calibration_only_counts(c) ||
        !calibration_small_experts(c))
        return OK;
    TRY(calibration_settle(c));
    for (uint32_t i = 0; i < COUNT(WAIT_NS); i++)
        for (uint32_t j = 0; j < COUNT(ACTIVE); j++)
            TRY(measure_aged(c, ACTIVE[j], WAIT_NS[i]));
    return OK;
}
