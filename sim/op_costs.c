#include "sim/op_costs.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "policies/capacity.h"

static const char *const AXIS_NAMES[AXES] = {
    [AXIS_TOKENS] = "tokens", [AXIS_REQUESTS] = "requests", [AXIS_CONTEXT] = "context",
    [AXIS_ROWS] = "rows",     [AXIS_ACTIVE] = "active",     [AXIS_LOAD] = "load",
    [AXIS_BYTES] = "bytes",   [AXIS_SHARE] = "share",       [AXIS_ELAPSED] = "elapsed",
    [AXIS_SKEW] = "skew",     [AXIS_ENTRIES] = "entries"};

static Status find_axis(const CostTable *table, uint32_t axis, uint8_t *found)
{
    for (uint8_t i = 0; i < AXES; i++) {
        *found = i;
        if (strcmp(table->axis[axis], AXIS_NAMES[i]) == 0)
            return OK;
    }
    return fail(ERR_INPUT, "hardware profile: table %s: axis \"%s\" is not known", table->name,
                table->axis[axis]);
}

Status op_costs_find(const OpCosts *costs, const char *name, const char *shape, CostRef *ref)
{
    ref->table = costs_find(costs->costs, name, shape);
    if (ref->table == COSTS_NONE)
        ref->table = costs_find(costs->costs, name, "");
    if (ref->table == COSTS_NONE)
        return OK;
    const CostTable *table = &costs->hardware->tables[ref->table];
    ref->n_axes = table->n_axes;
    for (uint32_t i = 0; i < table->n_axes; i++)
        TRY(find_axis(table, i, &ref->axis[i]));
    return OK;
}

double op_costs_at(const OpCosts *costs, const CostRef *ref, const CostPoint *point, CostUse *use)
{
    double at[COST_AXES];
    for (uint32_t i = 0; i < ref->n_axes; i++)
        at[i] = point->at[ref->axis[i]];
    return costs_at(costs->costs, ref->table, at, use);
}

/* What a profile may hold is held at eleven days, so that sums of it stay times. */
static const double MOST_NS = 1e15;

static uint64_t whole(double ns)
{
    if (!(ns > 0))
        return 0;
    return ns < MOST_NS ? (uint64_t)(ns + 0.5) : (uint64_t)MOST_NS;
}

uint64_t op_costs_ns(const OpCosts *costs, const CostRef *ref, const CostPoint *point, CostUse *use)
{
    return whole(op_costs_at(costs, ref, point, use));
}

int64_t op_costs_signed_ns(const OpCosts *costs, const CostRef *ref, const CostPoint *point,
                           CostUse *use)
{
    double ns = op_costs_at(costs, ref, point, use);
    if (ns >= MOST_NS)
        return (int64_t)MOST_NS;
    return ns > -MOST_NS ? (int64_t)ns : -(int64_t)MOST_NS;
}

/* The one that was noted in AFTER and not in BEFORE. */
static CostStatus noted(const CostUse *before, const CostUse *after)
{
    CostStatus status = COST_OK;
    while (after->n[status] == before->n[status])
        status++;
    return status;
}

int64_t op_costs_by_number(const OpCosts *costs, const CostRef *ref, const CostPoint *fixed,
                           Axis axis, uint32_t number, bool is_time, KnownCosts *known,
                           CostUse *use)
{
    uint32_t place = number % KNOWN_NUMBERS;
    if (known->at[place].number == number + 1) {
        use->n[known->at[place].status]++;
        return known->at[place].ns;
    }
    CostPoint point = *fixed;
    const CostUse before = *use;
    point.at[axis] = number;
    int64_t ns = is_time ? (int64_t)op_costs_ns(costs, ref, &point, use)
                         : op_costs_signed_ns(costs, ref, &point, use);
    known->at[place].number = number + 1;
    known->at[place].status = noted(&before, use);
    known->at[place].ns = ns;
    return ns;
}

/* ---- the list of operations ---- */

static Status find_op_table(const OpCosts *costs, const char *kind, const HardwareOp *op,
                            CostRef *ref)
{
    char name[64];
    snprintf(name, sizeof name, "%s/%s", kind, op_name(op->op));
    return op_costs_find(costs, name, op->shape, ref);
}

