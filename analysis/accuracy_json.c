/* Accuracy as JSON. */
#include <stdio.h>

#include "analysis/accuracy.h"

static Status add_noise(cJSON *object, double noise)
{
    return noise < 0 ? json_add_null(object, "noise") : json_add_f64(object, "noise", noise);
}

static Status fill_stats(cJSON *object, const ErrorStats *stats)
{
    TRY(json_add_u64(object, "n", stats->n));
    TRY(json_add_f64(object, "predicted_ns", stats->predicted_ns));
    TRY(json_add_f64(object, "measured_ns", stats->measured_ns));
    TRY(json_add_f64(object, "mean", stats->mean));
    TRY(json_add_f64(object, "median", stats->median));
    TRY(json_add_f64(object, "p95", stats->p95));
    TRY(json_add_f64(object, "worst", stats->worst));
    TRY(json_add_f64(object, "bias", stats->bias));
    return add_noise(object, stats->noise);
}

static Status add_stats(cJSON *json, const char *key, const ErrorStats *stats)
{
    cJSON *object;
    if (stats->n == 0)
        return OK;
    TRY(json_add_object(json, key, &object));
    return fill_stats(object, stats);
}

static Status add_sum(cJSON *json, const char *key, const EndToEnd *sum)
{
    cJSON *object;
    if (sum->steps == 0)
        return OK;
    TRY(json_add_object(json, key, &object));
    TRY(json_add_u64(object, "steps", sum->steps));
    TRY(json_add_u64(object, "tokens", sum->tokens));
    TRY(json_add_f64(object, "predicted_ns", sum->predicted_ns));
    TRY(json_add_f64(object, "measured_ns", sum->measured_ns));
    TRY(json_add_f64(object, "error", end_to_end_error(sum)));
    return add_noise(object, sum->noise);
}

static Status add_phases(cJSON *json, const AccuracyReport *report)
{
    cJSON *steps;
    cJSON *sums;
    TRY(json_add_object(json, "steps", &steps));
    TRY(add_stats(steps, "all", &report->steps));
    TRY(json_add_object(json, "end_to_end", &sums));
    TRY(add_sum(sums, "all", &report->all));
    for (Phase phase = PHASE_PREFILL; phase <= PHASE_MIXED; phase++) {
        TRY(add_stats(steps, phase_name(phase), &report->phases[phase]));
        TRY(add_sum(sums, phase_name(phase), &report->phase[phase]));
    }
    return OK;
}

static Status add_cells(cJSON *json, const AccuracyReport *report)
{
    cJSON *object;
    TRY(json_add_object(json, "ops", &object));
    for (uint32_t kind = 0; kind < ACCURACY_KINDS; kind++)
        TRY(add_stats(object, accuracy_kind_name(kind), &report->kinds[kind]));
    TRY(json_add_object(json, "layers", &object));
    for (uint32_t layer = 0; layer < report->n_layers; layer++) {
        char name[16];
        snprintf(name, sizeof name, "%u", layer);
        TRY(add_stats(object, name, &report->layers[layer]));
    }
    return OK;
}

static Status add_blame(cJSON *json, const AccuracyReport *report)
{
    cJSON *object;
    if (report->blamed == ACCURACY_KINDS)
        return json_add_null(json, "blamed");
    TRY(json_add_object(json, "blamed", &object));
    TRY(json_add_text(object, "op", accuracy_kind_name(report->blamed)));
    TRY(json_add_f64(object, "error_ns", report->blamed_ns));
    return json_add_f64(object, "share", report->blamed_share);
}

Status accuracy_json(const AccuracyReport *report, cJSON **json)
{
    *json = cJSON_CreateObject();
    if (*json == NULL)
        return fail_memory("JSON", sizeof **json);
    Status status = add_phases(*json, report);
    if (status == OK)
        status = add_cells(*json, report);
    if (status == OK)
        status = add_blame(*json, report);
    if (status != OK) {
        cJSON_Delete(*json);
        *json = NULL;
    }
    return status;
}
