/* The tables of a profile that a plan's times need: found, and none of them missing. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "sim/timing_parts.h"

/* Which plans cannot do without a table. */
typedef enum {
    NEEDED_BY_BUFFERS,
    NEEDED_BY_QUEUES, /* with a buffer, on a device that runs beside the host */
    NEEDED_BY_SMALL_LOADS,
    NEEDED_BY_SLOW_LINKS,
    NEEDED_BY_HOST_EXPERTS,
    NEEDED_BY_STAMPS,
    NEEDED_BY_NONE /* 0 where it is missing */
} Need;

static const struct {
    const char *name;
    size_t ref; /* of Timing */
    Need need;
} TABLES[] = {
    {"copy/h2d", offsetof(Timing, refs.h2d), NEEDED_BY_BUFFERS},
    {"decide", offsetof(Timing, refs.decide), NEEDED_BY_BUFFERS},
    {"end/load", offsetof(Timing, refs.end_load), NEEDED_BY_BUFFERS},
    {"issue/load", offsetof(Timing, refs.issue_load), NEEDED_BY_QUEUES},
    {"issue/together", offsetof(Timing, refs.issue_together), NEEDED_BY_SMALL_LOADS},
    {"copy/together", offsetof(Timing, refs.together), NEEDED_BY_SMALL_LOADS},
    {"issue/await", offsetof(Timing, refs.issue_await), NEEDED_BY_QUEUES},
    {"sync", offsetof(Timing, refs.sync), NEEDED_BY_QUEUES},
    {"lag", offsetof(Timing, refs.lag), NEEDED_BY_QUEUES},
    {"after/load", offsetof(Timing, refs.after_load), NEEDED_BY_QUEUES},
    {"wake", offsetof(Timing, refs.wake), NEEDED_BY_QUEUES},
    {"throttle", offsetof(Timing, refs.throttle), NEEDED_BY_SLOW_LINKS},
    {"throttle/least", offsetof(Timing, refs.throttle_least), NEEDED_BY_SLOW_LINKS},
    {"issue/throttle", offsetof(Timing, refs.issue_throttle), NEEDED_BY_SLOW_LINKS},
    {"host/reuse", offsetof(Timing, refs.reuse), NEEDED_BY_NONE},
    {"copy/ahead", offsetof(Timing, refs.ahead), NEEDED_BY_NONE},
    {"issue/ahead", offsetof(Timing, refs.issue_ahead), NEEDED_BY_NONE},
    {"copy/gap", offsetof(Timing, refs.gap), NEEDED_BY_NONE},
    {"end/loads", offsetof(Timing, refs.end_loads), NEEDED_BY_NONE},
    {"issue/loads", offsetof(Timing, refs.issue_loads), NEEDED_BY_NONE},
    {"decide/load", offsetof(Timing, refs.decide_load), NEEDED_BY_NONE},
    {"carry", offsetof(Timing, refs.carry), NEEDED_BY_NONE},
    {"load/together", offsetof(Timing, refs.load_together), NEEDED_BY_NONE},
    {"turn", offsetof(Timing, refs.turn), NEEDED_BY_NONE},
    {"issue/turn", offsetof(Timing, refs.issue_turn), NEEDED_BY_NONE},
    {"start/together", offsetof(Timing, refs.start_together), NEEDED_BY_NONE},
    {"sync/together", offsetof(Timing, refs.sync_together), NEEDED_BY_NONE},
    {"stamp", offsetof(Timing, refs.stamp), NEEDED_BY_STAMPS},
    {"stamp/queued", offsetof(Timing, refs.queue_stamp), NEEDED_BY_NONE},
    {"stamp/beside", offsetof(Timing, refs.stamp_beside), NEEDED_BY_NONE},
    {"issue/stamp", offsetof(Timing, refs.issue_stamp), NEEDED_BY_NONE},
    {"after/tokens", offsetof(Timing, refs.after_tokens), NEEDED_BY_NONE},
    {"issue/poll", offsetof(Timing, refs.issue_poll), NEEDED_BY_NONE},
    {"beside", offsetof(Timing, refs.beside), NEEDED_BY_NONE},
    {"wait/ahead", offsetof(Timing, refs.wait_ahead), NEEDED_BY_NONE},
};

