#include "analysis/served_runs.h"

#include <stddef.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/statistics.h"

/* Where the numbers of a report are. */
static const size_t COUNTS[] = {
    offsetof(ServingReport, steps),         offsetof(ServingReport, tokens),
    offsetof(ServingReport, output_tokens), offsetof(ServingReport, duration_ns),
    offsetof(ServingReport, busy_ns),       offsetof(ServingReport, kept),
};
static const size_t SUMMARIES[] = {
    offsetof(ServingReport, ttft),
    offsetof(ServingReport, tbt),
    offsetof(ServingReport, tpot),
    offsetof(ServingReport, latency),
};
static const size_t SUMMARY_COUNTS[] = {
    offsetof(LatencySummary, n),   offsetof(LatencySummary, median), offsetof(LatencySummary, p90),
    offsetof(LatencySummary, p99), offsetof(LatencySummary, most),
};

enum { N_COUNTS = sizeof COUNTS / sizeof *COUNTS, N_SUMMARIES = sizeof SUMMARIES / sizeof(size_t) };

typedef struct {
    const ServingReport *runs;
    uint32_t n;
    uint64_t *counts; /* [n] scratch */
} Runs;

static const uint64_t *count_at(const ServingReport *report, size_t at)
{
    return (const uint64_t *)((const char *)report + at);
}

static void take_middle(const Runs *runs, size_t at, ServingReport *middle)
{
    for (uint32_t i = 0; i < runs->n; i++)
        runs->counts[i] = *count_at(&runs->runs[i], at);
    qsort(runs->counts, runs->n, sizeof *runs->counts, compare_u64);
    *(uint64_t *)((char *)middle + at) = runs->counts[(runs->n - 1) / 2];
}

static double variation_at(const Runs *runs, size_t at, double *values)
{
    for (uint32_t i = 0; i < runs->n; i++)
        values[i] = (double)*count_at(&runs->runs[i], at);
    return variation_f64(values, runs->n);
}

static const LatencySummary *summary_at(const ServingReport *report, size_t at)
{
    return (const LatencySummary *)((const char *)report + at);
}

static SummaryNoise summarise(const Runs *runs, size_t at, double *values, ServingReport *middle)
{
    for (uint32_t i = 0; i < runs->n; i++)
        values[i] = summary_at(&runs->runs[i], at)->mean;
    const SummaryNoise noise = {
        .mean = variation_f64(values, runs->n),
        .median = variation_at(runs, at + offsetof(LatencySummary, median), values),
        .p90 = variation_at(runs, at + offsetof(LatencySummary, p90), values),
        .p99 = variation_at(runs, at + offsetof(LatencySummary, p99), values)};
    for (uint32_t i = 0; i < runs->n; i++)
        values[i] = summary_at(&runs->runs[i], at)->mean;
    qsort(values, runs->n, sizeof *values, compare_f64);
    ((LatencySummary *)((char *)middle + at))->mean = values[(runs->n - 1) / 2];
    for (size_t i = 0; i < sizeof SUMMARY_COUNTS / sizeof *SUMMARY_COUNTS; i++)
        take_middle(runs, at + SUMMARY_COUNTS[i], middle);
    return noise;
}

static void fill(const Runs *runs, double *values, ServingReport *middle, ServingNoise *noise)
{
    *middle = runs->runs[0];
    for (size_t i = 0; i < N_COUNTS; i++)
        take_middle(runs, COUNTS[i], middle);
    SummaryNoise *const of[N_SUMMARIES] = {&noise->ttft, &noise->tbt, &noise->tpot,
                                           &noise->latency};
    for (size_t i = 0; i < N_SUMMARIES; i++)
        *of[i] = summarise(runs, SUMMARIES[i], values, middle);
    noise->duration = variation_at(runs, offsetof(ServingReport, duration_ns), values);
    for (uint32_t i = 0; i < runs->n; i++)
        values[i] = serving_output_tokens_per_s(&runs->runs[i]);
    noise->output_tokens_per_s = variation_f64(values, runs->n);
    for (uint32_t i = 0; i < runs->n; i++)
        values[i] = serving_goodput_per_s(&runs->runs[i]);
    noise->goodput_per_s = variation_f64(values, runs->n);
}

Status served_runs_middle(const ServingReport *reports, uint32_t n, ServingReport *middle,
                          ServingNoise *noise)
{
    Runs runs = {.runs = reports, .n = n};
    double *values = NULL;
    Status status = mem_new(&runs.counts, n, sizeof *runs.counts, "served runs");
    if (status == OK)
        status = mem_new(&values, n, sizeof *values, "served runs");
    if (status == OK)
        fill(&runs, values, middle, noise);
    mem_free(values);
    mem_free(runs.counts);
    return status;
}

static Status add_summary(cJSON *json, const char *key, const SummaryNoise *noise)
{
    cJSON *object;
    TRY(json_add_object(json, key, &object));
    TRY(json_add_f64(object, "mean", noise->mean));
    TRY(json_add_f64(object, "median", noise->median));
    TRY(json_add_f64(object, "p90", noise->p90));
    return json_add_f64(object, "p99", noise->p99);
}

Status serving_noise_json(const ServingNoise *noise, const char *key, cJSON *json)
{
    cJSON *object;
    TRY(json_add_object(json, key, &object));
    TRY(json_add_f64(object, "duration_ns", noise->duration));
    TRY(json_add_f64(object, "output_tokens_per_s", noise->output_tokens_per_s));
    TRY(add_summary(object, "ttft_ns", &noise->ttft));
    TRY(json_add_f64(object, "goodput_per_s", noise->goodput_per_s));
    TRY(add_summary(object, "tbt_ns", &noise->tbt));
    TRY(add_summary(object, "tpot_ns", &noise->tpot));
    return add_summary(object, "latency_ns", &noise->latency);
}
