#include "cli/bench_gpu_attention.h"
#include "cli/bench_gpu_origin.h"
#include "cli/print.h"
#include "cli/table.h"

Status attention_cells_print(const Ceilings *ceilings, const AttentionCell *cells, size_t n)
{
    const char *const titles[] = {"attention", "requests", "tokens", "keys",   "ms",
                                  "floor",     "ratio",    "bound",  "GB/s",   "TFLOP/s",
                                  "append",    "floor",    "error",  "repeats"};
    Table *table;
    TRY(bench_gpu_print_origin(ceilings));
    TRY(table_new(titles, "lrrrrrrlrrrrrl", &table));
    for (size_t i = 0; i < n; i++) {
        const AttentionCell *cell = &cells[i];
        double floor_ms = attention_floor_ms(cell);
        table_cell(table, "%s", cell->shape->name);
        table_cell(table, "%u", cell->requests);
        table_cell(table, "%u", cell->tokens);
        table_cell(table, "%u", cell->keys);
        table_cell(table, "%.4f", cell->milliseconds);
        table_cell(table, "%.4f", floor_ms);
        table_cell(table, "%.2f", cell->milliseconds / floor_ms);
        table_cell(table, "%s", cell->bytes_ms > cell->flops_ms ? "bytes" : "flops");
        table_cell(table, "%.0f",
                   cell->bytes_ms / cell->milliseconds * ceilings->bytes_per_s / 1e9);
        table_cell(table, "%.0f",
                   cell->flops_ms / cell->milliseconds * ceilings->flops_per_s / 1e12);
        table_cell(table, "%.4f", cell->append_ms);
        table_cell(table, "%.4f", cell->append_floor_ms);
        table_cell(table, "%.4f", cell->error);
        table_cell(table, "%s", cell->repeats ? "yes" : "no");
    }
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static Status add_cell(cJSON *list, const AttentionCell *cell)
{
    cJSON *item = cJSON_CreateObject();
    TRY(json_push(list, item));
    TRY(json_add_text(item, "attention", cell->shape->name));
    TRY(json_add_u64(item, "requests", cell->requests));
    TRY(json_add_u64(item, "tokens_per_request", cell->tokens));
    TRY(json_add_u64(item, "keys_per_request", cell->keys));
    TRY(json_add_f64(item, "milliseconds", cell->milliseconds));
    TRY(json_add_f64(item, "bytes_floor_milliseconds", cell->bytes_ms));
    TRY(json_add_f64(item, "flops_floor_milliseconds", cell->flops_ms));
    if (cell->append_ms > 0) {
        TRY(json_add_f64(item, "append_milliseconds", cell->append_ms));
        TRY(json_add_f64(item, "append_floor_milliseconds", cell->append_floor_ms));
    }
    TRY(json_add_f64(item, "relative_error", cell->error));
    return json_add_bool(item, "repeats_to_the_bit", cell->repeats);
}

static Status fill_json(cJSON *json, const BenchGpuOptions *options, const Ceilings *ceilings,
                        const AttentionCell *cells, size_t n)
{
    cJSON *list;
    TRY(bench_gpu_add_origin(json, options, ceilings));
    TRY(json_add_array(json, "cells", &list));
    for (size_t i = 0; i < n; i++)
        TRY(add_cell(list, &cells[i]));
    return OK;
}

Status attention_cells_print_json(const BenchGpuOptions *options, const Ceilings *ceilings,
                                  const AttentionCell *cells, size_t n)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, options, ceilings, cells, n));
}