static bool has_small_experts(const Timing *timing)
{
    const HardwareModel *model = timing->costs.model;
    for (uint32_t i = 0; i < model->n_slots; i++)
        if (model->slots[i].slot_bytes <= LOADED_TOGETHER_BYTES)
            return true;
    return false;
}

static bool is_needed(const Timing *timing, Need need)
{
    const Plan *plan = timing->options.plan;
    bool queues = plan->buffer.on && !timing->one_thread;
    switch (need) {
    case NEEDED_BY_BUFFERS:
        return plan->buffer.on;
    case NEEDED_BY_QUEUES:
        return queues;
    case NEEDED_BY_SMALL_LOADS:
        return queues && has_small_experts(timing);
    case NEEDED_BY_SLOW_LINKS:
        return queues && plan->link.h2d_gb_per_s > 0;
    case NEEDED_BY_HOST_EXPERTS:
        return queues && plan->compute.mode != COMPUTE_ON_GPU;
    case NEEDED_BY_STAMPS:
        return timing->options.stamped;
    case NEEDED_BY_NONE:
        return false;
    }
    return false;
}

Status timing_lacks(const Timing *timing, const char *name, const char *shape)
{
    return fail(ERR_INPUT,
                "hardware profile: model %s: it has no table \"%s\"%s%s, which times of this plan "
                "need: calibrate the model again",
                timing->costs.model->name, name, shape[0] != '\0' ? " of " : "", shape);
}

/* What passes between operations and loads: without it times are short by little, and say so. */
static bool is_small(Need need)
{
    return need == NEEDED_BY_QUEUES || need == NEEDED_BY_SLOW_LINKS;
}

static void note_missing(Timing *timing, const char *name)
{
    for (uint32_t i = 0; i < timing->n_missing; i++)
        if (strcmp(timing->missing[i], name) == 0)
            return;
    if (timing->n_missing < TIMING_MISSING)
        timing->missing[timing->n_missing++] = name;
}

static void note_if_missing(Timing *timing, const CostRef *ref, const char *name)
{
    if (ref->table == COSTS_NONE)
        note_missing(timing, name);
}

/* The shape of the first operation that has the price. */
static const char *shape_of(const OpCosts *costs, uint32_t price)
{
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        for (uint32_t i = 0; i < costs->n_ops[stack]; i++)
            if (costs->ops[stack][i].price == price)
                return costs->model->ops[stack][i].shape;
    return "";
}

/* Decisions that predict; where they were not measured by the plan's predictor, they take what
 * those do that predict nothing, and results tell it. */
static Status find_decisions(Timing *timing, const char *experts)
{
    const Plan *plan = timing->options.plan;
    const char *axis[COST_AXES];
    char name[48];
    CostRef *ref = &timing->refs.decide_ahead;
    *ref = (CostRef){.table = COSTS_NONE};
    if (!plan->buffer.on || !plan_prefetches(plan))
        return OK;
    hardware_decide_table(plan->prefetch.predictor, name, axis, &timing->entries);
    TRY(op_costs_find(&timing->costs, name, experts, ref));
    note_if_missing(timing, ref, "decide/PREDICTOR");
    return OK;
}

/* What is the same in every step; where it was measured for experts of several shapes, what was for
 * those of the first layer. */
static Status find_constants(Timing *timing)
{
    const char *experts =
        timing->options.n_layers > 0 ? shape_of(&timing->costs, timing->layers[0].price) : "";
    for (size_t i = 0; i < sizeof TABLES / sizeof *TABLES; i++) {
        CostRef *ref = (CostRef *)(void *)((char *)timing + TABLES[i].ref);
        TRY(op_costs_find(&timing->costs, TABLES[i].name, experts, ref));
        if (ref->table != COSTS_NONE || !is_needed(timing, TABLES[i].need))
            continue;
        if (!is_small(TABLES[i].need))
            return timing_lacks(timing, TABLES[i].name, "");
        note_missing(timing, TABLES[i].name);
    }
    CostRef varied;
    TRY(op_costs_find(&timing->costs, "decide/none", experts, &varied));
    if (varied.table != COSTS_NONE)
        timing->refs.decide = varied;
    return find_decisions(timing, experts);
}

