#include <stdio.h>

#include "cli/bench_gating.h"
#include "cli/print.h"
#include "cli/table.h"

static const char *work_of(const GatingLoad *load)
{
    if (load->decode)
        return "decoder steps, a token of each request";
    return load->stack == STACK_ENCODER ? "encoder steps, whole sources"
                                        : "steps of whole requests";
}

static const char *routing_of(const GatingLoad *load)
{
    return load->routing != NULL ? load->routing : "gate";
}

void gating_print_begin(const GatingLoad *load, const GatingReport *report)
{
    if (report->rows == stdout) {
        printf("%s, %u layers, routing %s, on %s\n", load->model.name, report->layers,
               routing_of(load), report->device);
        printf("%s; capacity %g of a step's tokens: %.4g slots per assignment\n", work_of(load),
               load->capacity, report->waste);
        bench_print_ceilings(&report->ceilings);
    }
    if (report->rows == NULL)
        return;
    fprintf(report->rows, "%-8s  %8s  %11s  %10s  %10s  %5s  %11s  %10s  %7s  %7s\n", "gating",
            "requests", "tokens each", "ms", "floor", "ratio", "tokens/s", "memory", "experts",
            "dropped");
    fflush(report->rows);
}

void gating_print_cell(const GatingReport *report, const GatingCell *cell)
{
    char rate[NUMBER_BYTES];
    char memory[NUMBER_BYTES];
    if (report->rows == NULL)
        return;
    fprintf(report->rows, "%-8s  %8u  %11u  ", GATING_MODE_NAMES[cell->mode], cell->batch.requests,
            cell->batch.tokens);
    if (cell->fits)
        fprintf(report->rows, "%10.3f  %10.3f  %5.2f  %11s  %10s  %7.1f  %7.4f\n",
                cell->times.median_ns / 1e6, cell->floor_ns / 1e6,
                cell->times.median_ns / cell->floor_ns,
                number_text((uint64_t)(cell->tokens_per_s + 0.5), rate),
                bytes_text(cell->device_bytes, memory), cell->active, cell->dropped);
    else
        fprintf(report->rows, "does not fit: %s\n", cell->wanted);
    fflush(report->rows);
}

void gating_print_end(const GatingReport *report)
{
    for (int mode = 0; mode < GATING_MODES; mode++) {
        const GatingCell *best = report->best[mode];
        if (best == NULL)
            continue;
        printf("%s gating is fastest with %ux%u.", GATING_MODE_NAMES[mode], best->batch.requests,
               best->batch.tokens);
        double gain = mode != MODE_DYNAMIC ? gating_gain(report, (GatingBenchMode)mode) : 0;
        if (gain > 0)
            printf(" Dynamic gating has %.2f times that throughput at its own best batch.", gain);
        putchar('\n');
    }
}

static Status add_cell(cJSON *list, const GatingCell *cell)
{
    cJSON *item = cJSON_CreateObject();
    TRY(json_push(list, item));
    TRY(json_add_text(item, "gating", GATING_MODE_NAMES[cell->mode]));
    TRY(json_add_u64(item, "requests", cell->batch.requests));
    TRY(json_add_u64(item, "tokens_each", cell->batch.tokens));
    TRY(json_add_bool(item, "fits", cell->fits));
    if (!cell->fits)
        return json_add_text(item, "wanted", cell->wanted);
    TRY(bench_add_times(item, &cell->times));
    TRY(json_add_f64(item, "tokens_per_s", cell->tokens_per_s));
    TRY(json_add_f64(item, "floor_ns", cell->floor_ns));
    TRY(json_add_u64(item, "device_bytes", cell->device_bytes));
    TRY(json_add_f64(item, "active_experts", cell->active));
    return json_add_f64(item, "dropped_share", cell->dropped);
}

static Status add_comparison(cJSON *json, const GatingReport *report)
{
    cJSON *best;
    cJSON *gains;
    TRY(json_add_object(json, "best_requests", &best));
    for (int mode = 0; mode < GATING_MODES; mode++)
        if (report->best[mode] != NULL)
            TRY(json_add_u64(best, GATING_MODE_NAMES[mode], report->best[mode]->batch.requests));
    TRY(json_add_object(json, "dynamic_over", &gains));
    for (int mode = MODE_PADDED; mode < GATING_MODES; mode++) {
        double gain = gating_gain(report, (GatingBenchMode)mode);
        if (gain > 0)
            TRY(json_add_f64(gains, GATING_MODE_NAMES[mode], gain));
    }
    return OK;
}

static Status fill_json(cJSON *json, const GatingLoad *load, const GatingReport *report, int argc,
                        char **argv)
{
    cJSON *list;
    TRY(bench_add_command(json, argc, argv));
    TRY(json_add_text(json, "device", report->device));
    TRY(json_add_text(json, "model", load->model.name));
    TRY(json_add_u64(json, "layers", report->layers));
    TRY(json_add_text(json, "routing", routing_of(load)));
    TRY(json_add_text(json, "work", work_of(load)));
    TRY(json_add_f64(json, "capacity_factor", load->capacity));
    TRY(json_add_f64(json, "waste_factor", report->waste));
    TRY(bench_add_ceilings(json, &report->ceilings));
    TRY(json_add_bool(json, "complete", !report->stopped));
    TRY(json_add_array(json, "cells", &list));
    for (uint32_t i = 0; i < report->n_cells; i++)
        TRY(add_cell(list, &report->cells[i]));
    return add_comparison(json, report);
}

Status gating_print_json(const GatingLoad *load, const GatingReport *report, int argc, char **argv)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, load, report, argc, argv));
}
