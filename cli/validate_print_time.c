/* What validate prints of times. */
#include <stdio.h>

#include "cli/print.h"
#include "cli/table.h"
#include "cli/validate.h"

static void add_share(Table *table, double share)
{
    if (share < 0)
        table_cell(table, "-");
    else
        table_cell(table, "%.2f %%", 100 * share);
}

static void add_stats(Table *table, const char *name, const ErrorStats *stats)
{
    char text[NUMBER_BYTES];
    if (stats->n == 0)
        return;
    double n = (double)stats->n;
    table_cell(table, "%s", name);
    table_cell(table, "%s", number_text(stats->n, text));
    table_cell(table, "%s", duration_text((uint64_t)(stats->predicted_ns / n), text));
    table_cell(table, "%s", duration_text((uint64_t)(stats->measured_ns / n), text));
    add_share(table, stats->mean);
    add_share(table, stats->median);
    add_share(table, stats->p95);
    add_share(table, stats->worst);
    table_cell(table, "%+.2f %%", 100 * stats->bias);
    add_share(table, stats->noise);
}

static void add_report(Table *table, const AccuracyReport *report)
{
    char name[48];
    add_stats(table, "step", &report->steps);
    for (Phase phase = PHASE_PREFILL; phase <= PHASE_MIXED; phase++) {
        snprintf(name, sizeof name, "step, %s", phase_name(phase));
        add_stats(table, name, &report->phases[phase]);
    }
    for (uint32_t kind = 0; kind < ACCURACY_KINDS; kind++)
        add_stats(table, accuracy_kind_name(kind), &report->kinds[kind]);
    for (uint32_t layer = 0; layer < report->n_layers; layer++) {
        snprintf(name, sizeof name, "layer %u", layer);
        add_stats(table, name, &report->layers[layer]);
    }
}

