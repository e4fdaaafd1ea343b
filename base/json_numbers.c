#include "base/json_numbers.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

__extension__ typedef unsigned __int128 Wide;

enum {
    DIGITS_OF_WORD = 19, /* that any 64 bits have room for */
    EXACT_POWER = 19,    /* of ten, the largest that 64 bits have room for */
    DOUBLE_BITS = 53
};

static const uint64_t POWERS[EXACT_POWER + 1] = {UINT64_C(1),
                                                 UINT64_C(10),
                                                 UINT64_C(100),
                                                 UINT64_C(1000),
                                                 UINT64_C(10000),
                                                 UINT64_C(100000),
                                                 UINT64_C(1000000),
                                                 UINT64_C(10000000),
                                                 UINT64_C(100000000),
                                                 UINT64_C(1000000000),
                                                 UINT64_C(10000000000),
                                                 UINT64_C(100000000000),
                                                 UINT64_C(1000000000000),
                                                 UINT64_C(10000000000000),
                                                 UINT64_C(100000000000000),
                                                 UINT64_C(1000000000000000),
                                                 UINT64_C(10000000000000000),
                                                 UINT64_C(100000000000000000),
                                                 UINT64_C(1000000000000000000),
                                                 UINT64_C(10000000000000000000)};

/* ---- one number ---- */

