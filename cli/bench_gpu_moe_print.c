#include "cli/bench_gpu_moe_cells.h"
#include "cli/bench_gpu_origin.h"
#include "cli/print.h"
#include "cli/table.h"

Status moe_cells_print(const Ceilings *ceilings, const MoeCell *cells, size_t n)
{
    const char *const titles[] = {"layer",   "tokens",  "active",  "ms",         "floor",
                                  "ratio",   "TB/s",    "PFLOP/s", "cool floor", "route",
                                  "experts", "combine", "error",   "repeats"};
    Table *table;
    TRY(bench_gpu_print_origin(ceilings));
    printf("these are rates of the beginning, and 'cool floor' is by them; 'floor' is by the rates "
           "of its row, of products in turn with the layer and copies after it\n");
    TRY(table_new(titles, "lrrrrrrrrrrrrl", &table));
    for (size_t i = 0; i < n; i++) {
        const MoeCell *cell = &cells[i];
        table_cell(table, "%s", cell->shape);
        table_cell(table, "%u", cell->tokens);
        table_cell(table, "%.0f", cell->active);
        table_cell(table, "%.4f", cell->milliseconds);
        table_cell(table, "%.4f", cell->floor_ms);
        table_cell(table, "%.2f", cell->milliseconds / cell->floor_ms);
        table_cell(table, "%.2f", cell->bytes_per_s / 1e12);
        table_cell(table, "%.3f", cell->flops_per_s / 1e15);
        table_cell(table, "%.4f", cell->cool_floor_ms);
        for (int stage = 0; stage < MOE_STAGES; stage++)
            table_cell(table, "%.4f", cell->stages_ms[stage]);
        table_cell(table, "%.4f", cell->error);
        table_cell(table, "%s", cell->repeats ? "yes" : "no");
    }
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static Status add_cell(cJSON *list, const MoeCell *cell)
{
    cJSON *item = cJSON_CreateObject();
    cJSON *stages;
    TRY(json_push(list, item));
    TRY(json_add_text(item, "layer", cell->shape));
    TRY(json_add_u64(item, "tokens", cell->tokens));
    TRY(json_add_f64(item, "active_experts", cell->active));
    TRY(json_add_f64(item, "milliseconds", cell->milliseconds));
    TRY(json_add_f64(item, "floor_milliseconds", cell->floor_ms));
    TRY(json_add_f64(item, "copy_bytes_per_s", cell->bytes_per_s));
    TRY(json_add_f64(item, "product_flops_per_s", cell->flops_per_s));
    TRY(json_add_f64(item, "cool_floor_milliseconds", cell->cool_floor_ms));
    TRY(json_add_object(item, "stages_milliseconds", &stages));
    for (int stage = 0; stage < MOE_STAGES; stage++)
        TRY(json_add_f64(stages, MOE_STAGE_NAMES[stage], cell->stages_ms[stage]));
    TRY(json_add_f64(item, "relative_error", cell->error));
    return json_add_bool(item, "repeats_to_the_bit", cell->repeats);
}

static Status fill_json(cJSON *json, const BenchGpuOptions *options, const Ceilings *ceilings,
                        const MoeCell *cells, size_t n)
{
    cJSON *list;
    TRY(bench_gpu_add_origin(json, options, ceilings));
    TRY(json_add_array(json, "cells", &list));
    for (size_t i = 0; i < n; i++)
        TRY(add_cell(list, &cells[i]));
    return OK;
}

Status moe_cells_print_json(const BenchGpuOptions *options, const Ceilings *ceilings,
                            const MoeCell *cells, size_t n)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, options, ceilings, cells, n));
}
