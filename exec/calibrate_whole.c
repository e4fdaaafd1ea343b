/* Whole steps without stamps: the first of their shape, the second, whose graph is made, the third,
 * which launches it, and those that repeat it; with the router's own routing and with routing that
 * is laid on the model. */
#include "exec/calibrate_parts.h"

enum { WHOLE_REPEATS = 5, WHOLE_QUICK_REPEATS = 3, FIRST_STEPS = 2 };

/* Steps of few tokens are those that come again and again, and differ from token to token. */
static const StepGrid GRIDS[] = {
    {{1, 2, 3, 4, 6, 8, 9, 12, 16, 24, 32, 64}, {1}, {0, 512}},
    {{1, 4, 16}, {1}, {2048}},
    {{1, 4, 16}, {16, 64, 256}, {0}},
    {{1, 4}, {1024}, {0}},
    {{1, 8}, {128, 512}, {0}},
    {{16, 64}, {2}, {0}},
    {{1}, {2048}, {0}},
    {{16}, {1024}, {0}},
    {{1}, {128, 512}, {512}},
    {{1}, {512}, {2048}},
};
static const StepGrid FORCED_GRIDS[] = {
    {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32, 64}, {1}, {0, 256, 512}},
    {{1, 4, 16}, {1}, {2048}},
    {{1, 2, 4, 16}, {2, 16, 64, 128, 256}, {0}},
    {{64}, {2, 16}, {0}},
    {{1}, {512}, {0}},
    {{1}, {128, 512}, {512}},
};
/* What a prompt joins while requests are served. */
static const StepGrid JOINED = {{1, 3, 7, 15, 31}, {1}, {256}};
static const uint32_t PROMPTS[] = {64, 256, 0};

/* Kernels that never ran are loaded at their first launch, which is no step's cost: a run of the
 * same operations that counts for nothing goes before. */
static Status load_kernels(Calibration *c, const StepKind *kind)
{
    StepOutput output;
    double ns;
    return calibration_runs_at_once(c) ? OK : calibration_step(c, kind, false, &output, &ns);
}

/* A step, as those who run steps see it. */
static Status step(Calibration *c, const StepKind *kind, StepOutput *output, double *ns)
{
    calibration_do_other_things(c);
    return calibration_step(c, kind, false, output, ns);
}

/* The first three steps of their shape, again and again. */
static Status first_steps(Calibration *c, const StepKind *kind, WholeStep *whole)
{
    StepOutput output;
    double first[FIRST_STEPS];
    double second[FIRST_STEPS];
    double third[FIRST_STEPS];
    uint32_t most = calibration_runs_at_once(c) ? 1 : FIRST_STEPS;
    uint32_t n = 0;
    while (n < most && (n == 0 || first[n - 1] <= CALIBRATE_LONG_NS)) {
        TRY(executor_forget_steps(c->executor));
        TRY(step(c, kind, &output, &first[n]));
        TRY(step(c, kind, &output, &second[n]));
        TRY(step(c, kind, &output, &third[n]));
        n += calibration_counts(c);
    }
    whole->first_ns = median_f64(first, n);
    whole->second_ns = median_f64(second, n);
    whole->third_ns = median_f64(third, n);
    return OK;
}

/* The steps that repeat; their routing is in *OUTPUT. */
static Status repeated_steps(Calibration *c, const StepKind *kind, WholeStep *whole,
                             StepOutput *output)
{
    double ns[WHOLE_REPEATS];
    uint32_t repeats = c->options->quick ? WHOLE_QUICK_REPEATS : WHOLE_REPEATS;
    uint32_t n = 0;
    while (n < repeats && (n < 3 || ns[n - 1] <= CALIBRATE_LONG_NS)) {
        TRY(step(c, kind, output, &ns[n]));
        n += ns[n] > CALIBRATE_LONG_NS || calibration_counts(c);
    }
    whole->spread = variation_f64(ns, n);
    whole->ns = median_f64(ns, n);
    calibration_note_clock(c);
    return OK;
}

