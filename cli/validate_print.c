/* What validate prints. */
#include "cli/validate.h"

#include <inttypes.h>
#include <stdio.h>

#include "cli/print.h"
#include "cli/table.h"

static double miss_ratio(const BufferCounts *counts)
{
    uint64_t lookups = counts->hits + counts->misses;
    return lookups > 0 ? (double)counts->misses / (double)lookups : 0.0;
}

/* FATES are of a run; NULL: of a replay, which does not know them. */
static Status add_counts(cJSON *json, const char *key, const BufferCounts *counts,
                         const PrefetchFates *fates)
{
    cJSON *object;
    TRY(json_add_object(json, key, &object));
    TRY(json_add_u64(object, "lookups", counts->hits + counts->misses));
    TRY(json_add_u64(object, "hits", counts->hits));
    TRY(json_add_u64(object, "misses", counts->misses));
    TRY(json_add_f64(object, "miss_ratio", miss_ratio(counts)));
    TRY(json_add_u64(object, "loads", counts->loads));
    TRY(json_add_u64(object, "bytes_loaded", counts->bytes_loaded));
    TRY(json_add_u64(object, "host_computed", counts->host_computed));
    TRY(json_add_u64(object, "prefetches", counts->prefetches));
    TRY(json_add_u64(object, "bytes_prefetched", counts->bytes_prefetched));
    if (fates != NULL)
        TRY(prefetch_fates_json(fates, object));
    return json_add_u64(object, "evictions", counts->evictions);
}

/* The first plan that did not agree; NULL: all did. */
static const ValidatedPlan *first_failed(const Validation *validation)
{
    for (size_t i = 0; i < validation->n_plans; i++)
        if (!validation->results[i].report.agreed)
            return &validation->results[i];
    return NULL;
}

Status validation_status(const Validation *validation)
{
    const ValidatedPlan *failed = first_failed(validation);
    if (failed == NULL)
        return OK;
    Status status = compare_status(&failed->report);
    return validation->n_plans == 1 ? status : fail_in(status, "%s", failed->name);
}

static Status add_result(cJSON *json, const Validation *validation, size_t i)
{
    const Plan *plan = &validation->plans[i];
    const ValidatedPlan *result = &validation->results[i];
    cJSON *item;
    TRY(json_add_u64(json, "steps", result->totals.steps));
    TRY(json_add_u64(json, "tokens", result->totals.tokens));
    TRY(json_add_u64(json, "slot_bytes", result->slot_bytes));
    TRY(json_add_u64(json, "memory_bytes", result->predicted.memory_bytes));
    TRY(add_counts(json, "predicted", &result->predicted.total.counts, NULL));
    TRY(add_counts(json, "measured", &result->measured, &result->fates));
    TRY(compare_json(&result->report, &item));
    TRY(json_attach(json, "events", item));
    if (result->time.report.all.steps > 0)
        TRY(validation_add_time(json, validation, &result->time));
    if (validation->serves)
        TRY(validation_add_serving(json, validation, result));
    TRY(plan_to_json(plan, &item));
    return json_attach(json, "plan", item);
}

static Status add_rows(cJSON *json, const Validation *validation)
{
    cJSON *rows;
    TRY(json_add_array(json, "plans", &rows));
    for (size_t i = 0; i < validation->n_plans; i++) {
        const ValidatedPlan *result = &validation->results[i];
        cJSON *row = cJSON_CreateObject();
        TRY(json_push(rows, row));
        TRY(json_add_text(row, "name", result->name));
        TRY(json_add_bool(row, "agreed", result->report.agreed));
        TRY(add_result(row, validation, i));
    }
    return OK;
}

/* One plan's results stand in the document itself, those of several in rows. */
static Status fill_json(cJSON *json, const Validation *validation)
{
    TRY(json_add_bool(json, "agreed", first_failed(validation) == NULL));
    TRY(json_add_text(json, "trace", validation->arguments->trace));
    TRY(json_add_text(json, "model", validation->model));
    TRY(json_add_text(json, "device", executor_device(validation->executor)));
    char driver[64];
    if (validation->arguments->hardware != NULL) {
        TRY(json_add_text(json, "profile_device", validation->hardware.device));
        TRY(json_add_text(json, "profile_driver", validation->hardware.driver));
        TRY(json_add_bool(json, "driver_differs", validation_driver_differs(validation, driver)));
    }
    TRY(json_add_text(json, "routing", validation->forced ? "forced" : "gate"));
    if (validation->n_plans == 1)
        return add_result(json, validation, 0);
    TRY(add_rows(json, validation));
    bool ranks = validation->arguments->hardware != NULL && !validation->serves;
    return ranks ? validation_add_ranking(json, validation) : OK;
}

