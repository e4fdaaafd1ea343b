#include "cli/bench_gating.h"

#include <string.h>

#include "base/memory.h"
#include "cli/interrupt.h"

const char *const GATING_MODE_NAMES[GATING_MODES] = {"dynamic", "padded", "mask"};

typedef struct {
    GatingLoad load;
    const char *stack; /* NULL: the decoder */
    const char *batches;
    const char *modes;             /* NULL: all */
    const char *own[GATING_MODES]; /* batches of one mode; NULL: BATCHES */
    bool progress;
    uint32_t length; /* of a sequence whose item of the list does not say */
    bool json;
} Arguments;

/* Whether LIST, names with commas between them, has NAME. */
static bool has_name(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = strstr(list, name); at != NULL; at = strstr(at + 1, name))
        if ((at == list || at[-1] == ',') && (at[length] == ',' || at[length] == '\0'))
            return true;
    return false;
}

static bool names_modes(const char *list)
{
    size_t length = 0;
    for (int mode = 0; mode < GATING_MODES; mode++)
        if (has_name(list, GATING_MODE_NAMES[mode]))
            length += strlen(GATING_MODE_NAMES[mode]) + 1;
    return length == strlen(list) + 1;
}

static Status read_batches(const OptionTable *table, Arguments *arguments)
{
    if (arguments->modes != NULL && !names_modes(arguments->modes))
        return options_fail(table, "--modes: '%s' is no list of dynamic, padded and mask",
                            arguments->modes);
    for (int mode = 0; mode < GATING_MODES; mode++) {
        const char *name = GATING_MODE_NAMES[mode];
        const char *own = arguments->own[mode];
        GatingBatches *wanted = &arguments->load.wanted[mode];
        if (arguments->modes == NULL || has_name(arguments->modes, name))
            TRY(bench_batches_read(table, own != NULL ? name : "batch",
                                   own != NULL ? own : arguments->batches, arguments->length,
                                   wanted->batches, &wanted->n));
        else if (own != NULL)
            return options_fail(table, "--%s: --modes leaves %s out", name, name);
    }
    return OK;
}

static Status parse(int argc, char **argv, Arguments *arguments)
{
    GatingLoad *load = &arguments->load;
    const Option options[] = {
        MODEL_OPTIONS(&load->model, true),
        TEXT_OPTION(
            "batch", "LIST",
            "requests, or requests x tokens: 8x512,64x512; ascending, as a mode's list ends "
            "at the first that does not fit (default 1,8,64)",
            &arguments->batches),
        TEXT_OPTION("dynamic", "LIST", "batches of dynamic gating, in place of --batch",
                    &arguments->own[MODE_DYNAMIC]),
        TEXT_OPTION("padded", "LIST", "... of padded gating", &arguments->own[MODE_PADDED]),
        TEXT_OPTION("mask", "LIST", "... and of gating by mask", &arguments->own[MODE_MASK]),
        TEXT_OPTION("modes", "LIST", "of dynamic, padded and mask (default: all)",
                    &arguments->modes),
        U32_OPTION("length", "N",
                   "tokens of a request where the list does not say; decoding: of its source, and "
                   "before its step (default 32)",
                   1, 1 << 20, &arguments->length),
        TEXT_OPTION("stack", "NAME",
                    "of an encoder-decoder model: encoder, whole sources; or decoder, one token a "
                    "step (default)",
                    &arguments->stack),
        F64_OPTION(
            "capacity", "C",
            "of static gating: an expert's rows as a fraction of the step's tokens (default 1)",
            1e-6, 1, &load->capacity),
        TEXT_OPTION("routing", "TEXT", ROUTING_HELP, &load->routing),
        U32_OPTION("repeats", "N", "steps that are measured (default 7)", 1, BENCH_MAX_REPEATS,
                   &load->repeats),
        DEVICE_OPTIONS(&load->device),
        PROGRESS_OPTION(&arguments->progress),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "bench gating",
        .summary = "Measures whole steps with dynamic gating and with static gating, padded and by "
                   "mask, over batches, and compares each mode's largest throughput. Steps end "
                   "before the vocabulary's product. A row is printed when it is measured, with "
                   "--json --progress on stderr. After ctrl-C what there is is told.",
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
    return read_batches(&table, arguments);
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
    for (int mode = 0; load->decode && mode < GATING_MODES; mode++)
        for (uint32_t i = 0; i < load->wanted[mode].n; i++)
            load->wanted[mode].batches[i].tokens = 1;
    return OK;
}

double gating_gain(const GatingReport *report, GatingBenchMode mode)
{
    const GatingCell *dynamic = report->best[MODE_DYNAMIC];
    const GatingCell *other = report->best[mode];
    return dynamic != NULL && other != NULL ? dynamic->tokens_per_s / other->tokens_per_s : 0;
}

static uint64_t count_tokens(const GatingLoad *load)
{
    uint64_t tokens = 0;
    for (int mode = 0; mode < GATING_MODES; mode++)
        for (uint32_t i = 0; i < load->wanted[mode].n; i++) {
            const BenchBatch *batch = &load->wanted[mode].batches[i];
            tokens += (uint64_t)batch->requests * batch->tokens * gating_steps(load);
        }
    return tokens;
}

static Status run_modes(const Arguments *arguments, GatingReport *report)
{
    Status status = OK;
    progress_start(&report->progress, "gating", "tokens", count_tokens(&arguments->load));
    if (arguments->progress)
        progress_in_lines(&report->progress);
    report->stop = interrupt_watch();
    for (int mode = 0; mode < GATING_MODES && status == OK; mode++)
        status = gating_mode_run(&arguments->load, (GatingBenchMode)mode, report);
    interrupt_unwatch();
    progress_end(&report->progress);
    return status;
}

static Status measure(Arguments *arguments, GatingReport *report, int argc, char **argv)
{
    report->rows = !arguments->json ? stdout : arguments->progress ? stderr : NULL;
    TRY(read_model(arguments, report));
    TRY(ceilings_measure_on(arguments->load.device.name, &report->ceilings));
    TRY(run_modes(arguments, report));
    if (arguments->json)
        TRY(gating_print_json(&arguments->load, report, argc, argv));
    else
        gating_print_end(report);
    return report->stopped ? fail(ERR_INTERRUPTED, "gating: stopped before all was measured") : OK;
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
