#include <stdio.h>

#include "analysis/report.h"
#include "base/files.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/table.h"

typedef struct {
    const char *path;
    const char *out;
    bool json;
} Arguments;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        POSITIONAL_OPTION("FILE", "the study or trace", &arguments->path, .required = true),
        TEXT_OPTION("out", "HTML", "where the page is written; -o HTML says the same",
                    &arguments->out, .letter = 'o', .required = true, .writes = true),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "report",
        .summary = "Writes one HTML page that stands by itself, without scripts and without a "
                   "network. Of a study.db: the plans that none beats in throughput with as little "
                   "memory, misses by policy and size beside Belady's bound, and what was scored. "
                   "Of a trace: what `info` and `analyze` say, and which experts do the work.",
        .example = "moebius report study.db -o report.html\nmoebius report trace.db -o trace.html",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    return options_parse(&table, argc, argv);
}

static Status fill_json(cJSON *json, const Arguments *arguments, bool is_study, uint64_t count)
{
    TRY(json_add_text(json, is_study ? "study" : "trace", arguments->path));
    TRY(json_add_text(json, "out", arguments->out));
    return json_add_u64(json, is_study ? "results" : "steps", count);
}

static Status say(const Arguments *arguments, bool is_study, uint64_t count)
{
    cJSON *json;
    char text[NUMBER_BYTES];
    if (!arguments->json) {
        printf("%s: a %s of %s %s\n", arguments->out, is_study ? "study" : "trace",
               number_text(count, text), is_study ? "results" : "steps");
        return OK;
    }
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, arguments, is_study, count));
}

Status command_report(int argc, char **argv)
{
    Arguments arguments = {0};
    OutputFile output;
    uint64_t count = 0;
    TRY(parse(argc, argv, &arguments));
    TRY(output_open(arguments.out, &output));
    const bool is_study = study_says_it_is_one(arguments.path);
    Status status = is_study ? report_study(arguments.path, output.stream, &count)
                             : report_trace(arguments.path, output.stream, &count);
    if (status == OK)
        status = output_commit(&output);
    output_discard(&output);
    return status == OK ? say(&arguments, is_study, count) : status;
}
