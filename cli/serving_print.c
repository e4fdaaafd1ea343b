#include "cli/serving_print.h"

#include <inttypes.h>
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

/* "41 of 48 requests" and what they kept. */
static void print_goodput(const ServingReport *report)
{
    const ServiceGoals *goals = &report->goals;
    const double most_ms[] = {goals->ttft_ms, goals->tpot_ms, goals->latency_ms};
    static const char *const WHAT[] = {"first token", "later tokens each", "all"};
    const char *before = ":";
    if (!service_goals_are_any(goals))
        return;
    printf("Goodput %.2f requests/s, %" PRIu64 " of %u", serving_goodput_per_s(report),
           report->kept, report->requests);
    for (size_t i = 0; i < sizeof most_ms / sizeof *most_ms; i++)
        if (most_ms[i] > 0) {
            printf("%s %s within %g ms", before, WHAT[i], most_ms[i]);
            before = ",";
        }
    puts("");
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
    add_row(table, "time per output token", &report->tpot);
    add_row(table, "whole request", &report->latency);
    printf("%u requests, %s output tokens in %s: %.1f tokens/s, %.2f requests/s, %.0f %% of the "
           "time in steps\n",
           report->requests, number_text(report->output_tokens, tokens),
           duration_text(report->duration_ns, duration), serving_output_tokens_per_s(report),
           serving_requests_per_s(report),
           report->duration_ns > 0 ? 100.0 * (double)report->busy_ns / (double)report->duration_ns
                                   : 0.0);
    print_goodput(report);
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}
