/* JSON that is read: what is accepted, and errors that name the path. */
#include "tests/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "tests/json_at.h"

static Status parse(const char *text, size_t bytes, cJSON **root)
{
    char *copy = mem_alloc(bytes + 1, 1); /* so that a read past the end is a sanitizer's find */
    assert_non_null(copy);
    memcpy(copy, text, bytes);
    error_clear();
    Status status = json_parse(copy, bytes, "t.json", root);
    mem_free(copy);
    return status;
}

typedef struct {
    const char *text;
    const char *why; /* NULL: accepted */
} Case;

/* What RFC 8259 asks, and what cJSON alone lets through. */
static const Case CASES[] = {
    {"{}", NULL},
    {" \t\r\n[1, -0, 0.5, 1e3, -2.5E-1, true, false, null, \"\"]\n", NULL},
    {"7", NULL},
    {"{\"a\": {\"a\": 1}, \"b\": [{\"a\": 1}, {\"a\": 2}]}", NULL},
    {"\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80 \\u00e9\\uD83D\\uDE00 \\\\u0000\"", NULL},
    {"{\"a\": 1, \"A\": 2}", NULL},
    {"", "line 1: not JSON"},
    {" \n ", "not JSON"},
    {"{\"n\":1} rm -rf", "line 1: a number is not JSON"},
    {"{} {}", "not JSON"},
    {"{\n\"one\": 1,\n\"two\": 2,}\n", "line 3: not JSON near: \"two\": 2,}"},
    {"[\n\"\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\" 1]",
     "line 2: not JSON near: \xC3\xA9"},
    {"{}\n\n,", "line 3: not JSON"},
    {"{\"a\":1,\"a\":2}", "a: the key stands twice in one object"},
    {"{\"a\":1,\"\\u0061\":2}", "a: the key stands twice in one object"},
    {"{\"a\":{\"b\":[1,{\"c\":1,\"d\":2,\"c\":3}]}}", "a.b[1].c: the key stands twice"},
    {"[[{\"x\":{\"k\":1,\"j\":2,\"k\":3}}]]", "k: the key stands twice"},
    {"{\"\":1,\"\":2}", "the key stands twice"},
    {"1e999", "a number is too large"},
    {"[1,\n-1e999]", "line 2: a number is too large"},
    {"007", "a number is not JSON"},
    {"-01", "a number is not JSON"},
    {"1.", "a number is not JSON"},
    {"[1.,2]", "a number is not JSON"},
    {"-", "a number is not JSON"},
    {"-a", "a number is not JSON"},
    {".5", "not JSON"},
    {"+1", "not JSON"},
    {"0x10", "not JSON"},
    {"1e", "not JSON"},
    {"1e+", "not JSON"},
    {"1-2", "not JSON"},
    {"1.5.2", "not JSON"},
    {"NaN", "not JSON"},
    {"Infinity", "not JSON"},
    {"-Infinity", "not JSON"},
    {"nul", "not JSON"},
    {"TRUE", "not JSON"},
    {"[1,]", "not JSON"},
    {"{\"a\":1,}", "not JSON"},
    {"{a:1}", "not JSON"},
    {"{'a':1}", "not JSON"},
    {"{\"a\" 1}", "not JSON"},
    {"[1 2]", "not JSON"},
    {"/* c */ 1", "not JSON"},
    {"[1] // c", "not JSON"},
    {"{\"1\":1,", "not JSON"},
    {"[", "not JSON"},
    {"]", "not JSON"},
    {"\"open", "not JSON"},
    {"\"open\\", "not JSON"},
    {"[\n\"open, 1, -]", "line 2: not JSON"},
    {"{\"plain\": \"text\x7f\", \"\": \"\"}", NULL},
    {"\"\\x41\"", "not JSON"},
    {"\"\\u12g4\"", "\\u without four hexadecimal digits"},
    {"\"\\u12", "\\u without four hexadecimal digits"},
    {"\"\\u-001\"", "\\u without four hexadecimal digits"},
    {"\"\\ud800\"", "not JSON"},
    {"\"\\udc00\"", "not JSON"},
    {"\"a\nb\"", "line 1: a string holds a raw control character"},
    {"\"\x1f\"", "a string holds a raw control character"},
    {" \t\r\n[ \t\r\n1 \t\r\n] \t\r\n", NULL},
    {"[1]\f", "line 1: not JSON"},
    {"\v[1]", "line 1: not JSON"},
    {"[1,\n\x01 2]", "line 2: not JSON"},
    {"\"\\u0000\"", "a string holds a zero character"},
    {"{\"a\\u0000b\":1}", "a string holds a zero character"},
    {"\xEF\xBB\xBF{}", "not JSON"},
    {"\"\x80\"", "invalid UTF-8"},
    {"\"\xC3\"", "invalid UTF-8"},
    {"\"\xC0\xAF\"", "invalid UTF-8"},
    {"\"\xE0\x80\xAF\"", "invalid UTF-8"},
    {"\"\xED\xA0\x80\"", "invalid UTF-8"},
    {"\"\xF0\x80\x80\x80\"", "invalid UTF-8"},
    {"\"\xF4\x90\x80\x80\"", "invalid UTF-8"},
    {"\"\xF5\x80\x80\x80\"", "invalid UTF-8"},
    {"\"\xFF\"", "invalid UTF-8"},
};

