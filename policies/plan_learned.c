/* What plans learn, and who owns the tables. */
#include "policies/plan.h"

PlanLearned *plan_learned(Plan *plan, size_t i, const char **path)
{
    const struct {
        const char *path;
        PlanLearned *learned;
    } all[PLAN_LEARNABLE] = {
        {"buffer.budget", &plan->buffer.budget},     {"buffer.hot", &plan->buffer.hot},
        {"buffer.initial", &plan->buffer.initial},   {"prefetch.table", &plan->prefetch.table},
        {"placement.map", &plan->placement.map},     {"compute.host_ns", &plan->compute.host_ns},
        {"compute.load_ns", &plan->compute.load_ns}, {"compute.event_ns", &plan->compute.event_ns},
    };
    *path = all[i].path;
    return all[i].learned;
}

/* The first that is still to be learnt of those from FIRST to END - 1. */
static const char *first_unlearned(const Plan *plan, size_t first, size_t end)
{
    Plan view = *plan;
    const char *path;
    for (size_t i = first; i < end; i++)
        if (plan_learned(&view, i, &path)->choice != 0)
            return path;
    return NULL;
}

const char *plan_unlearned(const Plan *plan)
{
    return first_unlearned(plan, 0, PLAN_TRAINED);
}

const char *plan_unmeasured(const Plan *plan)
{
    return first_unlearned(plan, PLAN_TRAINED, PLAN_LEARNABLE);
}

Status plan_check_learned(const Plan *plan)
{
    const char *path = plan_unlearned(plan);
    if (path != NULL)
        return fail(ERR_PLAN,
                    "%s: must be learnt from a part of a trace before the plan can run (simulate, "
                    "sweep and validate do that with --train, and plan writes it into a plan)",
                    path);
    path = plan_unmeasured(plan);
    if (path != NULL)
        return fail(ERR_PLAN,
                    "%s: must be measured before the plan can run (simulate, sweep and validate "
                    "take it from --hardware, and plan writes it into a plan)",
                    path);
    return OK;
}

void plan_learn(PlanLearned *learned, const PlanTable *table)
{
    const PlanTable *before = learned->table;
    *learned = (PlanLearned){.table = plan_table_share(table)};
    plan_table_release(before);
}

void plan_free(Plan *plan)
{
    const char *path;
    for (size_t i = 0; i < PLAN_LEARNABLE; i++) {
        PlanLearned *learned = plan_learned(plan, i, &path);
        plan_table_release(learned->table);
        learned->table = NULL;
    }
}

Plan plan_share(const Plan *plan)
{
    Plan copy = *plan;
    const char *path;
    for (size_t i = 0; i < PLAN_LEARNABLE; i++)
        plan_table_share(plan_learned(&copy, i, &path)->table);
    return copy;
}