Status validation_print_report(const AccuracyReport *report)
{
    static const char *const TITLES[] = {"of a step", "n",   "predicted", "measured", "mean error",
                                         "median",    "p95", "worst",     "bias",     "noise"};
    Table *table;
    TRY(table_new(TITLES, "lrrrrrrrrr", &table));
    add_report(table, report);
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static void add_end_to_end(Table *table, const char *plan, const char *name, const EndToEnd *sum)
{
    char text[NUMBER_BYTES];
    if (sum->steps == 0)
        return;
    table_cell(table, "%s", plan);
    table_cell(table, "%s", name);
    table_cell(table, "%s", number_text(sum->steps, text));
    table_cell(table, "%s", duration_text((uint64_t)sum->predicted_ns, text));
    table_cell(table, "%s", duration_text((uint64_t)sum->measured_ns, text));
    table_cell(table, "%.1f", sum->predicted_ns > 0 ? 1e9 * sum->tokens / sum->predicted_ns : 0);
    table_cell(table, "%.1f", sum->measured_ns > 0 ? 1e9 * sum->tokens / sum->measured_ns : 0);
    table_cell(table, "%+.2f %%", 100 * end_to_end_error(sum));
    add_share(table, sum->noise);
}

static Status print_end_to_end(const Validation *validation)
{
    static const char *const TITLES[] = {"plan",     "phase",    "steps", "predicted", "measured",
                                         "tokens/s", "measured", "error", "noise"};
    Table *table;
    TRY(table_new(TITLES, "llrrrrrrr", &table));
    for (size_t i = 0; i < validation->n_plans; i++) {
        const ValidatedPlan *result = &validation->results[i];
        const AccuracyReport *report = &result->time.report;
        for (Phase phase = PHASE_PREFILL; phase <= PHASE_MIXED; phase++)
            add_end_to_end(table, result->name, phase_name(phase), &report->phase[phase]);
        add_end_to_end(table, result->name, "total", &report->all);
    }
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static void print_blame(const ValidatedPlan *result)
{
    char predicted[NUMBER_BYTES];
    char measured[NUMBER_BYTES];
    const ValidatedTime *time = &result->time;
    double bytes = (double)time->device_bytes;
    if (time->report.blamed != ACCURACY_KINDS)
        printf("To blame most: %s, %+.3f ms in all, %.0f %% of the errors of operations.\n",
               accuracy_kind_name(time->report.blamed), time->report.blamed_ns / 1e6,
               100 * time->report.blamed_share);
    printf("Device memory: %s predicted, %s taken (%+.2f %%).\n",
           bytes_text(time->memory.total, predicted), bytes_text(time->device_bytes, measured),
           100 * ((double)time->memory.total - bytes) / bytes);
}

typedef struct {
    double tau;
    double regret;
    DistinctRanking distinct;
} Ranking;

static Status rank(const Validation *validation, Ranking *ranking)
{
    double *predicted; /* of each plan, then measured, then the runs' standard deviation */
    size_t n = validation->n_plans;
    TRY(mem_new(&predicted, 3 * n, sizeof *predicted, "ranking of plans"));
    double *measured = predicted + n;
    double *deviation = measured + n;
    for (size_t i = 0; i < n; i++) {
        const EndToEnd *all = &validation->results[i].time.report.all;
        predicted[i] = all->predicted_ns;
        measured[i] = all->measured_ns;
        deviation[i] = all->noise > 0 ? all->noise * all->measured_ns : 0;
    }
    *ranking =
        (Ranking){accuracy_kendall(predicted, measured, n), accuracy_regret(predicted, measured, n),
                  accuracy_rank_distinct(predicted, measured, deviation, n)};
    mem_free(predicted);
    return OK;
}

static void print_speed(const HostSpeed *speed)
{
    if (speed->slow > 0)
        printf("Beside these runs the host's cores took %.2f times as long for experts as in the "
               "profile, which predictions are made from alone.\n",
               speed->slow);
}

Status validation_print_time(const Validation *validation)
{
    Ranking ranking;
    for (size_t i = 0; i < validation->n_plans; i++) {
        printf("\n%s%s\n", validation->results[i].name,
               validation->results[i].name[0] != '\0' ? ":" : "");
        TRY(validation_print_report(&validation->results[i].time.report));
        print_blame(&validation->results[i]);
        validation_print_quiet(validation, &validation->results[i].time.quiet);
        print_speed(&validation->results[i].time.host);
    }
    puts("");
    TRY(print_end_to_end(validation));
    if (validation->n_plans == 1)
        return OK;
    TRY(rank(validation, &ranking));
    printf(
        "\nKendall's tau of predicted and measured times: %.3f over the %zu of %zu pairs of plans "
        "that differ by more\nthan the noise of their runs (%.3f over all). The plan that the "
        "simulator picks takes %.2f %% longer than the best.\n",
        ranking.distinct.tau, ranking.distinct.distinct, ranking.distinct.pairs, ranking.tau,
        100 * ranking.regret);
    return OK;
}

/* Beside experts that the host computes: how much longer its cores took than in the profile, which
 * no prediction has. */
static Status add_speed(cJSON *json, const HostSpeed *speed)
{
    cJSON *object;
    if (speed->slow == 0)
        return OK;
    TRY(json_add_object(json, "host", &object));
    TRY(json_add_u64(object, "profile_ns", speed->known_ns));
    TRY(json_add_f64(object, "slow", speed->slow));
    return json_add_u64(object, "samples", speed->n);
}

static Status add_memory(cJSON *json, const ValidatedTime *time)
{
    cJSON *object;
    double measured = (double)time->device_bytes;
    TRY(json_add_object(json, "memory", &object));
    TRY(json_add_u64(object, "predicted_bytes", time->memory.total));
    TRY(json_add_u64(object, "measured_bytes", time->device_bytes));
    return json_add_f64(object, "error", ((double)time->memory.total - measured) / measured);
}

Status validation_add_time(cJSON *json, const Validation *validation, const ValidatedTime *time)
{
    cJSON *object;
    TRY(accuracy_json(&time->report, &object));
    TRY(json_attach(json, "time", object));
    TRY(json_add_u64(object, "exposed_load_ns", time->predicted.total.exposed_load_ns));
    TRY(timing_costs_json(object, &time->predicted));
    TRY(validation_add_quiet(object, validation, &time->quiet));
    TRY(add_speed(object, &time->host));
    return add_memory(object, time);
}

Status validation_add_ranking(cJSON *json, const Validation *validation)
{
    cJSON *object;
    Ranking ranking;
    TRY(rank(validation, &ranking));
    TRY(json_add_object(json, "ranking", &object));
    TRY(json_add_f64(object, "kendall_tau", ranking.distinct.tau));
    TRY(json_add_u64(object, "distinct_pairs", ranking.distinct.distinct));
    TRY(json_add_u64(object, "pairs", ranking.distinct.pairs));
    TRY(json_add_f64(object, "kendall_tau_all_pairs", ranking.tau));
    return json_add_f64(object, "regret", ranking.regret);
}
