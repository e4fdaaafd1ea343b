#include "sim/train_budget.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "sim/budget.h"
#include "sim/layer_curves.h"

typedef struct KnownCurves {
    char *text; /* the plan without its size and what does not matter */
    LayerCurves curves;
    struct KnownCurves *next;
} KnownCurves;

void curve_cache_free(CurveCache *cache)
{
    while (cache->first != NULL) {
        KnownCurves *known = cache->first;
        cache->first = known->next;
        layer_curves_free(&known->curves);
        mem_free(known->text);
        mem_free(known);
    }
}

/* Plans of the same text have the same curves. */
static Status text_of_curves(const Plan *plan, char **text)
{
    Plan plain = plan_default();
    plain.seed = plan->seed;
    plain.buffer = plan->buffer;
    plain.prefetch = plan->prefetch;
    plain.compute = plan->compute;
    plain.buffer.slots = 1;
    plain.buffer.bytes = 0;
    plain.buffer.budget = (PlanLearned){0};
    return plan_to_text(&plain, text);
}

static Status measure(Training *training, CurveCache *cache, const Plan *plan, const char *text,
                      const LayerCurves **curves)
{
    KnownCurves *known;
    TRY(mem_new(&known, 1, sizeof *known, "miss curves"));
    Status status = mem_new(&known->text, strlen(text) + 1, 1, "miss curves");
    if (status == OK) {
        memcpy(known->text, text, strlen(text) + 1);
        status = layer_curves_measure(training, plan, &known->curves);
    }
    if (status != OK) {
        mem_free(known->text);
        mem_free(known);
        return status;
    }
    known->next = cache->first;
    cache->first = known;
    *curves = &known->curves;
    return OK;
}

static Status find_curves(Training *training, CurveCache *cache, const Plan *plan,
                          const LayerCurves **curves)
{
    char *text;
    TRY(text_of_curves(plan, &text));
    const KnownCurves *known = cache->first;
    while (known != NULL && strcmp(known->text, text) != 0)
        known = known->next;
    Status status = OK;
    if (known != NULL)
        *curves = &known->curves;
    else
        status = measure(training, cache, plan, text, curves);
    mem_free(text);
    return status;
}

/* How many experts the layer's lookups spread over: (sum of events)^2 / sum of events^2, the
 * inverse of Simpson's index. As many as it has where all are needed alike, 1 where all need the
 * same. */
static double effective_experts(const Training *training, uint32_t layer)
{
    const PackedTrace *trace = training_trace(training);
    const uint64_t *events = training_events(training, layer);
    double sum = 0;
    double squares = 0;
    for (uint32_t e = 0; e < trace->layers[layer].experts; e++) {
        sum += (double)events[e];
        squares += (double)events[e] * (double)events[e];
    }
    return squares > 0 ? sum * sum / squares : 1;
}

static Status share_by_skew(const Training *training, const BudgetShares *shares, uint32_t *slots)
{
    double *share;
    TRY(mem_new(&share, shares->n_layers, sizeof *share, "budget"));
    for (uint32_t i = 0; i < shares->n_layers; i++)
        share[i] = effective_experts(training, i);
    budget_in_proportion(shares, share, slots);
    mem_free(share);
    return OK;
}

/* What an expert of the layer costs to load: its bytes, where they are known of every layer. */
static uint64_t cost_of_load(const PackedTrace *trace, uint32_t layer)
{
    for (uint32_t i = 0; i < trace->n_layers; i++)
        if (trace->layers[i].expert_bytes == 0)
            return 1;
    return trace->layers[layer].expert_bytes;
}

static Status cost_of(const PackedTrace *trace, const LayerCurves *curves, uint64_t **cost)
{
    for (uint32_t i = 0; i < trace->n_layers; i++) {
        size_t points = (size_t)trace->layers[i].experts + 1;
        uint64_t each = cost_of_load(trace, i);
        TRY(mem_new(&cost[i], points, sizeof *cost[i], "budget"));
        for (size_t n = 0; n < points; n++)
            cost[i][n] = curves->loads[i][n] * each;
    }
    return OK;
}

static Status share_by_curves(Training *training, CurveCache *cache, const Plan *plan,
                              const BudgetShares *shares, uint32_t *slots)
{
    const LayerCurves *curves = NULL;
    uint64_t **cost;
    TRY(find_curves(training, cache, plan, &curves));
    TRY(mem_new(&cost, shares->n_layers, sizeof *cost, "budget"));
    Status status = cost_of(training_trace(training), curves, cost);
    if (status == OK)
        status = budget_optimal(shares, (const uint64_t *const *)cost, slots);
    for (uint32_t i = 0; i < shares->n_layers; i++)
        mem_free(cost[i]);
    mem_free(cost);
    return status;
}

