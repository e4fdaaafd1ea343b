#include "cli/front_print.h"

#include <stdio.h>

#include "cli/table.h"

static Status print_table(const StudyFront *front)
{
    static const char *const TITLES[] = {
        "plan", "memory", "tokens/s", "time", "waited for misses", "miss ratio"};
    char text[NUMBER_BYTES];
    Table *table;
    TRY(table_new(TITLES, "lrrrrr", &table));
    for (size_t i = 0; i < front->n_points; i++) {
        const FrontPoint *point = &front->points[i];
        table_cell(table, "%s", point->name);
        table_cell(table, "%s", bytes_text(point->time.peak_bytes, text));
        table_cell(table, "%.1f", point->time.tokens_per_s);
        table_cell(table, "%s", duration_text(point->time.total_ns, text));
        table_cell(table, "%s", duration_text(point->time.exposed_load_ns, text));
        table_cell(table, "%.4f", point->miss_ratio);
    }
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

Status front_print(const StudyFront *front)
{
    TRY(print_table(front));
    printf("No other of %llu plans is as fast with as little memory.\n",
           (unsigned long long)front->candidates);
    return OK;
}

Status front_json(const StudyFront *front, cJSON *json)
{
    cJSON *list;
    TRY(json_add_array(json, "pareto", &list));
    for (size_t i = 0; i < front->n_points; i++) {
        const FrontPoint *point = &front->points[i];
        cJSON *item = cJSON_CreateObject();
        TRY(json_push(list, item));
        TRY(json_add_u64(item, "plan_id", (uint64_t)point->plan_id));
        TRY(json_add_text(item, "name", point->name));
        TRY(json_add_text(item, "evict", point->evict));
        TRY(json_add_u64(item, "slots", point->slots));
        TRY(json_add_u64(item, "peak_bytes", point->time.peak_bytes));
        TRY(json_add_f64(item, "tokens_per_s", point->time.tokens_per_s));
        TRY(json_add_u64(item, "total_ns", point->time.total_ns));
        TRY(json_add_u64(item, "exposed_load_ns", point->time.exposed_load_ns));
        TRY(json_add_f64(item, "miss_ratio", point->miss_ratio));
    }
    return OK;
}