static void only_rfc_8259_with_unique_keys_and_finite_numbers_is_accepted(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        cJSON *root = NULL;
        Status status = parse(CASES[i].text, strlen(CASES[i].text), &root);
        bool as_wanted = CASES[i].why == NULL ? status == OK
                                              : status == ERR_INPUT && root == NULL &&
                                                    strncmp(error_message(), "t.json: ", 8) == 0 &&
                                                    strstr(error_message(), CASES[i].why) != NULL;
        if (!as_wanted)
            fail_msg("%s: status %d: \"%s\", wanted \"%s\"", CASES[i].text, status, error_message(),
                     CASES[i].why != NULL ? CASES[i].why : "accepted");
        cJSON_Delete(root);
    }
}

/* The place, which names the line, once. */
static void a_line_of_a_file_is_named_by_its_place_alone(void **unused)
{
    (void)unused;
    static const struct {
        const char *line;
        const char *wanted;
    } CASES[] = {
        {"{", "t.jsonl: line 7: not JSON near: {"},
        {"{} {}", "t.jsonl: line 7: not JSON near: {} {}"},
        {"[007]", "t.jsonl: line 7: a number is not JSON"},
        {"{\"a\": {\"b\": 1, \"b\": 2}}",
         "t.jsonl: line 7: a.b: the key stands twice in one object"},
    };
    cJSON *root = NULL;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const char *line = CASES[i].line;
        assert_int_equal(json_parse_line(line, strlen(line), "t.jsonl: line 7", &root), ERR_INPUT);
        assert_string_equal(error_message(), CASES[i].wanted);
        assert_null(root);
    }
    assert_ok(json_parse_line("[7]", 3, "t.jsonl: line 7", &root));
    cJSON_Delete(root);
}

static void a_zero_byte_is_refused_wherever_it_stands(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        size_t bytes;
    } cases[] = {{"\0", 1}, {"{}\0", 3}, {"{\0}", 3}, {"\"a\0b\"", 5}, {"[1\0]", 4}, {"1\0", 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cJSON *root = NULL;
        assert_int_equal(parse(cases[i].text, cases[i].bytes, &root), ERR_INPUT);
        assert_null(root);
    }
}

/* DEPTH brackets around nothing. */
static Status parse_nested(size_t depth)
{
    cJSON *root = NULL;
    char *text = mem_alloc(2 * depth + 1, 1);
    assert_non_null(text);
    memset(text, '[', depth);
    memset(text + depth, ']', depth);
    Status status = parse(text, 2 * depth, &root);
    cJSON_Delete(root);
    mem_free(text);
    return status;
}

static void nesting_is_limited(void **unused)
{
    (void)unused;
    assert_int_equal(parse_nested(JSON_MAX_DEPTH), OK);
    assert_int_equal(parse_nested(JSON_MAX_DEPTH + 1), ERR_INPUT);
    assert_non_null(strstr(error_message(), "nested too deeply"));
    assert_int_equal(parse_nested(100000), ERR_INPUT);
}

