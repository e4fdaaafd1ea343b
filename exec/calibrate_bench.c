/* The executor that is measured, and its steps. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "exec/calibrate_parts.h"
#include "base/layout.h"
#include "exec/tokens.h"

enum {
    LEAST_LENGTH = 32,
    MOST_TRIES = 8,
    OTHER_BYTES = 4 << 20, /* more than a processor's own cache */
    CACHE_LINE = 64
};

/* ---- opening ---- */

static void lay_out_arrays(Calibration *c)
{
    Arena *arena = &c->arena;
    c->max_ops = c->config->n_layers * OPS + OPS;
    c->token = lay_out(arena, c->max_tokens, sizeof *c->token);
    c->slot = lay_out(arena, c->max_tokens, sizeof *c->slot);
    c->position = lay_out(arena, c->max_tokens, sizeof *c->position);
    c->source = lay_out(arena, c->max_tokens, sizeof *c->source);
    c->forced = lay_out(arena, times(c->max_tokens, model_routed(c->config)), sizeof *c->forced);
    c->n_coming = lay_out(arena, c->config->n_moe_layers, sizeof *c->n_coming);
    c->coming =
        lay_out(arena, times(c->config->n_moe_layers, c->config->max_experts), sizeof *c->coming);
    c->is_coming = lay_out(arena, c->config->max_experts, sizeof *c->is_coming);
    c->request = lay_out(arena, c->max_tokens, sizeof *c->request);
    c->other = lay_out(arena, OTHER_BYTES, 1);
    c->length = lay_out(arena, c->max_requests, sizeof *c->length);
    size_t n = times(CALIBRATE_REPEATS, c->max_ops);
    c->first_of = lay_out(arena, c->max_ops, sizeof *c->first_of);
    c->shape = lay_out(arena, c->max_ops, sizeof *c->shape);
    c->op = lay_out(arena, c->max_ops, sizeof *c->op);
    c->op_ns = lay_out(arena, n, sizeof *c->op_ns);
    c->issue_ns = lay_out(arena, n, sizeof *c->issue_ns);
    c->wake_ns = lay_out(arena, n, sizeof *c->wake_ns);
    c->decide_ns = lay_out(arena, n, sizeof *c->decide_ns);
    c->plain_issue_ns = lay_out(arena, n, sizeof *c->plain_issue_ns);
    c->plain_decide_ns = lay_out(arena, n, sizeof *c->plain_decide_ns);
}

static Status open_executor(Calibration *c)
{
    bool pair = model_is_encoder_decoder(c->config);
    const Plan ahead = calibration_ahead_plan(c, true);
    const ExecutorOptions options = {.plan = &c->plan,
                                     .others = &ahead,
                                     .n_others = calibration_looks_ahead(c),
                                     .device = c->options->device,
                                     .threads = c->options->threads,
                                     .max_requests = c->max_requests * (pair ? 2 : 1),
                                     .max_length = c->max_length,
                                     .max_tokens = c->max_tokens,
                                     .logits = LOGITS_LAST,
                                     .compute = c->options->compute,
                                     .warm_up = true};
    return executor_open(c->checkpoint, &options, &c->executor);
}

/* Where memory is short, requests become shorter, then steps. */
static Status open_what_fits(Calibration *c)
{
    Status status = open_executor(c);
    for (int i = 0; status == ERR_MEMORY && i < MOST_TRIES; i++) {
        if (c->max_length > 8 * LEAST_LENGTH)
            c->max_length /= 2;
        else
            c->max_tokens =
                c->max_tokens / 2 > c->max_requests ? c->max_tokens / 2 : c->max_requests;
        error_clear();
        status = open_executor(c);
    }
    return status;
}

Status calibration_encode(Calibration *c, uint32_t length)
{
    if (!model_is_encoder_decoder(c->config))
        return OK;
    c->source_length = length < c->max_length ? length : c->max_length;
    for (uint32_t r = 0; r < c->max_requests; r++) {
        StepOutput output;
        for (uint32_t t = 0; t < c->source_length; t++) {
            c->token[t] = (t * 31 + r) % c->config->vocabulary;
            c->slot[t] = c->max_requests + r;
            c->position[t] = t;
        }
        const StepInput input = {.stack = STACK_ENCODER,
                                 .tokens = c->source_length,
                                 .token = c->token,
                                 .kv_slot = c->slot,
                                 .position = c->position};
        TRY(executor_step(c->executor, &input, &output));
    }
    return OK;
}

