/* What passes between two steps while requests are served: the next step is composed, its routing
 * laid out where it is forced, tokens are accepted, and the step before is handed to a recorder. */
#include <stdio.h>

#include "base/scratch.h"
#include "exec/calibrate_parts.h"
#include "exec/run.h"

enum { GAPS = 20, PROMPTS = 8, PATH_BYTES = 1024 };

/* Gaps between steps of TOKENS. */
typedef struct {
    uint32_t tokens;
    uint64_t end_ns; /* of the step before, where it had as many; else 0 */
    double ns[GAPS];
    uint32_t n;
} Gaps;

static Status note_gap(void *argument, const TraceStep *step, const StepInput *input,
                       const StepOutput *output)
{
    Gaps *gaps = argument;
    (void)input;
    (void)output;
    bool counts = step->tokens == gaps->tokens;
    if (counts && gaps->end_ns > 0 && gaps->n < GAPS)
        gaps->ns[gaps->n++] =
            step->start_ns > gaps->end_ns ? (double)(step->start_ns - gaps->end_ns) : 0;
    gaps->end_ns = counts ? step->start_ns + step->duration_ns : 0;
    return OK;
}

/* Whoever runs forgets what the requests had. */
static void forget_requests(Calibration *c)
{
    for (uint32_t r = 0; r < c->max_requests; r++) {
        executor_release(c->executor, r);
        c->length[r] = 0;
    }
}

/* Serves SET as it is recorded to PATH, a file that is not there yet. */
static Status serve(Calibration *c, const TokenSet *set, const RunOptions *run, const char *path,
                    Gaps *gaps)
{
    uint32_t n_layers;
    const TraceLayer *layers = executor_layers(c->executor, &n_layers);
    const TraceRun described = {.tool = "moebius", .source = "calibrate", .model = c->model};
    RunTotals totals;
    Recorder *recorder;
    forget_requests(c);
    TRY(recorder_open(path, &described, layers, n_layers, NULL, &recorder));
    Status status = run_requests(c->executor, c->config, set, run, recorder, note_gap, gaps, NULL,
                                 NULL, &totals);
    if (status == OK && totals.stopped)
        status = fail(ERR_INTERRUPTED, "%s: interrupted", c->model);
    return recorder_end(recorder, status);
}

/* Requests that all are there from the start, SEQUENCES at once, of TOKENS each. */
static Status measure(Calibration *c, uint32_t requests, uint32_t sequences, uint32_t tokens,
                      uint32_t generate, RoutingSource *routing, Gaps *gaps)
{
    const Arrivals arrivals = {.kind = ARRIVALS_AT_ONCE};
    const RunOptions run = {.batch = sequences,
                            .arrivals = &arrivals,
                            .generate = generate,
                            .ignore_eos = true,
                            .max_tokens = gaps->tokens,
                            .routing = routing,
                            .stop = c->options->stop};
    char path[PATH_BYTES];
    ScratchFolder folder;
    TokenSet set = {0};
    TRY(scratch_open(NULL, &folder));
    Status status = scratch_name(&folder, "trace.db", path, sizeof path);
    if (status == OK)
        status = tokens_random(requests, tokens, c->config->vocabulary, 1, &set);
    if (status == OK)
        status = serve(c, &set, &run, path, gaps);
    tokens_free(&set);
    scratch_close(&folder);
    return status;
}

static Status note(Calibration *c, const char *ending, Gaps *gaps)
{
    static const char *const AXIS[] = {"tokens"};
    const double at = gaps->tokens;
    char shape[160];
    if (gaps->n == 0)
        return OK;
    double spread = variation_f64(gaps->ns, gaps->n);
    snprintf(shape, sizeof shape, "%s%s", c->model, ending);
    return calibration_note(c, "between", shape, UNIT_NS, AXIS, 1, &at,
                            median_f64(gaps->ns, gaps->n), spread);
}

/* Between steps of TOKENS: of a token each of as many requests, or of one prompt after the other.
 */
static Status measure_tokens(Calibration *c, uint32_t tokens, bool prompts, const char *routing,
                             const char *ending)
{
    Gaps gaps;
    RoutingSource *source;
    uint32_t n_layers;
    if (tokens > c->max_tokens || (prompts ? tokens >= c->max_length : tokens > c->max_requests) ||
        calibration_only_counts(c))
        return OK;
    const TraceLayer *layers = executor_layers(c->executor, &n_layers);
    TRY(routing_source_open(routing, layers, n_layers, 0, &source));
    Status status;
    calibration_seek_quiet(c);
    do {
        gaps = (Gaps){.tokens = tokens};
        status = prompts ? measure(c, PROMPTS, 1, tokens, 1, source, &gaps)
                         : measure(c, tokens, tokens, 1, GAPS + 2, source, &gaps);
    } while (status == OK && !calibration_counts(c));
    routing_source_close(source);
    return status == OK ? note(c, ending, &gaps) : status;
}

static Status measure_routing(Calibration *c, const char *routing, const char *ending)
{
    static const uint32_t REQUESTS[] = {1, 4, 16, 64, 0};
    static const uint32_t PROMPT[] = {128, 256, 512, 2048, 0};
    for (const uint32_t *tokens = REQUESTS; *tokens > 0; tokens++)
        TRY(measure_tokens(c, *tokens, false, routing, ending));
    for (const uint32_t *tokens = PROMPT; *tokens > 0; tokens++)
        TRY(measure_tokens(c, *tokens, true, routing, ending));
    return OK;
}

Status calibrate_between(Calibration *c)
{
    if (model_is_encoder_decoder(c->config) || c->config->n_moe_layers == 0)
        return OK;
    TRY(measure_routing(c, "gate", ""));
    return measure_routing(c, "uniform", " forced");
}
