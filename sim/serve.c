#include "sim/serve.h"

static Status serve(Rebatch *rebatch, ServeStep cost, void *argument, Latency *latency)
{
    uint64_t now_ns = 0;
    for (;;) {
        TraceStep step;
        uint64_t until_ns = 0;
        uint64_t duration_ns = 0;
        Status status = rebatch_step_at(rebatch, now_ns, &step, &until_ns);
        if (status != OK)
            return status == STATUS_END ? OK : status;
        if (step.tokens == 0) {
            now_ns = until_ns;
            continue;
        }
        TRY(cost(argument, &step, now_ns, &duration_ns));
        if (duration_ns > SCHEDULE_OVER - 1 - now_ns)
            return fail(ERR_INPUT, "step %u: the simulated time is out of range", step.step);
        latency_step(latency, rebatch_scheduled(rebatch), now_ns, now_ns + duration_ns);
        now_ns += duration_ns;
    }
}

Status serve_run(Rebatch *rebatch, ServeStep cost, void *argument, const ServiceGoals *goals,
                 ServingReport *report)
{
    Latency *latency;
    uint32_t n;
    const ScheduledRequest *requests = rebatch_requests(rebatch, &n);
    TRY(latency_new(requests, n, &latency));
    Status status = serve(rebatch, cost, argument, latency);
    if (status == OK)
        *report = latency_report(latency, goals);
    latency_free(latency);
    return status;
}
