#include "cli/part_input.h"

#include <inttypes.h>
#include <stdio.h>

Status part_input(const char *train, const char *test, PartsAsked *asked)
{
    *asked = (PartsAsked){0};
    if (train != NULL)
        TRY(fail_in(trace_part_parse(train, &asked->train), "--train"));
    if (test != NULL)
        TRY(fail_in(trace_part_parse(test, &asked->test), "--test"));
    return OK;
}

static Status add_steps(cJSON *json, const char *key, const Steps *steps)
{
    cJSON *object;
    TRY(json_add_object(json, key, &object));
    TRY(json_add_u64(object, "first_step", steps->first));
    return json_add_u64(object, "end_step", steps->end);
}

Status part_input_json(cJSON *json, const TraceParts *parts)
{
    TRY(parts->trains ? add_steps(json, "train", &parts->train) : json_add_null(json, "train"));
    return add_steps(json, "test", &parts->test);
}

void part_input_print(const TraceParts *parts, uint64_t n_steps, const char *start)
{
    if (parts->trains)
        printf("Learnt from steps %" PRIu64 " to %" PRIu64 ", ", parts->train.first,
               parts->train.end - 1);
    else if (parts->test.first > 0 || parts->test.end < n_steps)
        printf("Nothing learnt, ");
    else
        return;
    printf("scored on steps %" PRIu64 " to %" PRIu64 " of %" PRIu64 ", starting %s%s.\n",
           parts->test.first, parts->test.end - 1, n_steps, start,
           trace_parts_overlap(parts) ? "; some were learnt from" : "");
}
