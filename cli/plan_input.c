#include "cli/plan_input.h"

static Status start_json(const char *path, cJSON **json)
{
    if (path != NULL)
        return json_load(path, JSON_PLAN_BYTES, json);
    *json = cJSON_CreateObject();
    if (*json == NULL)
        return fail_memory("plan", 0);
    return json_add_u64(*json, "moebius_plan", 1);
}

Status plan_input(const char *path, const OptionList *sets, Plan *plan)
{
    cJSON *json = NULL;
    Status status = start_json(path, &json);
    for (size_t i = 0; status == OK && sets != NULL && i < sets->count; i++)
        status = fail_in(plan_json_set(json, sets->items[i]), "--set %s", sets->items[i]);
    if (status == OK)
        status = plan_from_json(json, path != NULL ? path : "--set", plan);
    cJSON_Delete(json);
    return status == ERR_PLAN ? ERR_INPUT : status; /* it has the file's name */
}

Status plan_input_blame(Status status, const char *path)
{
    return status == ERR_PLAN ? fail_in(status, "%s", path != NULL ? path : "--set") : status;
}
