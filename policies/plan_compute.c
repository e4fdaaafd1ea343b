/* Section "compute" of a plan: what goes together, and the costs that split decides by. */
#include <inttypes.h>
#include <string.h>

#include "policies/buffer.h"
#include "policies/plan_keys.h"

/* The host's costs of every layer: [rows, ns] from few rows to many, which take no less time. */
static Status check_costs(const PlanTable *table)
{
    for (uint32_t at = 0; at < plan_table_layers(table); at++) {
        uint32_t layer = plan_table_layer(table, at);
        uint32_t n = plan_table_rows(table, at);
        if (n == 0)
            return fail(ERR_INPUT, "%" PRIu32 ": needs at least one [rows, ns]", layer);
        for (uint32_t i = 0; i < n; i++) {
            PlanRow point = plan_table_row(table, at, i);
            if (point.n != 2)
                return fail(ERR_INPUT, "%" PRIu32 ": must be a list of [rows, ns]", layer);
            if (i == 0)
                continue;
            const uint32_t *before = plan_table_row(table, at, i - 1).values;
            if (point.values[0] <= before[0] || point.values[1] < before[1])
                return fail(ERR_INPUT,
                            "%" PRIu32 ": [%" PRIu32 ", %" PRIu32 "] after [%" PRIu32 ", %" PRIu32
                            "]: rows must ascend, and ns must not fall",
                            layer, point.values[0], point.values[1], before[0], before[1]);
        }
    }
    return OK;
}

/* What an event of every layer costs: [host, load]. */
static Status check_event_costs(const PlanTable *table)
{
    for (uint32_t at = 0; at < plan_table_layers(table); at++)
        if (plan_table_row(table, at, 0).n != 2)
            return fail(ERR_INPUT, "%" PRIu32 ": must be [ns, ns]: of the host, and of loads",
                        plan_table_layer(table, at));
    return OK;
}

static Status check_mode(const JsonAt *at, const JsonAt *value, const Plan *plan)
{
    const char *mode = plan_compute_name(plan->compute.mode);
    if (!plan->buffer.on)
        return json_fail(value, "\"%s\" needs a buffer", mode);
    if (eviction_needs_future(plan->buffer.evict))
        return json_fail(value,
                         "\"%s\" does not go with buffer.evict \"%s\", which is optimal where all "
                         "misses are loaded",
                         mode, plan->buffer.evict);
    if (plan->compute.mode == COMPUTE_SPLIT && plan->buffer.order == ORDER_SERIAL)
        return json_fail(at,
                         "mode \"split\" weighs all misses of an event against each other, which "
                         "buffer.order \"serial\" does not know at its start");
    return OK;
}

Status plan_check_compute(const JsonAt *at, Plan *plan)
{
    static const char *const COSTS[] = {"host_ns", "load_ns", "event_ns"};
    JsonAt value;
    if (plan->compute.mode != COMPUTE_ON_GPU && json_find(at, "mode", &value))
        TRY(check_mode(at, &value, plan));
    for (size_t i = 0; i < sizeof COSTS / sizeof COSTS[0]; i++)
        if (plan->compute.mode != COMPUTE_SPLIT && json_given(at, COSTS[i], &value))
            return json_fail(&value, "needs compute.mode \"split\"");
    if (plan->compute.mode != COMPUTE_SPLIT)
        return OK;
    if (plan->compute.host_ns.table == NULL)
        plan->compute.host_ns.choice = COMPUTE_COSTS_MEASURED;
    if (plan->compute.load_ns.table == NULL)
        plan->compute.load_ns.choice = COMPUTE_COSTS_MEASURED;
    if (!json_given(at, "event_ns", &value) &&
        plan->compute.host_ns.choice + plan->compute.load_ns.choice > 0)
        plan->compute.event_ns.choice = COMPUTE_COSTS_MEASURED;
    if (plan->compute.event_ns.table != NULL && json_find(at, "event_ns", &value))
        TRY(fail_in(check_event_costs(plan->compute.event_ns.table), "%s: %s", value.file,
                    value.path));
    if (plan->compute.host_ns.table == NULL || !json_find(at, "host_ns", &value))
        return OK;
    return fail_in(check_costs(plan->compute.host_ns.table), "%s: %s", value.file, value.path);
}

static uint32_t count_points(const ExpertCosts *costs, uint32_t n_layers)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_layers; i++)
        n += costs[i].n;
    return n;
}

static Status host_table(const TraceLayer *layers, uint32_t n_layers, const ExpertCosts *costs,
                         PlanTable **table)
{
    uint32_t n_points = count_points(costs, n_layers);
    TRY(plan_table_new(TABLE_ROWS, n_layers, n_points, 2 * n_points, table));
    PlanTableParts parts = plan_table_parts(*table);
    uint32_t row = 0;
    for (uint32_t i = 0; i < n_layers; i++) {
        parts.layer[i] = layers[i].layer;
        for (uint32_t at = 0; at < costs[i].n; at++) {
            parts.value[2 * row] = costs[i].rows[at];
            parts.value[2 * row + 1] = costs[i].host_ns[at];
            row++;
            parts.first_value[row] = 2 * row;
        }
        parts.first_row[i + 1] = row;
    }
    Status status = fail_in(check_costs(*table), "compute.host_ns");
    if (status != OK)
        plan_table_release(*table);
    return status;
}

static Status load_table(const TraceLayer *layers, uint32_t n_layers, const ExpertCosts *costs,
                         PlanTable **table)
{
    TRY(plan_table_new(TABLE_NUMBERS, n_layers, n_layers, n_layers, table));
    PlanTableParts parts = plan_table_parts(*table);
    for (uint32_t i = 0; i < n_layers; i++) {
        parts.layer[i] = layers[i].layer;
        parts.first_row[i + 1] = i + 1;
        parts.first_value[i + 1] = i + 1;
        parts.value[i] = costs[i].load_ns;
    }
    return OK;
}

static Status event_table(const TraceLayer *layers, uint32_t n_layers, const ExpertCosts *costs,
                          PlanTable **table)
{
    TRY(plan_table_new(TABLE_LISTS, n_layers, n_layers, 2 * n_layers, table));
    PlanTableParts parts = plan_table_parts(*table);
    for (uint32_t i = 0; i < n_layers; i++) {
        parts.layer[i] = layers[i].layer;
        parts.first_row[i + 1] = i + 1;
        parts.first_value[i + 1] = 2 * (i + 1);
        memcpy(parts.value + 2 * i, costs[i].event_ns, sizeof costs[i].event_ns);
    }
    return OK;
}

typedef Status (*MakeTable)(const TraceLayer *layers, uint32_t n_layers, const ExpertCosts *costs,
                            PlanTable **table);

/* Puts what MAKE makes in the place of LEARNED, where that is to be measured. */
static Status measure(PlanLearned *learned, MakeTable make, const TraceLayer *layers,
                      uint32_t n_layers, const ExpertCosts *costs)
{
    PlanTable *table;
    if (learned->choice != COMPUTE_COSTS_MEASURED)
        return OK;
    TRY(make(layers, n_layers, costs, &table));
    plan_learn(learned, table);
    plan_table_release(table);
    return OK;
}

Status plan_measure(Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                    const ExpertCosts *costs)
{
    TRY(measure(&plan->compute.host_ns, host_table, layers, n_layers, costs));
    TRY(measure(&plan->compute.load_ns, load_table, layers, n_layers, costs));
    return measure(&plan->compute.event_ns, event_table, layers, n_layers, costs);
}