/* After how many bytes queueing begins to take longer, and where measuring ended: axis 1. */
static Status find_cold(const OpCosts *costs, const HardwareOp *op, OpPrice *price)
{
    TRY(find_op_table(costs, "cold", op, &price->cold));
    price->cold_from = UINT64_MAX;
    if (price->cold.table == COSTS_NONE)
        return OK;
    const CostTable *table = &costs->hardware->tables[price->cold.table];
    if (table->n_axes != 2)
        return fail(ERR_INPUT, "hardware profile: table %s: it is not by \"tokens\" and \"bytes\"",
                    table->name);
    for (uint32_t i = 0; i < table->n_points; i++) {
        const double *at = table->at + (size_t)2 * i;
        bool begins = i == 0 || at[-2] != at[0];
        uint64_t from = begins ? 0 : (uint64_t)at[-1];
        if (table->value[i] > 0 && from < price->cold_from)
            price->cold_from = from;
        price->cold_most = at[1] > (double)price->cold_most ? (uint64_t)at[1] : price->cold_most;
    }
    return OK;
}

static Status fill_price(const OpCosts *costs, const HardwareOp *op, OpPrice *price)
{
    *price = (OpPrice){.op = op->op,
                       .forced = {.table = COSTS_NONE},
                       .queued = {.table = COSTS_NONE},
                       .varied = {.table = COSTS_NONE},
                       .again = {.table = COSTS_NONE},
                       .limited = {.table = COSTS_NONE},
                       .predict = {.table = COSTS_NONE},
                       .issue_predict = {.table = COSTS_NONE},
                       .uneven = {.table = COSTS_NONE},
                       .unevenness = {.table = COSTS_NONE},
                       .host = {.table = COSTS_NONE},
                       .warm = {.table = COSTS_NONE},
                       .offer = {.table = COSTS_NONE},
                       .fetch = {.table = COSTS_NONE},
                       .cold = {.table = COSTS_NONE},
                       .issue_fetch = {.table = COSTS_NONE},
                       .host_beside = {.table = COSTS_NONE},
                       .copy_beside = {.table = COSTS_NONE}};
    TRY(find_op_table(costs, "gpu", op, &price->gpu));
    TRY(find_op_table(costs, "issue", op, &price->issue));
    TRY(find_cold(costs, op, price));
    TRY(op_costs_find(costs, "slowdown", "", &price->slowdown));
    if (op->op == OP_ROUTE || op->op == OP_EMBED)
        TRY(find_op_table(costs, "forced", op, &price->forced));
    if (op->op == OP_ROUTE) {
        TRY(find_op_table(costs, "limited", op, &price->limited));
        TRY(op_costs_find(costs, "gpu/predict", op->shape, &price->predict));
        TRY(op_costs_find(costs, "issue/predict", op->shape, &price->issue_predict));
    }
    if (op->op != OP_EXPERTS)
        return OK;
    TRY(op_costs_find(costs, "issue/varied", op->shape, &price->varied));
    TRY(op_costs_find(costs, "issue/again", op->shape, &price->again));
    TRY(find_op_table(costs, "uneven", op, &price->uneven));
    TRY(op_costs_find(costs, "unevenness", op->shape, &price->unevenness));
    TRY(find_op_table(costs, "queued", op, &price->queued));
    if (price->queued.table == COSTS_NONE)
        price->queued = price->gpu;
    if (costs->fixed != NULL)
        TRY(find_op_table(costs, costs->fixed->gating.dispatch == DISPATCH_MASK ? "mask" : "padded",
                          op, &price->limited));
    TRY(op_costs_find(costs, "host/beside", op->shape, &price->host_beside));
    TRY(op_costs_find(costs, "copy/beside", op->shape, &price->copy_beside));
    TRY(op_costs_find(costs, "host/warm", op->shape, &price->warm));
    TRY(op_costs_find(costs, "host/offer", op->shape, &price->offer));
    TRY(op_costs_find(costs, "host/fetch", op->shape, &price->fetch));
    TRY(op_costs_find(costs, "issue/fetch", op->shape, &price->issue_fetch));
    return find_op_table(costs, "host", op, &price->host);
}

/* The price of OP is that of an earlier one like it, of BEFORE, or a new one. */
static Status price_op(OpCosts *costs, Stack stack, uint32_t index)
{
    const HardwareOp *op = &costs->model->ops[stack][index];
    StepOp *out = &costs->ops[stack][index];
    *out = (StepOp){.layer = op->layer, .op = op->op, .price = costs->n_prices};
    for (Stack s = STACK_DECODER; s <= stack; s++)
        for (uint32_t i = 0; i < (s < stack ? costs->n_ops[s] : index); i++) {
            const HardwareOp *other = &costs->model->ops[s][i];
            if (other->op == op->op && strcmp(other->shape, op->shape) == 0) {
                out->price = costs->ops[s][i].price;
                return OK;
            }
        }
    return fill_price(costs, op, &costs->prices[costs->n_prices++]);
}

