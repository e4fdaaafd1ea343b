#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/table.h"
#include "traces/import.h"

typedef struct {
    ImportOptions import;
    int from;
    const char *step;
    bool json;
} Arguments;

/* "token", "sequence", "request", or how many tokens. */
static Status parse_step(const OptionTable *table, Arguments *arguments)
{
    ImportOptions *import = &arguments->import;
    if (arguments->step == NULL)
        return OK;
    import->step_given = true;
    if (strcmp(arguments->step, "token") == 0) {
        import->step = IMPORT_STEP_TOKEN;
    } else if (strcmp(arguments->step, "sequence") == 0) {
        import->step = IMPORT_STEP_SEQUENCE;
    } else if (strcmp(arguments->step, "request") == 0) {
        import->step = IMPORT_STEP_REQUEST;
    } else {
        char *end;
        unsigned long tokens = strtoul(arguments->step, &end, 10);
        if (arguments->step[0] < '0' || arguments->step[0] > '9' || *end != '\0' || tokens < 1 ||
            tokens > TRACE_MAX_TOKENS)
            return options_fail(table,
                                "--step: \"%s\", allowed is token, sequence, request, or 1 to %d",
                                arguments->step, TRACE_MAX_TOKENS);
        import->step = IMPORT_STEP_COUNT;
        import->step_tokens = (uint32_t)tokens;
    }
    return OK;
}

static Status parse(int argc, char **argv, Arguments *arguments)
{
    ImportOptions *import = &arguments->import;
    const Option options[] = {
        POSITIONAL_OPTION("FILE", "what to import", &import->path, .required = true),
        CHOICE_OPTION(
            "from", "FORMAT",
            "npy: expert ids [token, layer, k]; bigmoe-csv: BigMoeOnEdge route trace v1; "
            "jsonl: a line per (token, layer); counts: tokens per expert, .npy or CSV; "
            "sglang, sglang-counts: .pt of its expert distribution recorder; vllm: .npy or "
            "responses with routed experts; trtllm: folder of expert statistics",
            IMPORT_FORMAT_NAMES, &arguments->from, .required = true),
        TEXT_OPTION("out", "TRACE", "the trace to write; must not exist", &import->out,
                    .required = true),
        TEXT_OPTION("sequences", "CSV",
                    "which tokens belong together: columns first_token, tokens, and, if there, "
                    "sequence, first_token_pos, prompt_tokens, labels",
                    &import->sequences),
        TEXT_OPTION(
            "label", "COLUMNS",
            "columns of that CSV that make a request's label (default: label, else dataset, "
            "domain, category)",
            &import->label),
        TEXT_OPTION(
            "step", "STEP",
            "token: each is a decode step (default); sequence: each is one prefill step; "
            "request: its prompt is one prefill step, then a decode step per token (default "
            "for vllm responses); N: N consecutive tokens",
            &arguments->step),
        U32_OPTION("experts", "E", "experts per layer (default: the largest id, plus one)", 1,
                   TRACE_MAX_EXPERTS, &import->experts),
        U64_OPTION("expert-bytes", "B", "bytes of one expert's weights (default: unknown)", 1,
                   INT64_MAX, &import->expert_bytes),
        U32_OPTION("first-layer", "N", "the model's number of the first MoE layer (default 0)", 0,
                   UINT32_MAX - TRACE_MAX_LAYERS, &import->first_layer),
        TEXT_OPTION("model", "NAME", "the model's name, for run.model", &import->model),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "import",
        .summary = "Writes a trace from what another tool or engine recorded. What the source does "
                   "not say stays unknown; run.notes says where a number comes from.",
        .example = "moebius import --from npy routes.npy --sequences sequences.csv --experts 32 "
                   "--out trace.db\nmoebius import --from bigmoe-csv qwen.route.csv --out qwen.db",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    import->from = (ImportFormat)arguments->from;
    return parse_step(&table, arguments);
}

static Status fill_json(cJSON *json, const ImportOptions *import, const ImportReport *report)
{
    TRY(json_add_text(json, "trace", import->out));
    TRY(json_add_text(json, "from", IMPORT_FORMAT_NAMES[import->from]));
    TRY(json_add_u64(json, "steps", report->steps));
    TRY(json_add_u64(json, "tokens", report->tokens));
    TRY(json_add_u64(json, "requests", report->requests));
    TRY(json_add_u64(json, "layers", report->layers));
    TRY(json_add_u64(json, "ids", report->ids));
    return json_add_u64(json, "dropped", report->dropped);
}

static Status print_report_json(const ImportOptions *import, const ImportReport *report)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, import, report));
}

static void print_report(const ImportOptions *import, const ImportReport *report, double seconds)
{
    char steps[NUMBER_BYTES];
    char tokens[NUMBER_BYTES];
    char requests[NUMBER_BYTES];
    char ids[NUMBER_BYTES];
    printf("%s: %s steps, %s tokens, %s requests, %" PRIu32 " layers, %s ids", import->out,
           number_text(report->steps, steps), number_text(report->tokens, tokens),
           number_text(report->requests, requests), report->layers, number_text(report->ids, ids));
    if (report->dropped > 0)
        printf(" (%s not computed)", number_text(report->dropped, tokens));
    printf("; %.1f million ids/s\n", (double)report->ids / (seconds > 0 ? seconds : 1e-9) / 1e6);
}

Status command_import(int argc, char **argv)
{
    Arguments arguments = {0};
    ImportReport report;
    Progress progress;
    TRY(parse(argc, argv, &arguments));
    ImportOptions *import = &arguments.import;
    progress_start(&progress, "import", "tokens", 0);
    import->progress = progress_show;
    import->progress_argument = &progress;
    import->stop = interrupt_watch();
    uint64_t start_ns = clock_ns();
    Status status = trace_import(import, &report);
    double seconds = (double)(clock_ns() - start_ns) / 1e9;
    interrupt_unwatch();
    progress_end(&progress);
    TRY(status);
    if (arguments.json)
        return print_report_json(import, &report);
    print_report(import, &report, seconds);
    return OK;
}
