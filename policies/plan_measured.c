#include "policies/plan_measured.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "policies/link.h"

/* The costs of one layer's experts, and room for them. */
typedef struct {
    uint32_t *rows;
    uint32_t *host_ns;
} Points;

static uint32_t whole_ns(double ns)
{
    return ns < 1 ? 1 : ns > UINT32_MAX ? UINT32_MAX : (uint32_t)(ns + 0.5);
}

/* Rounded down, of what is not negative. */
static uint32_t full_ns(double ns)
{
    return ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static const char *shape_of(const HardwareModel *model, uint32_t layer)
{
    for (uint32_t stack = 0; stack < 2; stack++)
        for (uint32_t i = 0; i < model->n_ops[stack]; i++)
            if (model->ops[stack][i].layer == layer && model->ops[stack][i].op == OP_EXPERTS)
                return model->ops[stack][i].shape;
    return NULL;
}

/* A table of experts on the host, by rows and active. */
typedef struct {
    const CostTable *table;
    uint32_t rows; /* axis */
    uint32_t active;
} HostTable;

static bool find_axis(const CostTable *table, const char *name, uint32_t *axis)
{
    for (*axis = 0; *axis < table->n_axes; ++*axis)
        if (strcmp(table->axis[*axis], name) == 0)
            return true;
    return false;
}

static double place(const HostTable *host, uint32_t i, uint32_t axis)
{
    return host->table->at[(size_t)i * host->table->n_axes + axis];
}

/* The least whole number of rows beyond LAST; 0: there is none. */
static uint32_t next_rows(const HostTable *host, uint32_t last)
{
    uint32_t next = 0;
    for (uint32_t i = 0; i < host->table->n_points; i++) {
        double rows = place(host, i, host->rows);
        if (rows > last && rows <= UINT32_MAX && rows == (uint32_t)rows &&
            (next == 0 || rows < next))
            next = (uint32_t)rows;
    }
    return next;
}

/* Calls of experts with ROWS rows: what each expert more costs, and what a call costs besides. */
static double slope(const HostTable *host, uint32_t rows, double *besides)
{
    uint32_t few = UINT32_MAX;
    uint32_t many = UINT32_MAX;
    for (uint32_t i = 0; i < host->table->n_points; i++) {
        double active = place(host, i, host->active);
        if (place(host, i, host->rows) != rows || active < 1)
            continue;
        few = few == UINT32_MAX || active < place(host, few, host->active) ? i : few;
        many = many == UINT32_MAX || active > place(host, many, host->active) ? i : many;
    }
    *besides = 0;
    if (few == UINT32_MAX)
        return 0;
    double least = place(host, few, host->active);
    double most = place(host, many, host->active);
    const double *ns = host->table->value;
    if (least == most || ns[many] <= ns[few])
        return ns[many] / most;
    double each = (ns[many] - ns[few]) / (most - least);
    *besides = ns[few] > least * each ? ns[few] - least * each : 0;
    return each;
}

static void take_points(const HostTable *host, const Points *points, ExpertCosts *costs)
{
    double besides = 0;
    costs->n = 0;
    costs->rows = points->rows;
    costs->host_ns = points->host_ns;
    for (uint32_t rows = next_rows(host, 0); rows > 0; rows = next_rows(host, rows)) {
        double more;
        uint32_t ns = whole_ns(slope(host, rows, &more));
        uint32_t n = costs->n++;
        points->rows[n] = rows;
        points->host_ns[n] = n > 0 && ns < points->host_ns[n - 1] ? points->host_ns[n - 1] : ns;
        besides = n == 0 ? more : besides;
    }
    costs->event_ns[0] = full_ns(besides);
}

/* The least that a table says; 0 without one. */
static double least_of(const Hardware *hardware, const char *name, const char *shape)
{
    const CostTable *table = hardware_table(hardware, name, shape);
    double least = table != NULL && table->n_points > 0 ? table->value[0] : 0;
    for (uint32_t i = 1; table != NULL && i < table->n_points; i++)
        least = table->value[i] < least ? table->value[i] : least;
    return least > 0 ? least : 0;
}

static Status host_costs(const Hardware *hardware, const HardwareModel *model, uint32_t layer,
                         const Points *points, ExpertCosts *costs)
{
    const char *shape = shape_of(model, layer);
    HostTable host = {.table =
                          shape != NULL ? hardware_table(hardware, "host/experts", shape) : NULL};
    if (host.table == NULL || !find_axis(host.table, "rows", &host.rows) ||
        !find_axis(host.table, "active", &host.active))
        return fail(
            ERR_INPUT,
            "compute.host_ns: the profile of %s has no table host/experts for layer %" PRIu32
            " of %s",
            hardware->device, layer, model->name);
    take_points(&host, points, costs);
    uint32_t queued_and_fetched = full_ns(least_of(hardware, "issue/experts", shape) +
                                          least_of(hardware, "host/fetch", shape));
    costs->event_ns[0] = full_ns((double)costs->event_ns[0] + queued_and_fetched);
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

/* Small experts are copied together: what each more costs, and what they cost besides. */
static double each_together(const CostTable *together, double bytes, double *besides)
{
    enum { SOME = 8 };
    double one = by_bytes(together, bytes);
    double each = (by_bytes(together, SOME * bytes) - one) / (SOME - 1);
    *besides = one > each ? one - each : 0;
    return each;
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
    double besides = 0;
    double ns = by_bytes(table, (double)bytes);
    const CostTable *together = hardware_table(hardware, "copy/together", "");
    if (bytes <= LOADED_TOGETHER_BYTES && together != NULL && together->n_points > 0)
        ns = each_together(together, (double)bytes, &besides);
    double throttled =
        plan->link.h2d_gb_per_s > 0 ? (double)layer->expert_bytes / plan->link.h2d_gb_per_s : 0;
    costs->load_ns = whole_ns(ns > throttled ? ns : throttled);
    costs->event_ns[1] = full_ns(besides + least_of(hardware, "lag", ""));
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
