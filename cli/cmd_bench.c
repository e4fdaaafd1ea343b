#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "cli/bench.h"
#include "cli/bench_command.h"
#include "cli/bench_gpu.h"
#include "cli/command.h"
#include "cli/online.h"
#include "cli/origin.h"
#include "cli/print.h"
#include "cli/table.h"

typedef struct {
    const char *name;
    Status (*run)(const BenchOptions *options, BenchReport *report);
    bool runs_model;
} Bench;

static const Bench BENCHES[] = {
    {"replay", bench_replay, false}, {"sweep", bench_sweep, false},
    {"record", bench_record, true},  {"forward", bench_forward, true},
    {"engine", bench_engine, false}, {"simulate", bench_simulate, false},
};

enum { N_BENCHES = sizeof BENCHES / sizeof BENCHES[0] };

typedef struct {
    const char *which; /* NULL: all */
    BenchOptions options;
    const char *shape;
    bool json;
    Origin origin;
} Arguments;

Status bench_report_add(BenchReport *report, const BenchFigure *figure)
{
    TRY(mem_resize_array(&report->figures, report->count + 1, sizeof *report->figures,
                         "benchmark"));
    report->figures[report->count++] = *figure;
    return OK;
}

static bool is_wanted(const Arguments *arguments, const Bench *bench)
{
    return arguments->which == NULL || strcmp(arguments->which, bench->name) == 0;
}

/* The options mean something to the benchmark; what was not given is then as it is by default. */
static Status check_options(const OptionTable *table, Arguments *arguments, bool runs_model)
{
    BenchOptions *options = &arguments->options;
    if (!runs_model && (options->model != NULL || options->device != NULL || options->threads > 0))
        return options_fail(table,
                            "'%s' runs no model: --model, --device and --threads have no "
                            "meaning",
                            arguments->which);
    if (options->hardware != NULL && arguments->which != NULL &&
        strcmp(arguments->which, "simulate") != 0)
        return options_fail(table, "--hardware has no meaning with %s", arguments->which);
    if (arguments->shape != NULL)
        return options_fail(table, "--shape has no meaning without moe-layer or attention");
    options->model = options->model != NULL ? options->model : "models/tiny-32x4";
    options->device = options->device != NULL ? options->device : "cpu";
    options->hardware = options->hardware != NULL ? options->hardware : "hardware/h200.json";
    return OK;
}

static Status check_gpu_options(const OptionTable *table, const Arguments *arguments)
{
    const BenchOptions *options = &arguments->options;
    if (options->model != NULL || options->threads > 0 || options->hardware != NULL)
        return options_fail(table, "--model, --threads and --hardware have no meaning with %s",
                            arguments->which);
    if (options->device != NULL && strcmp(options->device, "cuda") != 0)
        return options_fail(table, "--device: '%s', %s runs on cuda", options->device,
                            arguments->which);
    return OK;
}

static Status check(const OptionTable *table, Arguments *arguments)
{
    if (bench_gpu_find(arguments->which) != NULL)
        return check_gpu_options(table, arguments);
    for (size_t i = 0; i < N_BENCHES; i++)
        if (is_wanted(arguments, &BENCHES[i]))
            return check_options(table, arguments,
                                 arguments->which == NULL || BENCHES[i].runs_model);
    return options_fail(table, "'%s' is no benchmark", arguments->which);
}

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        POSITIONAL_OPTION(
            "BENCH",
            "replay, sweep, record, forward, engine or simulate (default: these six); on the GPU: "
            "moe-layer, attention; or, with options of their own (--help): decode, prefill, "
            "gating, "
            "buffer, host-experts, recording",
            &arguments->which),
        TEXT_OPTION("model", "DIR", "record, forward: checkpoint (default models/tiny-32x4)",
                    &arguments->options.model),
        TEXT_OPTION("device", "NAME", "record, forward: backend (default cpu)",
                    &arguments->options.device),
        U32_OPTION("threads", "N", "record, forward: of the CPU backend (default: all processors)",
                   1, MAX_THREADS, &arguments->options.threads),
        TEXT_OPTION("hardware", "FILE",
                    "simulate: profile, which knows qwen3-30b-a3b (default hardware/h200.json)",
                    &arguments->options.hardware),
        TEXT_OPTION("shape", "NAME",
                    "moe-layer, attention: the one model that is measured (default: all)",
                    &arguments->shape),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "bench",
        .summary =
            "Measures the program on this machine; each figure is of the best of several runs.",
        .example = "moebius bench forward --model models/tiny-32x4",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    origin_of("moebius", argc, argv, &arguments->origin);
    return check(&table, arguments);
}

