/* Predictors over a table that the plan brings: learnt once, and not as the trace goes. */
#include <inttypes.h>

#include "policies/predictor.h"

/* The row of EXPERT of the layer at index FROM that predicts. */
static PlanRow successors(const Predictor *predictor, uint32_t from, uint32_t expert)
{
    uint32_t at = plan_table_find(predictor->table, predictor->layers[from].layer);
    return plan_table_row(predictor->table, at, expert);
}

uint64_t predict_learnt_frequency(Predictor *predictor, const BufferEvent *event, uint32_t target,
                                  const uint16_t *coming, uint32_t n_coming)
{
    PlanRow row = successors(predictor, target, 0);
    (void)event;
    (void)coming;
    (void)n_coming;
    for (uint32_t e = 0; e < row.n; e++)
        predictor->score[e] = row.values[e];
    return row.n;
}

uint64_t predict_learnt_transition(Predictor *predictor, const BufferEvent *event, uint32_t target,
                                   const uint16_t *coming, uint32_t n_coming)
{
    uint64_t reads = 0;
    (void)target;
    (void)coming;
    (void)n_coming;
    for (uint32_t i = 0; i < event->n; i++) {
        PlanRow row = successors(predictor, event->layer_index, event->experts[i]);
        for (uint32_t at = 0; at < row.n; at += 2)
            predictor->score[row.values[at]] += row.values[at + 1];
        reads += row.n;
    }
    return reads;
}

static Status check_layer(const Predictor *predictor, uint32_t layer, uint32_t rows, uint32_t *at)
{
    uint32_t number = predictor->layers[layer].layer;
    *at = plan_table_find(predictor->table, number);
    if (*at == plan_table_layers(predictor->table))
        return fail(ERR_PLAN, "prefetch.table: layer %" PRIu32 " is missing", number);
    if (plan_table_rows(predictor->table, *at) == rows)
        return OK;
    return fail(ERR_PLAN,
                "prefetch.table: layer %" PRIu32 ": %" PRIu32 " lists, wanted are %" PRIu32, number,
                plan_table_rows(predictor->table, *at), rows);
}

Status predict_learnt_check_frequency(const Predictor *predictor)
{
    for (uint32_t i = 0; i < predictor->n_layers; i++) {
        uint32_t at;
        if (i < predictor->distance || predictor_target(predictor, i - predictor->distance) != i)
            continue;
        TRY(check_layer(predictor, i, 1, &at));
        if (plan_table_row(predictor->table, at, 0).n != predictor->layers[i].experts)
            return fail(ERR_PLAN,
                        "prefetch.table: layer %" PRIu32 ": %" PRIu32 " numbers, it has %" PRIu32
                        " experts",
                        predictor->layers[i].layer, plan_table_row(predictor->table, at, 0).n,
                        predictor->layers[i].experts);
    }
    return OK;
}

Status predict_learnt_check_transition(const Predictor *predictor)
{
    for (uint32_t i = 0; i < predictor->n_layers; i++) {
        uint32_t target = predictor_target(predictor, i);
        uint32_t at;
        if (target == predictor->n_layers)
            continue;
        TRY(check_layer(predictor, i, predictor->layers[i].experts, &at));
        for (uint32_t e = 0; e < predictor->layers[i].experts; e++) {
            PlanRow row = plan_table_row(predictor->table, at, e);
            bool good = row.n % 2 == 0;
            for (uint32_t v = 0; v < row.n; v += 2)
                good = good && row.values[v] < predictor->layers[target].experts;
            if (!good)
                return fail(ERR_PLAN,
                            "prefetch.table: layer %" PRIu32 ": expert %" PRIu32
                            ": must be pairs of an expert of layer %" PRIu32 " and its share",
                            predictor->layers[i].layer, e, predictor->layers[target].layer);
        }
    }
    return OK;
}
