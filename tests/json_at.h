/* Members of JSON that a test expects. */
#ifndef TESTS_JSON_AT_H
#define TESTS_JSON_AT_H

#include "base/json.h"
#include "tests/support.h"

/* KEY of PARENT, which has it. */
static inline JsonAt member(const JsonAt *parent, const char *key)
{
    JsonAt at;
    assert_ok(json_need(parent, key, &at));
    return at;
}

static inline double number_at(const cJSON *json, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (!cJSON_IsNumber(item))
        fail_msg("no number %s", key);
    return item->valuedouble;
}

/* KEY of the member OBJECT. */
static inline double number_in(const cJSON *json, const char *object, const char *key)
{
    return number_at(cJSON_GetObjectItemCaseSensitive(json, object), key);
}

static inline const char *text_at(const cJSON *json, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (!cJSON_IsString(item))
        fail_msg("no text %s", key);
    return item->valuestring;
}

#endif
