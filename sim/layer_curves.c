#include "sim/layer_curves.h"

#include "base/memory.h"
#include "sim/curve.h"

static Status make_curves(const PackedTrace *trace, LayerCurves *curves)
{
    *curves = (LayerCurves){.n_layers = trace->n_layers};
    TRY(mem_new(&curves->misses, trace->n_layers, sizeof *curves->misses, "miss curves"));
    for (uint32_t i = 0; i < trace->n_layers; i++)
        TRY(mem_new(&curves->misses[i], (size_t)trace->layers[i].experts + 1,
                    sizeof **curves->misses, "miss curves"));
    return OK;
}

void layer_curves_free(LayerCurves *curves)
{
    for (uint32_t i = 0; curves->misses != NULL && i < curves->n_layers; i++)
        mem_free(curves->misses[i]);
    mem_free(curves->misses);
    *curves = (LayerCurves){0};
}

static void count_lookups(const PackedTrace *trace, LayerCurves *curves)
{
    PackedCursor cursor = packed_cursor(trace);
    PackedEvent event;
    while (packed_next(&cursor, &event))
        curves->misses[event.layer_index][0] += event.n_active;
}

static uint32_t widest_layer(const PackedTrace *trace)
{
    uint32_t widest = 0;
    for (uint32_t i = 0; i < trace->n_layers; i++)
        widest = trace->layers[i].experts > widest ? trace->layers[i].experts : widest;
    return widest;
}

/* PLAN with SLOTS for every layer. */
static Plan with_slots(const Plan *plan, uint32_t slots)
{
    Plan plain = *plan;
    plain.buffer.slots = slots;
    plain.buffer.bytes = 0;
    plain.buffer.budget = (PlanLearned){0};
    plain.prefetch = plan_default().prefetch;
    return plain;
}

static Status pass_once(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                        LayerCurves *curves)
{
    MissCurve curve;
    TRY(curve_run(trace, plan, future, &curve));
    for (uint32_t i = 0; i < trace->n_layers; i++)
        for (uint32_t slots = 1; slots <= trace->layers[i].experts; slots++)
            curves->misses[i][slots] =
                curve.lookups[i] - curve.hits[(size_t)i * curve.n_sizes + slots - 1];
    curve_free(&curve);
    return OK;
}

static Status replay_once(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                          LayerCurves *curves)
{
    ReplayResult result;
    TRY(replay_run(trace, plan, future, NULL, NULL, &result));
    for (uint32_t i = 0; i < trace->n_layers; i++)
        if (plan->buffer.slots <= trace->layers[i].experts)
            curves->misses[i][plan->buffer.slots] = result.layers[i].counts.misses;
    replay_result_free(&result);
    return OK;
}

static Status replay_all(Training *training, const Plan *plan, const ReplayFuture *future,
                         LayerCurves *curves)
{
    const PackedTrace *trace = training_trace(training);
    Status status = OK;
    for (uint32_t slots = 1; slots <= widest_layer(trace) && status == OK; slots++) {
        Plan sized = with_slots(plan, slots);
        Plan learnt;
        TRY(training_plan(training, &sized, &learnt));
        status = replay_once(trace, &learnt, future, curves);
        plan_free(&learnt);
    }
    return status;
}

Status layer_curves_measure(Training *training, const Plan *plan, LayerCurves *curves)
{
    const PackedTrace *trace = training_trace(training);
    const Plan first = with_slots(plan, 1);
    ReplayFuture future = {0};
    Status status = make_curves(trace, curves);
    if (status == OK)
        status = replay_prepare(trace, &first, &future);
    if (status == OK) {
        count_lookups(trace, curves);
        status = curve_is_exact(&first) ? pass_once(trace, &first, &future, curves)
                                        : replay_all(training, plan, &future, curves);
    }
    replay_future_free(&future);
    if (status != OK)
        layer_curves_free(curves);
    return status;
}
