#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/number_text.h"

/* Whole numbers up to here are written without an exponent. */
static bool is_whole(double value)
{
    return value == floor(value) && fabs(value) < 1e18;
}

/* Makes NODE, a number, the text of the number. */
static Status make_raw(cJSON *node)
{
    char text[NUMBER_BYTES];
    if (is_whole(node->valuedouble))
        snprintf(text, sizeof text, "%.0f", node->valuedouble);
    else
        real_text(node->valuedouble, text);
    size_t bytes = strlen(text) + 1;
    TRY(mem_new(&node->valuestring, bytes, 1, "JSON"));
    memcpy(node->valuestring, text, bytes);
    node->type = (node->type & ~0xFF) | cJSON_Raw;
    return OK;
}

static Status make_numbers_raw(cJSON *node)
{
    if (cJSON_IsNumber(node) && isfinite(node->valuedouble))
        TRY(make_raw(node));
    for (cJSON *child = node->child; child != NULL; child = child->next)
        TRY(make_numbers_raw(child));
    return OK;
}

Status json_print(const cJSON *node, bool indented, char **text)
{
    *text = NULL;
    cJSON *copy = cJSON_Duplicate(node, true);
    if (copy == NULL)
        return fail_memory("JSON", 0);
    Status status = make_numbers_raw(copy);
    if (status == OK)
        *text = indented ? cJSON_Print(copy) : cJSON_PrintUnformatted(copy);
    cJSON_Delete(copy);
    if (status == OK && *text == NULL)
        status = fail_memory("JSON", 0);
    return status;
}