static Status open_all(Calibration *c, const char *model)
{
    TRY(checkpoint_open_model(model, &c->checkpoint));
    c->config = checkpoint_config(c->checkpoint);
    if (c->max_length > c->config->max_positions)
        c->max_length = c->config->max_positions;
    TRY(open_what_fits(c));
    lay_out_arrays(c);
    TRY(arena_commit(&c->arena, "calibration: tokens of a step"));
    lay_out_arrays(c);
    return calibration_encode(c, CALIBRATE_SOURCE_TOKENS);
}

Status calibration_open(Calibration *c, const char *model, const Plan *plan, uint32_t requests,
                        uint32_t length, uint32_t tokens)
{
    c->plan = *plan;
    c->max_requests = requests;
    c->max_length = length;
    c->max_tokens = tokens;
    Status status = open_all(c, model);
    if (status != OK)
        calibration_close(c);
    return status;
}

void calibration_close(Calibration *c)
{
    executor_close(c->executor);
    checkpoint_close(c->checkpoint);
    arena_free(&c->arena);
    c->executor = NULL;
    c->checkpoint = NULL;
    c->config = NULL;
    c->n_ops = 0;
}

/* ---- steps ---- */

/* Adds N tokens of REQUEST from its length on to a step that has *TOKENS. */
static void add_request(Calibration *c, uint32_t request, uint32_t n, uint32_t *tokens)
{
    for (uint32_t t = 0; t < n; t++, ++*tokens) {
        c->slot[*tokens] = request;
        c->request[*tokens] = c->first_request + request;
        c->position[*tokens] = c->length[request] + t;
        c->token[*tokens] = tokens_draw(c->texts, request, c->position[*tokens],
                                        c->config->vocabulary, c->config->pad);
        c->source[*tokens] = c->max_requests + request;
    }
}

static void forget_request(Calibration *c, uint32_t request)
{
    executor_release(c->executor, request);
    c->length[request] = 0;
}

static Status run(Calibration *c, StepInput *input, StepOutput *output, double *ns)
{
    if (c->options->stop != NULL && *c->options->stop != 0)
        return fail(ERR_INTERRUPTED, "%s: interrupted", c->model);
    input->token = c->token;
    input->kv_slot = c->slot;
    input->position = c->position;
    input->request = c->request;
    if (executor_needs_future(c->executor)) {
        input->n_coming = c->n_coming;
        input->coming = c->coming;
    }
    if (input->stack == STACK_DECODER && model_is_encoder_decoder(c->config))
        input->source_slot = c->source;
    uint64_t start_ns = clock_ns();
    TRY(executor_step(c->executor, input, output));
    *ns = (double)(clock_ns() - start_ns);
    return OK;
}

Status calibration_step(Calibration *c, const StepKind *kind, bool timing, StepOutput *output,
                        double *ns)
{
    bool encoder = kind->stack == STACK_ENCODER;
    StepInput input = {.stack = kind->stack,
                       .logits = encoder ? LOGITS_NONE : LOGITS_LAST,
                       .greedy = !encoder,
                       .timing = timing,
                       .held = kind->held,
                       .forced_experts = kind->forced ? c->forced : NULL};
    if (!encoder)
        TRY(calibration_fill(c, kind->requests, kind->context));
    for (uint32_t r = 0; r < kind->requests; r++) {
        if (encoder)
            forget_request(c, r);
        add_request(c, r, kind->tokens, &input.tokens);
    }
    if (kind->prompt > 0) {
        forget_request(c, kind->requests);
        add_request(c, kind->requests, kind->prompt, &input.tokens);
    }
    TRY(run(c, &input, output, ns));
    for (uint32_t r = 0; !encoder && r < kind->requests; r++)
        c->length[r] += kind->tokens;
    if (kind->prompt > 0)
        c->length[kind->requests] = kind->prompt;
    return OK;
}

