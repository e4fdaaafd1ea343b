#include "sim/study.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "policies/placement.h"

static const char *const STUDY_KEYS[] = {"moebius_study", "name", "base", "grid", "plans", NULL};
static const char BOUND_POLICY[] = "belady";

typedef struct {
    const char *file;
    bool every_size; /* plans may leave their size out */
    JsonAt base;     /* node NULL: none */
    JsonAt grid;     /* node NULL: none */
    JsonAt plans;
    size_t n_grid; /* combinations */
    size_t n_plans;
} Source;

static void append_text(char *text, size_t bytes, const char *more)
{
    size_t used = strlen(text);
    snprintf(text + used, bytes - used, "%s", more);
}

static void name_buffer(const Plan *plan, char *name, size_t bytes)
{
    if (!plan->buffer.on) {
        snprintf(name, bytes, "all resident");
        return;
    }
    char budget[64];
    if (plan->buffer.bytes == 0 && plan->buffer.slots == 0)
        snprintf(budget, sizeof budget, "given");
    else if (plan->buffer.bytes > 0)
        snprintf(budget, sizeof budget, "%.10g MiB", (double)plan->buffer.bytes / 1048576.0);
    else
        snprintf(budget, sizeof budget, "%u", plan->buffer.slots);
    if (plan->buffer.budget.choice > 0)
        append_text(budget, sizeof budget,
                    plan->buffer.budget.choice == BUDGET_SKEW ? " skew" : " optimal");
    snprintf(name, bytes, "%s %s/%s %s", plan->buffer.evict, budget,
             plan_scope_name(plan->buffer.scope), plan_order_name(plan->buffer.order));
    if (plan->compute.mode != COMPUTE_ON_GPU) {
        append_text(name, bytes, " compute ");
        append_text(name, bytes, plan_compute_name(plan->compute.mode));
    }
}

void study_plan_name(const Plan *plan, char *name, size_t bytes)
{
    char ranks[32];
    name_buffer(plan, name, bytes);
    if (plan->placement.ranks == 1)
        return;
    snprintf(ranks, sizeof ranks, " %u ranks ", plan->placement.ranks);
    append_text(name, bytes, ranks);
    append_text(name, bytes, PLACEMENT_METHOD_NAMES[plan->placement.method]);
}

/* True for grid keys whose values study_plan_name() shows. */
static bool is_shown(const char *key)
{
    static const char *const SHOWN[] = {
        "buffer.evict",  "buffer.slots", "buffer.bytes",    "buffer.scope",     "buffer.order",
        "buffer.budget", "compute.mode", "placement.ranks", "placement.method", "name"};
    for (size_t i = 0; i < sizeof SHOWN / sizeof SHOWN[0]; i++)
        if (strcmp(SHOWN[i], key) == 0)
            return true;
    return false;
}

/* Appends "key=value" (the value as JSON). */
static Status append_choice(char *text, size_t bytes, const char *before, const cJSON *key,
                            const cJSON *value)
{
    char *shown;
    TRY(json_print(value, false, &shown));
    append_text(text, bytes, before);
    append_text(text, bytes, key->string);
    append_text(text, bytes, "=");
    append_text(text, bytes, shown);
    mem_free(shown);
    return OK;
}

/* The value of the grid's KEY in combination INDEX; *INDEX becomes what is left for the keys before
 * it. */
static const cJSON *take_choice(const cJSON *key, size_t *index)
{
    size_t count = (size_t)cJSON_GetArraySize(key);
    const cJSON *value = cJSON_GetArrayItem(key, (int)(*index % count));
    *index /= count;
    return value;
}

/* The last key is the fastest, so the list is walked from its end: cJSON's first child's prev is
 * the last child. */
static Status put_combination(const Source *source, size_t index, cJSON *json)
{
    const cJSON *first = source->grid.node->child;
    const cJSON *key = first->prev;
    for (;; key = key->prev) {
        const cJSON *value = take_choice(key, &index);
        TRY(fail_in(plan_json_put(json, key->string, value), "%s: grid.%s", source->file,
                    key->string));
        if (key == first)
            return OK;
    }
}

/* "study.json: combination 3 (buffer.evict="lru", buffer.slots=4)", and in NAME the values that a
 * plan's name does not show. */
