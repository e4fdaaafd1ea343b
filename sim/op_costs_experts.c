/* Calls of experts: how much work they are, and what they cost. */

#include "sim/op_costs.h"

/* As many experts of few rows have squares that 32 bits hold. */
_Static_assert((uint64_t)COST_LOAD_ROWS *COST_LOAD_ROWS *TRACE_MAX_EXPERTS < UINT32_MAX,
               "few rows are few");

static uint32_t most_rows(const uint32_t *rows, uint32_t n)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++)
        most = rows[i] > most ? rows[i] : most;
    return most;
}

ExpertWork expert_work_of(const uint32_t *rows, uint32_t n)
{
    ExpertWork work = {0};
    uint32_t sum = 0;
    uint32_t squares = 0;
    if (most_rows(rows, n) > COST_LOAD_ROWS) {
        for (uint32_t i = 0; i < n; i++)
            expert_work_add(&work, rows[i]);
        return work;
    }
    for (uint32_t i = 0; i < n; i++) {
        sum += rows[i];
        squares += rows[i] * rows[i];
    }
    return (ExpertWork){.active = n, .rows = sum, .load = n, .squares = squares};
}

void expert_work_split(const uint32_t *rows, const uint8_t *hit, uint32_t n, const ExpertWork *all,
                       ExpertWork *hits, ExpertWork *others)
{
    uint32_t active = 0;
    uint32_t sum = 0;
    uint32_t squares = 0;
    *hits = *others = (ExpertWork){0};
    if (most_rows(rows, n) > COST_LOAD_ROWS) {
        for (uint32_t i = 0; i < n; i++)
            expert_work_add(hit[i] ? hits : others, rows[i]);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t of = hit[i] ? rows[i] : 0;
        active += hit[i];
        sum += of;
        squares += of * of;
    }
    *hits = (ExpertWork){.active = active, .rows = sum, .load = active, .squares = squares};
    *others = (ExpertWork){.active = all->active - active,
                           .rows = all->rows - sum,
                           .load = all->load - active,
                           .squares = all->squares - squares};
}

static CostPoint place_of(const ExpertWork *work)
{
    CostPoint point = {0};
    point.at[AXIS_ACTIVE] = work->active;
    point.at[AXIS_ROWS] = (double)work->rows / work->active;
    point.at[AXIS_LOAD] = work->load / work->active;
    return point;
}

/* Calls of ACTIVE experts with a row each. */
static const KnownSingle *single_of(const OpCosts *costs, OpPrice *price, uint32_t active)
{
    CostUse ignored = {0};
    CostPoint point = {0};
    KnownSingle *known = &price->singles[active % KNOWN_SINGLES];
    if (known->active == active)
        return known;
    point.at[AXIS_ACTIVE] = active;
    point.at[AXIS_ROWS] = point.at[AXIS_LOAD] = 1;
    *known = (KnownSingle){.active = active,
                           .queued_ns = op_costs_at(costs, &price->queued, &point, &ignored),
                           .gpu_ns = op_costs_at(costs, &price->gpu, &point, &ignored)};
    return known;
}

/* A call that is given a list of experts. Where so many rows of so many experts were not measured,
 * it is a call of all experts, which was measured at more places, and what a list adds to one of as
 * many experts with a row each. */
static double queued_ns(OpCosts *costs, OpPrice *price, const ExpertWork *work)
{
    CostUse use = {0};
    const CostPoint point = place_of(work);
    double ns = op_costs_at(costs, &price->queued, &point, &use);
    if (use.n[COST_EXTRAPOLATED] == 0 || price->queued.table == price->gpu.table) {
        cost_use_add(&costs->use[OP_EXPERTS], &use);
        return ns;
    }
    ns = op_costs_at(costs, &price->gpu, &point, &costs->use[OP_EXPERTS]);
    const KnownSingle *single = single_of(costs, price, work->active);
    return ns + single->queued_ns - single->gpu_ns;
}

static double call_ns(OpCosts *costs, OpPrice *price, const ExpertWork *work, bool queued)
{
    const CostPoint point = place_of(work);
    return queued ? queued_ns(costs, price, work)
                  : op_costs_at(costs, &price->gpu, &point, &costs->use[OP_EXPERTS]);
}

/* What is known of calls of WORK, looked up where it was not yet. */
static KnownCall *known_call(OpCosts *costs, OpPrice *price, const ExpertWork *work, bool queued)
{
    KnownCall *known = op_costs_known(price, work, queued);
    if (known->active == work->active && known->rows == work->rows && known->load == work->load)
        return known;
    CostUse ignored = {0};
    const CostPoint point = place_of(work);
    costs->calls_priced++;
    *known = (KnownCall){.active = work->active,
                         .rows = work->rows,
                         .load = work->load,
                         .ns = call_ns(costs, price, work, queued)};
    known->whole_ns = op_costs_whole(known->ns);
    if (price->uneven.table == COSTS_NONE)
        return known;
    known->unevenness = op_costs_at(costs, &price->unevenness, &point, &ignored);
    known->uneven_ns = op_costs_at(costs, &price->uneven, &point, &ignored);
    return known;
}

/* The load of WORK, as if its rows were shared evenly. */
static double even_load(const ExpertWork *work)
{
    double mean = (double)work->rows / work->active;
    return work->active * (mean > COST_LOAD_ROWS ? mean / COST_LOAD_ROWS : 1);
}

/* A call of WORK with that load. */
static double even_ns(OpCosts *costs, OpPrice *price, const ExpertWork *work, double load,
                      bool queued, KnownCall *known)
{
    ExpertWork even = *work;
    even.load = load;
    if (!known->has_even)
        known->even_ns = call_ns(costs, price, &even, queued);
    known->has_even = true;
    return known->even_ns;
}

/* Two sorts of unevenness were measured, one expert that has much more than the others and rows
 * that fall from expert to expert: whichever takes longer. */
static double experts_ns(OpCosts *costs, OpPrice *price, const ExpertWork *work, bool queued)
{
    KnownCall *known = known_call(costs, price, work, queued);
    double added_ns = op_costs_uneven_ns(known, price, work);
    if (added_ns <= 0)
        return known->ns;
    double load = even_load(work);
    if (load == work->load)
        return known->ns + added_ns;
    double falling_ns = even_ns(costs, price, work, load, queued, known) + added_ns;
    return falling_ns > known->ns ? falling_ns : known->ns;
}

uint64_t op_costs_any_experts(OpCosts *costs, uint32_t number, const ExpertWork *work, bool queued)
{
    return op_costs_whole(experts_ns(costs, &costs->prices[number], work, queued));
}

double op_costs_host_expert(OpCosts *costs, uint32_t number, uint32_t active, uint32_t rows,
                            double cold)
{
    const OpPrice *price = &costs->prices[number];
    CostUse *use = &costs->use[OP_EXPERTS];
    CostPoint point = {0};
    point.at[AXIS_ACTIVE] = active;
    point.at[AXIS_ROWS] = rows;
    point.at[AXIS_LOAD] = cost_load_of(rows);
    double ns = op_costs_at(costs, &price->host, &point, use);
    if (cold >= 1 || price->warm.table == COSTS_NONE)
        return ns;
    double warm_ns = op_costs_at(costs, &price->warm, &point, use);
    return warm_ns < ns ? warm_ns + cold * (ns - warm_ns) : ns;
}
