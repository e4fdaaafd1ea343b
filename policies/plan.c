#include "policies/plan.h"

#include <stdio.h>
#include <string.h>

#include "policies/buffer.h"
#include "policies/placement.h"
#include "policies/plan_keys.h"
#include "policies/predictor.h"

Plan plan_default(void)
{
    Plan plan = {
        .gating = {.mode = GATING_DYNAMIC, .capacity_factor = 1, .dispatch = DISPATCH_PADDED},
        .buffer = {.scope = SCOPE_LAYER, .order = ORDER_BATCH},
        .prefetch = {.predictor = "none", .distance = 1, .max_inflight = 2},
        .placement = {.ranks = 1, .method = PLACEMENT_CONTIGUOUS},
        .batching = {.max_tokens = 4096}};
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "lru");
    return plan;
}

static Status read_text(const JsonAt *at, size_t room, char *field)
{
    const char *text = NULL;
    TRY(json_text(at, &text));
    if (strlen(text) >= room)
        return json_fail(at, "longer than %zu bytes", room - 1);
    snprintf(field, room, "%s", text);
    return OK;
}

static Status read_choice(const JsonAt *at, const PlanKey *key, unsigned char *field)
{
    int index = 0;
    const char *const *names = plan_key_names(key);
    TRY(json_choice(at, names, &index));
    if (field == NULL)
        return OK;
    if (key->kind == KEY_CHOICE)
        memcpy(field, &index, sizeof index);
    else
        snprintf((char *)field, key->room, "%s", names[index]);
    return OK;
}

static Status read_number(const JsonAt *at, const PlanKey *key, unsigned char *field)
{
    uint64_t whole = 0;
    double real = 0;
    if (key->kind == KEY_F64)
        TRY(json_f64(at, key->low, key->high, &real));
    else
        TRY(json_u64(at, key->least, key->most, &whole));
    if (field == NULL)
        return OK;
    uint32_t narrow = (uint32_t)whole;
    if (key->kind == KEY_F64)
        memcpy(field, &real, sizeof real);
    else if (key->kind == KEY_U64)
        memcpy(field, &whole, sizeof whole);
    else
        memcpy(field, &narrow, sizeof narrow);
    return OK;
}

/* A table that is given takes the place of what is to be learnt. */
static Status read_learned(const JsonAt *at, const PlanKey *key, unsigned char *field)
{
    PlanLearned learned = {0};
    int index = 0;
    if (cJSON_IsObject(at->node)) {
        TRY(plan_table_from_json(at, key->shape, (uint32_t)key->least, (uint32_t)key->most,
                                 &learned.table));
    } else if (!cJSON_IsString(at->node) || key->names[0] == NULL) {
        return json_fail(at, "must be %s, or an object of layers",
                         key->names[0] == NULL ? "null" : "a word");
    } else {
        TRY(json_choice(at, key->names, &index));
        learned.choice = (uint32_t)index + key->nullable;
    }
    memcpy(field, &learned, sizeof learned);
    return OK;
}

static Status read_params(const JsonAt *at, const PlanKey *key, unsigned char *field)
{
    JsonAt value;
    double alpha = 0;
    TRY(json_only_keys(at, (const char *const[]){"alpha", NULL}));
    if (json_find(at, "alpha", &value))
        TRY(json_f64(&value, key->low, key->high, &alpha));
    memcpy(field, &alpha, sizeof alpha);
    return OK;
}

/* FIELD is where the value goes in the plan, or NULL where it is only checked. */
static Status read_value(const JsonAt *at, const PlanKey *key, unsigned char *field)
{
    if (key->nullable && json_is_null(at)) {
        memset(field, 0, key->room);
        return OK;
    }
    switch (key->kind) {
    case KEY_TEXT:
        return read_text(at, key->room, (char *)field);
    case KEY_CHOICE:
    case KEY_NAME:
        return read_choice(at, key, field);
    case KEY_LEARNED:
        return read_learned(at, key, field);
    case KEY_PARAMS:
        return read_params(at, key, field);
    case KEY_U32:
    case KEY_U64:
    case KEY_F64:
        break;
    }
    return read_number(at, key, field);
}

static Status only_known_keys(const JsonAt *at, const PlanSection *section)
{
    const char *names[PLAN_MAX_KEYS + PLAN_SECTIONS] = {NULL};
    size_t n = 0;
    for (size_t i = 0; i < section->n_keys; i++)
        names[n++] = section->keys[i].name;
    for (size_t i = 1; section == &PLAN_TABLE[0] && i < PLAN_SECTIONS; i++)
        names[n++] = PLAN_TABLE[i].name;
    return json_only_keys(at, names);
}

