/* What validate prints of requests that arrive. */
#include "cli/validate.h"

#include <stdio.h>

#include "cli/serving_print.h"
#include "cli/table.h"

/* The mean of what passes between two steps. */
static uint64_t between_steps(const ServingReport *report, uint64_t ns)
{
    return report->steps > 0 ? ns / report->steps : 0;
}

uint64_t validation_between(const RunTotals *totals)
{
    uint64_t in_steps = totals->prefill_ns + totals->decode_ns;
    uint64_t busy = totals->serving.busy_ns;
    return between_steps(&totals->serving, busy > in_steps ? busy - in_steps : 0);
}

static void add_share(Table *table, double share)
{
    if (share < 0)
        table_cell(table, "%s", "");
    else
        table_cell(table, "%.1f %%", 100 * share);
}

/* VARIES and NOISE: -1 where nothing is known of them. */
static void add_row(Table *table, const char *predicted_text, double predicted, double varies,
                    const char *measured_text, double measured, double noise)
{
    table_cell(table, "%s", predicted_text);
    add_share(table, varies);
    table_cell(table, "%s", measured_text);
    add_share(table, noise);
    table_cell(table, "%+.1f %%", measured > 0 ? 100 * (predicted / measured - 1) : 0);
}

static void add_time(Table *table, const char *name, uint64_t predicted, double varies,
                     uint64_t measured, double noise)
{
    char predicted_text[NUMBER_BYTES];
    char measured_text[NUMBER_BYTES];
    table_cell(table, "%s", name);
    add_row(table, duration_text(predicted, predicted_text), (double)predicted, varies,
            duration_text(measured, measured_text), (double)measured, noise);
}

static uint64_t whole_ns(double ns)
{
    return (uint64_t)(ns + 0.5);
}

static void add_times(Table *table, const char *name, const LatencySummary *predicted,
                      const SummaryNoise *varies, const LatencySummary *measured,
                      const SummaryNoise *noise)
{
    add_time(table, name, whole_ns(predicted->mean), varies->mean, whole_ns(measured->mean),
             noise->mean);
    add_time(table, "median", predicted->median, varies->median, measured->median, noise->median);
    add_time(table, "p90", predicted->p90, varies->p90, measured->p90, noise->p90);
    add_time(table, "p99", predicted->p99, varies->p99, measured->p99, noise->p99);
}

/* One run does not tell how much runs differ. */
static ServingNoise known_noise(const ServedRuns *served, uint32_t runs)
{
    const SummaryNoise none = {-1, -1, -1, -1};
    return runs > 1 ? served->noise : (ServingNoise){none, none, none, none, -1, -1, -1};
}

static void add_rate(Table *table, const char *name, double predicted, double varies,
                     double measured, double noise)
{
    char texts[2][NUMBER_BYTES];
    snprintf(texts[0], sizeof texts[0], "%.2f", predicted);
    snprintf(texts[1], sizeof texts[1], "%.2f", measured);
    table_cell(table, "%s", name);
    add_row(table, texts[0], predicted, varies, texts[1], measured, noise);
}

static void add_throughput(Table *table, const ServedRuns *served, const ServingNoise *noise)
{
    const ServingReport *predicted = &served->predicted;
    const ServingReport *measured = &served->middle;
    const ServingNoise *varies = &served->varies;
    add_rate(table, "output tokens/s", serving_output_tokens_per_s(predicted),
             varies->output_tokens_per_s, serving_output_tokens_per_s(measured),
             noise->output_tokens_per_s);
    if (service_goals_are_any(&measured->goals))
        add_rate(table, "goodput, requests/s", serving_goodput_per_s(predicted),
                 varies->goodput_per_s, serving_goodput_per_s(measured), noise->goodput_per_s);
}

static void add_memory(Table *table, const ValidatedTime *time)
{
    char texts[2][NUMBER_BYTES];
    table_cell(table, "device memory");
    add_row(table, bytes_text(time->memory.total, texts[0]), (double)time->memory.total, -1,
            bytes_text(time->device_bytes, texts[1]), (double)time->device_bytes, -1);
}