static Status fill(OpCosts *costs)
{
    const HardwareModel *model = costs->model;
    size_t all = (size_t)model->n_ops[STACK_DECODER] + model->n_ops[STACK_ENCODER];
    TRY(mem_new(&costs->prices, all, sizeof *costs->prices, "prices of operations"));
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++) {
        costs->n_ops[stack] = model->n_ops[stack];
        TRY(mem_new(&costs->ops[stack], model->n_ops[stack], sizeof *costs->ops[stack],
                    "operations of a step"));
        for (uint32_t i = 0; i < model->n_ops[stack]; i++)
            TRY(price_op(costs, stack, i));
    }
    return OK;
}

Status op_costs_new(const Hardware *hardware, const char *model, const Plan *plan, OpCosts *costs)
{
    *costs = (OpCosts){.hardware = hardware,
                       .model = hardware_model(hardware, model),
                       .limits = plan->gating.mode == GATING_STATIC ? plan : NULL};
    costs->fixed = plan->buffer.on ? NULL : costs->limits;
    if (costs->model == NULL)
        return fail(ERR_INPUT,
                    "hardware profile: it does not know the model \"%s\": calibrate it with "
                    "--model",
                    model);
    Status status = costs_new(hardware, &costs->costs);
    if (status == OK)
        status = fill(costs);
    if (status != OK)
        op_costs_free(costs);
    return status;
}

void op_costs_free(OpCosts *costs)
{
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        mem_free(costs->ops[stack]);
    mem_free(costs->prices);
    costs_free(costs->costs);
    *costs = (OpCosts){0};
}

/* ---- work ---- */

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

/* ---- prices ---- */

/* What attention multiplies: pairs of a token and a position that it sees. */
static double pairs_of(const CostPoint *point, bool cross)
{
    double seen = point->at[AXIS_CONTEXT] + (cross ? 0 : (point->at[AXIS_TOKENS] + 1) / 2);
    return point->at[AXIS_REQUESTS] * point->at[AXIS_TOKENS] * (seen > 1 ? seen : 1);
}

/* Beyond the measured places attention has the utilisation of the nearest: its work grows with
 * several axes at once, of which lines know one. Fewer pairs take no less. */
static double attend_beyond(const OpCosts *costs, const CostRef *ref, const CostPoint *point,
                            bool cross)
{
    double at[COST_AXES];
    double nearest[COST_AXES];
    CostPoint measured = {0};
    for (uint32_t i = 0; i < ref->n_axes; i++)
        at[i] = point->at[ref->axis[i]];
    double ns = costs_nearest(costs->costs, ref->table, at, nearest);
    for (uint32_t i = 0; i < ref->n_axes; i++)
        measured.at[ref->axis[i]] = nearest[i];
    double ratio = pairs_of(point, cross) / pairs_of(&measured, cross);
    return ratio > 1 ? ns * ratio : ns;
}

/* Attention over the requests of one group; CROSS: over their sources. */
static double attend(OpCosts *costs, const OpPrice *price, const SpanGroup *group)
{
    bool cross = price->op == OP_CROSS_ATTENTION;
    double requests = group->requests;
    CostPoint point = {0};
    CostUse use = {0};
    if (group->requests == 0)
        return 0;
    point.at[AXIS_REQUESTS] = requests;
    point.at[AXIS_TOKENS] = (double)group->tokens / requests;
    point.at[AXIS_CONTEXT] = (double)(cross ? group->source : group->context) / requests;
    double ns = op_costs_at(costs, &price->gpu, &point, &use);
    cost_use_add(&costs->use[price->op], &use);
    return use.n[COST_EXTRAPOLATED] > 0 ? attend_beyond(costs, &price->gpu, &point, cross) : ns;
}

/* Over all requests of a step, which run beside each other: one that generates is done before the
 * prompts are, and more of them add what they add to one. */