/* Of an EXPONENT that a normal double has. */
static double power_of_two(int exponent)
{
    enum { BIAS = 1023 };
    uint64_t bits = (uint64_t)(exponent + BIAS) << (DOUBLE_BITS - 1);
    double power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* DIGITS / 10^POWER, rounded once: their quotient has 64 bits, the first of which is set, and a
 * remainder, which says on what side of it the true one lies. DIGITS is not 0. */
static double quotient(uint64_t digits, unsigned power)
{
    uint64_t by = POWERS[power];
    int up = __builtin_clzll(digits);
    int by_up = __builtin_clzll(by);
    digits <<= up;
    by <<= by_up;
    int exponent = by_up - up;
    Wide wide = digits >= by ? (Wide)digits << 63 : (Wide)digits << 64;
    exponent -= digits >= by ? 63 : 64;
    uint64_t bits = (uint64_t)(wide / by);
    bool more = (Wide)bits * by != wide;
    enum { BELOW = 64 - DOUBLE_BITS };
    const uint64_t half = UINT64_C(1) << (BELOW - 1);
    uint64_t rest = bits & (2 * half - 1);
    uint64_t kept = bits >> BELOW;
    kept += rest > half || (rest == half && (more || (kept & 1) != 0));
    return (double)kept * power_of_two(exponent + BELOW);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Takes digits into *DIGITS, which is wrong where they are too many. */
static const char *take_digits(const char *at, uint64_t *digits)
{
    for (; is_digit(*at); at++)
        *digits = *digits * 10 + (uint64_t)(*at - '0');
    return at;
}

/* True when 64 bits have room for the digits from AT to END, with a point among them. */
static bool fits_word(const char *at, const char *end)
{
    while (at < end && (*at == '0' || *at == '.'))
        at++;
    return end - at <= DIGITS_OF_WORD;
}

static const char *read_slowly(const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    return isfinite(*value) ? end : NULL;
}

/* Behind the digits of an exponent, or NULL. */
static const char *skip_exponent(const char *at)
{
    at += at[1] == '+' || at[1] == '-' ? 2 : 1;
    if (!is_digit(*at))
        return NULL;
    while (is_digit(*at))
        at++;
    return at;
}

const char *json_number(const char *text, double *value)
{
    uint64_t digits = 0;
    size_t places = 0;
    const char *first = text + (*text == '-');
    const char *at = take_digits(first, &digits);
    if (at == first || (*first == '0' && at - first > 1))
        return NULL;
    if (*at == '.') {
        const char *fraction = at + 1;
        at = take_digits(fraction, &digits);
        places = (size_t)(at - fraction);
        if (places == 0)
            return NULL;
    }
    if (*at == 'e' || *at == 'E')
        return skip_exponent(at) != NULL ? read_slowly(text, value) : NULL;
    if (places > EXACT_POWER || !fits_word(first, at))
        return read_slowly(text, value);
    double size = places == 0 || digits == 0 ? (double)digits : quotient(digits, (unsigned)places);
    *value = first != text ? -size : size;
    return at;
}

/* ---- lists of lists ---- */

static const char *skip_spaces(const char *at)
{
    while (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')
        at++;
    return at;
}

static Status add_value(JsonNumbers *numbers, double value)
{
    if (numbers->n_values == numbers->room[0])
        TRY(mem_grow(&numbers->value, &numbers->room[0], numbers->n_values, sizeof value,
                     "JSON numbers"));
    numbers->value[numbers->n_values++] = value;
    return OK;
}

/* The list of numbers that begins at *AT, which then is behind it, or NULL. */
static Status take_row(JsonNumbers *numbers, const char **at)
{
    JsonRow row = {.first = numbers->n_values};
    const char *next = *at;
    bool more = true;
    *at = NULL;
    if (*next != '[')
        return OK;
    while (more) {
        double value;
        next = json_number(skip_spaces(next + 1), &value);
        if (next == NULL)
            return OK;
        TRY(add_value(numbers, value));
        next = skip_spaces(next);
        more = *next == ',';
    }
    if (*next != ']')
        return OK;
    *at = next + 1;
    row.n = numbers->n_values - row.first;
    TRY(mem_grow(&numbers->rows, &numbers->room[1], numbers->n_rows, sizeof row, "JSON numbers"));
    numbers->rows[numbers->n_rows++] = row;
    return OK;
}

Status json_numbers_take(JsonNumbers *numbers, const char *text, size_t array, const char **end)
{
    const size_t n_values = numbers->n_values;
    JsonTable table = {.array = array, .first_row = numbers->n_rows};
    const char *at = text;
    bool more = true;
    while (more) {
        at = skip_spaces(at + 1);
        TRY(take_row(numbers, &at));
        at = at != NULL ? skip_spaces(at) : NULL;
        more = at != NULL && *at == ',';
    }
    *end = at != NULL && *at == ']' ? at + 1 : NULL;
    if (*end == NULL) {
        numbers->n_values = n_values;
        numbers->n_rows = table.first_row;
        return OK;
    }
    table.n_rows = numbers->n_rows - table.first_row;
    TRY(mem_grow(&numbers->tables, &numbers->room[2], numbers->n_tables, sizeof table,
                 "JSON numbers"));
    numbers->tables[numbers->n_tables++] = table;
    return OK;
}

/* The tree has arrays in the order of the text. A list has no use for its number: there stands that
 * of its table, counted from 1. */
static void bind(const JsonNumbers *numbers, cJSON *node, size_t *arrays, size_t *next)
{
    if (cJSON_IsArray(node)) {
        if (*next < numbers->n_tables && numbers->tables[*next].array == *arrays)
            node->valueint = (int)++*next;
        ++*arrays;
    }
    for (cJSON *child = node->child; child != NULL; child = child->next)
        bind(numbers, child, arrays, next);
}

void json_numbers_bind(const JsonNumbers *numbers, cJSON *root)
{
    size_t arrays = 0;
    size_t next = 0;
    bind(numbers, root, &arrays, &next);
}

bool json_is_table(const cJSON *node)
{
    return cJSON_IsArray(node) && node->valueint != 0;
}

const JsonRow *json_rows(const JsonNumbers *numbers, const cJSON *node, size_t *n)
{
    if (!json_is_table(node))
        return NULL;
    const JsonTable *table = &numbers->tables[node->valueint - 1];
    *n = table->n_rows;
    return numbers->rows + table->first_row;
}

void json_numbers_free(JsonNumbers *numbers)
{
    mem_free(numbers->value);
    mem_free(numbers->rows);
    mem_free(numbers->tables);
    *numbers = (JsonNumbers){0};
}
