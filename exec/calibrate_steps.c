/* The grid of steps: decode, prefill, chunks of prompts, sources. */

#include "exec/calibrate_parts.h"

enum { OPS_REPEATS = 5, QUICK_REPEATS = 3, STAMP_REPEATS = 15 };

static const double WARM_NS = 1e9;

/* Attention's cost bends: its places lie close together. The kernels of few rows differ from row
 * to row. */
static const StepGrid OPS_GRIDS[] = {
    {{1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64},
     {1},
     {0,   64,  128,  160,  192,  224,  256,  320,  384,  448,  512, 640,
      768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096}},
    {{5, 7, 10, 14, 20, 28, 40, 56}, {1}, {0, 128, 192, 256, 320, 512, 1024, 4096}},
    {{1, 2, 4, 8, 16, 32, 64}, {2, 4}, {0}}, /* a decoder's prompt */
    {{1, 2, 4, 8, 16, 32, 64},
     {8,   16,  24,  32,  48,  64,  80,  96,  112, 128, 144, 160,
      176, 192, 208, 224, 240, 256, 288, 320, 352, 384, 448},
     {0}},
    {{1, 2, 4, 8, 16, 32},
     {512, 576, 640, 704, 768, 832, 896, 960, 1024, 1152, 1280, 1408, 1536, 1792, 2048, 2560, 3072,
      3584, 4096},
     {0}},
    {{1, 2, 4},
     {16, 32, 64, 128, 192, 256, 384, 512, 768, 1024},
     {128, 256, 512, 1024, 2048, 3072}},
    /* What is left of a prompt that goes on: any number of tokens. */
    {{1, 2, 4}, {2, 4, 8}, {128, 256, 512, 1024, 2048}},
    {{1, 2, 4},
     {24, 48, 80, 96, 112, 144, 160, 176, 208, 224, 240, 288, 320, 352, 448},
     {256, 1024}},
};
/* The longer the sources are, the longer a token looks at them. */
static const uint32_t SOURCES[] = {16, 64};
static const StepGrid SOURCE_GRIDS[] = {
    {{1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64}, {1}, {0}},
    {{1, 4, 16, 64}, {2, 8, 32}, {0}},
};
const StepGrid CALIBRATE_QUICK_GRIDS[3] = {
    {{1, 2, 4, 8}, {1}, {0, 64}},
    {{1, 4}, {16, 64, 128}, {0}},
    {{1}, {32}, {64}},
};

bool calibration_only_counts(Calibration *c)
{
    if (c->counting)
        c->total++;
    else if (c->options->progress != NULL)
        c->options->progress(c->options->progress_argument, c->done++, c->total);
    return c->counting;
}

/* Runs steps until the device has its usual clocks. */
static Status warm_device(Calibration *c, const StepKind *kind)
{
    StepOutput output;
    double sum_ns = 0;
    double ns;
    while (!calibration_runs_at_once(c) && sum_ns < WARM_NS) {
        TRY(calibration_step(c, kind, false, &output, &ns));
        sum_ns += ns;
    }
    return OK;
}

/* Operations of all models of a profile are without the same stamp, so that those of one tell what
 * stamped ones of another take. */
Status calibrate_stamp(Calibration *c)
{
    const StepKind kind = {.requests = 1, .tokens = 1};
    StepMeasured measured;
    if (calibration_only_counts(c))
        return OK;
    TRY(warm_device(c, &kind));
    const CostTable *known = calibration_table(c, "stamp", "");
    if (known != NULL) {
        c->stamp_ns = known->value[0];
        return OK;
    }
    TRY(calibration_measure(c, &kind, STAMP_REPEATS, &measured));
    c->stamp_ns = at_least_0(measured.stamp_ns);
    return calibration_note(c, "stamp", "", UNIT_NS, NULL, 0, NULL, c->stamp_ns,
                            measured.whole_spread);
}

