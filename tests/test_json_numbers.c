/* Tables of numbers beside the tree of a JSON text. */
#include "tests/support.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_numbers.h"
#include "base/memory.h"

enum { TEXT_BYTES = 1 << 14 };

/* ---- one number ---- */

static void assert_nearest(const char *text)
{
    char *end;
    double wanted = strtod(text, &end);
    double value = 0;
    const char *own_end = json_number(text, &value);
    if (own_end != end || memcmp(&value, &wanted, sizeof value) != 0)
        fail_msg("%s: %.17g, wanted is %.17g", text, value, wanted);
}

static void put_digits(uint64_t *seed, char *text, uint32_t before, uint32_t behind)
{
    for (uint32_t i = 0; i < before; i++)
        *text++ = (char)('0' + (i == 0 && before > 1) + random_below(seed, 9));
    if (behind > 0)
        *text++ = '.';
    for (uint32_t i = 0; i < behind; i++)
        *text++ = (char)('0' + random_below(seed, 10));
    *text = '\0';
}

static void numbers_are_the_nearest_doubles(void **unused)
{
    (void)unused;
    static const char *const SOME[] = {"0",
                                       "-0",
                                       "-0.0",
                                       "0.1",
                                       "1e3",
                                       "-2.5E-1",
                                       "9007199254740993",
                                       "9007199254740995",
                                       "18446744073709551615",
                                       "18446744073709551616",
                                       "9999999999999999999",
                                       "1125899906842624.125",
                                       "1125899906842624.375",
                                       "0.0000000000000000001",
                                       "0.00000000000000000001",
                                       "5e-324",
                                       "1.7976931348623157e308",
                                       "123456789012345678901234567890.5"};
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof SOME / sizeof *SOME; i++)
        assert_nearest(SOME[i]);
    for (int i = 0; i < 300000; i++) {
        char text[64];
        put_digits(&seed, text, 1 + random_below(&seed, 20), random_below(&seed, 22));
        assert_nearest(text);
    }
}

/* Between two doubles, and next to there: at 53 bits and a few more that a fraction has. */
static void halves_go_to_the_even_neighbour(void **unused)
{
    (void)unused;
    uint64_t seed = 2;
    for (int i = 0; i < 100000; i++) {
        uint64_t odd = (UINT64_C(1) << 53) + (random_next(&seed) >> 11 | 1);
        unsigned shift = random_below(&seed, 4);
        uint64_t rest = (odd & ((1u << shift) - 1)) * 1000 >> shift;
        char text[64];
        snprintf(text, sizeof text, "%llu.%03llu", (unsigned long long)(odd >> shift),
                 (unsigned long long)rest);
        assert_nearest(text);
        snprintf(text, sizeof text, "%llu.%03llu1", (unsigned long long)(odd >> shift),
                 (unsigned long long)rest);
        assert_nearest(text);
    }
}

static void what_is_no_number_has_no_end(void **unused)
{
    (void)unused;
    static const char *const BAD[] = {"",   "-",   "+1",  ".5",  "1.",    "01",    "-01",
                                      "1e", "1e+", "nan", "inf", "1e999", "-1e999"};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        double value;
        if (json_number(BAD[i], &value) != NULL)
            fail_msg("\"%s\" is taken for %.17g", BAD[i], value);
    }
}

/* ---- tables ---- */

typedef struct {
    char text[TEXT_BYTES];
    size_t used;
    uint64_t seed;
} Writer;

__attribute__((format(printf, 2, 3))) static void put(Writer *writer, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = sizeof writer->text - writer->used;
    int n = vsnprintf(writer->text + writer->used, room, format, arguments);
    va_end(arguments);
    assert_true(n >= 0 && (size_t)n < room);
    writer->used += (size_t)n;
}

static void put_space(Writer *writer)
{
    static const char *const SPACES[] = {"", "", "", " ", "\n", "\r\n\t", "  "};
    put(writer, "%s", SPACES[random_below(&writer->seed, 7)]);
}

static void put_value(Writer *writer, int depth);

static void put_list(Writer *writer, int depth, bool of_numbers)
{
    uint32_t n = random_below(&writer->seed, 4);
    put(writer, "[");
    put_space(writer);
    for (uint32_t i = 0; i < n + of_numbers; i++) {
        put(writer, "%s", i > 0 ? "," : "");
        put_space(writer);
        if (of_numbers)
            put(writer, "%.*g", 1 + (int)random_below(&writer->seed, 17),
                random_float(&writer->seed) * 1000 - 500);
        else
            put_value(writer, depth + 1);
        put_space(writer);
    }
    put(writer, "]");
}

static void put_table(Writer *writer)
{
    uint32_t n = 1 + random_below(&writer->seed, 4);
    put(writer, "[");
    for (uint32_t i = 0; i < n; i++) {
        put(writer, "%s", i > 0 ? "," : "");
        put_space(writer);
        if (random_below(&writer->seed, 20) == 0)
            put_value(writer, 3);
        else
            put_list(writer, 3, true);
        put_space(writer);
    }
    put(writer, "]");
}

static void put_object(Writer *writer, int depth)
{
    uint32_t n = random_below(&writer->seed, 4);
    put(writer, "{");
    for (uint32_t i = 0; i < n; i++) {
        put(writer, "%s", i > 0 ? "," : "");
        put_space(writer);
        put(writer, "\"[[%u]]\":", i);
        put_value(writer, depth + 1);
    }
    put(writer, "}");
}

