#include "sim/sweep_learn.h"

#include "base/memory.h"
#include "sim/train.h"
#include "traces/packed_part.h"

/* The two parts, each counted when a plan first learns from it. */
typedef struct {
    PackedTrace trace[2]; /* the training part, and the test part */
    const TraceSignals *signals;
    uint64_t skipped[2]; /* events of SIGNALS before each part */
    Training *training[2];
} Lessons;

static Lessons lessons_of(const PackedTrace *trace, const TraceSignals *signals,
                          const TraceParts *parts)
{
    const Steps steps[2] = {parts->train, parts->test};
    Lessons lessons = {.signals = signals};
    for (int i = 0; i < 2; i++) {
        lessons.trace[i] = packed_trace_part(trace, steps[i].first, steps[i].end);
        lessons.skipped[i] = packed_trace_part_first_event(trace, steps[i].first);
    }
    return lessons;
}

static void end_lessons(Lessons *lessons)
{
    training_free(lessons->training[0]);
    training_free(lessons->training[1]);
}

static Status learn_one(Lessons *lessons, const Plan *plan, Plan *learnt)
{
    int part = plan_needs_future(plan);
    if (plan_unlearned(plan) == NULL) {
        *learnt = plan_share(plan);
        return OK;
    }
    if (lessons->training[part] == NULL)
        TRY(training_new(&lessons->trace[part], lessons->signals, lessons->skipped[part],
                         &lessons->training[part]));
    Status status = training_plan(lessons->training[part], plan, learnt);
    return plan->name[0] != '\0' ? fail_in(status, "plan \"%s\"", plan->name) : status;
}

Status sweep_learn(const PackedTrace *trace, const TraceSignals *signals, const TraceParts *parts,
                   const Study *study, Plan **out)
{
    Lessons lessons = lessons_of(trace, signals, parts);
    Plan *plans;
    TRY(mem_new(&plans, study->n_plans, sizeof *plans, "study"));
    Status status = OK;
    for (size_t i = 0; i < study->n_plans && status == OK; i++)
        status = learn_one(&lessons, &study->plans[i], &plans[i]);
    end_lessons(&lessons);
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

Status learn_plan(const PackedTrace *trace, const TraceSignals *signals, const TraceParts *parts,
                  const Plan *plan, Plan *learnt)
{
    Lessons lessons = lessons_of(trace, signals, parts);
    Status status = learn_one(&lessons, plan, learnt);
    end_lessons(&lessons);
    return status;
}