/* One step that brings requests from *FIRST on towards CONTEXT. */
static Status fill_step(Calibration *c, uint32_t requests, uint32_t context, uint32_t *first)
{
    StepInput input = {.stack = STACK_DECODER};
    StepOutput output;
    double ns;
    while (*first < requests && input.tokens < c->max_tokens) {
        uint32_t room = c->max_tokens - input.tokens;
        uint32_t missing = context - c->length[*first];
        uint32_t n = missing < room ? missing : room;
        add_request(c, *first, n, &input.tokens);
        c->length[*first] += n;
        *first += n == missing;
    }
    return input.tokens > 0 ? run(c, &input, &output, &ns) : OK;
}

Status calibration_fill(Calibration *c, uint32_t requests, uint32_t context)
{
    for (uint32_t r = 0; r < requests; r++)
        if (c->length[r] > context) {
            executor_rewind(c->executor, r, context);
            c->length[r] = context;
        }
    for (uint32_t first = 0; first < requests;)
        TRY(fill_step(c, requests, context, &first));
    return OK;
}

/* ---- measuring ---- */

/* Runs that come before those that count: a device without graphs needs no more than one. */
static uint32_t warm_up_steps(const Calibration *c)
{
    return calibration_runs_at_once(c) ? 1 : CALIBRATE_WARM_UP;
}

void calibration_do_other_things(Calibration *c)
{
    for (size_t i = 0; i < OTHER_BYTES; i += CACHE_LINE)
        c->other[i]++;
}

static Status warm_up(Calibration *c, const StepKind *kind)
{
    StepOutput output;
    double ns = 0;
    uint32_t n = warm_up_steps(c);
    n -= kind->stamped_only && n > 1; /* the first replay counts already */
    for (uint32_t i = 0; i < n && ns <= CALIBRATE_LONG_NS; i++)
        TRY(calibration_step(c, kind, true, &output, &ns));
    return OK;
}

/* A stamped step: its operations become row NUMBER of op_ns. */
static Status stamped_step(Calibration *c, const StepKind *kind, uint32_t number,
                           StepMeasured *measured, double *whole_ns)
{
    StepOutput output;
    TRY(calibration_step(c, kind, true, &output, whole_ns));
    calibration_list(c, kind->stack, &output);
    double *row = c->op_ns + (size_t)number * c->max_ops;
    for (size_t i = 0; i < output.n_timing; i++)
        row[i] = (double)output.timing[i].duration_ns;
    measured->ops = output.timing;
    measured->n_ops = (uint32_t)output.n_timing;
    return OK;
}

/* A step without stamps; *NS is 0 where it is of no interest: where operations run when they are
 * called a stamp costs nothing, and a stamped step is as good. */
static Status plain_step(Calibration *c, const StepKind *kind, double *ns)
{
    StepOutput output;
    *ns = 0;
    if (kind->stamped_only || calibration_runs_at_once(c))
        return OK;
    calibration_do_other_things(c);
    return calibration_step(c, kind, false, &output, ns);
}

Status calibration_measure(Calibration *c, const StepKind *kind, uint32_t repeats,
                           StepMeasured *measured)
{
    double stamped[CALIBRATE_REPEATS];
    double plain[CALIBRATE_REPEATS];
    *measured = (StepMeasured){0};
    calibration_seek_quiet(c);
    TRY(warm_up(c, kind));
    while (measured->repeats < repeats) {
        uint32_t i = measured->repeats;
        c->texts += kind->stamped_only;
        TRY(plain_step(c, kind, &c->whole_ns[i]));
        TRY(stamped_step(c, kind, i, measured, &stamped[i]));
        if (c->whole_ns[i] == 0)
            c->whole_ns[i] = stamped[i];
        bool is_long = stamped[i] > CALIBRATE_LONG_NS;
        measured->repeats += is_long || calibration_counts(c);
        if (is_long && measured->repeats > 2)
            break;
    }
    calibration_note_clock(c);
    uint32_t n = measured->repeats;
    memcpy(plain, c->whole_ns, sizeof plain);
    measured->whole_spread = variation_f64(plain, n);
    measured->whole_ns = median_f64(plain, n);
    measured->stamp_ns = (median_f64(stamped, n) - measured->whole_ns) / (measured->n_ops + 1);
    return OK;
}