static Status check_op(Timing *timing, uint32_t number)
{
    const OpPrice *price = &timing->costs.prices[number];
    const char *shape = shape_of(&timing->costs, number);
    char name[64];
    bool fixed = timing->costs.fixed != NULL;
    bool limits = timing->costs.limits != NULL;
    if (fixed && price->op == OP_EXPERTS && price->limited.table == COSTS_NONE)
        return timing_lacks(timing, "padded/experts or mask/experts", shape);
    if (limits && price->op == OP_ROUTE && price->limited.table == COSTS_NONE)
        return timing_lacks(timing, "limited/route", shape);
    snprintf(name, sizeof name, "gpu/%s", op_name(price->op));
    if (price->gpu.table == COSTS_NONE && (price->op != OP_HEAD || timing->options.logits))
        return timing_lacks(timing, name, shape);
    if (price->issue.table == COSTS_NONE && is_needed(timing, NEEDED_BY_QUEUES))
        note_missing(timing, "issue/OP of some operations");
    if (price->op == OP_EXPERTS && price->host.table == COSTS_NONE &&
        timing->options.plan->compute.mode != COMPUTE_ON_GPU)
        return timing_lacks(timing, "host/experts", shape);
    if (price->op == OP_EXPERTS && is_needed(timing, NEEDED_BY_HOST_EXPERTS)) {
        note_if_missing(timing, &price->offer, "host/offer");
        note_if_missing(timing, &price->fetch, "host/fetch");
        note_if_missing(timing, &price->issue_fetch, "issue/fetch");
    }
    return OK;
}

/* Where it was not measured with forced routing, it is as without. */
static Status find_between(Timing *timing)
{
    const OpCosts *costs = &timing->costs;
    CostRef *between = &timing->refs.between;
    char shape[300];
    snprintf(shape, sizeof shape, "%s forced", costs->model->name);
    *between = (CostRef){.table = COSTS_NONE};
    if (timing->options.forced)
        TRY(op_costs_find(costs, "between", shape, between));
    return between->table != COSTS_NONE
               ? OK
               : op_costs_find(costs, "between", costs->model->name, between);
}

/* What was not measured with forced routing is as without, and what not of an encoder as of a
 * decoder. */
static Status find_rest(Timing *timing, Stack stack, StepMode mode)
{
    CostRef *rest = &timing->refs.rest[stack][mode];
    *rest = (CostRef){.table = COSTS_NONE};
    for (int forced = timing->options.forced; forced >= 0; forced--)
        for (int of = stack; of >= 0 && rest->table == COSTS_NONE; of--) {
            char shape[160];
            hardware_rest_shape(timing->costs.model->name, (Stack)of, mode, forced, shape);
            TRY(op_costs_find(&timing->costs, "step/rest", shape, rest));
        }
    return OK;
}

/* Steps take what they do besides their operations: of all that a profile may lack it is the most.
 */
static void note_if_restless(Timing *timing, Stack stack)
{
    const CostRef *rests = timing->refs.rest[stack];
    StepMode mode = timing->options.plan->buffer.on ? STEP_QUEUED : STEP_REPEATED;
    if (timing->costs.n_ops[stack] > 0 && !timing->options.bare &&
        rests[mode].table == COSTS_NONE && rests[STEP_REPEATED].table == COSTS_NONE)
        note_missing(timing, "step/rest");
}

/* On the one axis of REF's table. */
static uint64_t last_place(const OpCosts *costs, const CostRef *ref)
{
    const CostTable *table = ref->table != COSTS_NONE ? &costs->hardware->tables[ref->table] : NULL;
    return table != NULL && table->n_axes == 1 && table->n_points > 0
               ? (uint64_t)table->at[table->n_points - 1]
               : UINT64_MAX;
}

static Status find_of_model(Timing *timing)
{
    const OpCosts *costs = &timing->costs;
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        for (StepMode mode = STEP_FIRST; mode < STEP_MODES; mode++)
            TRY(find_rest(timing, stack, mode));
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        note_if_restless(timing, stack);
    TRY(find_between(timing));
    TRY(op_costs_find(costs, "step/cold", costs->model->name, &timing->refs.cold));
    timing->cold_most_ns = last_place(costs, &timing->refs.cold);
    const char *memory = costs->fixed == NULL                             ? "memory/activations"
                         : costs->fixed->gating.dispatch == DISPATCH_MASK ? "memory/mask"
                                                                          : "memory/padded";
    TRY(op_costs_find(costs, memory, costs->model->name, &timing->refs.activations));
    note_if_missing(timing, &timing->refs.activations, memory);
    return OK;
}

