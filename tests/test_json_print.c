/* JSON that is printed and saved, and the numbers in it. */
#include "tests/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "tests/json_at.h"

/* The double that stands at the one place of "[...]" after printing and parsing. */
static double print_and_parse(double value)
{
    cJSON *list = cJSON_CreateArray();
    char *text;
    cJSON *again;
    assert_ok(json_push(list, cJSON_CreateNumber(value)));
    assert_ok(json_print(list, false, &text));
    assert_ok(json_parse(text, strlen(text), "printed", &again));
    double read = cJSON_GetArrayItem(again, 0)->valuedouble;
    cJSON_Delete(again);
    cJSON_Delete(list);
    mem_free(text);
    return read;
}

static void a_printed_number_reads_back_to_the_bit(void **unused)
{
    (void)unused;
    static const double values[] = {0,    -0.0,  0.1,     1.0 / 3, 1e-308, 4.9e-324,          1e17,
                                    1e18, 1e300, -2.5e-7, 123456,  0.3,    9007199254740991.0};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        double read = print_and_parse(values[i]);
        assert_memory_equal(&read, &values[i], sizeof read);
    }
    uint64_t state = 8;
    for (int i = 0; i < 20000; i++) {
        double value;
        uint64_t bits = random_next(&state);
        memcpy(&value, &bits, sizeof value);
        if (i % 2)
            value = (double)(bits >> 11);
        if (!isfinite(value))
            continue;
        double read = print_and_parse(value);
        assert_memory_equal(&read, &value, sizeof read);
    }
}

/* What json_parse() makes of a number of DIGITS digits, one of them behind a point, times 10^SCALE.
 */
static void assert_reads_as_strtod(uint64_t *state, uint32_t digits, int scale)
{
    char text[80];
    size_t at = 0;
    cJSON *root;
    if (random_below(state, 3) == 0)
        text[at++] = '-';
    text[at++] = (char)('1' + random_below(state, 9));
    for (uint32_t i = 1; i < digits; i++) {
        if (i == 1)
            text[at++] = '.';
        text[at++] = (char)('0' + random_below(state, 10));
    }
    sprintf(text + at, "e%d", scale);
    assert_ok(json_parse(text, strlen(text), "number", &root));
    double wanted = strtod(text, NULL);
    assert_memory_equal(&root->valuedouble, &wanted, sizeof wanted);
    cJSON_Delete(root);
}

/* In the middle between two doubles, and next to that. */
static void assert_reads_near_middles(uint64_t *state)
{
    char text[64];
    cJSON *root;
    uint64_t bits = (UINT64_C(1) << 63 | random_next(state)) & ~UINT64_C(0x7FF);
    for (int off = -1; off <= 1; off++) {
        sprintf(text, "%llu", (unsigned long long)(bits + 0x400 + (uint64_t)off));
        assert_ok(json_parse(text, strlen(text), "number", &root));
        double wanted = strtod(text, NULL);
        assert_memory_equal(&root->valuedouble, &wanted, sizeof wanted);
        cJSON_Delete(root);
    }
}

static void a_number_is_the_nearest_double(void **unused)
{
    (void)unused;
    uint64_t state = 9;
    for (int i = 0; i < 30000; i++) {
        int scale = (int)random_below(&state, 80) - 40;
        assert_reads_as_strtod(&state, 1 + random_below(&state, 24), i % 9 ? scale : 7 * scale);
        assert_reads_near_middles(&state);
    }
    static const char *const TEXTS[] = {"18446744073709551616",
                                        "18446744073709551615",
                                        "0.1e1",
                                        "0e400",
                                        "-0.0e-500",
                                        "9007199254740993",
                                        "100000000000000000000000000000e-29"};
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        cJSON *root;
        double wanted = strtod(TEXTS[i], NULL);
        assert_ok(json_parse(TEXTS[i], strlen(TEXTS[i]), "number", &root));
        assert_memory_equal(&root->valuedouble, &wanted, sizeof wanted);
        cJSON_Delete(root);
    }
}

static Status build_and_save(const char *path)
{
    cJSON *child = NULL;
    cJSON *list = NULL;
    cJSON *root = cJSON_CreateObject();
    if (root == NULL)
        return fail_memory("JSON", 0);
    Status status = json_add_u64(root, "n", 9007199254740991u);
    if (status == OK)
        status = json_add_f64(root, "f", 0.1);
    if (status == OK)
        status = json_add_text(root, "t", "a\"b\n\xC3\xA9");
    if (status == OK)
        status = json_add_bool(root, "b", false);
    if (status == OK)
        status = json_add_null(root, "z");
    if (status == OK)
        status = json_add_object(root, "o", &child);
    if (status == OK)
        status = json_add_array(child, "a", &list);
    if (status == OK)
        status = json_push(list, cJSON_CreateNumber(3));
    if (status == OK)
        status = json_save(root, path);
    cJSON_Delete(root);
    return status;
}

static void what_was_saved_loads_as_it_was(void **unused)
{
    (void)unused;
    const char *path = scratch_path("saved.json");
    cJSON *json = NULL;
    uint64_t n = 0;
    double f = 0;
    const char *text;
    assert_ok(build_and_save(path));
    assert_ok(json_load(path, 4096, &json));
    JsonAt root = json_root(json, path);
    JsonAt at = member(&root, "n");
    assert_ok(json_u64(&at, 0, UINT64_MAX, &n));
    assert_true(n == 9007199254740991u);
    at = member(&root, "f");
    assert_ok(json_f64(&at, 0, 1, &f));
    assert_true(f == 0.1);
    at = member(&root, "t");
    assert_ok(json_text(&at, &text));
    assert_string_equal(text, "a\"b\n\xC3\xA9");
    at = member(&root, "z");
    assert_true(json_is_null(&at));
    cJSON_Delete(json);
    assert_int_equal(build_and_save("/nowhere/at/all.json"), ERR_OUTPUT);
}

static void every_allocation_may_fail_in_saving_and_loading(void **unused)
{
    (void)unused;
    const char *path = scratch_path("memory.json");
    int64_t before = mem_live_blocks();
    bool reached = true;
    uint64_t k = 0;
    while (reached) {
        cJSON *json = NULL;
        unlink(path);
        mem_fail_at(++k);
        Status saved = build_and_save(path);
        Status status = saved == OK ? json_load(path, 4096, &json) : saved;
        reached = mem_fail_reached();
        mem_fail_at(0);
        cJSON_Delete(json);
        assert_int_equal(mem_live_blocks(), before);
        assert_int_equal(status, reached ? ERR_MEMORY : OK);
        assert_true(!reached || strstr(error_message(), "out of memory") != NULL);
        assert_int_equal(file_exists(path), saved == OK);
    }
    assert_true(k > 20);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_printed_number_reads_back_to_the_bit),
        cmocka_unit_test(a_number_is_the_nearest_double),
        cmocka_unit_test(what_was_saved_loads_as_it_was),
        cmocka_unit_test(every_allocation_may_fail_in_saving_and_loading),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
