#include "cli/serving_print.h"

#include <stdio.h>

#include "cli/table.h"

static void add_row(Table *table, const char *name, const LatencySummary *summary)
{
    char text[NUMBER_BYTES];
    table_cell(table, "%s", name);
    table_cell(table, "%s", number_text(summary->n, text));
    table_cell(table, "%s", duration_text((uint64_t)(summary->mean + 0.5), text));
    table_cell(table, "%s", duration_text(summary->median, text));
    table_cell(table, "%s", duration_text(summary->p90, text));
    table_cell(table, "%s", duration_text(summary->p99, text));
    table_cell(table, "%s", duration_text(summary->most, text));
}

Status serving_print(const ServingReport *report)
{
    static const char *const TITLES[] = {"", "n", "mean", "median", "p90", "p99", "most"};
    char tokens[NUMBER_BYTES];
    char duration[NUMBER_BYTES];
    Table *table;
    TRY(table_new(TITLES, "lrrrrrr", &table));
    add_row(table, "time to first token", &report->ttft);
    add_row(table, "time between tokens", &report->tbt);
    add_row(table, "whole request", &report->latency);
    printf("%u requests, %s output tokens in %s: %.1f tokens/s, %.2f requests/s, %.0f %% of the "
           "time in steps\n",
           report->requests, number_text(report->output_tokens, tokens),
           duration_text(report->duration_ns, duration), serving_output_tokens_per_s(report),
           serving_requests_per_s(report),
           report->duration_ns > 0 ? 100.0 * (double)report->busy_ns / (double)report->duration_ns
                                   : 0.0);
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}
