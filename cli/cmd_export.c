#include <inttypes.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/export_placement.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/table.h"
#include "traces/export.h"

static const char *const FORMATS[] = {"csv", "npy", "sglang", "trtllm", NULL};
enum { TO_CSV, TO_NPY, TO_SGLANG, TO_TRTLLM };

typedef struct {
    const char *trace;
    const char *plan;
    const char *out;
    int to;
    int stack;
    uint32_t layers;
    uint32_t updates;
    bool json;
} Arguments;

/* An option that FORMAT has no use for is refused, not ignored. */
static Status check(const OptionTable *table, const Arguments *arguments)
{
    bool places = arguments->to == TO_SGLANG || arguments->to == TO_TRTLLM;
    if (!places && arguments->trace == NULL)
        return options_fail(table, "--to %s needs TRACE", FORMATS[arguments->to]);
    if (places != (arguments->plan != NULL))
        return options_fail(table,
                            places ? "--to %s needs --plan" : "--plan means nothing to --to %s",
                            FORMATS[arguments->to]);
    if (arguments->stack >= 0 && arguments->to != TO_NPY)
        return options_fail(table, "--stack has no meaning with --to %s", FORMATS[arguments->to]);
    if (arguments->layers > 0 && arguments->to != TO_SGLANG)
        return options_fail(table, "--layers has no meaning with --to %s", FORMATS[arguments->to]);
    if (arguments->updates > 0 && arguments->to != TO_TRTLLM)
        return options_fail(table, "--layer-updates has no meaning with --to %s",
                            FORMATS[arguments->to]);
    return OK;
}

static Status parse(int argc, char **argv, Arguments *arguments)
{
    static const char *const STACKS[] = {"decoder", "encoder", NULL};
    const Option options[] = {
        POSITIONAL_OPTION(
            "TRACE", "the trace; sglang, trtllm: of the model, not needed where the plan has a map",
            &arguments->trace),
        CHOICE_OPTION("to", "FORMAT", "see above", FORMATS, &arguments->to, .required = true),
        TEXT_OPTION("out", "FILE", "what to write; replaced when it exists", &arguments->out,
                    .required = true, .writes = true),
        CHOICE_OPTION("stack", "STACK", "npy: decoder (default) or encoder tokens", STACKS,
                      &arguments->stack),
        TEXT_OPTION("plan", "FILE",
                    "sglang, trtllm: the plan with the placement, as place writes it",
                    &arguments->plan),
        U32_OPTION(
            "layers", "N",
            "sglang: all layers of the model (default: as the trace says, else up to the last "
            "with experts)",
            1, TRACE_MAX_LAYERS, &arguments->layers),
        U32_OPTION("layer-updates", "N",
                   "trtllm: layers that the engine balances anew in an iteration (default 0: none)",
                   1, TRACE_MAX_LAYERS, &arguments->updates),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "export",
        .summary =
            "Writes the routing of a trace, or the placement of a plan, for other tools. For SQL, "
            "load the extension (moebius_sqlite.so).\n"
            "\n"
            "  csv     routing, a row per choice\n"
            "  npy     expert ids [token, layer, k], -1 where not computed: what import --from npy "
            "reads\n"
            "  sglang  placement, for --init-expert-location: JSON with physical_to_logical_map\n"
            "  trtllm  placement, for moe_config.load_balancer: moe_load_balancer.yaml",
        .example = "moebius export --to npy trace.db --out routes.npy\n"
                   "moebius export --to csv trace.db --out routes.csv\n"
                   "moebius export --to sglang trace.db --plan plan.json --out experts.json",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    arguments->stack = -1;
    TRY(options_parse(&table, argc, argv));
    return check(&table, arguments);
}

static Status fill_files(cJSON *json, const Arguments *arguments)
{
    TRY(arguments->trace != NULL ? json_add_text(json, "trace", arguments->trace)
                                 : json_add_null(json, "trace"));
    TRY(json_add_text(json, "out", arguments->out));
    return json_add_text(json, "to", FORMATS[arguments->to]);
}

static Status fill_routing(cJSON *json, const Arguments *arguments, const ExportReport *report)
{
    TRY(fill_files(json, arguments));
    TRY(json_add_u64(json, "steps", report->steps));
    TRY(json_add_u64(json, "tokens", report->tokens));
    return json_add_u64(json, "ids", report->ids);
}

static Status print_routing(const Arguments *arguments, const ExportReport *report)
{
    char steps[NUMBER_BYTES];
    char tokens[NUMBER_BYTES];
    char ids[NUMBER_BYTES];
    cJSON *json;
    if (arguments->json) {
        TRY(print_json_begin(&json));
        return print_json_end(json, fill_routing(json, arguments, report));
    }
    printf("%s: %s steps, %s tokens, %s ids\n", arguments->out, number_text(report->steps, steps),
           number_text(report->tokens, tokens), number_text(report->ids, ids));
    return OK;
}

static Status write_routing(const Arguments *arguments)
{
    ExportReport report;
    const ExportOptions options = {
        .to = arguments->to == TO_CSV ? EXPORT_CSV : EXPORT_NPY,
        .trace = arguments->trace,
        .out = arguments->out,
        .stack = arguments->stack == 1 ? STACK_ENCODER : STACK_DECODER,
        .stop = interrupt_watch(),
    };
    Status status = trace_export(&options, &report);
    interrupt_unwatch();
    TRY(status);
    return print_routing(arguments, &report);
}

static Status fill_placement(cJSON *json, const Arguments *arguments, const PlacementExported *done)
{
    TRY(fill_files(json, arguments));
    TRY(json_add_text(json, "plan", arguments->plan));
    TRY(json_add_u64(json, "ranks", done->ranks));
    TRY(json_add_u64(json, "layers", done->layers));
    TRY(json_add_u64(json, "moe_layers", done->moe_layers));
    TRY(json_add_u64(json, "slots", done->slots));
    return json_add_u64(json, "replicas", done->replicas);
}

static Status write_placement(const Arguments *arguments)
{
    PlacementExported done;
    cJSON *json;
    const PlacementExport options = {.is_trtllm = arguments->to == TO_TRTLLM,
                                     .trace = arguments->trace,
                                     .plan = arguments->plan,
                                     .out = arguments->out,
                                     .layers = arguments->layers,
                                     .updates = arguments->updates};
    TRY(export_placement(&options, &done));
    if (arguments->json) {
        TRY(print_json_begin(&json));
        return print_json_end(json, fill_placement(json, arguments, &done));
    }
    printf("%s: %" PRIu32 " MoE layers, %" PRIu32 " slots in each on %" PRIu32 " ranks; ",
           arguments->out, done.moe_layers, done.slots, done.ranks);
    if (arguments->to == TO_SGLANG)
        printf("%" PRIu32 " layers in all: --init-expert-location %s --ep-num-redundant-experts "
               "%" PRIu32 "\n",
               done.layers, arguments->out, done.replicas);
    else
        printf("moe_config.load_balancer: %s, moe_expert_parallel_size: %" PRIu32 "\n",
               arguments->out, done.ranks);
    return OK;
}

Status command_export(int argc, char **argv)
{
    Arguments arguments = {0};
    TRY(parse(argc, argv, &arguments));
    return arguments.to == TO_CSV || arguments.to == TO_NPY ? write_routing(&arguments)
                                                            : write_placement(&arguments);
}
