#include "policies/plan_measured.h"

#include <inttypes.h>

#include "base/memory.h"

enum { AXIS_ACTIVE, AXIS_ROWS };

/* The costs of one layer's experts, and room for them. */
typedef struct {
    uint32_t *rows;
    uint32_t *host_ns;
} Points;

static uint32_t whole_ns(double ns)
{
    return ns < 1 ? 1 : ns > UINT32_MAX ? UINT32_MAX : (uint32_t)(ns + 0.5);
}

static const char *shape_of(const HardwareModel *model, uint32_t layer)
{
    for (uint32_t stack = 0; stack < 2; stack++)
        for (uint32_t i = 0; i < model->n_ops[stack]; i++)
            if (model->ops[stack][i].layer == layer && model->ops[stack][i].op == OP_EXPERTS)
                return model->ops[stack][i].shape;
    return NULL;
}

static const double *place(const CostTable *table, uint32_t i)
{
    return table->at + (size_t)i * table->n_axes;
}

/* Points of the table with ACTIVE experts, each number of rows once: writes them unless POINTS is
 * NULL. */
static uint32_t take_points(const CostTable *table, double active, const Points *points)
{
    uint32_t n = 0;
    double last = 0;
    for (uint32_t i = 0; i < table->n_points; i++) {
        const double *at = place(table, i);
        if (at[AXIS_ACTIVE] != active || at[AXIS_ROWS] != (uint32_t)at[AXIS_ROWS] ||
            at[AXIS_ROWS] <= last)
            continue;
        last = at[AXIS_ROWS];
        if (points != NULL) {
            uint32_t ns = whole_ns(table->value[i] / active);
            points->rows[n] = (uint32_t)last;
            points->host_ns[n] = n > 0 && ns < points->host_ns[n - 1] ? points->host_ns[n - 1] : ns;
        }
        n++;
    }
    return n;
}

/* How many experts to a call: of those with the most numbers of rows the fewest. */
static double choose_active(const CostTable *table)
{
    double best = 0;
    uint32_t most = 0;
    for (uint32_t i = 0; i < table->n_points; i++) {
        double active = place(table, i)[AXIS_ACTIVE];
        uint32_t n = take_points(table, active, NULL);
        if (active >= 1 && n > most) {
            best = active;
            most = n;
        }
    }
    return best;
}

static Status host_costs(const Hardware *hardware, const HardwareModel *model, uint32_t layer,
                         const Points *points, ExpertCosts *costs)
{
    const char *shape = shape_of(model, layer);
    const CostTable *table = shape != NULL ? hardware_table(hardware, "host/experts", shape) : NULL;
    if (table == NULL || table->n_axes < 2)
        return fail(
            ERR_INPUT,
            "compute.host_ns: the profile of %s has no table host/experts for layer %" PRIu32
            " of %s",
            hardware->device, layer, model->name);
    costs->n = take_points(table, choose_active(table), points);
    costs->rows = points->rows;
    costs->host_ns = points->host_ns;
    return OK;
}

/* What a table by bytes, or of one number, says: linear between its points, their rate beyond them.
 */
static double by_bytes(const CostTable *table, double bytes)
{
    uint32_t i = 0;
    if (table->n_axes == 0)
        return table->value[0];
    while (i < table->n_points && table->at[i] < bytes)
        i++;
    if (i == table->n_points)
        return table->value[i - 1] * bytes / table->at[i - 1];
    if (i == 0 || table->at[i] == bytes)
        return table->value[i];
    double share = (bytes - table->at[i - 1]) / (table->at[i] - table->at[i - 1]);
    return table->value[i - 1] + share * (table->value[i] - table->value[i - 1]);
}

static Status load_cost(const Plan *plan, const Hardware *hardware, const HardwareModel *model,
                        const TraceLayer *layer, ExpertCosts *costs)
{
    const CostTable *table = hardware_table(hardware, "copy/h2d", "");
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < model->n_slots; i++)
        bytes = model->slots[i].layer == layer->layer ? model->slots[i].slot_bytes : bytes;
    if (table == NULL || table->n_axes > 1 || table->n_points == 0 || bytes == 0)
        return fail(
            ERR_INPUT, "compute.load_ns: the profile of %s has no %s for layer %" PRIu32 " of %s",
            hardware->device, bytes == 0 ? "slots" : "table copy/h2d", layer->layer, model->name);
    double ns = by_bytes(table, (double)bytes);
    double throttled =
        plan->link.h2d_gb_per_s > 0 ? (double)layer->expert_bytes / plan->link.h2d_gb_per_s : 0;
    costs->load_ns = whole_ns(ns > throttled ? ns : throttled);
    return OK;
}

static uint32_t most_points(const Hardware *hardware)
{
    uint32_t most = 1;
    for (uint32_t i = 0; i < hardware->n_tables; i++)
        most = hardware->tables[i].n_points > most ? hardware->tables[i].n_points : most;
    return most;
}

static Status measure(Plan *plan, const Hardware *hardware, const HardwareModel *model,
                      const TraceLayer *layers, uint32_t n_layers, ExpertCosts *costs,
                      uint32_t *numbers)
{
    size_t room = most_points(hardware);
    for (uint32_t i = 0; i < n_layers; i++) {
        const Points points = {numbers + 2 * i * room, numbers + (2 * i + 1) * room};
        TRY(host_costs(hardware, model, layers[i].layer, &points, &costs[i]));
        TRY(load_cost(plan, hardware, model, &layers[i], &costs[i]));
    }
    return plan_measure(plan, layers, n_layers, costs);
}

Status plan_measure_on(Plan *plan, const Hardware *hardware, const char *name,
                       const TraceLayer *layers, uint32_t n_layers)
{
    ExpertCosts *costs;
    uint32_t *numbers = NULL;
    if (plan_unmeasured(plan) == NULL)
        return OK;
    const HardwareModel *model = hardware_model(hardware, name);
    if (model == NULL)
        return fail(ERR_INPUT, "%s: the profile of %s has no model %s", plan_unmeasured(plan),
                    hardware->device, name);
    TRY(mem_new(&costs, n_layers, sizeof *costs, "costs of experts"));
    Status status = mem_new(&numbers, 2 * (size_t)n_layers * most_points(hardware), sizeof *numbers,
                            "costs of experts");
    if (status == OK)
        status = measure(plan, hardware, model, layers, n_layers, costs, numbers);
    mem_free(numbers);
    mem_free(costs);
    return status;
}
