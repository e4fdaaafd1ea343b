#include "sim/layer_curves.h"

#include "base/memory.h"
#include "sim/curve.h"
#include "sim/ranked_replay.h"
#include "traces/layers.h"

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

uint32_t layer_least_slots(const Plan *plan, const TraceLayer *layer)
{
    uint32_t hot = plan_table_list(plan->buffer.hot.table, layer->layer).n;
    uint32_t initial = plan_table_list(plan->buffer.initial.table, layer->layer).n;
    uint32_t least = plan->buffer.order == ORDER_STAGED ? 0 : 1;
    least = hot > least ? hot : least;
    return initial > least ? initial : least;
}

Status layer_slots_table(const PackedTrace *trace, const uint32_t *slots, PlanTable **table)
{
    uint32_t n = trace->n_layers;
    TRY(plan_table_new(TABLE_NUMBERS, n, n, n, table));
    PlanTableParts parts = plan_table_parts(*table);
    for (uint32_t i = 0; i < n; i++) {
        parts.layer[i] = trace->layers[i].layer;
        parts.first_row[i + 1] = i + 1;
        parts.first_value[i + 1] = i + 1;
        parts.value[i] = slots[i];
    }
    return OK;
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
    TRY(plan_replay_run(trace, learnt, future, &result));
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

/* One point of the curve of every layer that has as many as SLOTS[n_layers]; LOADS is scratch of
 * the same size. */
static Status replay_sized(Training *training, const Plan *plan, const uint32_t *slots,
                           uint64_t *loads, LayerCurves *curves)
{
    const PackedTrace *trace = training_trace(training);
    Plan sized = with_slots(plan, 0);
    PlanTable *table;
    TRY(layer_slots_table(trace, slots, &table));
    sized.buffer.budget.table = table;
    Status status = layer_loads(training, &sized, loads);
    plan_table_release(table);
    for (uint32_t i = 0; i < trace->n_layers && status == OK; i++)
        if (slots[i] <= trace->layers[i].experts)
            curves->loads[i][slots[i]] = loads[i];
    return status;
}

/* A layer has no fewer slots than it may, and is then measured at those again. */
static Status replay_sizes(Training *training, const Plan *plan, uint32_t *slots, uint64_t *loads,
                           LayerCurves *curves)
{
    const PackedTrace *trace = training_trace(training);
    uint32_t most = layers_max_experts(trace->layers, trace->n_layers);
    Status status = OK;
    for (uint32_t n = plan->buffer.order == ORDER_STAGED ? 0 : 1; n <= most && status == OK; n++) {
        for (uint32_t i = 0; i < trace->n_layers; i++) {
            uint32_t least = layer_least_slots(plan, &trace->layers[i]);
            slots[i] = n > least ? n : least;
        }
        status = replay_sized(training, plan, slots, loads, curves);
    }
    return status;
}

static Status replay_all(Training *training, const Plan *plan, LayerCurves *curves)
{
    uint32_t n_layers = training_trace(training)->n_layers;
    uint32_t *slots;
    uint64_t *loads = NULL;
    TRY(mem_new(&slots, n_layers, sizeof *slots, "miss curves"));
    Status status = mem_new(&loads, n_layers, sizeof *loads, "miss curves");
    if (status == OK)
        status = replay_sizes(training, plan, slots, loads, curves);
    mem_free(loads);
    mem_free(slots);
    return status;
}

Status layer_curves_measure(Training *training, const Plan *plan, LayerCurves *curves)
{
    const Plan first = with_slots(plan, 1);
    Status status = make_curves(training_trace(training), curves);
    if (status == OK)
        status = curve_is_exact(&first) ? pass_once(training, &first, curves)
                                        : replay_all(training, plan, curves);
    if (status != OK)
        layer_curves_free(curves);
    return status;
}