static Status describe_combination(const Source *source, size_t index, char *place, size_t bytes,
                                   char *name, size_t name_bytes)
{
    snprintf(place, bytes, "%s: combination %zu (", source->file, index + 1);
    name[0] = '\0';
    size_t stride = source->n_grid;
    bool is_first = true;
    for (const cJSON *key = source->grid.node->child; key != NULL; key = key->next) {
        size_t count = (size_t)cJSON_GetArraySize(key);
        stride /= count;
        const cJSON *value = cJSON_GetArrayItem(key, (int)(index / stride % count));
        TRY(append_choice(place, bytes, is_first ? "" : ", ", key, value));
        if (count > 1 && !is_shown(key->string))
            TRY(append_choice(name, name_bytes, " ", key, value));
        is_first = false;
    }
    append_text(place, bytes, ")");
    return OK;
}

static Status start_plan(const cJSON *from, cJSON **json)
{
    *json = from != NULL ? cJSON_Duplicate(from, true) : cJSON_CreateObject();
    if (*json == NULL)
        return fail_memory("study", 0);
    if (cJSON_GetObjectItemCaseSensitive(*json, "moebius_plan") != NULL)
        return OK;
    return json_add_u64(*json, "moebius_plan", 1);
}

/* Names a plan of the grid; a name of the base goes in front. */
static void name_combination(Plan *plan, bool is_named_by_grid, const char *more)
{
    char own[sizeof plan->name];
    char generated[sizeof plan->name];
    if (is_named_by_grid)
        return;
    memcpy(own, plan->name, sizeof own);
    study_plan_name(plan, generated, sizeof generated);
    snprintf(plan->name, sizeof plan->name, "%.40s%s%.60s", own, own[0] != '\0' ? ": " : "",
             generated);
    append_text(plan->name, sizeof plan->name, more);
}

/* What leaves its size out will have every one: until then it has one slot. */
static Status give_size(const Source *source, cJSON *json)
{
    cJSON *buffer = cJSON_GetObjectItemCaseSensitive(json, "buffer");
    bool has_size = cJSON_GetObjectItemCaseSensitive(buffer, "slots") != NULL ||
                    cJSON_GetObjectItemCaseSensitive(buffer, "bytes") != NULL ||
                    cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(buffer, "budget"));
    if (!source->every_size || !cJSON_IsObject(buffer) || has_size)
        return OK;
    return json_add_u64(buffer, "slots", 1);
}

static Status plan_of_combination(const Source *source, size_t index, Plan *plan)
{
    char place[400];
    char more[sizeof plan->name];
    cJSON *json = NULL;
    Status status = describe_combination(source, index, place, sizeof place, more, sizeof more);
    if (status == OK)
        status = start_plan(source->base.node, &json);
    if (status == OK)
        status = put_combination(source, index, json);
    if (status == OK)
        status = give_size(source, json);
    if (status == OK)
        status = plan_from_json(json, place, plan);
    cJSON_Delete(json);
    if (status == OK)
        name_combination(plan, cJSON_GetObjectItemCaseSensitive(source->grid.node, "name") != NULL,
                         more);
    return status;
}

static Status listed_plan(const Source *source, const cJSON *item, size_t index, Plan *plan)
{
    JsonAt at = json_item(&source->plans, item, index);
    char place[400];
    cJSON *json = NULL;
    if (!cJSON_IsObject(item))
        return json_fail(&at, "must be a plan");
    snprintf(place, sizeof place, "%s: %s", source->file, at.path);
    Status status = start_plan(item, &json);
    if (status == OK)
        status = give_size(source, json);
    if (status == OK)
        status = plan_from_json(json, place, plan);
    cJSON_Delete(json);
    if (status == OK && plan->name[0] == '\0')
        study_plan_name(plan, plan->name, sizeof plan->name);
    return status;
}

static Status count_combinations(Source *source)
{
    if (source->grid.node == NULL)
        return OK;
    if (!cJSON_IsObject(source->grid.node))
        return json_fail(&source->grid, "must be an object of lists");
    if (source->grid.node->child == NULL)
        return json_fail(&source->grid, "is empty");
    source->n_grid = 1;
    for (const cJSON *key = source->grid.node->child; key != NULL; key = key->next) {
        JsonAt at;
        json_find(&source->grid, key->string, &at);
        if (!cJSON_IsArray(key))
            return json_fail(&at, "must be a list of values");
        if (key->child == NULL)
            return json_fail(&at, "is empty");
        size_t count = (size_t)cJSON_GetArraySize(key);
        if (count > STUDY_MAX_PLANS / source->n_grid)
            return json_fail(&source->grid, "more than %d combinations", STUDY_MAX_PLANS);
        source->n_grid *= count;
    }
    return OK;
}

