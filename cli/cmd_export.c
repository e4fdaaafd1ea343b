#include <inttypes.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/table.h"
#include "traces/export.h"

typedef struct {
    ExportOptions export;
    int to;
    int stack;
    bool json;
} Arguments;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    static const char *const STACKS[] = {"decoder", "encoder", NULL};
    ExportOptions *export = &arguments->export;
    const Option options[] = {
        {.name = "TRACE",
         .help = "the trace",
         .kind = OPTION_POSITIONAL,
         .required = true,
         .value = &export->trace},
        {.name = "to",
         .argument = "FORMAT",
         .help = "csv: a row per choice; npy: expert ids [token, layer, k], -1 where not computed",
         .kind = OPTION_CHOICE,
         .required = true,
         .value = &arguments->to,
         .choices = EXPORT_FORMAT_NAMES},
        {.name = "out",
         .argument = "FILE",
         .help = "what to write; replaced when it exists",
         .kind = OPTION_TEXT,
         .required = true,
         .value = &export->out},
        {.name = "stack",
         .argument = "STACK",
         .help = "npy: decoder (default) or encoder tokens",
         .kind = OPTION_CHOICE,
         .value = &arguments->stack,
         .choices = STACKS},
        {.name = "json",
         .help = "print one JSON document",
         .kind = OPTION_FLAG,
         .value = &arguments->json},
    };
    const OptionTable table = {
        .command = "export",
        .summary = "Writes the routing of a trace for tools that do not read traces. npy is what "
                   "import --from npy\nreads. For SQL, load the extension (moebius_sqlite.so).",
        .example = "moebius export --to npy trace.db --out routes.npy\n"
                   "moebius export --to csv trace.db --out routes.csv",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    arguments->stack = -1;
    TRY(options_parse(&table, argc, argv));
    export->to = (ExportFormat)arguments->to;
    if (arguments->stack >= 0 && export->to != EXPORT_NPY)
        return options_fail(&table, "--stack has no meaning with --to csv, which has both");
    export->stack = arguments->stack == 1 ? STACK_ENCODER : STACK_DECODER;
    return OK;
}

static Status fill_json(cJSON *json, const ExportOptions *export, const ExportReport *report)
{
    TRY(json_add_text(json, "trace", export->trace));
    TRY(json_add_text(json, "out", export->out));
    TRY(json_add_text(json, "to", EXPORT_FORMAT_NAMES[export->to]));
    TRY(json_add_u64(json, "steps", report->steps));
    TRY(json_add_u64(json, "tokens", report->tokens));
    return json_add_u64(json, "ids", report->ids);
}

static Status print_report_json(const ExportOptions *export, const ExportReport *report)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, export, report));
}

Status command_export(int argc, char **argv)
{
    Arguments arguments = {0};
    ExportReport report;
    char steps[NUMBER_BYTES];
    char tokens[NUMBER_BYTES];
    char ids[NUMBER_BYTES];
    TRY(parse(argc, argv, &arguments));
    arguments.export.stop = interrupt_watch();
    Status status = trace_export(&arguments.export, &report);
    interrupt_unwatch();
    TRY(status);
    if (arguments.json)
        return print_report_json(&arguments.export, &report);
    printf("%s: %s steps, %s tokens, %s ids\n", arguments.export.out,
           number_text(report.steps, steps), number_text(report.tokens, tokens),
           number_text(report.ids, ids));
    return OK;
}