/* True when the model and its device have room for KIND. */
static bool has_room(const Calibration *c, const StepKind *kind)
{
    uint32_t requests = kind->requests + (kind->prompt > 0);
    return requests <= c->max_requests &&
           kind->requests * kind->tokens + kind->prompt <= c->max_tokens &&
           kind->context + kind->tokens <= c->max_length && kind->prompt <= c->max_length;
}

static const uint32_t NO_PROMPTS[] = {0, 0};

/* KIND with each of PROMPTS beside it, of which the first may be 0: none. */
static Status measure_prompts(Calibration *c, StepKind kind, const uint32_t *prompts,
                              StepMeasurer measure)
{
    for (const uint32_t *prompt = prompts; prompt == prompts || *prompt > 0; prompt++) {
        kind.prompt = *prompt;
        if (has_room(c, &kind) && !calibration_only_counts(c))
            TRY(measure(c, &kind));
    }
    return OK;
}

/* The contexts, which take long to fill, each but once. */
static Status measure_grid(Calibration *c, Stack stack, const StepGrid *grid,
                           const uint32_t *prompts, StepMeasurer measure)
{
    for (const uint32_t *context = grid->contexts; context == grid->contexts || *context > 0;
         context++)
        for (const uint32_t *requests = grid->requests; *requests > 0; requests++)
            for (const uint32_t *tokens = grid->tokens; *tokens > 0; tokens++) {
                const StepKind kind = {
                    .stack = stack, .requests = *requests, .tokens = *tokens, .context = *context};
                if (stack == STACK_DECODER || *context == 0)
                    TRY(measure_prompts(c, kind, prompts, measure));
            }
    return OK;
}

Status calibration_prompts(Calibration *c, const StepGrid *grid, const uint32_t *prompts,
                           StepMeasurer measure)
{
    if (model_is_encoder_decoder(c->config))
        return OK;
    return measure_grid(c, STACK_DECODER, grid, prompts, measure);
}

Status calibration_grids(Calibration *c, const StepGrid *grids, size_t n, StepMeasurer measure)
{
    for (size_t i = 0; i < n; i++) {
        TRY(measure_grid(c, STACK_DECODER, &grids[i], NO_PROMPTS, measure));
        if (model_is_encoder_decoder(c->config))
            TRY(measure_grid(c, STACK_ENCODER, &grids[i], NO_PROMPTS, measure));
    }
    return OK;
}

static Status measure_ops(Calibration *c, const StepKind *kind)
{
    StepMeasured measured;
    StepKind stamped = *kind;
    stamped.stamped_only = true;
    uint32_t repeats = c->options->quick ? QUICK_REPEATS : OPS_REPEATS;
    TRY(calibration_measure(c, &stamped, repeats, &measured));
    return calibration_note_ops(c, &stamped, &measured);
}

/* Steps that look at other sources than those that are there, which then are as before. */
static Status measure_sources(Calibration *c)
{
    if (!model_is_encoder_decoder(c->config))
        return OK;
    for (size_t i = 0; i < COUNT(SOURCES); i++) {
        if (!c->counting)
            TRY(calibration_encode(c, SOURCES[i]));
        for (size_t g = 0; g < COUNT(SOURCE_GRIDS); g++)
            TRY(measure_grid(c, STACK_DECODER, &SOURCE_GRIDS[g], NO_PROMPTS, measure_ops));
    }
    return c->counting ? OK : calibration_encode(c, CALIBRATE_SOURCE_TOKENS);
}

Status calibrate_ops(Calibration *c)
{
    if (c->options->quick)
        return calibration_grids(c, CALIBRATE_QUICK_GRIDS, COUNT(CALIBRATE_QUICK_GRIDS),
                                 measure_ops);
    TRY(calibration_grids(c, OPS_GRIDS, COUNT(OPS_GRIDS), measure_ops));
    TRY(calibrate_prompt(c));
    TRY(measure_sources(c));
    return calibrate_refine(c);
}
