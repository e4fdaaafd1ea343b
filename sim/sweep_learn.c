#include "sim/sweep_learn.h"

#include <string.h>

#include "base/memory.h"
#include "sim/train.h"
#include "traces/packed_part.h"

static Status learn_all(Training *training, const Study *study, Plan *plans)
{
    for (size_t i = 0; i < study->n_plans; i++)
        TRY(fail_in(training_plan(training, &study->plans[i], &plans[i]), "plan \"%s\"",
                    study->plans[i].name));
    return OK;
}

Status sweep_learn(const PackedTrace *trace, const TraceParts *parts, const Study *study,
                   Plan **out)
{
    const PackedTrace train = packed_trace_part(trace, parts->train.first, parts->train.end);
    Training *training = NULL;
    Plan *plans;
    TRY(mem_new(&plans, study->n_plans, sizeof *plans, "study"));
    Status status = training_new(&train, &training);
    if (status == OK)
        status = learn_all(training, study, plans);
    training_free(training);
    if (status == OK)
        *out = plans;
    else
        sweep_forget(plans, study->n_plans);
    return status;
}

void sweep_forget(Plan *plans, size_t n_plans)
{
    for (size_t i = 0; plans != NULL && i < n_plans; i++)
        plan_free(&plans[i]);
    mem_free(plans);
}

Status learn_plan(const PackedTrace *trace, const TraceParts *parts, const Plan *plan, Plan *learnt)
{
    const PackedTrace train = packed_trace_part(trace, parts->train.first, parts->train.end);
    Training *training;
    TRY(training_new(&train, &training));
    Status status = training_plan(training, plan, learnt);
    training_free(training);
    return status;
}
