#include "sim/rests.h"

#include "base/memory.h"
#include "sim/timing.h"

static StepFeatures features_of(const WholeStep *step)
{
    uint64_t requests = step->requests;
    uint32_t keys = step->context + step->tokens;
    StepFeatures features = {.stack = step->stack,
                             .tokens = whole_step_tokens(step),
                             .requests = step->requests + (step->prompt > 0),
                             .most_keys = keys > step->prompt ? keys : step->prompt,
                             .most_source = step->source};
    if (step->prompt > 0)
        features.groups[SPANS_SEVERAL] = (SpanGroup){.requests = 1, .tokens = step->prompt};
    features.groups[step->tokens == 1 ? SPANS_ONE : SPANS_SEVERAL] =
        (SpanGroup){.requests = step->requests,
                    .tokens = step->requests * step->tokens,
                    .context = requests * step->context,
                    .source = requests * step->source};
    return features;
}

/* The event of the MoE layer whose experts have ROWS; SHARE [experts] is scratch. */
static Status play_event(Timing *timing, const TraceLayer *layer, uint32_t index,
                         const uint32_t *rows, uint32_t *share)
{
    TimingEvent event = {.layer_index = index, .rows = share};
    for (uint32_t e = 0; e < layer->experts; e++)
        if (rows[e] > 0)
            share[event.n++] = rows[e];
    return timing_event(timing, &event, NULL, 0);
}

/* What the operations of STEP take. */
static Status play(Timing *timing, const WholeSteps *whole, const WholeStep *step, uint32_t *share,
                   double *ns)
{
    const StepFeatures features = features_of(step);
    const uint32_t *rows = whole->rows + step->first_row;
    StepTime time;
    TRY(timing_begin(timing, &features, 0));
    for (uint32_t i = 0; i < whole->n_layers; i++) {
        if (whole->layers[i].stack != step->stack)
            continue;
        TRY(play_event(timing, &whole->layers[i], i, rows, share));
        rows += whole->layers[i].experts;
    }
    TRY(timing_end(timing, &time));
    *ns = (double)time.duration_ns;
    return OK;
}

/* The operations of all steps whose routing is forced, or of the others, into NS [n]. */
static Status play_all(const WholeSteps *whole, const Hardware *hardware, bool forced, double *ns)
{
    const Plan plan = plan_default();
    const TimingOptions options = {.hardware = hardware,
                                   .model = whole->model,
                                   .plan = &plan,
                                   .layers = whole->layers,
                                   .n_layers = whole->n_layers,
                                   .logits = true,
                                   .forced = forced,
                                   .bare = true};
    uint32_t most = 1;
    uint32_t *share = NULL;
    Timing *timing;
    for (uint32_t i = 0; i < whole->n_layers; i++)
        most = whole->layers[i].experts > most ? whole->layers[i].experts : most;
    TRY(timing_new(&options, &timing));
    Status status = mem_new(&share, most, sizeof *share, "rests of steps");
    for (size_t i = 0; i < whole->n && status == OK; i++)
        if (whole->steps[i].forced == forced)
            status = play(timing, whole, &whole->steps[i], share, &ns[i]);
    mem_free(share);
    timing_free(timing);
    return status;
}

static const char *const REST_AXES[] = {"requests", "tokens", "context"};

/* What the profile had of an earlier calibration goes. */
static Status empty(const char *model, const WholeStep *step, Hardware *hardware)
{
    char shape[160];
    for (StepMode mode = STEP_FIRST; mode <= STEP_REPEATED; mode++) {
        hardware_rest_shape(model, step->stack, mode, step->forced, shape);
        TRY(hardware_empty_table(hardware, "step/rest", shape, UNIT_NS, REST_AXES, 3));
    }
    return OK;
}

/* PLAYED is what its operations take. */
static Status put(const char *model, const WholeStep *step, double played, Hardware *hardware)
{
    const double ns[] = {[STEP_FIRST] = step->first_ns,
                         [STEP_CAPTURED] = step->second_ns,
                         [STEP_LAUNCHED] = step->third_ns,
                         [STEP_REPEATED] = step->ns};
    /* As of steps that are played: means of their requests. */
    const double requests = step->requests + (step->prompt > 0);
    const double at[] = {requests, whole_step_tokens(step) / requests,
                         step->requests * (double)step->context / requests};
    CostTable *table;
    char shape[160];
    for (StepMode mode = STEP_FIRST; mode <= STEP_REPEATED; mode++) {
        hardware_rest_shape(model, step->stack, mode, step->forced, shape);
        TRY(hardware_add_table(hardware, "step/rest", shape, UNIT_NS, REST_AXES, 3, &table));
        TRY(cost_table_put(table, at, ns[mode] - played, mode == STEP_REPEATED ? step->spread : 0));
    }
    return OK;
}

static Status put_all(const WholeSteps *whole, const double *played, Hardware *hardware)
{
    const char *model = hardware_model(hardware, whole->model)->name;
    for (size_t i = 0; i < whole->n; i++)
        TRY(empty(model, &whole->steps[i], hardware));
    for (size_t i = 0; i < whole->n; i++)
        TRY(put(model, &whole->steps[i], played[i], hardware));
    return OK;
}

Status rests_note(const WholeSteps *whole, Hardware *hardware)
{
    double *played;
    TRY(mem_new(&played, whole->n, sizeof *played, "rests of steps"));
    Status status = play_all(whole, hardware, false, played);
    if (status == OK)
        status = play_all(whole, hardware, true, played);
    if (status == OK)
        status = put_all(whole, played, hardware);
    mem_free(played);
    return status;
}
