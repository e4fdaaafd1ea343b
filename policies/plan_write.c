/* The canonical JSON of a plan, and changes to a plan's JSON by path. */
#include <string.h>

#include "base/memory.h"
#include "policies/plan_keys.h"

static double number_of(const PlanKey *key, const unsigned char *field)
{
    uint32_t narrow;
    uint64_t wide;
    double real;
    if (field == NULL)
        return key->kind == KEY_F64 ? key->low : (double)key->least;
    if (key->kind == KEY_U32) {
        memcpy(&narrow, field, sizeof narrow);
        return narrow;
    }
    if (key->kind == KEY_U64) {
        memcpy(&wide, field, sizeof wide);
        return (double)wide;
    }
    memcpy(&real, field, sizeof real);
    return real;
}

static const char *choice_of(const PlanKey *key, const unsigned char *field)
{
    int index = 0;
    if (field != NULL && key->kind == KEY_NAME)
        return (const char *)field;
    if (field != NULL)
        memcpy(&index, field, sizeof index);
    return plan_key_names(key)[index];
}

static Status write_learned(cJSON *object, const PlanKey *key, const unsigned char *field)
{
    PlanLearned learned;
    memcpy(&learned, field, sizeof learned);
    if (learned.table != NULL)
        return plan_table_to_json(learned.table, object, key->name);
    if (learned.choice < key->nullable)
        return json_add_null(object, key->name);
    return json_add_text(object, key->name, key->names[learned.choice - key->nullable]);
}

static Status write_params(cJSON *object, const PlanKey *key, const unsigned char *field)
{
    cJSON *params;
    double alpha;
    memcpy(&alpha, field, sizeof alpha);
    TRY(json_add_object(object, key->name, &params));
    return alpha > 0 ? json_add_f64(params, "alpha", alpha) : OK;
}

static Status write_value(cJSON *object, const PlanKey *key, const unsigned char *field)
{
    switch (key->kind) {
    case KEY_TEXT:
        return json_add_text(object, key->name, (const char *)field);
    case KEY_CHOICE:
    case KEY_NAME:
        return json_add_text(object, key->name, choice_of(key, field));
    case KEY_LEARNED:
        return write_learned(object, key, field);
    case KEY_PARAMS:
        return write_params(object, key, field);
    case KEY_U32:
    case KEY_U64:
    case KEY_F64:
        break;
    }
    double value = number_of(key, field);
    if (key->nullable && value == 0)
        return json_add_null(object, key->name);
    return json_add_f64(object, key->name, value);
}

static Status write_section(cJSON *object, const PlanSection *section, const Plan *plan)
{
    for (size_t i = 0; i < section->n_keys; i++) {
        const PlanKey *key = &section->keys[i];
        const unsigned char *field =
            key->offset == PLAN_NO_FIELD ? NULL : (const unsigned char *)plan + key->offset;
        if (!key->is_static || plan->gating.mode == GATING_STATIC)
            TRY(write_value(object, key, field));
    }
    return OK;
}

static Status write_all(cJSON *root, const Plan *plan)
{
    TRY(write_section(root, &PLAN_TABLE[0], plan));
    for (size_t i = 1; i < PLAN_SECTIONS; i++) {
        cJSON *object;
        if (PLAN_TABLE[i].nullable && !plan->buffer.on) {
            TRY(json_add_null(root, PLAN_TABLE[i].name));
            continue;
        }
        TRY(json_add_object(root, PLAN_TABLE[i].name, &object));
        TRY(write_section(object, &PLAN_TABLE[i], plan));
    }
    return OK;
}

Status plan_to_json(const Plan *plan, cJSON **json)
{
    *json = cJSON_CreateObject();
    Status status = *json != NULL ? write_all(*json, plan) : fail_memory("plan", 0);
    if (status != OK) {
        cJSON_Delete(*json);
        *json = NULL;
    }
    return status;
}

Status plan_to_text(const Plan *plan, char **text)
{
    cJSON *json;
    TRY(plan_to_json(plan, &json));
    Status status = json_print(json, false, text);
    cJSON_Delete(json);
    return status;
}

/* The object at KEY of OBJECT, made where it is absent or null: a plan's "buffer" may be null. */
static Status enter(cJSON *object, const char *key, const char *path, cJSON **child)
{
    *child = cJSON_GetObjectItemCaseSensitive(object, key);
    if (cJSON_IsObject(*child))
        return OK;
    if (*child != NULL && !cJSON_IsNull(*child))
        return fail(ERR_INPUT, "%s: \"%s\" is no object", path, key);
    cJSON_DeleteItemFromObjectCaseSensitive(object, key);
    return json_add_object(object, key, child);
}

static Status put_member(cJSON *object, const char *key, const cJSON *value)
{
    cJSON *copy = cJSON_Duplicate(value, true);
    if (copy == NULL)
        return fail_memory("plan", 0);
    cJSON_DeleteItemFromObjectCaseSensitive(object, key);
    if (cJSON_AddItemToObject(object, key, copy))
        return OK;
    cJSON_Delete(copy);
    return fail_memory("plan", 0);
}

enum { KEY_BYTES = 64 };

static Status check_path(const char *path)
{
    for (const char *at = path;; at++) {
        size_t length = strcspn(at, ".");
        if (length == 0 || length >= KEY_BYTES)
            return fail(ERR_INPUT, "%s: not the path of a value, as in buffer.slots", path);
        at += length;
        if (*at == '\0')
            return OK;
    }
}

Status plan_json_put(cJSON *json, const char *path, const cJSON *value)
{
    char key[KEY_BYTES];
    TRY(check_path(path));
    if (!cJSON_IsObject(json))
        return fail(ERR_INPUT, "%s: the plan is no object", path);
    for (const char *at = path;;) {
        size_t length = strcspn(at, ".");
        memcpy(key, at, length);
        key[length] = '\0';
        if (at[length] == '\0')
            return put_member(json, key, value);
        TRY(enter(json, key, path, &json));
        at += length + 1;
    }
}

/* What is no JSON is a string: "lru" needs no quotes on a command line. */
static Status parse_value(const char *text, cJSON **value)
{
    Status status = json_parse(text, strlen(text), "value", value);
    if (status != ERR_INPUT)
        return status;
    error_clear();
    *value = cJSON_CreateString(text);
    return *value != NULL ? OK : fail_memory("plan", 0);
}

Status plan_json_set(cJSON *json, const char *assignment)
{
    char path[160];
    cJSON *value;
    const char *equals = strchr(assignment, '=');
    if (equals == NULL)
        return fail(ERR_INPUT, "needs PATH=VALUE, as in buffer.slots=8");
    size_t length = (size_t)(equals - assignment);
    if (length == 0 || length >= sizeof path)
        return fail(ERR_INPUT, "no path before \"=\", as in buffer.slots=8");
    memcpy(path, assignment, length);
    path[length] = '\0';
    TRY(parse_value(equals + 1, &value));
    Status status = plan_json_put(json, path, value);
    cJSON_Delete(value);
    return status;
}
