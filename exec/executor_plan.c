/* The plan of an executor: what it asks for, and another one in its place. */
#include "exec/executor_state.h"
#include "exec/gating.h"

uint32_t executor_most_ahead(const ModelConfig *config)
{
    uint32_t layers[2] = {0};
    for (uint32_t i = 0; i < config->n_layers; i++)
        layers[config->layers[i].stack] += config->layers[i].moe;
    uint32_t most = layers[0] > layers[1] ? layers[0] : layers[1];
    return most > 0 ? most - 1 : 0;
}

PlanDemands executor_demands(const Executor *executor, const Plan *plan)
{
    uint32_t distance = plan_needs_signals(plan).distance;
    uint32_t capacity = plan->buffer.on ? 0 : gating_capacity(plan, executor->options.max_tokens);
    return (PlanDemands){.capacity = capacity,
                         .mask = capacity > 0 && plan->gating.dispatch == DISPATCH_MASK,
                         .distance =
                             distance <= executor_most_ahead(executor->config) ? distance : 0,
                         .host = plan->compute.mode != COMPUTE_ON_GPU};
}

Status executor_check_plan(const Plan *plan)
{
    if (plan->batching.mode == BATCHING_APART || plan->batching.mode == BATCHING_MIXED)
        return fail(ERR_UNSUPPORTED,
                    "plan: batching.mode: \"%s\" regroups the tokens of a trace, which only "
                    "simulate and sweep do",
                    plan_batching_name(plan->batching.mode));
    return OK;
}

void executor_decide_by(Executor *executor, const Plan *plan)
{
    Forward *forward = &executor->forward;
    forward->signals.needs = plan_needs_signals(plan);
    forward->ahead.decided = executor_demands(executor, plan).distance;
}

static Status check_demands(const Executor *executor, const Plan *plan)
{
    PlanDemands demands = executor_demands(executor, plan);
    const PlanDemands *most = &executor->laid_out;
    if (demands.capacity > most->capacity)
        return fail(ERR_UNSUPPORTED,
                    "executor: the plan's static gating computes %u rows of each expert, it was "
                    "opened for %u",
                    demands.capacity, most->capacity);
    if (demands.mask && !most->mask)
        return fail(ERR_UNSUPPORTED, "executor: the plan's gating.dispatch is mask, which it was "
                                     "not opened for");
    if (demands.distance > executor->forward.ahead.distances)
        return fail(ERR_UNSUPPORTED,
                    "executor: the plan asks the routers %u MoE layers ahead, it was opened for %u",
                    demands.distance, executor->forward.ahead.distances);
    if (demands.host && !most->host)
        return fail(ERR_UNSUPPORTED,
                    "executor: the plan's compute.mode is %s, it was opened for gpu alone",
                    plan_compute_name(plan->compute.mode));
    return OK;
}

/* A plan, its decisions' state, and what they work in. */
typedef struct {
    Plan plan;
    ExpertBuffer *decisions;
    Arena deciding;
} Choice;

static void free_choice(Choice *choice)
{
    buffer_free(choice->decisions);
    arena_free(&choice->deciding);
    plan_free(&choice->plan);
}

/* Exchanges CHOICE with what the executor has. */
static void exchange(Executor *executor, Choice *choice)
{
    Choice before = {executor->plan, executor->forward.slots.decisions, executor->deciding};
    executor->plan = choice->plan;
    executor->forward.slots.decisions = choice->decisions;
    executor->deciding = choice->deciding;
    executor_decide_by(executor, &executor->plan);
    *choice = before;
}

Status executor_forget_steps(Executor *executor)
{
    const Forward *forward = &executor->forward;
    return forward->backend->begin_anew(forward->device, expert_slots_max_loads(&forward->slots));
}

/* Room for the decisions, in an arena that has none, and for the loads. */
static Status make_room(Executor *executor)
{
    Arena *arena = &executor->deciding;
    executor_lay_out_deciding(executor, arena);
    TRY(arena_commit(arena, "executor: host arrays of the decisions"));
    executor_lay_out_deciding(executor, arena);
    return executor_forget_steps(executor);
}

Status executor_set_plan(Executor *executor, const Plan *plan)
{
    const ExpertSlots *slots = &executor->forward.slots;
    Choice choice = {.plan = plan_share(plan)};
    Status status = executor_check_plan(plan);
    if (status == OK)
        status = check_demands(executor, plan);
    if (status == OK)
        status = buffer_new(&choice.plan, slots->trace_layers, slots->n_layers, &choice.decisions);
    if (status == OK)
        status = expert_slots_check_room(slots, plan, choice.decisions);
    if (status == OK) {
        exchange(executor, &choice);
        status = make_room(executor);
        if (status != OK) {
            exchange(executor, &choice);
            executor->deciding.used = 0;
            executor_lay_out_deciding(executor, &executor->deciding);
        }
    }
    free_choice(&choice);
    return status == OK ? expert_slots_fill(&executor->forward.slots) : status;
}
