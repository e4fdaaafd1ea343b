#include <inttypes.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/table.h"
#include "cli/trace_input.h"
#include "sim/sweep.h"

typedef struct {
    OptionList traces;
    const char *study;
    const char *out;
    uint32_t jobs;
    bool json;
} Arguments;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        {.name = "trace",
         .argument = "FILE",
         .help = "the trace to replay; repeated: shards, one after the other",
         .kind = OPTION_LIST,
         .required = true,
         .value = &arguments->traces},
        {.name = "study",
         .argument = "FILE",
         .help = "the study: which plans (JSON)",
         .kind = OPTION_TEXT,
         .required = true,
         .value = &arguments->study},
        {.name = "out",
         .argument = "FILE",
         .help = "study.db; continued when it exists",
         .kind = OPTION_TEXT,
         .required = true,
         .value = &arguments->out},
        {.name = "jobs",
         .argument = "N",
         .help = "threads (default: all processors)",
         .kind = OPTION_U32,
         .value = &arguments->jobs,
         .least = 1,
         .most = 1024},
        {.name = "json",
         .help = "print one JSON document",
         .kind = OPTION_FLAG,
         .value = &arguments->json},
    };
    const OptionTable table = {
        .command = "sweep",
        .summary = "Replays a trace under every plan of a study and writes one row for each into "
                   "an SQLite\nfile. A sweep that was stopped goes on where it was when it is run "
                   "again.",
        .example = "moebius sweep --trace trace.db --study study.json --out study.db",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    return options_parse(&table, argc, argv);
}

static void show_progress(void *argument, uint64_t done, uint64_t total)
{
    Progress *progress = argument;
    progress->total = total;
    progress_update(progress, done);
}

static Status fill_json(cJSON *json, const Arguments *arguments, const SweepTotals *totals)
{
    TRY(trace_input_json(json, &arguments->traces));
    TRY(json_add_text(json, "study", arguments->study));
    TRY(json_add_text(json, "out", arguments->out));
    TRY(json_add_u64(json, "plans", totals->plans));
    TRY(json_add_u64(json, "bounds", totals->bounds));
    TRY(json_add_u64(json, "kept", totals->kept));
    TRY(json_add_u64(json, "done", totals->done));
    TRY(json_add_u64(json, "lookups", totals->lookups));
    TRY(json_add_u64(json, "elapsed_ns", totals->elapsed_ns));
    return json_add_bool(json, "complete", !totals->stopped);
}

static Status print_totals_json(const Arguments *arguments, const SweepTotals *totals)
{
    cJSON *json = cJSON_CreateObject();
    if (json == NULL)
        return fail_memory("JSON output", 0);
    Status status = fill_json(json, arguments, totals);
    if (status == OK)
        status = print_json(json);
    cJSON_Delete(json);
    return status;
}

static void print_totals(const Arguments *arguments, const SweepTotals *totals)
{
    char lookups[NUMBER_BYTES];
    char duration[NUMBER_BYTES];
    printf("%s: %" PRIu64 " plans (%" PRIu64 " of them bounds added for comparison): %" PRIu64
           " replayed now, %" PRIu64 " kept\n",
           arguments->out, totals->plans, totals->bounds, totals->done, totals->kept);
    printf("%s lookups in %s\n", number_text(totals->lookups, lookups),
           duration_text(totals->elapsed_ns, duration));
}

static Status sweep(const Arguments *arguments, const PackedTrace *trace, const Study *study,
                    SweepTotals *totals)
{
    Progress progress;
    char *name;
    TRY(trace_input_text(&arguments->traces, &name));
    progress_start(&progress, "sweep", "plans", 0);
    const SweepOptions options = {.jobs = arguments->jobs,
                                  .stop = interrupt_watch(),
                                  .progress = show_progress,
                                  .argument = &progress};
    Status status = sweep_run(trace, name, study, arguments->out, &options, totals);
    interrupt_unwatch();
    progress_end(&progress);
    mem_free(name);
    return status;
}

static Status report(const Arguments *arguments, const SweepTotals *totals)
{
    if (arguments->json)
        TRY(print_totals_json(arguments, totals));
    else
        print_totals(arguments, totals);
    if (!totals->stopped)
        return OK;
    uint64_t finished = totals->kept + totals->done;
    return fail(ERR_INTERRUPTED,
                "%s: stopped with %" PRIu64 " of %" PRIu64 " plans done; run again to continue",
                arguments->out, finished, totals->plans);
}

static Status load_and_sweep(const Arguments *arguments, SweepTotals *totals)
{
    Study study;
    PackedTrace trace;
    TRY(study_load(arguments->study, &study));
    Status status = trace_input(&arguments->traces, &study.plans[0], &trace);
    if (status == OK) {
        status = sweep(arguments, &trace, &study, totals);
        packed_trace_free(&trace);
    }
    study_free(&study);
    return status;
}

Status command_sweep(int argc, char **argv)
{
    Arguments arguments = {0};
    SweepTotals totals;
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = load_and_sweep(&arguments, &totals);
    if (status == OK)
        status = report(&arguments, &totals);
    option_list_free(&arguments.traces);
    return status;
}
