/* Static gating: every expert computes its whole capacity, so that the routing plays no part. */

#include "exec/calibrate_parts.h"
#include "policies/capacity.h"

enum { STATIC_REPEATS = 3 };

static const double FACTORS[] = {1.0 / 16, 1.0 / 4, 1};

static Plan static_plan(Dispatch dispatch, double factor)
{
    Plan plan = plan_default();
    plan.gating.mode = GATING_STATIC;
    plan.gating.dispatch = dispatch;
    plan.gating.capacity_factor = factor;
    return plan;
}

static const char *table_of(Dispatch dispatch)
{
    return dispatch == DISPATCH_MASK ? "mask/experts" : "padded/experts";
}

static Status note(Calibration *c, const StepMeasured *measured, Dispatch dispatch,
                   const double at[COST_AXES])
{
    static const char *const AXES[] = {"tokens", "share"};
    for (uint32_t i = 0; i < measured->n_ops; i++) {
        Op op = measured->ops[i].op;
        double spread;
        if ((op != OP_EXPERTS && op != OP_ROUTE) || !calibration_is_first(c, i))
            continue;
        double ns = at_least_0(calibration_cost(c, c->op_ns, measured, i, &spread) - c->stamp_ns);
        TRY(op == OP_EXPERTS ? calibration_note(c, table_of(dispatch), c->shape[i], UNIT_NS, AXES,
                                                2, at, ns, spread)
                             : calibration_note(c, "limited/route", c->shape[i], UNIT_NS, AXES, 1,
                                                at, ns, spread));
    }
    return OK;
}

static Status measure_place(Calibration *c, uint32_t tokens, Dispatch dispatch)
{
    uint32_t requests = tokens < c->max_requests ? tokens : c->max_requests;
    while (tokens % requests != 0)
        requests--;
    const StepKind kind = {.requests = requests, .tokens = tokens / requests, .stamped_only = true};
    StepMeasured measured;
    if (tokens > c->max_tokens || kind.tokens > c->max_length || calibration_only_counts(c))
        return OK;
    TRY(calibration_measure(c, &kind, STATIC_REPEATS, &measured));
    const double at[COST_AXES] = {tokens, (double)gating_capacity(&c->plan, tokens) / tokens};
    return note(c, &measured, dispatch, at);
}

static Status measure_plan(Calibration *c, Dispatch dispatch, double factor)
{
    static const uint32_t TOKENS[] = {1, 4, 16, 64, 128, 256, 512, 1024, 0};
    static const uint32_t QUICK_TOKENS[] = {1, 8, 64, 0};
    const uint32_t *tokens = c->options->quick ? QUICK_TOKENS : TOKENS;
    c->plan = static_plan(dispatch, factor);
    if (!c->counting)
        TRY(executor_set_plan(c->executor, &c->plan));
    for (; *tokens > 0; tokens++)
        TRY(measure_place(c, *tokens, dispatch));
    return OK;
}

Status calibrate_static(Calibration *c)
{
    for (Dispatch dispatch = DISPATCH_PADDED; dispatch <= DISPATCH_MASK; dispatch++)
        for (size_t i = 0; i < COUNT(FACTORS); i++)
            TRY(measure_plan(c, dispatch, FACTORS[i]));
    return OK;
}

Plan calibration_static_plan(void)
{
    return static_plan(DISPATCH_MASK, 1);
}

/* The working memory of executors for steps of up to so many tokens. */
static Status note_memory(Calibration *c, Dispatch dispatch, uint32_t tokens, double factor)
{
    static const char *const AXES[] = {"tokens", "share"};
    ExecutorMemory memory;
    c->plan = static_plan(dispatch, factor);
    const double at[COST_AXES] = {tokens, (double)gating_capacity(&c->plan, tokens) / tokens};
    TRY(calibration_memory_for(c, tokens, &memory));
    return calibration_note(c, dispatch == DISPATCH_MASK ? "memory/mask" : "memory/padded",
                            c->model, UNIT_BYTES, AXES, 2, at,
                            (double)memory.activations + (double)memory.own, 0);
}

Status calibrate_static_memory(Calibration *c)
{
    const Plan plan = c->plan;
    Status status = OK;
    for (Dispatch dispatch = DISPATCH_PADDED; dispatch <= DISPATCH_MASK; dispatch++)
        for (uint32_t tokens = 1; tokens <= 1 << 12; tokens *= 2)
            for (size_t i = 0; i < COUNT(FACTORS) && status == OK; i++)
                status = note_memory(c, dispatch, tokens, FACTORS[i]);
    c->plan = plan;
    return status;
}
