/* Plans that are written as text. */
#ifndef TESTS_PLAN_MAKER_H
#define TESTS_PLAN_MAKER_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <string.h>

#include "policies/plan.h"
#include "tests/support.h"

static inline Status parse_plan(const char *text, Plan *plan)
{
    cJSON *json = NULL;
    TRY(json_parse(text, strlen(text), "plan.json", &json));
    Status status = plan_from_json(json, "plan.json", plan);
    cJSON_Delete(json);
    return status;
}

static inline Plan good_plan(const char *text)
{
    Plan plan;
    assert_ok(parse_plan(text, &plan));
    return plan;
}

#endif
