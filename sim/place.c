#include "sim/place.h"

#include <inttypes.h>

#include "base/memory.h"
#include "sim/place_statistics.h"

typedef struct {
    const Plan *plan;
    PlaceStatistics statistics;
} Lesson;

static Status fill_balanced(void *argument, uint32_t layer_index, LayerPlacement *placement)
{
    const Lesson *lesson = argument;
    const Plan *plan = lesson->plan;
    if (plan->placement.replicas > (uint64_t)placement->experts * (placement->ranks - 1))
        return fail(ERR_PLAN,
                    "placement.replicas: %" PRIu32 ", %" PRIu32 " experts on %" PRIu32
                    " ranks have at most %" PRIu64,
                    plan->placement.replicas, placement->experts, placement->ranks,
                    (uint64_t)placement->experts * (placement->ranks - 1));
    return placement_balance(plan->placement.method, &lesson->statistics.layers[layer_index],
                             plan->placement.replicas, placement);
}

Status place_learn(const PackedTrace *trace, Plan *plan)
{
    Lesson lesson = {.plan = plan};
    const PlanTable *map = NULL;
    if (!placement_learns(plan->placement.method))
        return OK;
    TRY(place_statistics(trace, placement_needs_correlation(plan->placement.method),
                         &lesson.statistics));
    Status status = placement_table(trace->layers, trace->n_layers, plan->placement.ranks,
                                    fill_balanced, &lesson, &map);
    place_statistics_free(&lesson.statistics);
    TRY(status);
    plan_learn(&plan->placement.map, map);
    plan_table_release(map);
    return OK;
}

/* The assignments of the fullest rank. ON_RANK[ranks] is zero, and is again. */
static double fullest_rank(const PackedEvent *event, const PlanTable *map, uint32_t at,
                           uint32_t ranks, double *on_rank, uint64_t *assignments)
{
    const uint8_t *counts = event->counts;
    double fullest = 0;
    *assignments = 0;
    for (uint32_t i = 0; i < event->n_active; i++) {
        uint32_t count = packed_event_count(&counts);
        PlanRow row = plan_table_row(map, at, event->experts[i]);
        *assignments += count;
        for (uint32_t j = 0; j < row.n; j++)
            on_rank[row.values[j]] += (double)count / row.n;
    }
    for (uint32_t rank = 0; rank < ranks; rank++) {
        fullest = on_rank[rank] > fullest ? on_rank[rank] : fullest;
        on_rank[rank] = 0;
    }
    return fullest;
}

/* Sums, until finish() makes means of them: imbalance those of the fullest rank. */
static void add(PlaceLayer *layer, double fullest, uint64_t assignments)
{
    double share = fullest / (double)assignments;
    layer->events++;
    layer->assignments += assignments;
    layer->max_load = share > layer->max_load ? share : layer->max_load;
    layer->avg_max_load += share;
    layer->imbalance += fullest;
}

static void finish(PlaceLayer *layer, uint32_t ranks)
{
    if (layer->events == 0)
        return;
    layer->avg_max_load /= (double)layer->events;
    layer->imbalance *= (double)ranks / (double)layer->assignments;
}

static void score_events(const PackedTrace *trace, const PlanTable *map, uint32_t ranks,
                         const uint32_t *at, double *on_rank, PlaceScore *score)
{
    PackedCursor cursor = packed_cursor(trace);
    PackedEvent event;
    while (packed_next(&cursor, &event)) {
        uint64_t assignments;
        double fullest =
            fullest_rank(&event, map, at[event.layer_index], ranks, on_rank, &assignments);
        if (assignments == 0)
            continue;
        add(&score->layers[event.layer_index], fullest, assignments);
        add(&score->total, fullest, assignments);
    }
    for (uint32_t i = 0; i < score->n_layers; i++)
        finish(&score->layers[i], ranks);
    finish(&score->total, ranks);
}

Status place_score(const PackedTrace *trace, const PlanTable *map, uint32_t ranks,
                   PlaceScore *score)
{
    uint32_t *at = NULL;
    double *on_rank = NULL;
    *score = (PlaceScore){.n_layers = trace->n_layers};
    Status status = mem_new(&score->layers, trace->n_layers, sizeof *score->layers, "placement");
    if (status == OK)
        status = mem_new(&at, trace->n_layers, sizeof *at, "placement");
    if (status == OK)
        status = mem_new(&on_rank, ranks, sizeof *on_rank, "placement");
    if (status == OK) {
        for (uint32_t i = 0; i < trace->n_layers; i++)
            at[i] = plan_table_find(map, trace->layers[i].layer);
        score_events(trace, map, ranks, at, on_rank, score);
    } else {
        place_score_free(score);
    }
    mem_free(on_rank);
    mem_free(at);
    return status;
}

void place_score_free(PlaceScore *score)
{
    mem_free(score->layers);
    *score = (PlaceScore){0};
}
