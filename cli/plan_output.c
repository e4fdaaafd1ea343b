#include "cli/plan_output.h"

#include <string.h>

#include "base/memory.h"

static Status check_size(const cJSON *plan, const char *out, const char *advice)
{
    char *text;
    TRY(json_print(plan, true, &text));
    size_t bytes = strlen(text);
    mem_free(text);
    if (bytes < JSON_PLAN_BYTES)
        return OK;
    return fail(ERR_INPUT, "%s: %zu bytes, a plan has at most %d: %s", out, bytes, JSON_PLAN_BYTES,
                advice);
}

Status plan_output(const Plan *plan, const char *out, const char *advice)
{
    cJSON *json;
    TRY(plan_to_json(plan, &json));
    Status status = check_size(json, out, advice);
    if (status == OK)
        status = json_save(json, out);
    cJSON_Delete(json);
    return status;
}