static Status read_section(const JsonAt *at, const PlanSection *section, Plan *plan)
{
    TRY(only_known_keys(at, section));
    for (size_t i = 0; i < section->n_keys; i++) {
        const PlanKey *key = &section->keys[i];
        JsonAt value;
        unsigned char *field =
            key->offset == PLAN_NO_FIELD ? NULL : (unsigned char *)plan + key->offset;
        if (json_find(at, key->name, &value))
            TRY(read_value(&value, key, field));
    }
    return OK;
}

/* A value that another one makes meaningless is refused, not ignored. */
static Status check_gating(const JsonAt *at, const Plan *plan)
{
    JsonAt value;
    const PlanSection *section = &PLAN_TABLE[1];
    for (size_t i = 0; i < section->n_keys && plan->gating.mode != GATING_STATIC; i++)
        if (section->keys[i].is_static && json_find(at, section->keys[i].name, &value))
            return json_fail(&value, "needs gating.mode \"static\"");
    return OK;
}

/* The hot set of static is learnt where none is given. */
static Status check_hot(const JsonAt *at, Plan *plan)
{
    JsonAt value;
    if (eviction_needs_hot(plan->buffer.evict)) {
        if (plan->buffer.hot.table == NULL)
            plan->buffer.hot.choice = HOT_HOTTEST;
        return OK;
    }
    return json_given(at, "hot", &value) ? json_fail(&value, "needs buffer.evict \"static\"") : OK;
}

static Status check_params(const JsonAt *at, const Plan *plan)
{
    JsonAt params;
    JsonAt value;
    if (!eviction_needs_scores(plan->buffer.evict) && json_find(at, "params", &params) &&
        json_find(&params, "alpha", &value))
        return json_fail(&value, "needs buffer.evict \"ema-score\"");
    return OK;
}

/* Belady's optimum has to know when each resident is needed next. */
static Status check_initial(const JsonAt *at, const Plan *plan)
{
    JsonAt value;
    if (!json_given(at, "initial", &value) || !eviction_needs_future(plan->buffer.evict))
        return OK;
    return json_fail(&value, "buffer.evict \"%s\" starts cold", plan->buffer.evict);
}

/* Only where each layer has a scope is there something to share out. */
static Status check_budget(const JsonAt *at, const Plan *plan)
{
    JsonAt value;
    bool shares = plan->buffer.budget.table != NULL || plan->buffer.budget.choice > 0;
    if (shares && plan->buffer.scope != SCOPE_LAYER && json_find(at, "budget", &value))
        return json_fail(&value, "needs buffer.scope \"layer\"");
    if (plan->buffer.slots == 0 && plan->buffer.bytes == 0 && plan->buffer.budget.table == NULL)
        return json_fail(at, "needs \"slots\" or \"bytes\"");
    return OK;
}

static Status check_buffer(const JsonAt *at, Plan *plan)
{
    JsonAt value;
    TRY(check_params(at, plan));
    TRY(check_budget(at, plan));
    TRY(check_initial(at, plan));
    if (plan->buffer.slots > 0 && json_given(at, "bytes", &value))
        return json_fail(&value, "allowed is one of \"slots\" and \"bytes\", not both");
    return check_hot(at, plan);
}

/* A predictor whose name fixes the distance gives it where it is left out. */
static Status check_distance(const JsonAt *at, uint32_t fixed, Plan *plan)
{
    JsonAt value;
    if (fixed == 0)
        return OK;
    if (json_find(at, "distance", &value) && plan->prefetch.distance != fixed)
        return json_fail(&value, "%u, allowed is %u with predictor \"%s\"", plan->prefetch.distance,
                         fixed, plan->prefetch.predictor);
    plan->prefetch.distance = fixed;
    return OK;
}

static Status check_table(const JsonAt *at, const Plan *plan)
{
    JsonAt value;
    bool transition = strcmp(plan->prefetch.predictor, "transition") == 0;
    bool learns = transition || strcmp(plan->prefetch.predictor, "frequency") == 0;
    if (json_given(at, "table", &value) && !learns)
        return json_fail(&value, "needs prefetch.predictor \"frequency\" or \"transition\"");
    if (json_given(at, "successors", &value) &&
        (!transition || (plan->prefetch.table.table == NULL && plan->prefetch.table.choice == 0)))
        return json_fail(&value, "needs prefetch.predictor \"transition\" with a table");
    return OK;
}

static Status check_prefetch(const JsonAt *at, Plan *plan)
{
    JsonAt value;
    PredictorChoice choice;
    TRY(check_table(at, plan));
    if (!json_find(at, "predictor", &value) || !plan_prefetches(plan))
        return OK;
    if (!predictor_choose(plan->prefetch.predictor, &choice))
        return json_fail(&value, "\"%s\", allowed are %s", plan->prefetch.predictor,
                         predictor_forms());
    if (!plan->buffer.on)
        return json_fail(&value, "\"%s\" needs a buffer", plan->prefetch.predictor);
    if (eviction_needs_future(plan->buffer.evict))
        return json_fail(&value,
                         "\"%s\" does not go with buffer.evict \"%s\", which is optimal for "
                         "loads on demand alone",
                         plan->prefetch.predictor, plan->buffer.evict);
    return check_distance(at, choice.distance, plan);
}

