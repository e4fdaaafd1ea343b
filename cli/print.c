#include "cli/print.h"

#include <stdio.h>

#include "base/json.h"
#include "base/memory.h"

Status print_json(const cJSON *json)
{
    char *text;
    TRY(json_print(json, true, &text));
    puts(text);
    mem_free(text);
    return OK;
}