static Status print_validation_json(const Validation *validation)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, validation));
}

static void add_row(Table *table, const char *name, const BufferCounts *counts)
{
    char text[NUMBER_BYTES];
    table_cell(table, "%s", name);
    table_cell(table, "%s", number_text(counts->hits + counts->misses, text));
    table_cell(table, "%s", number_text(counts->misses, text));
    table_cell(table, "%.4f", miss_ratio(counts));
    table_cell(table, "%s", number_text(counts->host_computed, text));
    table_cell(table, "%s", bytes_text(counts->bytes_loaded, text));
    table_cell(table, "%s", number_text(counts->evictions, text));
}

static Status print_counts(const ValidatedPlan *result)
{
    static const char *const TITLES[] = {
        "", "lookups", "misses", "miss ratio", "on the host", "loaded", "evictions"};
    Table *table;
    TRY(table_new(TITLES, "lrrrrrr", &table));
    add_row(table, "predicted from the trace", &result->predicted.total.counts);
    add_row(table, "measured in the run", &result->measured);
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static void add_plan_row(Table *table, const ValidatedPlan *result)
{
    char text[NUMBER_BYTES];
    const BufferCounts *predicted = &result->predicted.total.counts;
    table_cell(table, "%s", result->name);
    table_cell(table, "%s", bytes_text(result->slot_bytes, text));
    table_cell(table, "%s", number_text(result->measured.hits + result->measured.misses, text));
    table_cell(table, "%.4f", miss_ratio(predicted));
    table_cell(table, "%.4f", miss_ratio(&result->measured));
    table_cell(table, "%s", bytes_text(result->measured.bytes_loaded, text));
    table_cell(table, "%s", number_text(result->report.compared, text));
    table_cell(table, "%s", result->report.agreed ? "yes" : "no");
}

static Status print_plans(const Validation *validation)
{
    static const char *const TITLES[] = {"plan",     "slots",  "lookups", "misses predicted",
                                         "measured", "loaded", "events",  "agreed"};
    Table *table;
    TRY(table_new(TITLES, "lrrrrrrl", &table));
    for (size_t i = 0; i < validation->n_plans; i++)
        add_plan_row(table, &validation->results[i]);
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static void print_origin(const Validation *validation)
{
    const RunTotals *totals = &validation->results[0].totals;
    char tokens[NUMBER_BYTES];
    char driver[64];
    uint32_t threads = device_input_threads(&validation->arguments->device);
    printf("\n%s: %" PRIu64 " steps, %s tokens, routing %s, on %s\n\n",
           validation->arguments->trace, totals->steps, number_text(totals->tokens, tokens),
           validation->forced ? "forced" : "by the router", executor_device(validation->executor));
    if (validation_driver_differs(validation, driver))
        printf("The profile was made with driver %s, this is %s: times may differ.\n\n",
               validation->hardware.driver[0] != '\0' ? validation->hardware.driver : "none",
               driver[0] != '\0' ? driver : "none");
    if (validation->arguments->hardware != NULL && validation->hardware.host_threads != threads)
        printf("The profile was made with %u host thread%s, this is %u: times may differ.\n\n",
               validation->hardware.host_threads, validation->hardware.host_threads == 1 ? "" : "s",
               threads);
}

static Status print_report(const Validation *validation, const ValidatedPlan *result)
{
    char *text;
    TRY(compare_text(&result->report, &text));
    if (validation->n_plans > 1)
        printf("%s:\n", result->name);
    printf("%s", text);
    mem_free(text);
    return OK;
}

/* Of several plans, those that did not agree are told of at length. */
static Status print_validation(const Validation *validation)
{
    bool several = validation->n_plans > 1;
    TRY(several ? print_plans(validation) : print_counts(validation->results));
    print_origin(validation);
    for (size_t i = 0; i < validation->n_plans; i++)
        if (!several || !validation->results[i].report.agreed)
            TRY(print_report(validation, &validation->results[i]));
    if (several && first_failed(validation) == NULL)
        printf("simulator and executor agree on all events of all %zu plans\n",
               validation->n_plans);
    if (validation->serves)
        return validation_print_serving(validation);
    if (validation->arguments->hardware != NULL)
        return validation_print_time(validation);
    return OK;
}

Status validation_print(const Validation *validation)
{
    return validation->arguments->json ? print_validation_json(validation)
                                       : print_validation(validation);
}