static Status count_plans(Source *source)
{
    if (source->plans.node != NULL) {
        if (!cJSON_IsArray(source->plans.node))
            return json_fail(&source->plans, "must be a list of plans");
        source->n_plans = (size_t)cJSON_GetArraySize(source->plans.node);
    }
    if (source->n_plans > STUDY_MAX_PLANS - source->n_grid)
        return json_fail(&source->plans, "more than %d plans with the grid", STUDY_MAX_PLANS);
    if (source->n_plans + source->n_grid == 0)
        return fail(ERR_INPUT, "%s: neither grid nor plans", source->file);
    return OK;
}

static Status read_source(const cJSON *json, Source *source, Study *study)
{
    const char *file = source->file;
    JsonAt root = json_root(json, file);
    JsonAt at;
    uint32_t version;
    const char *name = "";
    TRY(json_only_keys(&root, STUDY_KEYS));
    TRY(json_need(&root, "moebius_study", &at));
    TRY(json_u32(&at, 1, 1, &version));
    if (json_find(&root, "name", &at))
        TRY(json_text(&at, &name));
    if (strlen(name) >= sizeof study->name)
        return json_fail(&at, "longer than %zu bytes", sizeof study->name - 1);
    snprintf(study->name, sizeof study->name, "%s", name);
    json_find(&root, "grid", &source->grid);
    json_find(&root, "plans", &source->plans);
    if (json_find(&root, "base", &source->base)) {
        if (!cJSON_IsObject(source->base.node))
            return json_fail(&source->base, "must be a plan");
        if (source->grid.node == NULL)
            return json_fail(&source->base, "is used with grid only, and there is none");
    }
    TRY(count_combinations(source));
    return count_plans(source);
}

