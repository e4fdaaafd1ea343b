#include "sim/layer_curves.h"

#include "base/memory.h"
#include "sim/curve.h"

static Status make_curves(const PackedTrace *trace, LayerCurves *curves)
{
    *curves = (LayerCurves){.n_layers = trace->n_layers};
    TRY(mem_new(&curves->loads, trace->n_layers, sizeof *curves->loads, "miss curves"));
    for (uint32_t i = 0; i < trace->n_layers; i++)
        TRY(mem_new(&curves->loads[i], (size_t)trace->layers[i].experts + 1, sizeof **curves->loads,
                    "miss curves"));
    return OK;
}

void layer_curves_free(LayerCurves *curves)
{
    for (uint32_t i = 0; curves->loads != NULL && i < curves->n_layers; i++)
        mem_free(curves->loads[i]);
    mem_free(curves->loads);
    *curves = (LayerCurves){0};
}

static void count_lookups(const PackedTrace *trace, LayerCurves *curves)
{
    PackedCursor cursor = packed_cursor(trace);
    PackedEvent event;
    while (packed_next(&cursor, &event))
        curves->loads[event.layer_index][0] += event.n_active;
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
    return plain;
}

static Status pass_once(Training *training, const Plan *plan, LayerCurves *curves)
{
    const PackedTrace *trace = training_trace(training);
    const ReplayFuture *future;
    MissCurve curve;
    TRY(training_future(training, plan, &future));
    TRY(curve_run(trace, plan, future, &curve));
    for (uint32_t i = 0; i < trace->n_layers; i++)
        for (uint32_t slots = 1; slots <= trace->layers[i].experts; slots++)
            curves->loads[i][slots] =
                curve.lookups[i] - curve.hits[(size_t)i * curve.n_sizes + slots - 1];
    curve_free(&curve);
    return OK;
}

static Status replay(Training *training, const Plan *learnt, uint64_t *loads)
{
    const PackedTrace *trace = training_trace(training);
    const ReplayFuture *future;
    ReplayResult result;
    TRY(training_future(training, learnt, &future));
    TRY(replay_run(trace, learnt, future, NULL, NULL, &result));
    for (uint32_t i = 0; i < trace->n_layers; i++)
        loads[i] = result.layers[i].counts.misses + result.layers[i].counts.prefetches;
    replay_result_free(&result);
    return OK;
}

Status layer_loads(Training *training, const Plan *plan, uint64_t *loads)
{
    Plan learnt;
    TRY(training_plan(training, plan, &learnt));
    Status status = replay(training, &learnt, loads);
    plan_free(&learnt);
    return status;
}

static Status replay_all(Training *training, const Plan *plan, LayerCurves *curves)
{
    const PackedTrace *trace = training_trace(training);
    uint64_t *loads;
    TRY(mem_new(&loads, trace->n_layers, sizeof *loads, "miss curves"));
    Status status = OK;
    for (uint32_t slots = 1; slots <= widest_layer(trace) && status == OK; slots++) {
        const Plan sized = with_slots(plan, slots);
        status = layer_loads(training, &sized, loads);
        for (uint32_t i = 0; i < trace->n_layers && status == OK; i++)
            if (slots <= trace->layers[i].experts)
                curves->loads[i][slots] = loads[i];
    }
    mem_free(loads);
    return status;
}

Status layer_curves_measure(Training *training, const Plan *plan, LayerCurves *curves)
{
    const Plan first = with_slots(plan, 1);
    Status status = make_curves(training_trace(training), curves);
    if (status == OK) {
        count_lookups(training_trace(training), curves);
        status = curve_is_exact(&first) ? pass_once(training, &first, curves)
                                        : replay_all(training, plan, curves);
    }
    if (status != OK)
        layer_curves_free(curves);
    return status;
}
