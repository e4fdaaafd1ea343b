/* Lists of lists of numbers, which a profile has thousands of, without a node for each number. */
#include <math.h>
#include <string.h>

#include "base/json_parts.h"
#include "base/memory.h"

/* Of a node, beside those that cJSON has; values are its valuestring, and freed as that. */
enum { MATRIX_TYPE = 1 << 16 };

static const char *behind_space(const char *at)
{
    while (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')
        at++;
    return at;
}

/* Behind what separates two items, or behind ']', which ends them: *ENDS. NULL: it is neither. */
static const char *behind_item(const char *at, bool *ends)
{
    at = behind_space(at);
    *ends = *at == ']';
    return *at == ']' || *at == ',' ? at + 1 : NULL;
}

static Status add_number(JsonNumbers *numbers, double number)
{
    TRY(mem_grow(&numbers->values, &numbers->room, numbers->n, sizeof *numbers->values, "JSON"));
    numbers->values[numbers->n++] = number;
    return OK;
}

/* A list of numbers from *AT on, which is set to behind it, or to NULL where it is none. */
static Status read_row(const char **at, JsonNumbers *numbers)
{
    const char *next = behind_space(*at);
    bool ends = false;
    *at = NULL;
    if (*next++ != '[')
        return OK;
    while (!ends) {
        double number;
        next = behind_space(next);
        if (!json_number_read(&next, &number) || !isfinite(number))
            return OK;
        TRY(add_number(numbers, number));
        next = behind_item(next, &ends);
        if (next == NULL)
            return OK;
    }
    *at = next;
    return OK;
}

/* As read_row(), of rows that all have as many numbers. */
static Status read_rows(const char **at, JsonNumbers *numbers, size_t *rows)
{
    const char *next = *at + 1;
    size_t columns = 0;
    bool ends = false;
    *at = NULL;
    numbers->n = *rows = 0;
    while (!ends) {
        TRY(read_row(&next, numbers));
        columns = ++*rows == 1 ? numbers->n : columns;
        if (next == NULL || numbers->n != *rows * columns)
            return OK;
        next = behind_item(next, &ends);
        if (next == NULL)
            return OK;
    }
    *at = next;
    return OK;
}

Status json_matrix_read(const char **at, JsonNumbers *numbers, cJSON *node)
{
    const char *end = *at;
    size_t rows;
    TRY(read_rows(&end, numbers, &rows));
    if (end == NULL)
        return OK;
    size_t bytes = numbers->n * sizeof *numbers->values;
    node->valuestring = cJSON_malloc(bytes);
    if (node->valuestring == NULL)
        return fail_memory("JSON", bytes);
    memcpy(node->valuestring, numbers->values, bytes);
    node->type = MATRIX_TYPE;
    node->valueint = (int)rows;
    node->valuedouble = (double)(numbers->n / rows);
    *at = end;
    return OK;
}

bool json_matrix(const JsonAt *at, JsonMatrix *matrix)
{
    if ((at->node->type & MATRIX_TYPE) == 0)
        return false;
    *matrix = (JsonMatrix){.rows = (uint32_t)at->node->valueint,
                           .columns = (uint32_t)at->node->valuedouble,
                           .values = (const double *)(const void *)at->node->valuestring};
    return true;
}
