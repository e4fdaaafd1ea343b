/* policies/plan.schema.json says what the parser of plans does. */
#include "base/status.h"
#include "tests/support.h"

#include <string.h>

#include "base/memory.h"
#include "policies/plan_keys.h"
#include "tests/plan_maker.h"

/* The schema's description of KEY of SECTION. */
static const cJSON *schema_of(const cJSON *schema, const char *section, const char *key)
{
    const cJSON *object = schema;
    if (section[0] != '\0')
        object = cJSON_GetObjectItemCaseSensitive(
            cJSON_GetObjectItemCaseSensitive(schema, "properties"), section);
    const cJSON *additional = cJSON_GetObjectItemCaseSensitive(object, "additionalProperties");
    assert_true(cJSON_IsFalse(additional));
    return cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(object, "properties"),
                                            key);
}

static bool has_type(const cJSON *node, const char *wanted)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(node, "type");
    if (cJSON_IsString(type))
        return strcmp(type->valuestring, wanted) == 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, type) if (strcmp(item->valuestring, wanted) == 0) return true;
    return false;
}

static double number_in(const cJSON *node, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(node, key);
    if (!cJSON_IsNumber(item))
        fail_msg("the schema has no %s", key);
    return item->valuedouble;
}

static void assert_same_names(const cJSON *node, const char *const *names)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(node, "enum");
    int n = 0;
    for (; names[n] != NULL; n++) {
        const cJSON *item = cJSON_GetArrayItem(list, n);
        assert_true(cJSON_IsString(item));
        assert_string_equal(item->valuestring, names[n]);
    }
    assert_int_equal(cJSON_GetArraySize(list), n);
}

/* Either a word, or a table: an object of layers, of numbers inside as many lists as its shape. */
static void assert_schema_learns(const cJSON *choices, const PlanKey *key)
{
    const cJSON *words = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(choices, 0), "enum");
    const cJSON *node = cJSON_GetArrayItem(choices, 1);
    int n = 0;
    if (key->nullable)
        assert_true(cJSON_IsNull(cJSON_GetArrayItem(words, n++)));
    for (size_t i = 0; key->names[i] != NULL; i++)
        assert_string_equal(cJSON_GetArrayItem(words, n++)->valuestring, key->names[i]);
    assert_int_equal(cJSON_GetArraySize(words), n);
    assert_true(has_type(node, "object"));
    node = cJSON_GetObjectItemCaseSensitive(node, "patternProperties")->child;
    for (int depth = key->shape; depth > 0; depth--) {
        assert_true(has_type(node, "array"));
        node = cJSON_GetObjectItemCaseSensitive(node, "items");
    }
    assert_true(has_type(node, "integer"));
    assert_true(number_in(node, "minimum") == (double)key->least);
    assert_true(number_in(node, "maximum") == (double)key->most);
}

static void assert_schema_says(const cJSON *node, const PlanKey *key)
{
    if (node == NULL)
        fail_msg("the schema has no %s", key->name);
    if (key->kind != KEY_CHOICE && key->kind != KEY_NAME)
        assert_int_equal(has_type(node, "null"), key->nullable);
    switch (key->kind) {
    case KEY_TEXT:
        assert_true(has_type(node, "string"));
        assert_true(number_in(node, "maxLength") == (double)key->room - 1);
        break;
    case KEY_CHOICE:
    case KEY_NAME:
        assert_same_names(node, plan_key_names(key));
        break;
    case KEY_U32:
    case KEY_U64:
        assert_true(has_type(node, "integer"));
        assert_true(number_in(node, "minimum") == (double)key->least);
        assert_true(number_in(node, "maximum") == (double)key->most);
        break;
    case KEY_F64:
        assert_true(has_type(node, "number"));
        assert_true(number_in(node, "minimum") == key->low);
        assert_true(number_in(node, "maximum") == key->high);
        break;
    case KEY_PARAMS:
        assert_true(has_type(node, "object"));
        node = cJSON_GetObjectItemCaseSensitive(node, "properties");
        node = cJSON_GetObjectItemCaseSensitive(node, "alpha");
        assert_true(has_type(node, "number"));
        assert_true(number_in(node, "minimum") == key->low);
        assert_true(number_in(node, "maximum") == key->high);
        break;
    case KEY_LEARNED:
        assert_schema_learns(cJSON_GetObjectItemCaseSensitive(node, "anyOf"), key);
        break;
    }
}

