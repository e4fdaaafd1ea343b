#include <inttypes.h>
#include <stdio.h>

#include "analysis/served_trace.h"
#include "analysis/trace_summary.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/info_timing.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/service_goals.h"
#include "cli/serving_print.h"
#include "cli/table.h"
#include "traces/reader.h"

typedef struct {
    const char *path;
    ServiceGoals goals;
    bool json;
} Arguments;

/* What a trace holds. */
typedef struct {
    TraceSummary of;
    OpTimes times;
    bool served; /* requests say when they arrived */
    ServingReport serving;
} Summary;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        TRACE_OPTION(&arguments->path),
        GOAL_OPTIONS(&arguments->goals),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {.command = "info",
                               .summary = "Says what a trace holds: where it came from, its MoE "
                                          "layers, steps, tokens and requests, and what requests "
                                          "experienced that arrived while it was recorded.",
                               .example = "moebius info trace.db\n"
                                          "moebius info served.db --ttft-at-most 200 "
                                          "--tpot-at-most 20",
                               .options = options,
                               .n_options = sizeof options / sizeof options[0]};
    return options_parse(&table, argc, argv);
}

static Status count_steps(TraceReader *reader, Summary *summary)
{
    Progress progress;
    TraceStep step;
    Status status = OK;
    progress_start(&progress, "info", "steps", trace_reader_steps(reader));
    while (status == OK) {
        status = trace_reader_next_step(reader, &step);
        if (status != OK)
            break;
        trace_summary_add(&summary->of, &step);
        if (summary->of.timing_ops > 0)
            status = op_times_add(reader, &step, &summary->times);
        progress_update(&progress, summary->of.total_steps);
    }
    progress_end(&progress);
    return status == STATUS_END ? OK : status;
}

static Status summarize(TraceReader *reader, const char *path, Summary *summary)
{
    *summary = (Summary){0};
    TRY(trace_summary_begin(reader, path, &summary->of));
    return count_steps(reader, summary);
}

static Status add_optional_text(cJSON *json, const char *key, const char *text)
{
    return text != NULL ? print_add_bytes(json, key, span_of(text)) : json_add_null(json, key);
}

static Status add_layers(cJSON *json, const TraceReader *reader)
{
    cJSON *list;
    uint32_t count;
    const TraceLayer *layers = trace_reader_layers(reader, &count);
    TRY(json_add_array(json, "layers", &list));
    for (uint32_t i = 0; i < count; i++) {
        cJSON *item = cJSON_CreateObject();
        TRY(json_push(list, item));
        TRY(json_add_u64(item, "layer", layers[i].layer));
        TRY(print_add_bytes(item, "name", span_of(layers[i].name)));
        TRY(json_add_text(item, "stack", stack_name(layers[i].stack)));
        TRY(json_add_u64(item, "experts", layers[i].experts));
        TRY(json_add_u64(item, "top_k", layers[i].top_k));
        TRY(json_add_u64(item, "shared_experts", layers[i].shared_experts));
        TRY(json_add_u64(item, "d_model", layers[i].d_model));
        TRY(json_add_u64(item, "d_ff", layers[i].d_ff));
        TRY(json_add_u64(item, "expert_bytes", layers[i].expert_bytes));
    }
    return OK;
}

static Status add_phases(cJSON *json, const Summary *summary)
{
    cJSON *phases;
    TRY(json_add_object(json, "phases", &phases));
    for (int i = 0; i < TRACE_PHASES; i++) {
        cJSON *phase;
        TRY(json_add_object(phases, phase_name((Phase)i), &phase));
        TRY(json_add_u64(phase, "steps", summary->of.steps[i]));
        TRY(json_add_u64(phase, "tokens", summary->of.phase_tokens[i]));
    }
    return OK;
}

static Status fill_json(cJSON *json, const char *path, const TraceReader *reader,
                        const Summary *summary)
{
    const TraceRun *run = trace_reader_run(reader);
    TRY(print_add_bytes(json, "trace", span_of(path)));
    TRY(add_optional_text(json, "created", run->created));
    TRY(add_optional_text(json, "tool", run->tool));
    TRY(add_optional_text(json, "source", run->source));
    TRY(add_optional_text(json, "model", run->model));
    TRY(add_optional_text(json, "device", run->device));
    TRY(json_add_bool(json, "complete", summary->of.complete));
    TRY(json_add_u64(json, "steps", summary->of.total_steps));
    TRY(json_add_u64(json, "tokens", summary->of.tokens));
    TRY(json_add_u64(json, "requests", summary->of.requests));
    TRY(add_phases(json, summary));
    TRY(json_add_bool(json, "has_token_ids", summary->of.has_token_ids));
    TRY(json_add_bool(json, "has_weights", summary->of.has_weights));
    TRY(json_add_bool(json, "has_scores", summary->of.has_scores));
    TRY(json_add_u64(json, "residency_events", summary->of.residency_events));
    TRY(json_add_u64(json, "timing_ops", summary->of.timing_ops));
    if (summary->of.timing_ops > 0)
        TRY(op_times_add_json(json, reader, &summary->times));
    if (summary->served)
        TRY(serving_report_json(&summary->serving, json));
    TRY(json_add_u64(json, "prediction_distances", summary->of.distances));
    TRY(json_add_u64(json, "file_bytes", summary->of.file_bytes));
    TRY(json_add_f64(json, "bytes_per_token", trace_summary_bytes_per_token(&summary->of)));
    return add_layers(json, reader);
}

