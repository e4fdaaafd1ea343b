#include "cli/bench_gating.h"

#include <string.h>

#include "base/memory.h"

const char *const GATING_MODE_NAMES[GATING_MODES] = {"dynamic", "padded", "mask"};

typedef struct {
    GatingLoad load;
    const char *stack; /* NULL: the decoder */
    const char *batches;
    uint32_t length; /* of a sequence whose item of the list does not say */
    bool json;
} Arguments;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    GatingLoad *load = &arguments->load;
    const Option options[] = {
        MODEL_OPTIONS(&load->model, true),
        {.name = "batch",
         .argument = "LIST",
         .help = "requests, or requests x tokens: 8x512,64x512; ascending, as a mode's list ends "
                 "at the first that does not fit (default 1,8,64)",
         .kind = OPTION_TEXT,
         .value = &arguments->batches},
        {.name = "length",
         .argument = "N",
         .help = "tokens of a request where the list does not say; decoding: of its source, and "
                 "before its step (default 32)",
         .kind = OPTION_U32,
         .value = &arguments->length,
         .least = 1,
         .most = 1 << 20},
        {.name = "stack",
         .argument = "NAME",
         .help = "of an encoder-decoder model: encoder, whole sources; or decoder, one token a "
                 "step (default)",
         .kind = OPTION_TEXT,
         .value = &arguments->stack},
        {.name = "capacity",
         .argument = "C",
         .help =
             "of static gating: an expert's rows as a fraction of the step's tokens (default 1)",
         .kind = OPTION_F64,
         .value = &load->capacity,
         .low = 1e-6,
         .high = 1},
        {.name = "routing",
         .argument = "TEXT",
         .help = ROUTING_HELP,
         .kind = OPTION_TEXT,
         .value = &load->routing},
        {.name = "repeats",
         .argument = "N",
         .help = "steps that are measured (default 7)",
         .kind = OPTION_U32,
         .value = &load->repeats,
         .least = 1,
         .most = BENCH_MAX_REPEATS},
        DEVICE_OPTIONS(&load->device),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "bench gating",
        .summary =
            "Measures whole steps with dynamic gating and with static gating, padded and by mask, "
            "over batches,\nand compares each mode's largest throughput. Steps end before the "
            "vocabulary's product.",
        .example = "moebius bench gating --model shape:paper-lm-52b --device cuda --capacity 0.05\n"
                   "    --batch 4x512,16x512,64x512 --routing zipf:1",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    if (arguments->stack != NULL && strcmp(arguments->stack, "encoder") != 0 &&
        strcmp(arguments->stack, "decoder") != 0)
        return options_fail(&table, "--stack: '%s', allowed are encoder and decoder",
                            arguments->stack);
    TRY(model_input_check(&table, &load->model));
    return bench_batches_read(&table, "batch", arguments->batches, arguments->length, load->batches,
                              &load->n_batches);
}

/* What is run follows from the model, whose first MoE layer tells how much static gating wastes. */
static Status read_model(Arguments *arguments, GatingReport *report)
{
    GatingLoad *load = &arguments->load;
    Checkpoint *checkpoint;
    TRY(checkpoint_open_model(load->model.name, &checkpoint));
    const ModelConfig *config = checkpoint_config(checkpoint);
    bool pair = model_is_encoder_decoder(config);
    uint32_t first;
    uint32_t end;
    load->stack = arguments->stack != NULL && strcmp(arguments->stack, "encoder") == 0
                      ? STACK_ENCODER
                      : STACK_DECODER;
    load->decode = pair && load->stack == STACK_DECODER;
    load->context = arguments->length;
    model_stack(config, load->stack, &first, &end);
    for (uint32_t i = first; i < end && report->waste == 0; i++)
        if (config->layers[i].moe)
            report->waste = config->layers[i].experts * load->capacity / config->layers[i].top_k;
    checkpoint_close(checkpoint);
    if (report->waste == 0)
        return fail(ERR_UNSUPPORTED, "gating: %s: there are no experts in the stack",
                    load->model.name);
    for (uint32_t i = 0; load->decode && i < load->n_batches; i++)
        load->batches[i].tokens = 1;
    return OK;
}

/* Every batch of one mode, until one does not fit. */
static Status run_mode(const GatingLoad *load, GatingBenchMode mode, GatingReport *report)
{
    for (uint32_t i = 0; i < load->n_batches; i++) {
        GatingCell *cell = &report->cells[report->n_cells++];
        *cell = (GatingCell){.mode = mode, .batch = load->batches[i]};
        TRY(gating_cell_run(load, report, cell));
        if (!cell->fits)
            return OK;
        const GatingCell *best = report->best[mode];
        if (best == NULL || cell->tokens_per_s > best->tokens_per_s)
            report->best[mode] = cell;
    }
    return OK;
}

double gating_gain(const GatingReport *report, GatingBenchMode mode)
{
    const GatingCell *dynamic = report->best[MODE_DYNAMIC];
    const GatingCell *other = report->best[mode];
    return dynamic != NULL && other != NULL ? dynamic->tokens_per_s / other->tokens_per_s : 0;
}

static Status measure(Arguments *arguments, GatingReport *report, int argc, char **argv)
{
    TRY(read_model(arguments, report));
    TRY(ceilings_measure_on(arguments->load.device.name, &report->ceilings));
    for (int mode = 0; mode < GATING_MODES; mode++)
        TRY(run_mode(&arguments->load, (GatingBenchMode)mode, report));
    return arguments->json ? gating_report_print_json(&arguments->load, report, argc, argv)
                           : gating_report_print(&arguments->load, report);
}

Status command_bench_gating(int argc, char **argv)
{
    Arguments arguments = {.load = {.device = {.name = "cpu"}, .repeats = 7, .capacity = 1},
                           .batches = "1,8,64",
                           .length = 32};
    GatingReport *report;
    TRY(parse(argc, argv, &arguments));
    TRY(mem_new(&report, 1, sizeof *report, "bench: gating"));
    Status status = measure(&arguments, report, argc, argv);
    mem_free(report);
    return status;
}
