#include "sim/train.h"

#include <stdlib.h>

#include "base/memory.h"
#include "sim/place.h"
#include "sim/train_budget.h"
#include "sim/train_predictor.h"

struct Training {
    const PackedTrace *trace;
    ReplayFuture future;
    uint32_t *first_object; /* [n_layers + 1] experts are numbered over all layers */
    uint64_t *events;       /* [objects] that needed each */
    CurveCache curves;
};

static void count_events(Training *training)
{
    PackedCursor cursor = packed_cursor(training->trace);
    PackedEvent event;
    while (packed_next(&cursor, &event)) {
        uint64_t *events = training->events + training->first_object[event.layer_index];
        for (uint32_t i = 0; i < event.n_active; i++)
            events[event.experts[i]]++;
    }
}

static Status fill(Training *training)
{
    const PackedTrace *trace = training->trace;
    TRY(mem_new(&training->first_object, (size_t)trace->n_layers + 1,
                sizeof *training->first_object, "training"));
    for (uint32_t i = 0; i < trace->n_layers; i++)
        training->first_object[i + 1] = training->first_object[i] + trace->layers[i].experts;
    TRY(mem_new(&training->events, training->first_object[trace->n_layers],
                sizeof *training->events, "training"));
    count_events(training);
    return OK;
}

Status training_new(const PackedTrace *trace, const TraceSignals *signals, uint64_t skipped,
                    Training **out)
{
    Training *training;
    TRY(mem_new(&training, 1, sizeof *training, "training"));
    training->trace = trace;
    training->future = (ReplayFuture){.signals = signals, .signals_skipped = skipped};
    Status status = fill(training);
    if (status == OK)
        *out = training;
    else
        training_free(training);
    return status;
}

void training_free(Training *training)
{
    if (training == NULL)
        return;
    curve_cache_free(&training->curves);
    replay_future_free(&training->future);
    mem_free(training->events);
    mem_free(training->first_object);
    mem_free(training);
}

/* An expert and how many events needed it. */
typedef struct {
    uint64_t events;
    uint32_t object;
    uint32_t layer_index;
} Popular;

static int compare_popular(const void *left, const void *right)
{
    const Popular *a = left;
    const Popular *b = right;
    if (a->events != b->events)
        return a->events > b->events ? -1 : 1;
    return (a->object > b->object) - (a->object < b->object);
}

/* The experts of the layers from FIRST to END - 1, hottest first. Returns their number. */
static uint32_t rank_popular(const Training *training, uint32_t first, uint32_t end,
                             Popular *popular)
{
    uint32_t n = 0;
    for (uint32_t layer = first; layer < end; layer++)
        for (uint32_t i = training->first_object[layer]; i < training->first_object[layer + 1]; i++)
            popular[n++] = (Popular){training->events[i], i, layer};
    qsort(popular, n, sizeof *popular, compare_popular);
    return n;
}

/* Keeps of POPULAR[n] those that fit BUDGET, in order, by their weight; returns how many. */
static uint32_t keep_fitting(const Plan *plan, const PackedTrace *trace, uint64_t budget,
                             Popular *popular, uint32_t n)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t bytes = trace->layers[popular[i].layer_index].expert_bytes;
        uint64_t weight = plan->buffer.bytes > 0 ? bytes : 1;
        if (weight > budget)
            continue;
        budget -= weight;
        popular[kept++] = popular[i];
    }
    return kept;
}

