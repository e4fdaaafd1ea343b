#include <inttypes.h>
#include <stdio.h>

#include "base/progress.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/print.h"
#include "sim/study_query.h"
#include "traces/reader.h"

typedef struct {
    const char *path;
    bool json;
} Arguments;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        POSITIONAL_OPTION("FILE", "the trace or study to check", &arguments->path,
                          .required = true),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "check",
        .summary = "Reads a whole trace, or a study.db of `moebius sweep`: SQLite's own check, "
                   "every checksum, length and id. Names the first bad place; exit status 2 then.",
        .example = "moebius check trace.db\nmoebius check study.db",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    return options_parse(&table, argc, argv);
}

static Status fill_json(cJSON *json, const char *path, const TraceCheck *found)
{
    TRY(json_add_text(json, "trace", path));
    TRY(json_add_bool(json, "ok", true));
    TRY(json_add_u64(json, "steps", found->steps));
    TRY(json_add_u64(json, "tokens", found->tokens));
    TRY(json_add_u64(json, "requests", found->requests));
    TRY(json_add_u64(json, "residency_rows", found->residency_rows));
    TRY(json_add_u64(json, "timing_rows", found->timing_rows));
    return json_add_u64(json, "prediction_rows", found->prediction_rows);
}

static Status print_found_json(const char *path, const TraceCheck *found)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, path, found));
}

static Status check_trace(const Arguments *arguments)
{
    TraceCheck found;
    Progress progress;
    progress_start(&progress, "check", "steps", 0);
    Status status = trace_check(arguments->path, &found, progress_show, &progress);
    progress_end(&progress);
    TRY(status);
    if (arguments->json)
        return print_found_json(arguments->path, &found);
    printf("ok: %" PRIu64 " steps, %" PRIu64 " tokens, %" PRIu64 " requests, %" PRIu64
           " residency rows, %" PRIu64 " timing rows, %" PRIu64 " prediction rows\n",
           found.steps, found.tokens, found.requests, found.residency_rows, found.timing_rows,
           found.prediction_rows);
    return OK;
}

static Status fill_study_json(cJSON *json, const char *path, const StudyCheck *found)
{
    TRY(json_add_text(json, "study", path));
    TRY(json_add_bool(json, "ok", true));
    TRY(json_add_u64(json, "plans", found->plans));
    return json_add_u64(json, "results", found->results);
}

static Status check_study(const Arguments *arguments)
{
    StudyCheck found;
    cJSON *json;
    TRY(study_check(arguments->path, &found));
    if (!arguments->json) {
        printf("ok: %" PRIu64 " plans, %" PRIu64 " results\n", found.plans, found.results);
        return OK;
    }
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_study_json(json, arguments->path, &found));
}

Status command_check(int argc, char **argv)
{
    Arguments arguments = {0};
    TRY(parse(argc, argv, &arguments));
    return study_says_it_is_one(arguments.path) ? check_study(&arguments) : check_trace(&arguments);
}