/* cJSON looks a key up by walking: every key once would take seconds here. */
static void an_object_of_64000_keys_parses_in_a_moment(void **unused)
{
    (void)unused;
    enum { KEYS = 64000 };
    size_t used = 1;
    char *text = mem_alloc(KEYS * 16 + 2, 1);
    assert_non_null(text);
    text[0] = '{';
    for (int i = 0; i < KEYS; i++)
        used += (size_t)sprintf(text + used, "%s\"k%d\":%d", i > 0 ? "," : "", i, i);
    text[used++] = '}';
    cJSON *root = NULL;
    uint64_t start = clock_ns();
    assert_ok(parse(text, used, &root));
    assert_true(clock_ns() - start < 2000000000u);
    assert_int_equal(cJSON_GetArraySize(root), KEYS);
    cJSON_Delete(root);
    mem_free(text);
}

static cJSON *parse_good(const char *text)
{
    cJSON *root = NULL;
    assert_ok(json_parse(text, strlen(text), "t.json", &root));
    return root;
}

/* STATUS is ERR_INPUT and the record is MESSAGE. */
static void assert_says(Status status, const char *message)
{
    assert_int_equal(status, ERR_INPUT);
    assert_string_equal(error_message(), message);
}

static void whole_numbers_are_exact_or_refused(void **unused)
{
    (void)unused;
    cJSON *json = parse_good("{\"n\":{\"zero\":0,\"one\":1.0,\"half\":0.5,\"less\":-1,"
                             "\"word\":4294967296,\"last\":9007199254740991,"
                             "\"more\":9007199254740992,\"huge\":18446744073709551616,"
                             "\"text\":\"1\"}}");
    JsonAt root = json_root(json, "t.json");
    JsonAt n = member(&root, "n");
    JsonAt at = member(&n, "zero");
    uint64_t wide = 9;
    uint32_t narrow = 9;
    assert_ok(json_u64(&at, 0, 5, &wide));
    assert_true(wide == 0);
    assert_says(json_u64(&at, 1, 5, &wide), "t.json: n.zero: 0, allowed is 1 to 5");
    assert_says(json_u64(&at, 1, 1, &wide), "t.json: n.zero: 0, allowed is 1");
    at = member(&n, "one");
    assert_ok(json_u32(&at, 0, 1, &narrow));
    assert_int_equal(narrow, 1);
    at = member(&n, "half");
    assert_says(json_u64(&at, 0, 5, &wide), "t.json: n.half: 0.5, must be a whole number");
    at = member(&n, "less");
    assert_says(json_u64(&at, 0, 5, &wide), "t.json: n.less: -1, allowed is 0 to 5");
    at = member(&n, "word");
    assert_says(json_u32(&at, 0, UINT32_MAX, &narrow),
                "t.json: n.word: 4294967296, allowed is 0 to 4294967295");
    assert_int_equal(narrow, 1);
    at = member(&n, "last");
    assert_ok(json_u64(&at, 0, UINT64_MAX, &wide));
    assert_true(wide == 9007199254740991u);
    at = member(&n, "more");
    assert_int_equal(json_u64(&at, 0, UINT64_MAX, &wide), ERR_INPUT);
    at = member(&n, "huge");
    assert_int_equal(json_u64(&at, 0, UINT64_MAX, &wide), ERR_INPUT);
    at = member(&n, "text");
    assert_says(json_u64(&at, 0, 5, &wide), "t.json: n.text: must be a whole number");
    assert_true(wide == 9007199254740991u);
    cJSON_Delete(json);
}