/* From the call to the first operation, of a stamped step that is repeated. */
static Status note_launch(Calibration *c, const StepKind *kind)
{
    static const char *const AXES[] = {"tokens"};
    const double tokens = (double)kind->requests * kind->tokens;
    StepOutput output;
    double ns;
    do {
        for (uint32_t i = 0; i < CALIBRATE_WARM_UP; i++)
            TRY(calibration_step(c, kind, true, &output, &ns));
    } while (!calibration_counts(c));
    uint64_t start_ns = output.timing[0].start_ns;
    double launch_ns = start_ns > output.start_ns ? (double)(start_ns - output.start_ns) : 0;
    return calibration_note(c, "graph/launch", "", UNIT_NS, AXES, 1, &tokens, launch_ns, 0);
}

/* Draws where the tokens of a step go: as evenly as chance has it. */
static void draw_routing(Calibration *c, const StepKind *kind)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < kind->requests; r++)
        for (uint32_t t = 0; t < kind->tokens; t++, n++) {
            c->slot[n] = r;
            c->position[n] = kind->context + t;
        }
    for (uint32_t t = 0; t < kind->prompt; t++, n++) {
        c->slot[n] = kind->requests;
        c->position[n] = t;
    }
    routing_source_fill(c->routing, kind->stack, n, c->slot, c->position, c->forced);
}

static Status measure(Calibration *c, const StepKind *kind)
{
    StepOutput output;
    WholeStep whole = {.stack = kind->stack,
                       .requests = kind->requests,
                       .tokens = kind->tokens,
                       .context = kind->context,
                       .prompt = kind->prompt,
                       .source = kind->stack == STACK_DECODER ? c->source_length : 0,
                       .forced = kind->forced};
    calibration_seek_quiet(c);
    TRY(load_kernels(c, kind));
    TRY(first_steps(c, kind, &whole));
    TRY(repeated_steps(c, kind, &whole, &output));
    TRY(whole_steps_add(c->whole, &whole, output.experts));
    bool tells = !kind->forced && kind->stack == STACK_DECODER && kind->requests == 1 &&
                 kind->prompt == 0 && whole.ns <= CALIBRATE_LONG_NS;
    return tells ? note_launch(c, kind) : OK;
}

static Status measure_forced(Calibration *c, const StepKind *kind)
{
    StepKind forced = *kind;
    forced.forced = true;
    draw_routing(c, kind);
    return measure(c, &forced);
}

static Status measure_grids(Calibration *c)
{
    bool quick = c->options->quick;
    const StepGrid *grids = quick ? CALIBRATE_QUICK_GRIDS : GRIDS;
    const StepGrid *forced = quick ? CALIBRATE_QUICK_GRIDS : FORCED_GRIDS;
    TRY(calibration_grids(c, grids, quick ? COUNT(CALIBRATE_QUICK_GRIDS) : COUNT(GRIDS), measure));
    if (!quick)
        TRY(calibration_prompts(c, &JOINED, PROMPTS, measure));
    if (c->config->n_moe_layers == 0)
        return OK;
    TRY(calibration_grids(c, forced, quick ? COUNT(CALIBRATE_QUICK_GRIDS) : COUNT(FORCED_GRIDS),
                          measure_forced));
    return quick ? OK : calibration_prompts(c, &JOINED, PROMPTS, measure_forced);
}

Status calibrate_whole(Calibration *c)
{
    uint32_t n_layers;
    if (c->counting)
        return measure_grids(c);
    const TraceLayer *layers = executor_layers(c->executor, &n_layers);
    TRY(whole_steps_begin(c->whole, c->model, layers, n_layers));
    TRY(routing_source_open("uniform", layers, n_layers, 0, &c->routing));
    Status status = measure_grids(c);
    routing_source_close(c->routing);
    c->routing = NULL;
    return status;
}