/* A branch without a type takes null, whatever properties it asks of objects. */
static void assert_one_branch_takes_null(const cJSON *branches)
{
    int n = 0;
    const cJSON *branch;
    cJSON_ArrayForEach(branch, branches) n +=
        !cJSON_HasObjectItem(branch, "type") || has_type(branch, "null");
    assert_int_equal(n, 1);
}

static int count_properties(const cJSON *schema, const char *section)
{
    const cJSON *object = schema;
    if (section[0] != '\0')
        object = schema_of(schema, "", section);
    return cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(object, "properties"));
}

static void the_schema_says_what_the_parser_does(void **unused)
{
    (void)unused;
    cJSON *schema;
    size_t n_root = PLAN_SECTIONS - 1 + PLAN_TABLE[0].n_keys;
    assert_ok(json_load("policies/plan.schema.json", JSON_PLAN_BYTES, &schema));
    assert_int_equal(count_properties(schema, ""), n_root);
    for (size_t s = 0; s < PLAN_SECTIONS; s++) {
        const PlanSection *section = &PLAN_TABLE[s];
        if (s > 0)
            assert_int_equal(count_properties(schema, section->name), section->n_keys);
        if (s > 0)
            assert_int_equal(has_type(schema_of(schema, "", section->name), "null"),
                             section->nullable);
        for (size_t i = 0; i < section->n_keys; i++)
            assert_schema_says(schema_of(schema, section->name, section->keys[i].name),
                               &section->keys[i]);
    }
    assert_one_branch_takes_null(
        cJSON_GetObjectItemCaseSensitive(schema_of(schema, "", "buffer"), "oneOf"));
    cJSON_Delete(schema);
}

/* The value at "default" of every key is what the parser takes for a key left out. */
static void the_schema_has_the_defaults_of_the_parser(void **unused)
{
    (void)unused;
    cJSON *schema;
    cJSON *canonical;
    Plan plan = good_plan("{\"moebius_plan\": 1, \"gating\": {\"mode\": \"static\"},"
                          " \"buffer\": {\"slots\": 3}}");
    assert_ok(json_load("policies/plan.schema.json", JSON_PLAN_BYTES, &schema));
    assert_ok(plan_to_json(&plan, &canonical));
    for (size_t s = 0; s < PLAN_SECTIONS; s++)
        for (size_t i = 0; i < PLAN_TABLE[s].n_keys; i++) {
            const char *key = PLAN_TABLE[s].keys[i].name;
            const cJSON *given = schema_of(schema, PLAN_TABLE[s].name, key);
            const cJSON *object =
                s == 0 ? canonical
                       : cJSON_GetObjectItemCaseSensitive(canonical, PLAN_TABLE[s].name);
            const cJSON *wanted = cJSON_GetObjectItemCaseSensitive(given, "default");
            const cJSON *is = cJSON_GetObjectItemCaseSensitive(object, key);
            bool is_free = strcmp(key, "moebius_plan") == 0 || strcmp(key, "slots") == 0 ||
                           strcmp(key, "bytes") == 0 || strcmp(key, "mode") == 0;
            if (!is_free && !cJSON_Compare(is, wanted, true))
                fail_msg("%s.%s: the schema has another default", PLAN_TABLE[s].name, key);
        }
    cJSON_Delete(canonical);
    cJSON_Delete(schema);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_schema_says_what_the_parser_does),
        cmocka_unit_test(the_schema_has_the_defaults_of_the_parser),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