double plan_alpha(const Plan *plan)
{
    return plan->buffer.alpha > 0 ? plan->buffer.alpha : 0.5;
}

bool plan_prefetches(const Plan *plan)
{
    return strcmp(plan->prefetch.predictor, "none") != 0;
}

bool plan_needs_future(const Plan *plan)
{
    PredictorChoice choice;
    if (!plan->buffer.on)
        return false;
    return eviction_needs_future(plan->buffer.evict) ||
           (predictor_choose(plan->prefetch.predictor, &choice) && choice.row != NULL &&
            choice.row->needs_coming);
}

static Status check_arrivals(const JsonAt *at, const Plan *plan)
{
    JsonAt value;
    bool rate = plan->batching.arrivals >= ARRIVALS_FIXED;
    bool given = json_given(at, "requests_per_s", &value);
    if (given && !rate)
        return json_fail(&value, "needs batching.arrivals \"fixed\" or \"poisson\"");
    if (rate && !given)
        return json_fail(at, "arrivals need \"requests_per_s\"");
    if (plan->batching.arrivals != ARRIVALS_AT_ONCE && plan->batching.mode != BATCHING_CONTINUOUS &&
        json_find(at, "arrivals", &value))
        return json_fail(&value, "needs batching.mode \"continuous\"");
    return OK;
}

static Status check_batching(const JsonAt *at, const Plan *plan)
{
    JsonAt value;
    bool given = json_given(at, "sequences", &value);
    TRY(check_arrivals(at, plan));
    if (plan->batching.mode == BATCHING_AS_RECORDED)
        return given ? json_fail(&value, "needs batching.mode \"apart\", \"mixed\" or "
                                         "\"continuous\"")
                     : OK;
    if (!given)
        return json_fail(at, "mode \"%s\" needs \"sequences\", how many run at once",
                         plan_batching_name(plan->batching.mode));
    if (plan->batching.sequences > plan->batching.max_tokens)
        return json_fail(&value, "%u, allowed is 1 to %u (batching.max_tokens)",
                         plan->batching.sequences, plan->batching.max_tokens);
    return OK;
}

Batching plan_batching(const Plan *plan)
{
    return (Batching){.mode = plan->batching.mode,
                      .sequences = plan->batching.sequences,
                      .max_tokens = plan->batching.max_tokens};
}

Arrivals plan_arrivals(const Plan *plan)
{
    return (Arrivals){.kind = plan->batching.arrivals,
                      .requests_per_s = plan->batching.requests_per_s,
                      .seed = plan->seed};
}

static Status read_sections(const JsonAt *root, Plan *plan)
{
    JsonAt at;
    TRY(read_section(root, &PLAN_TABLE[0], plan));
    TRY(json_need(root, "moebius_plan", &at));
    for (size_t i = 1; i < PLAN_SECTIONS; i++) {
        if (!json_find(root, PLAN_TABLE[i].name, &at))
            continue;
        if (PLAN_TABLE[i].nullable && json_is_null(&at))
            continue;
        TRY(read_section(&at, &PLAN_TABLE[i], plan));
        plan->buffer.on = plan->buffer.on || PLAN_TABLE[i].nullable;
    }
    return OK;
}

static Status check_sections(const JsonAt *root, Plan *plan)
{
    JsonAt at;
    if (json_find(root, "gating", &at))
        TRY(check_gating(&at, plan));
    if (plan->buffer.on && json_find(root, "buffer", &at))
        TRY(check_buffer(&at, plan));
    if (json_find(root, "prefetch", &at))
        TRY(check_prefetch(&at, plan));
    if (json_find(root, "compute", &at))
        TRY(plan_check_compute(&at, plan));
    if (json_find(root, "placement", &at))
        TRY(placement_check_plan(&at, plan));
    if (json_find(root, "batching", &at))
        TRY(check_batching(&at, plan));
    return OK;
}

Status plan_from_json(const cJSON *json, const char *file, Plan *plan)
{
    JsonAt root = json_root(json, file);
    Plan read = plan_default();
    Status status = read_sections(&root, &read);
    if (status == OK)
        status = check_sections(&root, &read);
    if (status == OK)
        *plan = read;
    else
        plan_free(&read);
    return status;
}

Status plan_load(const char *path, Plan *plan)
{
    cJSON *json;
    TRY(json_load(path, JSON_PLAN_BYTES, &json));
    Status status = plan_from_json(json, path, plan);
    cJSON_Delete(json);
    return status;
}
