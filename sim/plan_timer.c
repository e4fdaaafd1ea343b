#include "sim/plan_timer.h"

#include <stdio.h>

#include "sim/ranked_replay.h"

void plan_timer_name(const Hardware *hardware, char *text, size_t bytes)
{
    snprintf(text, bytes, "%.240s, crc32c=%08x", hardware->device, hardware_crc(hardware));
}

static Status open_timing(const PlanTimer *timer, const Plan *plan, const TraceLayer *layers,
                          uint32_t n_layers, Timing **timing)
{
    const TimingOptions options = {.hardware = timer->hardware,
                                   .model = timer->model,
                                   .plan = plan,
                                   .layers = layers,
                                   .n_layers = n_layers,
                                   .logits = true,
                                   .forced = timer->forced,
                                   /* The steps that plans learnt from ran before. */
                                   .warm = timer->first > 0};
    return timing_new(&options, timing);
}

static Status replay(const PlanTimer *timer, const PackedTrace *trace, const Plan *plan,
                     const ReplayFuture *future, Timing *timing, ReplayResult *result)
{
    const TimingMemory memory = timing_memory(timing, timer->features);
    TRY(timed_replay(trace, future, timing, timer->features, timer->first, plan, NULL, NULL,
                     result));
    result->time = timing_plan_time(timing, &memory);
    return OK;
}

static Status serve(const PlanTimer *timer, const Plan *plan, Timing *timing, ReplayResult *result)
{
    const Batching batching = plan_batching(plan);
    const Arrivals arrivals = plan_arrivals(plan);
    Rebatch *rebatch;
    ServedPlan served;
    TRY(rebatch_open_tokens(timer->tokens, &batching, &arrivals, &rebatch));
    Status status = timed_serve(rebatch, plan, timing, NULL, NULL, NULL, &served);
    rebatch_close(rebatch);
    if (status != OK)
        return status;
    *result = served.result;
    served.result = (ReplayResult){0};
    served_plan_free(&served);
    return OK;
}

Status plan_timer_run(const PlanTimer *timer, const PackedTrace *trace, const Plan *plan,
                      const ReplayFuture *future, ReplayResult *result)
{
    Timing *timing;
    if (timer == NULL)
        return plan_replay_run(trace, plan, future, result);
    *result = (ReplayResult){0};
    TRY(open_timing(timer, plan, trace->layers, trace->n_layers, &timing));
    Status status = plan->batching.mode == BATCHING_CONTINUOUS
                        ? serve(timer, plan, timing, result)
                        : replay(timer, trace, plan, future, timing, result);
    timing_free(timing);
    return status;
}
