#include "sim/op_costs.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "policies/capacity.h"

static const char *const AXIS_NAMES[AXES] = {
    [AXIS_TOKENS] = "tokens", [AXIS_REQUESTS] = "requests", [AXIS_CONTEXT] = "context",
    [AXIS_ROWS] = "rows",     [AXIS_ACTIVE] = "active",     [AXIS_LOAD] = "load",
    [AXIS_BYTES] = "bytes",   [AXIS_SHARE] = "share",       [AXIS_ELAPSED] = "elapsed",
    [AXIS_SKEW] = "skew",     [AXIS_ENTRIES] = "entries",   [AXIS_LOADS] = "loads"};

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

uint64_t op_costs_ns(const OpCosts *costs, const CostRef *ref, const CostPoint *point, CostUse *use)
{
    return op_costs_whole(op_costs_at(costs, ref, point, use));
}

int64_t op_costs_signed_ns(const OpCosts *costs, const CostRef *ref, const CostPoint *point,
                           CostUse *use)
{
    double ns = op_costs_at(costs, ref, point, use);
    if (ns >= OP_COSTS_MOST_NS)
        return (int64_t)OP_COSTS_MOST_NS;
    return ns > -OP_COSTS_MOST_NS ? (int64_t)ns : -(int64_t)OP_COSTS_MOST_NS;
}

/* The one that was noted in AFTER and not in BEFORE. */
static CostStatus noted(const CostUse *before, const CostUse *after)
{
    CostStatus status = COST_OK;
    while (after->n[status] == before->n[status])
        status++;
    return status;
}

int64_t op_costs_by_new_number(const OpCosts *costs, const CostRef *ref, const CostPoint *fixed,
                               Axis axis, uint32_t number, bool is_time, KnownCosts *known,
                               CostUse *use)
{
    uint32_t place = number % KNOWN_NUMBERS;
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
                       .mixed = {.table = COSTS_NONE},
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
                       .copy_beside = {.table = COSTS_NONE},
                       .rested = {.table = COSTS_NONE},
                       .aged = {.table = COSTS_NONE}};
    TRY(find_op_table(costs, "gpu", op, &price->gpu));
    TRY(find_op_table(costs, "issue", op, &price->issue));
    TRY(find_cold(costs, op, price));
    TRY(op_costs_find(costs, "slowdown", "", &price->slowdown));
    TRY(find_op_table(costs, "held", op, &price->held));
    if (op->op == OP_ATTENTION)
        TRY(find_op_table(costs, "mixed", op, &price->mixed));
    if (op->op == OP_ROUTE || op->op == OP_EMBED)
        TRY(find_op_table(costs, "forced", op, &price->forced));
    if (op->op == OP_ROUTE) {
        TRY(find_op_table(costs, "limited", op, &price->limited));
        TRY(op_costs_find(costs, "gpu/predict", op->shape, &price->predict));
        TRY(op_costs_find(costs, "issue/predict", op->shape, &price->issue_predict));
    }
    if (op->op != OP_EXPERTS)
        return OK;
    TRY(mem_new(&price->calls[0], (size_t)2 * KNOWN_CALLS, sizeof *price->calls[0],
                "prices of operations"));
    price->calls[1] = price->calls[0] + KNOWN_CALLS;
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
    TRY(op_costs_find(costs, "host/rested", op->shape, &price->rested));
    TRY(op_costs_find(costs, "host/aged", op->shape, &price->aged));
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

static Status fail_unknown(const Hardware *hardware, const char *model)
{
    char known[600] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < hardware->n_models && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "",
                                 hardware->models[i].name);
    return fail(ERR_INPUT,
                "hardware profile: it does not know the model \"%s\", but %s: name one with "
                "--model, or calibrate it",
                model, known[0] != '\0' ? known : "none");
}

Status op_costs_new(const Hardware *hardware, const char *model, const Plan *plan, OpCosts *costs)
{
    *costs = (OpCosts){.hardware = hardware,
                       .model = hardware_model(hardware, model),
                       .limits = plan->gating.mode == GATING_STATIC ? plan : NULL};
    costs->fixed = plan->buffer.on ? NULL : costs->limits;
    if (costs->model == NULL)
        return fail_unknown(hardware, model);
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
    for (uint32_t i = 0; i < costs->n_prices; i++)
        mem_free(costs->prices[i].calls[0]);
    mem_free(costs->prices);
    costs_free(costs->costs);
    *costs = (OpCosts){0};
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

/* What requests that generate add to the SEVERAL tokens of others, which take SEVERAL_NS: as much
 * as to one prompt of as many from its beginning on, or less, where they are of shorter ones and
 * done sooner. False: that was not measured. */
static bool find_added(OpCosts *costs, const OpPrice *price, const SpanGroup *ones,
                       const SpanGroup *several, double several_ns, double *added_ns)
{
    const SpanGroup prompt = {.requests = 1, .tokens = several->tokens};
    CostPoint point = {0};
    CostUse use = {0};
    if (price->mixed.table == COSTS_NONE)
        return false;
    point.at[AXIS_REQUESTS] = ones->requests;
    point.at[AXIS_TOKENS] = several->tokens;
    point.at[AXIS_CONTEXT] = (double)ones->context / ones->requests;
    double ns = op_costs_at(costs, &price->mixed, &point, &use);
    if (use.n[COST_EXTRAPOLATED] > 0)
        return false;
    cost_use_add(&costs->use[price->op], &use);
    double prompt_ns = attend(costs, price, &prompt);
    *added_ns = (ns - prompt_ns) * (several_ns < prompt_ns ? several_ns / prompt_ns : 1);
    return true;
}

/* Over all requests of a step, which run beside each other: where nothing else is known, one that
 * generates is done before the prompts are, and more of them add what they add to one. */
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
    double added;
    if (!find_added(costs, price, ones, &groups[SPANS_SEVERAL], several, &added))
        added = one - attend(costs, price, &single);
    double both = several + added;
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

/* More tokens than were measured add as much as the most of these. */
static void price_held(OpCosts *costs, OpPrice *price, double tokens)
{
    CostPoint point = {0};
    if (price->held.table == COSTS_NONE)
        return;
    const CostTable *table = &costs->hardware->tables[price->held.table];
    double most = table->n_axes == 1 ? table->at[table->n_points - 1] : tokens;
    point.at[AXIS_TOKENS] = tokens < most ? tokens : most;
    price->held_ns = op_costs_signed_ns(costs, &price->held, &point, &costs->other);
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
        price->gpu_ns = op_costs_whole(gpu_ns);
    if (costs->predicts && price->predict.table != COSTS_NONE)
        price->predict_ns = op_costs_ns(costs, &price->predict, &point, &costs->use[OP_PREDICT]);
    if (costs->predicts && issued && price->issue_predict.table != COSTS_NONE)
        price->issue_predict_ns = op_costs_ns(costs, &price->issue_predict, &point, &costs->other);
    if (issued)
        price_issue(costs, price, &point);
    if (issued && costs->holds)
        price_held(costs, price, step->tokens);
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
            costs->prices[i].gpu_ns =
                op_costs_whole(attend_all(costs, &costs->prices[i], step->groups));
}
