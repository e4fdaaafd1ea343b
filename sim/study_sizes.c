#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/study.h"

/* A plan of the study without its budget, as text to tell it by. */
typedef struct {
    char *text;
    size_t plan;
    bool again; /* another plan of the same text stands before */
} Kind;

static int compare_texts(const void *left, const void *right)
{
    const Kind *a = left;
    const Kind *b = right;
    int order = strcmp(a->text, b->text);
    return order != 0 ? order : (a->plan > b->plan) - (a->plan < b->plan);
}

static int compare_plans(const void *left, const void *right)
{
    const Kind *a = left;
    const Kind *b = right;
    return (a->plan > b->plan) - (a->plan < b->plan);
}

/* Shares the tables of PLAN without owning them. */
static Plan with_size(const Plan *plan, uint32_t slots)
{
    Plan sized = *plan;
    if (plan->buffer.on) {
        sized.buffer.slots = slots;
        sized.buffer.bytes = 0;
        sized.buffer.budget.table = NULL;
    }
    study_plan_name(&sized, sized.name, sizeof sized.name);
    return sized;
}

/* KINDS[n], in the order of the plans. */
static Status tell_kinds(const Study *study, size_t n, Kind *kinds)
{
    for (size_t i = 0; i < n; i++) {
        Plan plain = with_size(&study->plans[i], 1);
        kinds[i].plan = i;
        TRY(plan_to_text(&plain, &kinds[i].text));
    }
    qsort(kinds, n, sizeof *kinds, compare_texts);
    for (size_t i = 1; i < n; i++)
        kinds[i].again = strcmp(kinds[i - 1].text, kinds[i].text) == 0;
    qsort(kinds, n, sizeof *kinds, compare_plans);
    return OK;
}

/* The experts of the largest scope; 1 for a plan that has no sizes. */
static uint32_t n_sizes(const Plan *plan, const TraceLayer *layers, uint32_t n_layers)
{
    uint32_t most = 1;
    uint32_t all = 0;
    for (uint32_t i = 0; i < n_layers; i++) {
        most = layers[i].experts > most ? layers[i].experts : most;
        all += layers[i].experts;
    }
    if (!plan->buffer.on)
        return 1;
    return plan->buffer.scope == SCOPE_DEVICE ? all : most;
}

/* What the lists of TABLE need at least. */
static uint32_t slots_of_lists(const PlanTable *table, bool shared)
{
    uint32_t slots = 0;
    for (uint32_t at = 0; table != NULL && at < plan_table_layers(table); at++) {
        uint32_t n = plan_table_row(table, at, 0).n;
        slots = shared ? slots + n : (n > slots ? n : slots);
    }
    return slots;
}

/* The smallest size: one that has room for the experts that the plan lists. */
static uint32_t least_size(const Plan *plan)
{
    bool shared = plan->buffer.scope == SCOPE_DEVICE;
    uint32_t hot = slots_of_lists(plan->buffer.hot.table, shared);
    uint32_t initial = slots_of_lists(plan->buffer.initial.table, shared);
    uint32_t least = hot > initial ? hot : initial;
    return least > 1 ? least : 1;
}

static Status spread(const Study *study, const Kind *kinds, size_t n_kinds,
                     const TraceLayer *layers, uint32_t n_layers, Study *sized)
{
    uint64_t total = 0;
    for (size_t i = 0; i < n_kinds; i++)
        total += kinds[i].again ? 0 : n_sizes(&study->plans[i], layers, n_layers); /* at most */
    if (total > STUDY_MAX_PLANS)
        return fail(ERR_INPUT, "every size of every plan: %llu plans, allowed are %d",
                    (unsigned long long)total, STUDY_MAX_PLANS);
    TRY(mem_new(&sized->plans, 2 * total, sizeof *sized->plans, "study"));
    for (size_t i = 0; i < n_kinds; i++)
        for (uint32_t slots = least_size(&study->plans[i]);
             !kinds[i].again && slots <= n_sizes(&study->plans[i], layers, n_layers); slots++) {
            Plan plan = with_size(&study->plans[i], slots);
            sized->plans[sized->n_plans++] = plan_share(&plan);
        }
    return study_add_bounds(sized);
}

Status study_every_size(Study *study, const TraceLayer *layers, uint32_t n_layers)
{
    size_t n = study->n_plans - study->n_bounds;
    Kind *kinds;
    Study sized = {0};
    TRY(mem_new(&kinds, n, sizeof *kinds, "study"));
    Status status = tell_kinds(study, n, kinds);
    if (status == OK)
        status = spread(study, kinds, n, layers, n_layers, &sized);
    for (size_t i = 0; i < n; i++)
        mem_free(kinds[i].text);
    mem_free(kinds);
    Study gone = sized;
    if (status == OK) {
        gone = (Study){.plans = study->plans, .n_plans = study->n_plans};
        study->plans = sized.plans;
        study->n_plans = sized.n_plans;
        study->n_bounds = sized.n_bounds;
    }
    study_free(&gone);
    return status;
}