static bool is_met(const BenchFigure *figure)
{
    return figure->at_most ? figure->value <= figure->wanted : figure->value >= figure->wanted;
}

static Status add_figure(cJSON *list, const BenchFigure *figure)
{
    cJSON *item = cJSON_CreateObject();
    TRY(json_push(list, item));
    TRY(json_add_text(item, "bench", figure->bench));
    TRY(json_add_text(item, "name", figure->name));
    TRY(json_add_f64(item, "value", figure->value));
    TRY(json_add_text(item, "unit", figure->unit));
    if (figure->wanted == 0)
        return json_add_null(item, "wanted");
    TRY(json_add_f64(item, "wanted", figure->wanted));
    TRY(json_add_text(item, "bound", figure->at_most ? "at most" : "at least"));
    return json_add_bool(item, "met", is_met(figure));
}

static Status fill_json(cJSON *json, const Arguments *arguments, const BenchReport *report)
{
    cJSON *list;
    TRY(json_add_text(json, "command", arguments->origin.command));
    TRY(json_add_text(json, "version", MOEBIUS_VERSION));
    TRY(json_add_text(json, "commit", arguments->origin.commit));
    TRY(json_add_text(json, "model", arguments->options.model));
    TRY(json_add_text(json, "device", arguments->options.device));
    TRY(json_add_array(json, "figures", &list));
    for (size_t i = 0; i < report->count; i++)
        TRY(add_figure(list, &report->figures[i]));
    return OK;
}

static Status print_report_json(const Arguments *arguments, const BenchReport *report)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, arguments, report));
}

/* Whole numbers for rates, digits for small figures. */
static void value_cell(Table *table, double value)
{
    char text[NUMBER_BYTES];
    if (value >= 1000)
        table_cell(table, "%s", number_text((uint64_t)(value + 0.5), text));
    else
        table_cell(table, "%.3g", value);
}

static Status print_report(const BenchReport *report)
{
    static const char *const TITLES[] = {"bench", "figure", "value", "unit", "wanted", ""};
    Table *table;
    TRY(table_new(TITLES, "llrlrl", &table));
    for (size_t i = 0; i < report->count; i++) {
        const BenchFigure *figure = &report->figures[i];
        table_cell(table, "%s", figure->bench);
        table_cell(table, "%s", figure->name);
        value_cell(table, figure->value);
        table_cell(table, "%s", figure->unit);
        if (figure->wanted == 0) {
            table_cell(table, " ");
            table_cell(table, " ");
            continue;
        }
        table_cell(table, "%s %.12g", figure->at_most ? "<=" : ">=", figure->wanted);
        table_cell(table, "%s", is_met(figure) ? "met" : "missed");
    }
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

Status command_bench(int argc, char **argv)
{
    Arguments arguments = {0};
    BenchReport report = {0};
    const BenchCommand *command = argc > 1 ? bench_command_find(argv[1]) : NULL;
    if (command != NULL)
        return command->run(argc - 1, argv + 1);
    TRY(parse(argc, argv, &arguments));
    const BenchGpu *gpu = bench_gpu_find(arguments.which);
    if (gpu != NULL)
        return gpu->run(&(BenchGpuOptions){
            .shape = arguments.shape, .json = arguments.json, .argc = argc - 1, .argv = argv + 1});
    Status status = OK;
    for (size_t i = 0; i < N_BENCHES && status == OK; i++)
        if (is_wanted(&arguments, &BENCHES[i]))
            status = BENCHES[i].run(&arguments.options, &report);
    if (status == OK)
        status = arguments.json ? print_report_json(&arguments, &report) : print_report(&report);
    mem_free(report.figures);
    return status;
}
