/* Steps that come long after the host queued the one before: by then its caches have lost much of
 * what queues them, for it waits in between, or does other things, and others use the same
 * processor. */
#include "base/clock.h"
#include "exec/calibrate_parts.h"

enum { COLD_REPEATS = 5, COLD_WARM_UP = 3 };

static const double ELAPSED_NS[] = {2.5e5, 5e5, 1e6, 2e6, 4e6, 8e6, 1.6e7, 3.2e7, 6.4e7};

/* From the call of a step to where all of it is queued. */
static uint64_t queued_after_ns(const StepOutput *output)
{
    const HostSpan *queue = &output->host.queue;
    return queue->start_ns + queue->duration_ns - output->start_ns;
}

uint64_t calibration_elapsed(uint64_t start_ns, const StepOutput *output)
{
    uint64_t ns = clock_ns() - start_ns;
    uint64_t queued_ns = queued_after_ns(output);
    return ns > queued_ns ? ns - queued_ns : 0;
}

void calibration_elapse(uint64_t start_ns, const StepOutput *output, uint64_t elapsed_ns)
{
    while (calibration_elapsed(start_ns, output) < elapsed_ns)
        continue;
}

/* Runs KIND, and again when ELAPSED_NS have passed since that was queued; *NS is of the second. */
static Status run_after(Calibration *c, const StepKind *kind, double elapsed_ns, double *ns)
{
    StepOutput output;
    uint64_t start_ns = clock_ns();
    TRY(calibration_step(c, kind, false, &output, ns));
    calibration_elapse(start_ns, &output, (uint64_t)elapsed_ns);
    calibration_do_other_things(c);
    return calibration_step(c, kind, false, &output, ns);
}

/* The median of steps that begin ELAPSED_NS after those before were queued, or at once where these
 * go on for as long: what others do meanwhile to caches that they share is a part of it. */
static Status measure_after(Calibration *c, const StepKind *kind, double elapsed_ns, double *ns,
                            double *spread)
{
    double values[COLD_REPEATS];
    calibration_seek_quiet(c);
    for (int r = 0; r < COLD_REPEATS; r += calibration_counts(c))
        TRY(run_after(c, kind, elapsed_ns, &values[r]));
    *spread = variation_f64(values, COLD_REPEATS);
    *ns = median_f64(values, COLD_REPEATS);
    return OK;
}

Status calibrate_cold(Calibration *c)
{
    static const char *const AXIS[] = {"elapsed"};
    const StepKind kind = {.requests = 1, .tokens = 1, .forced = true};
    uint32_t top_k = c->config->max_top_k;
    double ns[COUNT(ELAPSED_NS)];
    double warm_ns;
    double spread;
    if (top_k >= c->config->max_experts || calibration_only_counts(c) ||
        calibration_runs_at_once(c))
        return OK;
    calibration_force(c, STACK_DECODER, 1, top_k, 0);
    for (int i = 0; i < COLD_WARM_UP; i++)
        TRY(run_after(c, &kind, 0, &warm_ns));
    TRY(measure_after(c, &kind, 0, &warm_ns, &spread));
    for (size_t i = 0; i < COUNT(ELAPSED_NS); i++) {
        ns[i] = warm_ns;
        if (ELAPSED_NS[i] > warm_ns)
            TRY(measure_after(c, &kind, ELAPSED_NS[i], &ns[i], &spread));
    }
    /* The sooner a step comes the less is lost: one that took longer was disturbed. */
    for (size_t i = COUNT(ELAPSED_NS) - 1; i > 0; i--)
        ns[i - 1] = ns[i] < ns[i - 1] ? ns[i] : ns[i - 1];
    for (size_t i = 0; i < COUNT(ELAPSED_NS); i++)
        TRY(calibration_note(c, "step/cold", c->model, UNIT_NS, AXIS, 1, &ELAPSED_NS[i],
                             at_least_0(ns[i] - warm_ns), spread));
    return OK;
}