static Status print_summary_json(const char *path, const TraceReader *reader,
                                 const Summary *summary)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, path, reader, summary));
}

static Status print_layers(const TraceReader *reader)
{
    static const char *const TITLES[] = {"layer",  "name",    "stack", "experts",    "top_k",
                                         "shared", "d_model", "d_ff",  "expert size"};
    uint32_t count;
    char text[NUMBER_BYTES];
    const TraceLayer *layers = trace_reader_layers(reader, &count);
    Table *table;
    TRY(table_new(TITLES, "rllrrrrrr", &table));
    for (uint32_t i = 0; i < count; i++) {
        table_cell(table, "%" PRIu32, layers[i].layer);
        table_cell(table, "%s", layers[i].name);
        table_cell(table, "%s", stack_name(layers[i].stack));
        table_cell(table, "%" PRIu32, layers[i].experts);
        table_cell(table, "%" PRIu32, layers[i].top_k);
        table_cell(table, "%" PRIu32, layers[i].shared_experts);
        table_cell(table, "%" PRIu32, layers[i].d_model);
        table_cell(table, "%" PRIu32, layers[i].d_ff);
        table_cell(table, "%s", bytes_text(layers[i].expert_bytes, text));
    }
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static Status print_phases(const Summary *summary)
{
    static const char *const TITLES[] = {"phase", "steps", "tokens"};
    char text[NUMBER_BYTES];
    Table *table;
    TRY(table_new(TITLES, "lrr", &table));
    for (int i = 0; i < TRACE_PHASES; i++) {
        if (summary->of.steps[i] == 0)
            continue;
        table_cell(table, "%s", phase_name((Phase)i));
        table_cell(table, "%s", number_text(summary->of.steps[i], text));
        table_cell(table, "%s", number_text(summary->of.phase_tokens[i], text));
    }
    table_cell(table, "total");
    table_cell(table, "%s", number_text(summary->of.total_steps, text));
    table_cell(table, "%s", number_text(summary->of.tokens, text));
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static Status print_origin(const char *path, const TraceReader *reader, const Summary *summary)
{
    static const char *const TITLES[] = {"trace", ""};
    const TraceRun *run = trace_reader_run(reader);
    const char *const rows[][2] = {{"file", path},
                                   {"created", run->created},
                                   {"tool", run->tool},
                                   {"source", run->source},
                                   {"model", run->model},
                                   {"device", run->device},
                                   {"complete", summary->of.complete ? "yes"
                                                                     : "no: recording did not "
                                                                       "end properly"}};
    Table *table;
    TRY(table_new(TITLES, "ll", &table));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        table_cell(table, "%s", rows[i][0]);
        table_cell(table, "%s", rows[i][1] != NULL ? rows[i][1] : "-");
    }
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static Status print_people(const char *path, const TraceReader *reader, const Summary *summary)
{
    char text[NUMBER_BYTES];
    TRY(print_origin(path, reader, summary));
    puts("");
    TRY(print_layers(reader));
    puts("");
    TRY(print_phases(summary));
    if (summary->of.timing_ops > 0) {
        puts("");
        TRY(op_times_print(reader, &summary->times));
    }
    if (summary->served) {
        puts("");
        TRY(serving_print(&summary->serving));
    }
    printf("\n%s requests", number_text(summary->of.requests, text));
    printf("; token ids %s, weights %s, scores %s, ", summary->of.has_token_ids ? "yes" : "no",
           summary->of.has_weights ? "yes" : "no", summary->of.has_scores ? "yes" : "no");
    printf("%s residency events, ", number_text(summary->of.residency_events, text));
    printf("%s timed operations\n", number_text(summary->of.timing_ops, text));
    if (summary->of.distances > 0)
        printf("routing predicted up to %" PRIu32 " MoE layers ahead\n", summary->of.distances);
    printf("%s, %.1f bytes per token\n", bytes_text(summary->of.file_bytes, text),
           trace_summary_bytes_per_token(&summary->of));
    return OK;
}

Status command_info(int argc, char **argv)
{
    Arguments arguments = {0};
    TraceReader *reader;
    Summary summary;
    TRY(parse(argc, argv, &arguments));
    TRY(trace_reader_open(arguments.path, &reader));
    Status status = summarize(reader, arguments.path, &summary);
    if (status == OK)
        status = served_trace_report(arguments.path, &arguments.goals, &summary.served,
                                     &summary.serving);
    if (status == OK)
        status =
            fail_in(service_goals_check(&arguments.goals, summary.served), "%s", arguments.path);
    if (status == OK && arguments.json)
        status = print_summary_json(arguments.path, reader, &summary);
    else if (status == OK)
        status = print_people(arguments.path, reader, &summary);
    trace_reader_close(reader);
    return status;
}