/* The hottest of every scope, those of a layer together: POPULAR has room for all experts. */
static Status choose_hottest(const Training *training, const Plan *plan, Popular *popular,
                             uint32_t *n)
{
    const PackedTrace *trace = training->trace;
    uint32_t *slots;
    bool shared = plan->buffer.scope == SCOPE_DEVICE;
    TRY(mem_new(&slots, trace->n_layers, sizeof *slots, "training"));
    Status status = plan_slots(plan, trace->layers, trace->n_layers, slots);
    *n = 0;
    for (uint32_t i = 0; i < (shared ? 1 : trace->n_layers) && status == OK; i++) {
        uint64_t budget = shared && plan->buffer.bytes > 0 ? plan->buffer.bytes : slots[i];
        uint32_t end = shared ? trace->n_layers : i + 1;
        uint32_t found = rank_popular(training, i, end, popular + *n);
        if (!shared && plan->buffer.bytes > 0)
            budget *= trace->layers[i].expert_bytes;
        *n += keep_fitting(plan, trace, budget, popular + *n, found);
    }
    mem_free(slots);
    return status;
}

/* The lists of each layer out of POPULAR[n], which keeps its order within a layer. */
static Status table_of(const Training *training, const Popular *popular, uint32_t n,
                       PlanTable **table)
{
    const PackedTrace *trace = training->trace;
    uint32_t n_layers = trace->n_layers;
    uint32_t used = 0;
    TRY(plan_table_new(TABLE_LISTS, n_layers, n_layers, n, table));
    PlanTableParts parts = plan_table_parts(*table);
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        parts.layer[layer] = trace->layers[layer].layer;
        parts.first_row[layer + 1] = layer + 1;
        for (uint32_t i = 0; i < n; i++)
            if (popular[i].layer_index == layer)
                parts.value[used++] = popular[i].object - training->first_object[layer];
        parts.first_value[layer + 1] = used;
    }
    return OK;
}

static Status learn_hottest(const Training *training, const Plan *plan, PlanLearned *learned)
{
    Popular *popular;
    PlanTable *table;
    uint32_t n = 0;
    TRY(mem_new(&popular, training->first_object[training->trace->n_layers], sizeof *popular,
                "training"));
    Status status = choose_hottest(training, plan, popular, &n);
    if (status == OK)
        status = table_of(training, popular, n, &table);
    mem_free(popular);
    TRY(status);
    plan_learn(learned, table);
    plan_table_release(table);
    return OK;
}

const PackedTrace *training_trace(const Training *training)
{
    return training->trace;
}

Status training_future(Training *training, const Plan *plan, const ReplayFuture **future)
{
    *future = &training->future;
    return replay_prepare(training->trace, plan, &training->future);
}

const uint64_t *training_events(const Training *training, uint32_t layer)
{
    return training->events + training->first_object[layer];
}

static Status learn_budget(Training *training, Plan *plan)
{
    PlanTable *table;
    TRY(train_budget(training, &training->curves, plan, &table));
    plan_learn(&plan->buffer.budget, table);
    plan_table_release(table);
    return OK;
}

static Status learn_predictor(const Training *training, Plan *plan)
{
    PlanTable *table;
    TRY(train_predictor(training, plan, &table));
    plan_learn(&plan->prefetch.table, table);
    plan_table_release(table);
    return OK;
}

/* The budget before those that the layers keep and begin with, and behind the predictor, since it
 * depends on what is prefetched. */
static Status learn(Training *training, Plan *plan)
{
    if (plan->placement.map.choice == PLACEMENT_MAP_TRAINED)
        TRY(place_learn(training->trace, plan));
    if (plan->prefetch.table.choice == TABLE_TRAINED)
        TRY(learn_predictor(training, plan));
    if (plan->buffer.budget.choice != BUDGET_UNIFORM)
        TRY(learn_budget(training, plan));
    if (plan->buffer.hot.choice == HOT_HOTTEST)
        TRY(learn_hottest(training, plan, &plan->buffer.hot));
    if (plan->buffer.initial.choice == HOT_HOTTEST)
        TRY(learn_hottest(training, plan, &plan->buffer.initial));
    return OK;
}

Status training_plan(Training *training, const Plan *plan, Plan *learnt)
{
    Plan copy = plan_share(plan);
    Status status = learn(training, &copy);
    if (status == OK)
        *learnt = copy;
    else
        plan_free(&copy);
    return status;
}
