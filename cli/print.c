#include "cli/print.h"

#include <stdio.h>

#include "base/memory.h"

Status print_json(const cJSON *json)
{
    char *text = cJSON_Print(json);
    if (text == NULL)
        return fail_memory("JSON output", 0);
    puts(text);
    mem_free(text);
    return OK;
}