static uint64_t predicted_between(const ValidatedPlan *result)
{
    return between_steps(&result->served.played, result->time.predicted.between_ns);
}

static Status print_compared(const ValidatedPlan *result, uint32_t runs)
{
    static const char *const TITLES[] = {"", "predicted", "varies", "measured", "noise", "error"};
    const ServedRuns *served = &result->served;
    const ServingReport *predicted = &served->predicted;
    const ServingReport *measured = &served->middle;
    const ServingNoise *varies = &served->varies;
    const ServingNoise noise = known_noise(served, runs);
    Table *table;
    TRY(table_new(TITLES, "lrrrrr", &table));
    add_times(table, "time to first token, mean", &predicted->ttft, &varies->ttft, &measured->ttft,
              &noise.ttft);
    add_times(table, "time between tokens, mean", &predicted->tbt, &varies->tbt, &measured->tbt,
              &noise.tbt);
    add_times(table, "time per output token, mean", &predicted->tpot, &varies->tpot,
              &measured->tpot, &noise.tpot);
    add_time(table, "between two steps", predicted_between(result), -1, served->between_ns, -1);
    add_time(table, "whole run", predicted->duration_ns, varies->duration, measured->duration_ns,
             noise.duration);
    add_throughput(table, served, &noise);
    add_memory(table, &result->time);
    printf(
        "Measured is of each number the median of %u run%s, predicted that of 21 plays in which "
        "requests come\nup to 0.5 %% earlier or later; noise and varies are how much they differ "
        "(coefficients of variation%s):\n",
        runs, runs == 1 ? "" : "s", runs == 1 ? "; of one run it is not known" : "");
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

Status validation_print_serving(const Validation *validation)
{
    const ValidateArguments *arguments = validation->arguments;
    const bool timed = arguments->hardware != NULL;
    for (size_t i = 0; i < validation->n_plans; i++) {
        const ValidatedPlan *result = &validation->results[i];
        puts("");
        if (validation->n_plans > 1)
            printf("%s:\n", result->name);
        TRY(serving_print(timed ? &result->served.middle : &result->totals.serving));
        if (!timed)
            continue;
        puts("");
        TRY(print_compared(result, arguments->runs));
        validation_print_quiet(validation, &result->time.quiet);
        puts("\nThe steps of all runs, as they ran:");
        TRY(validation_print_report(&result->time.report));
    }
    return OK;
}

static Status add_side(cJSON *json, const char *name, const ServingReport *report,
                       uint64_t device_bytes, uint64_t between_ns)
{
    cJSON *side;
    TRY(json_add_object(json, name, &side));
    TRY(json_add_u64(side, "device_bytes", device_bytes));
    TRY(json_add_u64(side, "between_ns", between_ns));
    return serving_report_json(report, side);
}

static Status add_runs(cJSON *json, const ServedRuns *served, uint32_t n)
{
    cJSON *array;
    TRY(json_add_array(json, "runs", &array));
    for (uint32_t i = 0; i < n; i++) {
        cJSON *run = cJSON_CreateObject();
        TRY(json_push(array, run));
        TRY(serving_report_json(&served->runs[i], run));
    }
    return OK;
}

Status validation_add_serving(cJSON *json, const Validation *validation,
                              const ValidatedPlan *result)
{
    const ServedRuns *served = &result->served;
    const ValidatedTime *time = &result->time;
    cJSON *object;
    TRY(json_add_object(json, "served", &object));
    if (validation->arguments->hardware == NULL)
        return add_side(object, "measured", &result->totals.serving, time->device_bytes,
                        validation_between(&result->totals));
    TRY(add_side(object, "measured", &served->middle, time->device_bytes, served->between_ns));
    TRY(add_side(object, "predicted", &served->predicted, time->memory.total,
                 predicted_between(result)));
    TRY(serving_noise_json(&served->varies, "predicted_varies", object));
    TRY(validation->arguments->runs > 1 ? serving_noise_json(&served->noise, "noise", object)
                                        : json_add_null(object, "noise"));
    TRY(validation_add_quiet(object, validation, &time->quiet));
    return add_runs(object, served, validation->arguments->runs);
}