/* What is the same in every step, by the bytes of an expert at the most. */
static uint64_t constant(Timing *timing, const CostRef *ref)
{
    const HardwareModel *model = timing->costs.model;
    CostPoint point = {0};
    if (model->n_slots > 0)
        point.at[AXIS_BYTES] = (double)model->slots[0].slot_bytes;
    return op_costs_ns(&timing->costs, ref, &point, &timing->costs.other);
}

static uint64_t constant_if_any(Timing *timing, const CostRef *ref, uint64_t otherwise)
{
    return ref->table != COSTS_NONE ? constant(timing, ref) : otherwise;
}

static void price_small_loads(Timing *timing)
{
    timing->issue_together_ns = constant(timing, &timing->refs.issue_together);
    timing->start_together_ns = constant_if_any(timing, &timing->refs.start_together, 0);
    if (timing->refs.sync_together.table != COSTS_NONE)
        timing->most_synced = last_place(&timing->costs, &timing->refs.sync_together);
    if (timing->refs.load_together.table != COSTS_NONE)
        timing->most_together = last_place(&timing->costs, &timing->refs.load_together);
    timing->most_awaited = last_place(&timing->costs, &timing->refs.wait_ahead);
    if (is_needed(timing, NEEDED_BY_SLOW_LINKS))
        timing->issue_throttle_ns = constant(timing, &timing->refs.issue_throttle);
}

/* Of steps that wait for every event, on a device that has a queue. */
static void price_queue(Timing *timing)
{
    timing->issue_load_ns = constant(timing, &timing->refs.issue_load);
    timing->issue_await_ns = constant(timing, &timing->refs.issue_await);
    timing->wake_ns = constant(timing, &timing->refs.wake);
    timing->sync_ns = constant(timing, &timing->refs.sync);
    timing->lag_ns = constant(timing, &timing->refs.lag);
    timing->gap_ns = constant_if_any(timing, &timing->refs.gap, 0);
    timing->issue_poll_ns = constant_if_any(timing, &timing->refs.issue_poll, 0);
}

static void price_slow_link(Timing *timing)
{
    timing->throttle_ns = constant(timing, &timing->refs.throttle);
    timing->throttle_least_ns = constant(timing, &timing->refs.throttle_least);
    timing->issue_load_ns += constant(timing, &timing->refs.issue_throttle);
}

static void price_stamps(Timing *timing)
{
    timing->graph_stamp_ns = constant_if_any(timing, &timing->refs.stamp, 0);
    if (timing->refs.queue_stamp.table != COSTS_NONE)
        timing->most_stamped = last_place(&timing->costs, &timing->refs.queue_stamp);
    if (!is_needed(timing, NEEDED_BY_STAMPS))
        return;
    timing->stamp_ns = timing->graph_stamp_ns;
    timing->issue_stamp_ns = constant_if_any(timing, &timing->refs.issue_stamp, 0);
    timing->stamp_beside_ns = constant_if_any(timing, &timing->refs.stamp_beside, 0);
}

static void price_ends(Timing *timing)
{
    timing->end_load_ns = constant(timing, &timing->refs.end_load);
    timing->end_loads_ns = constant_if_any(timing, &timing->refs.end_loads, 0);
}

static void price_constants(Timing *timing)
{
    if (is_needed(timing, NEEDED_BY_BUFFERS))
        price_ends(timing);
    if (is_needed(timing, NEEDED_BY_QUEUES))
        price_queue(timing);
    if (is_needed(timing, NEEDED_BY_SMALL_LOADS))
        price_small_loads(timing);
    if (is_needed(timing, NEEDED_BY_SLOW_LINKS))
        price_slow_link(timing);
    price_stamps(timing);
}

Status timing_find_tables(Timing *timing)
{
    TRY(find_constants(timing));
    TRY(find_of_model(timing));
    for (uint32_t i = 0; i < timing->costs.n_prices; i++)
        TRY(check_op(timing, i));
    price_constants(timing);
    return OK;
}