static void put_value(Writer *writer, int depth)
{
    static const char *const PLAIN[] = {"1", "true", "null", "\"[[1]]\"", "[]", "[[]]", "[5]"};
    switch (depth > 3 ? 3 : random_below(&writer->seed, 4)) {
    case 0:
        put_object(writer, depth);
        break;
    case 1:
        put_list(writer, depth, false);
        break;
    case 2:
        put_table(writer);
        break;
    default:
        put(writer, "%s", PLAIN[random_below(&writer->seed, 7)]);
    }
}

/* A list of lists of numbers, as a tree has it. */
static bool is_table(const cJSON *node)
{
    if (!cJSON_IsArray(node) || node->child == NULL)
        return false;
    for (const cJSON *row = node->child; row != NULL; row = row->next) {
        if (!cJSON_IsArray(row) || row->child == NULL)
            return false;
        for (const cJSON *number = row->child; number != NULL; number = number->next)
            if (!cJSON_IsNumber(number))
                return false;
    }
    return true;
}

static void assert_table(const JsonNumbers *numbers, const cJSON *node, const cJSON *plain)
{
    size_t n = 0;
    const JsonRow *rows = json_rows(numbers, node, &n);
    assert_non_null(rows);
    assert_null(node->child);
    assert_int_equal(n, cJSON_GetArraySize(plain));
    for (const cJSON *row = plain->child; row != NULL; row = row->next, rows++) {
        const double *value = numbers->value + rows->first;
        assert_int_equal(rows->n, cJSON_GetArraySize(row));
        for (const cJSON *number = row->child; number != NULL; number = number->next)
            assert_memory_equal(value++, &number->valuedouble, sizeof *value);
    }
}

/* Returns how many tables there are. */
static size_t assert_same(const JsonNumbers *numbers, const cJSON *node, const cJSON *plain)
{
    size_t n;
    size_t tables = 0;
    assert_int_equal(node->type, plain->type);
    if (is_table(plain)) {
        assert_table(numbers, node, plain);
        return 1;
    }
    assert_null(json_rows(numbers, node, &n));
    const cJSON *child = node->child;
    for (const cJSON *other = plain->child; other != NULL; other = other->next) {
        assert_non_null(child);
        tables += assert_same(numbers, child, other);
        child = child->next;
    }
    assert_null(child);
    return tables;
}

/* Parses TEXT both ways, which accept the same and say the same of what they refuse. Returns how
 * many tables it has. */
static size_t parse_both_ways(const char *text, size_t bytes)
{
    cJSON *plain;
    cJSON *root;
    JsonNumbers numbers;
    char message[256];
    char *copy = mem_alloc(bytes + 1, 1);
    size_t tables = 0;
    assert_non_null(copy);
    memcpy(copy, text, bytes + 1);
    error_clear();
    Status status = json_parse(text, bytes, "t.json", &plain);
    snprintf(message, sizeof message, "%s", error_message());
    error_clear();
    Status own = json_parse_numbers(copy, bytes, "t.json", &root, &numbers);
    if (own != status || strcmp(error_message(), message) != 0)
        fail_msg("%s\n\"%s\", wanted is \"%s\"", text, error_message(), message);
    if (status == OK) {
        tables = assert_same(&numbers, root, plain);
        assert_int_equal(numbers.n_tables, tables);
    }
    json_numbers_free(&numbers);
    cJSON_Delete(root);
    cJSON_Delete(plain);
    mem_free(copy);
    return tables;
}

static void tables_are_taken_out_of_the_tree_and_all_else_stays(void **unused)
{
    (void)unused;
    size_t tables = 0;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        static Writer writer;
        writer.used = 0;
        writer.seed = seed;
        put_object(&writer, 0);
        put_space(&writer);
        tables += parse_both_ways(writer.text, writer.used);
    }
    assert_true(tables > 1000);
}

static void damaged_texts_are_refused_with_the_same_words(void **unused)
{
    (void)unused;
    static const char WITH[] = "[]{},:\"\n 1-.eE\\x";
    for (uint64_t seed = 0; seed < 20000; seed++) {
        static Writer writer;
        writer.used = 0;
        writer.seed = seed;
        put(&writer, "{\"a\":[\n[1, 2],\n[3,4.5]\n],\n\"b\":");
        put_table(&writer);
        put(&writer, ",\n\"c\":3}\n");
        for (uint32_t n = 1 + random_below(&writer.seed, 3); n > 0; n--)
            writer.text[random_below(&writer.seed, (uint32_t)writer.used)] =
                WITH[random_below(&writer.seed, sizeof WITH - 1)];
        parse_both_ways(writer.text, writer.used);
    }
}

static void nesting_is_limited_with_tables_as_without(void **unused)
{
    (void)unused;
    for (int depth = JSON_MAX_DEPTH - 3; depth <= JSON_MAX_DEPTH + 1; depth++) {
        static Writer writer;
        writer.used = 0;
        for (int i = 0; i < depth; i++)
            put(&writer, "[");
        put(&writer, "1");
        for (int i = 0; i < depth; i++)
            put(&writer, "]");
        parse_both_ways(writer.text, writer.used);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_the_nearest_doubles),
        cmocka_unit_test(halves_go_to_the_even_neighbour),
        cmocka_unit_test(what_is_no_number_has_no_end),
        cmocka_unit_test(tables_are_taken_out_of_the_tree_and_all_else_stays),
        cmocka_unit_test(damaged_texts_are_refused_with_the_same_words),
        cmocka_unit_test(nesting_is_limited_with_tables_as_without),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