static double attend_all(OpCosts *costs, const OpPrice *price, const SpanGroup *groups)
{
    const SpanGroup *ones = &groups[SPANS_ONE];
    double one = attend(costs, price, ones);
    double several = attend(costs, price, &groups[SPANS_SEVERAL]);
    if (ones->requests == 0 || groups[SPANS_SEVERAL].requests == 0)
        return one + several;
    const SpanGroup single = {.requests = 1,
                              .tokens = 1,
                              .context = ones->context / ones->requests,
                              .source = ones->source / ones->requests};
    double both = several + one - attend(costs, price, &single);
    double longer = one > several ? one : several;
    return both > longer ? both : longer;
}

static bool attends(Op op)
{
    return op == OP_ATTENTION || op == OP_CROSS_ATTENTION;
}

uint32_t op_costs_kernels(const OpCosts *costs, uint64_t issue_ns)
{
    uint64_t launch_ns = costs->launch_ns;
    uint64_t kernels = launch_ns > 0 ? (issue_ns + launch_ns / 2) / launch_ns : 1;
    return kernels > 0 ? (uint32_t)kernels : 1;
}

uint64_t op_costs_cold_ns(OpCosts *costs, uint32_t number, uint64_t step, uint32_t tokens,
                          uint64_t bytes)
{
    OpPrice *price = &costs->prices[number];
    CostPoint point = {0};
    bool first = price->step != step;
    price->step = step;
    if (!first || bytes <= price->cold_from)
        return 0;
    point.at[AXIS_TOKENS] = tokens;
    point.at[AXIS_BYTES] = (double)(bytes < price->cold_most ? bytes : price->cold_most);
    return op_costs_ns(costs, &price->cold, &point, &costs->other);
}

/* The factor of REF, at least 1, as where there is none. */
static double factor_at(OpCosts *costs, const CostRef *ref, const CostPoint *point)
{
    double factor = ref->table != COSTS_NONE ? op_costs_at(costs, ref, point, &costs->other) : 1;
    return factor > 1 ? factor : 1;
}

static void price_issue(OpCosts *costs, OpPrice *price, const CostPoint *point)
{
    price->issue_ns = op_costs_ns(costs, &price->issue, point, &costs->other);
    price->again_ns = price->again.table != COSTS_NONE
                          ? op_costs_ns(costs, &price->again, point, &costs->other)
                          : price->issue_ns;
    if (price->varied.table != COSTS_NONE)
        price->issue_ns += op_costs_ns(costs, &price->varied, point, &costs->other);
    /* Embedding is one kernel, and operations come after it. */
    if (price->op == OP_EMBED)
        costs->launch_ns = price->issue_ns;
    price->kernels = op_costs_kernels(costs, price->issue_ns);
    price->queued_ns = price->last_ns = 0;
    price->slow = factor_at(costs, &price->slowdown, point);
    price->host_slow = factor_at(costs, &price->host_beside, point);
    price->copy_slow = factor_at(costs, &price->copy_beside, point);
}

/* Of an operation that is another one where routing is FORCED. */
static double tokens_ns(OpCosts *costs, const OpPrice *price, const CostPoint *point, bool forced)
{
    const CostRef *chosen =
        forced && price->forced.table != COSTS_NONE ? &price->forced : &price->gpu;
    return op_costs_at(costs, chosen, point, &costs->use[price->op]);
}

/* Router and experts of static gating, for which AT has the tokens. */
static double limited_ns(OpCosts *costs, const OpPrice *price, const CostPoint *at)
{
    CostPoint point = *at;
    uint32_t tokens = (uint32_t)at->at[AXIS_TOKENS];
    point.at[AXIS_SHARE] = (double)gating_capacity(costs->limits, tokens) / tokens;
    return op_costs_at(costs, &price->limited, &point, &costs->use[price->op]);
}

/* All of PRICE's but its attention. */
static void price_plain(OpCosts *costs, OpPrice *price, const StepFeatures *step, bool issued,
                        bool forced)
{
    CostPoint point = {0};
    double gpu_ns = 0;
    point.at[AXIS_TOKENS] = step->tokens;
    point.at[AXIS_REQUESTS] = step->requests;
    point.at[AXIS_ROWS] = price->op == OP_HEAD ? step->requests : step->tokens;
    if ((costs->limits != NULL && price->op == OP_ROUTE) ||
        (costs->fixed != NULL && price->op == OP_EXPERTS))
        gpu_ns = limited_ns(costs, price, &point);
    else if (price->op != OP_EXPERTS && !attends(price->op))
        gpu_ns = tokens_ns(costs, price, &point, forced);
    if (!attends(price->op))
        price->gpu_ns = whole(gpu_ns);
    if (costs->predicts && price->predict.table != COSTS_NONE)
        price->predict_ns = op_costs_ns(costs, &price->predict, &point, &costs->use[OP_PREDICT]);
    if (costs->predicts && issued && price->issue_predict.table != COSTS_NONE)
        price->issue_predict_ns = op_costs_ns(costs, &price->issue_predict, &point, &costs->other);
    if (issued)
        price_issue(costs, price, &point);
}