static int compare_numbers(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

/* Of one rank all are the same. */
static int compare_placements(const Plan *a, const Plan *b)
{
    int order = compare_numbers(a->placement.ranks, b->placement.ranks);
    if (order != 0 || a->placement.ranks == 1)
        return order;
    order = compare_numbers(a->placement.method, b->placement.method);
    if (order == 0 && a->placement.method == PLACEMENT_RANDOM)
        order = compare_numbers(a->seed, b->seed);
    return order != 0 ? order : plan_table_compare(a->placement.map.table, b->placement.map.table);
}

/* Orders plans by what a bound depends on. */
static int compare_budgets(const void *left, const void *right)
{
    const Plan *a = left;
    const Plan *b = right;
    if (a->buffer.scope != b->buffer.scope)
        return a->buffer.scope < b->buffer.scope ? -1 : 1;
    if (a->buffer.order != b->buffer.order)
        return a->buffer.order < b->buffer.order ? -1 : 1;
    if (a->buffer.slots != b->buffer.slots)
        return a->buffer.slots < b->buffer.slots ? -1 : 1;
    if (a->buffer.bytes != b->buffer.bytes)
        return a->buffer.bytes < b->buffer.bytes ? -1 : 1;
    if (a->buffer.budget.choice != b->buffer.budget.choice)
        return a->buffer.budget.choice < b->buffer.budget.choice ? -1 : 1;
    int order = plan_table_compare(a->buffer.budget.table, b->buffer.budget.table);
    return order != 0 ? order : compare_placements(a, b);
}

/* Like compare_budgets(), but plans that are the bound themselves come first. */
static int compare_bounds_first(const void *left, const void *right)
{
    const Plan *a = left;
    const Plan *b = right;
    int order = compare_budgets(a, b);
    if (order != 0)
        return order;
    return (strcmp(a->buffer.evict, BOUND_POLICY) != 0) -
           (strcmp(b->buffer.evict, BOUND_POLICY) != 0);
}

static Plan bound_plan(const Plan *plan)
{
    Plan bound = plan_default();
    bound.buffer = plan->buffer;
    bound.buffer.hot = (PlanLearned){0};
    bound.buffer.initial = (PlanLearned){0};
    bound.buffer.alpha = 0;
    bound.batching = plan->batching;
    if (plan->placement.ranks > 1) {
        bound.placement = plan->placement;
        bound.seed = plan->seed;
    }
    snprintf(bound.buffer.evict, sizeof bound.buffer.evict, "%s", BOUND_POLICY);
    study_plan_name(&bound, bound.name, sizeof bound.name);
    return plan_share(&bound);
}

/* Who knows the future knows it of a copy of an expert only as that is used at all times. */
static bool has_bound(const Plan *plan)
{
    bool copies = plan->placement.ranks > 1 && plan->placement.replicas > 0;
    return plan->buffer.on && plan->compute.mode == COMPUTE_ON_GPU && !copies;
}

Status study_add_bounds(Study *study)
{
    size_t given = study->n_plans;
    size_t n_sorted = 0;
    Plan *sorted;
    /* With continuous batching the future depends on time, so that nobody can know it. */
    if (given > 0 && study->plans[0].batching.mode == BATCHING_CONTINUOUS)
        return OK;
    TRY(mem_new(&sorted, given, sizeof *sorted, "study"));
    for (size_t i = 0; i < given; i++)
        if (has_bound(&study->plans[i]))
            sorted[n_sorted++] = study->plans[i];
    qsort(sorted, n_sorted, sizeof *sorted, compare_bounds_first);
    for (size_t i = 0; i < n_sorted; i++) {
        bool is_first = i == 0 || compare_budgets(&sorted[i - 1], &sorted[i]) != 0;
        if (is_first && strcmp(sorted[i].buffer.evict, BOUND_POLICY) != 0)
            study->plans[study->n_plans++] = bound_plan(&sorted[i]);
    }
    study->n_bounds = study->n_plans - given;
    mem_free(sorted);
    return OK;
}

/* A sweep replays one sequence of steps, so all its plans must ask for the same; but continuous
 * batching, where each plan has steps of its own. */
static Status check_batching(const char *file, const Study *study)
{
    for (size_t i = 1; i < study->n_plans; i++) {
        Batching first = plan_batching(&study->plans[0]);
        Batching other = plan_batching(&study->plans[i]);
        bool same_tokens =
            first.mode == BATCHING_AS_RECORDED || first.max_tokens == other.max_tokens;
        if (first.mode == BATCHING_CONTINUOUS && other.mode == BATCHING_CONTINUOUS)
            continue;
        if (first.mode != other.mode || first.sequences != other.sequences || !same_tokens)
            return fail(ERR_INPUT,
                        "%s: batching: \"%s\" of \"%s\" and \"%s\" of \"%s\" regroup the trace "
                        "in different ways, which takes a study each",
                        file, plan_batching_name(first.mode), study->plans[0].name,
                        plan_batching_name(other.mode), study->plans[i].name);
    }
    return OK;
}

static Status read_plans(const Source *source, Study *study)
{
    for (size_t i = 0; i < source->n_grid; i++)
        TRY(plan_of_combination(source, i, &study->plans[study->n_plans++]));
    size_t index = 0;
    if (source->n_plans > 0)
        for (const cJSON *item = source->plans.node->child; item != NULL; item = item->next)
            TRY(listed_plan(source, item, index++, &study->plans[study->n_plans++]));
    TRY(check_batching(source->file, study));
    return study_add_bounds(study);
}

Status study_from_json(const cJSON *json, const char *file, bool every_size, Study *study)
{
    Source source = {.file = file, .every_size = every_size};
    *study = (Study){0};
    TRY(read_source(json, &source, study));
    Status status = json_print(json, false, &study->text);
    if (status == OK)
        status =
            mem_new(&study->plans, 2 * (source.n_grid + source.n_plans), sizeof(Plan), "study");
    if (status == OK)
        status = read_plans(&source, study);
    if (status != OK)
        study_free(study);
    return status;
}

Status study_load(const char *path, bool every_size, Study *study)
{
    cJSON *json;
    *study = (Study){0};
    TRY(json_load(path, STUDY_MAX_BYTES, &json));
    Status status = study_from_json(json, path, every_size, study);
    cJSON_Delete(json);
    return status;
}

void study_free(Study *study)
{
    for (size_t i = 0; i < study->n_plans; i++)
        plan_free(&study->plans[i]);
    mem_free(study->text);
    mem_free(study->plans);
    *study = (Study){0};
}