/* What all layers load together with SLOTS, by a replay. */
static Status cost_together(Training *training, const Plan *plan, const uint32_t *slots,
                            uint64_t *cost)
{
    const PackedTrace *trace = training_trace(training);
    PlanTable *table;
    Plan given = *plan;
    uint64_t *loads;
    TRY(mem_new(&loads, trace->n_layers, sizeof *loads, "budget"));
    Status status = layer_slots_table(trace, slots, &table);
    if (status == OK) {
        given.buffer.budget = (PlanLearned){.table = table};
        status = layer_loads(training, &given, loads);
        plan_table_release(table);
    }
    *cost = 0;
    for (uint32_t i = 0; i < trace->n_layers; i++)
        *cost += loads[i] * cost_of_load(trace, i);
    mem_free(loads);
    return status;
}

/* Where prefetches of several layers are in flight at once, what a layer loads depends on the
 * others, so that curves do not add up: SLOTS become EQUAL where those load less together. */
static Status prefer_equal(Training *training, const Plan *plan, const uint32_t *equal,
                           uint32_t *slots)
{
    uint64_t cost;
    uint64_t cost_of_equal;
    TRY(cost_together(training, plan, slots, &cost));
    TRY(cost_together(training, plan, equal, &cost_of_equal));
    if (cost_of_equal < cost)
        memcpy(slots, equal, training_trace(training)->n_layers * sizeof *slots);
    return OK;
}

/* Whether all layers have what they need with SLOTS. */
static bool is_enough(const BudgetShares *shares, const uint32_t *slots)
{
    for (uint32_t i = 0; i < shares->n_layers; i++)
        if (slots[i] < shares->least[i])
            return false;
    return true;
}

static Status share_optimally(Training *training, CurveCache *cache, const Plan *plan,
                              const BudgetShares *shares, uint32_t *slots)
{
    const PackedTrace *trace = training_trace(training);
    uint32_t *equal;
    TRY(share_by_curves(training, cache, plan, shares, slots));
    if (!plan_prefetches(plan) || plan->prefetch.distance == 1)
        return OK;
    TRY(mem_new(&equal, trace->n_layers, sizeof *equal, "budget"));
    Status status = plan_slots(plan, trace->layers, trace->n_layers, equal);
    if (status == OK && is_enough(shares, equal))
        status = prefer_equal(training, plan, equal, slots);
    mem_free(equal);
    return status;
}

/* Of every layer, [n_layers]. */
typedef struct {
    uint64_t *weight;
    uint32_t *experts;
    uint32_t *least;
    uint32_t *slots;
} Layers;

/* In proportion to skew a layer goes without slots only where there may be no room for one. */
static uint32_t least_of(const Plan *plan, const TraceLayer *layer)
{
    uint32_t least = layer_least_slots(plan, layer);
    bool may_be_none = plan->buffer.budget.choice == BUDGET_OPTIMAL || plan->buffer.bytes > 0;
    return least == 0 && !may_be_none ? 1 : least;
}

static Status share_out(Training *training, CurveCache *cache, const Plan *plan, Layers *layers)
{
    const PackedTrace *trace = training_trace(training);
    bool in_bytes = plan->buffer.bytes > 0;
    uint64_t each = in_bytes ? plan->buffer.bytes : plan->buffer.slots;
    uint64_t needed = 0;
    BudgetShares shares = {.n_layers = trace->n_layers,
                           .experts = layers->experts,
                           .weight = layers->weight,
                           .budget = each * trace->n_layers,
                           .least = layers->least};
    TRY(plan_slots(plan, trace->layers, trace->n_layers, layers->slots)); /* checks the sizes */
    for (uint32_t i = 0; i < trace->n_layers; i++) {
        layers->experts[i] = trace->layers[i].experts;
        layers->weight[i] = in_bytes ? trace->layers[i].expert_bytes : 1;
        layers->least[i] = least_of(plan, &trace->layers[i]);
        needed += layers->least[i] * layers->weight[i];
    }
    if (needed > shares.budget)
        return fail(ERR_PLAN,
                    "buffer.budget: what the layers keep and begin with takes %" PRIu64
                    ", all have %" PRIu64,
                    needed, shares.budget);
    if (plan->buffer.budget.choice == BUDGET_SKEW)
        return share_by_skew(training, &shares, layers->slots);
    return share_optimally(training, cache, plan, &shares, layers->slots);
}

Status train_budget(Training *training, CurveCache *cache, const Plan *plan, PlanTable **table)
{
    const PackedTrace *trace = training_trace(training);
    uint32_t n = trace->n_layers;
    Layers layers = {0};
    Status status = mem_new(&layers.weight, n, sizeof *layers.weight, "budget");
    if (status == OK)
        status = mem_new(&layers.experts, n, sizeof *layers.experts, "budget");
    if (status == OK)
        status = mem_new(&layers.least, n, sizeof *layers.least, "budget");
    if (status == OK)
        status = mem_new(&layers.slots, n, sizeof *layers.slots, "budget");
    if (status == OK)
        status = share_out(training, cache, plan, &layers);
    if (status == OK)
        status = layer_slots_table(trace, layers.slots, table);
    mem_free(layers.slots);
    mem_free(layers.least);
    mem_free(layers.experts);
    mem_free(layers.weight);
    return status;
}