static void the_other_types_are_checked_and_named(void **unused)
{
    (void)unused;
    static const char *const NAMES[] = {"lru", "fifo", NULL};
    cJSON *json =
        parse_good("{\"f\":1.5,\"b\":true,\"t\":\"fifo\",\"n\":null,\"a\":[1,{\"x\":2}]}");
    JsonAt root = json_root(json, "t.json");
    double number = 0;
    bool flag = false;
    const char *text = NULL;
    int index = -1;
    JsonAt at = member(&root, "f");
    assert_ok(json_f64(&at, 1, 2, &number));
    assert_true(number == 1.5);
    assert_says(json_f64(&at, 2, 3, &number), "t.json: f: 1.5, allowed is 2 to 3");
    assert_says(json_f64(&at, 1e-6, 1, &number), "t.json: f: 1.5, allowed is 1e-06 to 1");
    assert_says(json_bool(&at, &flag), "t.json: f: must be true or false");
    assert_says(json_text(&at, &text), "t.json: f: must be a string");
    assert_false(json_is_null(&at));
    at = member(&root, "b");
    assert_ok(json_bool(&at, &flag));
    assert_true(flag);
    assert_says(json_f64(&at, 0, 1, &number), "t.json: b: must be a number");
    at = member(&root, "t");
    assert_ok(json_text(&at, &text));
    assert_string_equal(text, "fifo");
    assert_ok(json_choice(&at, NAMES, &index));
    assert_int_equal(index, 1);
    assert_says(json_choice(&at, NAMES + 2, &index), "t.json: t: \"fifo\", allowed are ");
    at = member(&root, "n");
    assert_true(json_is_null(&at));
    assert_says(json_choice(&at, NAMES, &index), "t.json: n: must be a string");
    at = member(&root, "a");
    assert_says(json_need(&at, "x", &at), "t.json: a: must be an object");
    JsonAt item = json_item(&at, cJSON_GetArrayItem(at.node, 1), 1);
    JsonAt x = member(&item, "x");
    assert_says(json_text(&x, &text), "t.json: a[1].x: must be a string");
    assert_says(json_need(&item, "y", &x), "t.json: a[1]: the key \"y\" is missing");
    assert_false(json_find(&at, "x", &x));
    cJSON_Delete(json);
}

static void unknown_keys_are_named_with_what_is_allowed(void **unused)
{
    (void)unused;
    static const char *const KEYS[] = {"slots", "order", NULL};
    cJSON *json = parse_good("{\"buffer\":{\"slots\":1,\"Order\":2}}");
    JsonAt root = json_root(json, "t.json");
    JsonAt buffer = member(&root, "buffer");
    assert_says(json_only_keys(&buffer, KEYS),
                "t.json: buffer.Order: unknown key, allowed are slots, order");
    JsonAt slots = member(&buffer, "slots");
    assert_says(json_only_keys(&slots, KEYS), "t.json: buffer.slots: must be an object");
    cJSON_Delete(json);
}

/* A path longer than the room for it is cut and marked, never overrun. */
static void long_paths_are_cut(void **unused)
{
    (void)unused;
    char key[400];
    char text[1024];
    memset(key, 'k', sizeof key - 1);
    key[sizeof key - 1] = '\0';
    snprintf(text, sizeof text, "{\"%s\":[1]}", key);
    cJSON *json = parse_good(text);
    JsonAt root = json_root(json, "t.json");
    JsonAt at = member(&root, key);
    assert_int_equal(strlen(at.path), sizeof at.path - 1);
    assert_string_equal(at.path + sizeof at.path - 4, "...");
    JsonAt item = json_item(&at, at.node->child, 0);
    assert_string_equal(item.path + sizeof item.path - 4, "...");
    static const char *const NO_KEYS[] = {NULL};
    assert_int_equal(json_only_keys(&root, NO_KEYS), ERR_INPUT);
    cJSON_Delete(json);
}

static void a_file_is_limited_in_size_and_named(void **unused)
{
    (void)unused;
    const char *path = scratch_path("limit.json");
    cJSON *json = NULL;
    char expected[300];
    assert_ok(file_write_all(path, "[1,2]", 5));
    assert_ok(json_load(path, 5, &json));
    cJSON_Delete(json);
    snprintf(expected, sizeof expected, "%s: 5 bytes, at most 4 are allowed", path);
    assert_says(json_load(path, 4, &json), expected);
    assert_null(json);
    assert_ok(file_write_all(path, "[1,2", 4));
    assert_int_equal(json_load(path, 5, &json), ERR_INPUT);
    assert_memory_equal(error_message(), path, strlen(path));
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_rfc_8259_with_unique_keys_and_finite_numbers_is_accepted),
        cmocka_unit_test(a_line_of_a_file_is_named_by_its_place_alone),
        cmocka_unit_test(a_zero_byte_is_refused_wherever_it_stands),
        cmocka_unit_test(nesting_is_limited),
        cmocka_unit_test(an_object_of_64000_keys_parses_in_a_moment),
        cmocka_unit_test(whole_numbers_are_exact_or_refused),
        cmocka_unit_test(the_other_types_are_checked_and_named),
        cmocka_unit_test(unknown_keys_are_named_with_what_is_allowed),
        cmocka_unit_test(long_paths_are_cut),
        cmocka_unit_test(a_file_is_limited_in_size_and_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