/* Prices that depend on nothing but how many tokens of how many requests a step has are kept, with
 * how they were found, for the next one that has as many. */
static void price_all_plain(OpCosts *costs, const StepFeatures *step, bool issued, bool forced)
{
    const PlainKey key = {step->tokens, step->requests, issued, forced};
    if (memcmp(&key, &costs->plain, sizeof key) != 0) {
        CostUse use[OPS];
        CostUse other = costs->other;
        memcpy(use, costs->use, sizeof use);
        memset(costs->use, 0, sizeof costs->use);
        costs->other = (CostUse){0};
        for (uint32_t i = 0; i < costs->n_prices; i++)
            price_plain(costs, &costs->prices[i], step, issued, forced);
        memcpy(costs->plain_use, costs->use, sizeof costs->use);
        costs->plain_other = costs->other;
        memcpy(costs->use, use, sizeof use);
        costs->other = other;
        costs->plain = key;
    }
    for (Op op = 0; op < OPS; op++)
        cost_use_add(&costs->use[op], &costs->plain_use[op]);
    cost_use_add(&costs->other, &costs->plain_other);
}

void op_costs_price(OpCosts *costs, const StepFeatures *step, bool issued, bool forced)
{
    price_all_plain(costs, step, issued, forced);
    for (uint32_t i = 0; i < costs->n_prices; i++)
        if (attends(costs->prices[i].op))
            costs->prices[i].gpu_ns = whole(attend_all(costs, &costs->prices[i], step->groups));
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

/* Beyond what was measured to be so uneven, as much more at the most. */
static const double MOST_UNEVEN = 1.5;

/* What it adds that rows are shared unevenly. */
static double uneven_ns(OpCosts *costs, const OpPrice *price, const CostPoint *point,
                        const ExpertWork *work)
{
    CostUse ignored = {0};
    double unevenness = cost_unevenness(work->active, work->rows, work->squares);
    if (price->uneven.table == COSTS_NONE || unevenness <= 0)
        return 0;
    double measured = op_costs_at(costs, &price->unevenness, point, &ignored);
    double share = measured > 0 ? unevenness / measured : 0;
    double ns = op_costs_at(costs, &price->uneven, point, &ignored);
    return ns * (share < MOST_UNEVEN ? share : MOST_UNEVEN);
}

/* WORK, as if its rows were shared evenly. */
static ExpertWork even_work(const ExpertWork *work)
{
    ExpertWork even = *work;
    double mean = (double)work->rows / work->active;
    even.load = work->active * (mean > COST_LOAD_ROWS ? mean / COST_LOAD_ROWS : 1);
    return even;
}

static double call_ns(OpCosts *costs, OpPrice *price, const ExpertWork *work, bool queued)
{
    const CostPoint point = place_of(work);
    return queued ? queued_ns(costs, price, work)
                  : op_costs_at(costs, &price->gpu, &point, &costs->use[OP_EXPERTS]);
}

/* Two sorts of unevenness were measured, one expert that has much more than the others and rows
 * that fall from expert to expert: whichever takes longer. */
static double experts_ns(OpCosts *costs, OpPrice *price, const ExpertWork *work, bool queued)
{
    const CostPoint point = place_of(work);
    double ns = call_ns(costs, price, work, queued);
    double added_ns = uneven_ns(costs, price, &point, work);
    if (added_ns <= 0)
        return ns;
    const ExpertWork even = even_work(work);
    if (memcmp(&even, work, sizeof even) == 0)
        return ns + added_ns;
    double falling_ns = call_ns(costs, price, &even, queued) + added_ns;
    return falling_ns > ns ? falling_ns : ns;
}

uint64_t op_costs_new_experts(OpCosts *costs, uint32_t number, const ExpertWork *work, bool queued)
{
    OpPrice *price = &costs->prices[number];
    KnownWork *known = op_costs_known(price, work, queued);
    if (work->active == 0)
        return 0;
    costs->works_priced++;
    known->work = *work;
    known->ns = whole(experts_ns(costs, price, work, queued));
    return known->ns;
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
