/* Steps that wait for the counts of every event, as those do whose experts may have to be loaded:
 * what the host needs to queue, to wake up, to decide and to begin loads, and what a call of some
 * experts takes. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "exec/calibrate_parts.h"

/* The host is slower for some tens of milliseconds now and then, longer than all steps of one place
 * take: every place is come back to in each of several rounds, long prompts in fewer. */
enum { QUEUE_ROUNDS = 3, LONG_ROUNDS = 2, LONG_TOKENS = 64, QUEUE_REPEATS = 3 };

static const char *const TOKENS_AXIS[] = {"tokens"};
static const char *const ACTIVE_AXIS[] = {"active"};

void calibration_keep_host_times(const HostTimes *host, double *issue_ns, double *decide_ns)
{
    size_t event = 0;
    for (size_t i = 0; i < host->n_ops; i++) {
        const HostEvent *waited = &host->events[event];
        uint64_t queued_ns = host->ops[i].start_ns + host->ops[i].duration_ns;
        issue_ns[i] = (double)host->ops[i].duration_ns;
        if (event == host->n_events || waited->decide.start_ns > queued_ns)
            continue;
        issue_ns[i] = (double)(queued_ns - waited->decide.start_ns - waited->decide.duration_ns);
        for (uint32_t l = 0; l < waited->n_loads; l++)
            issue_ns[i] -= (double)host->loads[waited->first_load + l].duration_ns;
        decide_ns[i] = (double)waited->decide.duration_ns;
        event++;
    }
}

/* The host's time for a stamp in a stamped step: between the operations. */
static double mean_stamp(const HostTimes *host)
{
    double sum = 0;
    for (size_t i = 1; i < host->n_ops; i++)
        sum += ns_between(host->ops[i - 1].start_ns + host->ops[i - 1].duration_ns,
                          host->ops[i].start_ns);
    return host->n_ops > 1 ? sum / (double)(host->n_ops - 1) : 0;
}

/* Host and device in a stamped step of REPEAT, which waited. The device's clock is told to the
 * host's with the time that waking up takes, so that waking may seem to take none. */
static void keep_times(Calibration *c, const StepOutput *output, uint32_t repeat)
{
    const HostTimes *host = &output->host;
    size_t row = (size_t)repeat * c->max_ops;
    size_t event = 0;
    calibration_keep_host_times(host, c->issue_ns + row, c->decide_ns + row);
    c->stamping_ns[repeat] = mean_stamp(host);
    for (size_t i = 0; i < output->n_timing; i++) {
        c->op_ns[row + i] = (double)output->timing[i].duration_ns;
        if (output->timing[i].op != OP_EXPERTS)
            continue;
        const HostSpan *wait = &host->events[event++].wait;
        c->wake_ns[row + i] =
            ns_between(output->timing[i].start_ns, wait->start_ns + wait->duration_ns);
    }
}

/* Steps without stamps, one after the other as they come to those who run them: one that follows a
 * stamped step takes the host longer. */
static Status measure_plain(Calibration *c, const StepKind *kind)
{
    StepOutput output;
    double ns;
    TRY(calibration_step(c, kind, false, &output, &ns));
    for (uint32_t r = 0; r < QUEUE_REPEATS; r += calibration_counts(c)) {
        size_t row = (size_t)r * c->max_ops;
        TRY(calibration_step(c, kind, false, &output, &c->whole_ns[r]));
        calibration_keep_host_times(&output.host, c->plain_issue_ns + row,
                                    c->plain_decide_ns + row);
    }
    return OK;
}

static Status measure(Calibration *c, const StepKind *kind, StepMeasured *measured)
{
    bool one_thread = calibration_runs_at_once(c);
    StepOutput output;
    double ns;
    *measured = (StepMeasured){.repeats = QUEUE_REPEATS};
    TRY(calibration_step(c, kind, true, &output, &ns));
    calibration_seek_quiet(c);
    if (!one_thread)
        TRY(measure_plain(c, kind));
    for (uint32_t r = 0; r < QUEUE_REPEATS; r += calibration_counts(c)) {
        TRY(calibration_step(c, kind, true, &output, one_thread ? &c->whole_ns[r] : &ns));
        calibration_list(c, kind->stack, &output);
        keep_times(c, &output, r);
        measured->ops = output.timing;
        measured->n_ops = (uint32_t)output.n_timing;
    }
    return OK;
}

/* ---- what follows from it ---- */

/* One event, as the model of a step sees it, which is without stamps. */
typedef struct {
    double wake_ns;
    double decide_ns;
    double issue_ns; /* as is queueing all other operations */
    double call_ns;  /* from the end of queueing to the end of the experts' call */
} EventCost;

static EventCost event_cost(const Calibration *c, double tokens, const StepMeasured *measured,
                            uint32_t i, double *spread)
{
    double ignored;
    double whole = calibration_cost(c, c->op_ns, measured, i, spread);
    double decide_ns = calibration_cost(c, c->decide_ns, measured, i, &ignored);
    if (calibration_runs_at_once(c))
        return (EventCost){.decide_ns = decide_ns, .call_ns = at_least_0(whole - decide_ns)};
    double issue_ns = calibration_cost(c, c->issue_ns, measured, i, &ignored);
    double wake_ns = at_least_0(calibration_cost(c, c->wake_ns, measured, i, &ignored));
    double call_ns = whole - calibration_stamp_ns(c, tokens) - wake_ns - decide_ns - issue_ns;
    return (EventCost){.wake_ns = wake_ns,
                       .decide_ns = calibration_cost(c, c->plain_decide_ns, measured, i, &ignored),
                       .issue_ns = calibration_cost(c, c->plain_issue_ns, measured, i, &ignored),
                       .call_ns = at_least_0(call_ns)};
}

static Status note_event(Calibration *c, const char *shape, const EventCost *cost, double tokens,
                         const double at[COST_AXES], double spread)
{
    const char *axis[COST_AXES];
    hardware_op_axes(OP_EXPERTS, axis);
    TRY(calibration_note(c, "queued/experts", shape, UNIT_NS, axis, 3, at, cost->call_ns, spread));
    TRY(calibration_note(c, "decide", shape, UNIT_NS, ACTIVE_AXIS, 1, &at[0], cost->decide_ns, 0));
    if (calibration_runs_at_once(c))
        return OK;
    TRY(calibration_note(c, "issue/experts", shape, UNIT_NS, TOKENS_AXIS, 1, &tokens,
                         cost->issue_ns, 0));
    return calibration_note(c, "wake", shape, UNIT_NS, NULL, 0, NULL, cost->wake_ns, 0);
}

/* What a stamp takes the host, with what queueing an operation takes longer among stamps than
 * without. */
static Status note_stamp(Calibration *c, const StepMeasured *measured)
{
    double longer_ns = 0;
    double ignored;
    double stamping[QUEUE_REPEATS];
    char shape[160];
    if (calibration_runs_at_once(c) || !calibration_experts_shape(c, shape))
        return OK;
    memcpy(stamping, c->stamping_ns, sizeof stamping);
    for (uint32_t i = 0; i < measured->n_ops; i++)
        longer_ns += calibration_cost(c, c->issue_ns, measured, i, &ignored) -
                     calibration_cost(c, c->plain_issue_ns, measured, i, &ignored);
    double ns = median_f64(stamping, measured->repeats) + longer_ns / measured->n_ops;
    return calibration_note(c, "issue/stamp", shape, UNIT_NS, NULL, 0, NULL, at_least_0(ns), 0);
}

static Status note_costs(Calibration *c, const StepKind *kind, const StepMeasured *measured,
                         const double at[COST_AXES])
{
    double tokens = (double)kind->requests * kind->tokens;
    TRY(note_stamp(c, measured));
    for (uint32_t i = 0; i < measured->n_ops; i++) {
        Op op = measured->ops[i].op;
        char name[48];
        double spread;
        if ((op != OP_EXPERTS && calibration_runs_at_once(c)) || !calibration_is_first(c, i))
            continue;
        if (op == OP_EXPERTS) {
            const EventCost cost = event_cost(c, tokens, measured, i, &spread);
            TRY(note_event(c, c->shape[i], &cost, tokens, at, spread));
            continue;
        }
        snprintf(name, sizeof name, "issue/%s", op_name(op));
        double ns = calibration_cost(c, c->plain_issue_ns, measured, i, &spread);
        TRY(calibration_note(c, name, c->shape[i], UNIT_NS, TOKENS_AXIS, 1, &tokens, ns, spread));
    }
    return OK;
}

static double gpu_cost(const Calibration *c, const StepKind *kind, Op op, const char *shape)
{
    const char *axis[COST_AXES];
    double at[COST_AXES];
    char name[48];
    snprintf(name, sizeof name, "%s/%s", op == OP_ROUTE && kind->forced ? "forced" : "gpu",
             op_name(op));
    calibration_place(c, op, kind, at, axis);
    const CostTable *table = calibration_table(c, name, shape);
    return table != NULL ? table->value[cost_table_nearest(table, at)] : 0;
}

static double later(double a, double b)
{
    return a > b ? a : b;
}

/* What OP takes beyond that among operations that are queued one by one, without a stamp. */
static double queued_more(const Calibration *c, const StepKind *kind, Op op, const char *shape)
{
    const double tokens = (double)kind->requests * kind->tokens;
    char name[48];
    snprintf(name, sizeof name, "held/%s", op_name(op));
    const CostTable *table = calibration_table(c, name, shape);
    if (table == NULL)
        return later(c->stamp_ns - calibration_stamp_ns(c, tokens), 0);
    return table->value[cost_table_nearest(table, &tokens)] - calibration_stamp_ns(c, tokens);
}

/* What the model of a step makes of its costs (sim/timing.c): the host queues operation by
 * operation, and at every event waits for the device. An operation that lasts much longer than
 * queueing it has not waited for the host, and is taken for what it lasted there and then. */
static double play(const Calibration *c, const StepKind *kind, const StepMeasured *measured)
{
    const double tokens = (double)kind->requests * kind->tokens;
    const double stamp_ns = calibration_stamp_ns(c, tokens);
    double host_ns = 0;
    double gpu_ns = c->lag_ns;
    double wake_ns = 0;
    double launch_ns = 0;
    for (uint32_t i = 0; i < measured->n_ops; i++) {
        Op op = measured->ops[i].op;
        double spread;
        if (op == OP_EXPERTS) {
            const EventCost cost = event_cost(c, tokens, measured, i, &spread);
            /* Waking up is told from the end of a stamp, which is not there. */
            host_ns =
                later(host_ns, gpu_ns) + stamp_ns + cost.wake_ns + cost.decide_ns + cost.issue_ns;
            gpu_ns = later(gpu_ns + later(cost.issue_ns - c->lag_ns, 0), host_ns) + cost.call_ns;
            wake_ns = cost.wake_ns;
            continue;
        }
        double issue_ns = calibration_cost(c, c->plain_issue_ns, measured, i, &spread);
        double op_ns = calibration_cost(c, c->op_ns, measured, i, &spread) - stamp_ns;
        if (op_ns <= 2 * issue_ns)
            op_ns = gpu_cost(c, kind, op, c->shape[i]) + queued_more(c, kind, op, c->shape[i]);
        launch_ns = op == OP_EMBED ? issue_ns : launch_ns;
        double kernels = launch_ns > 0 ? later(floor(issue_ns / launch_ns + 0.5), 1) : 1;
        gpu_ns = later(gpu_ns, host_ns + c->lag_ns) + op_ns;
        host_ns += issue_ns;
        gpu_ns = later(gpu_ns, host_ns + c->lag_ns + (op_ns - issue_ns) / kernels);
    }
    return later(host_ns, gpu_ns) + wake_ns;
}

/* ... on a device that computes when it is called. */
static double add_up(const Calibration *c, const StepMeasured *measured)
{
    double sums[CALIBRATE_REPEATS] = {0};
    for (uint32_t r = 0; r < measured->repeats; r++)
        for (uint32_t i = 0; i < measured->n_ops; i++)
            sums[r] += c->op_ns[(size_t)r * c->max_ops + i];
    return median_f64(sums, measured->repeats);
}

static Status note_rest(Calibration *c, const StepKind *kind, const StepMeasured *measured)
{
    const double at[COST_AXES] = {kind->requests, kind->tokens, kind->context};
    double whole[CALIBRATE_REPEATS];
    memcpy(whole, c->whole_ns, sizeof whole);
    double spread = variation_f64(whole, measured->repeats);
    double played = calibration_runs_at_once(c) ? add_up(c, measured) : play(c, kind, measured);
    return calibration_note_rest(c, at, median_f64(whole, measured->repeats) - played, spread);
}

/* ---- the places ---- */

/* True when the open model has room for the step, and this round one of its length. */
static bool is_due(const Calibration *c, uint32_t requests, uint32_t tokens)
{
    uint32_t all = requests * tokens;
    return requests <= c->max_requests && all <= c->max_tokens && tokens <= c->max_length &&
           (all <= LONG_TOKENS || c->queue_round < LONG_ROUNDS);
}

static Status measure_place(Calibration *c, uint32_t requests, uint32_t tokens, uint32_t active,
                            double skew)
{
    const StepKind kind = {.requests = requests, .tokens = tokens, .forced = true};
    uint32_t top_k = c->config->max_top_k;
    uint32_t all = requests * tokens;
    StepMeasured measured;
    if (!is_due(c, requests, tokens) || calibration_only_counts(c))
        return OK;
    double load = calibration_force(c, STACK_DECODER, all, active < top_k ? top_k : active, skew);
    if (active < top_k)
        calibration_drop(c, all, active);
    double rows = active < top_k ? all : (double)all * top_k / active;
    const double at[COST_AXES] = {active, rows, load};
    TRY(measure(c, &kind, &measured));
    TRY(note_costs(c, &kind, &measured, at));
    return active < top_k ? OK : note_rest(c, &kind, &measured);
}

/* Calls of few experts that have many rows, as where each waits for the slot of the one before. */
static Status measure_few(Calibration *c)
{
    static const uint32_t TOKENS[] = {4, 16, 64, 256};
    uint32_t top_k = c->config->max_top_k;
    for (uint32_t active = 1; active < top_k; active *= 4)
        for (size_t i = 0; i < COUNT(TOKENS) && !c->options->quick; i++)
            TRY(measure_place(c, 1, TOKENS[i], active, 0));
    return OK;
}

/* Steps of one token of each request. */
static Status measure_decode(Calibration *c, uint32_t requests)
{
    uint32_t top_k = c->config->max_top_k;
    uint32_t most = c->config->max_experts - 1;
    uint32_t active = requests * top_k;
    if (requests == 1)
        for (active = 1; active < top_k && active <= most; active += 1 + active / 2)
            TRY(measure_place(c, 1, 1, active, 0));
    for (active = top_k; active < requests * top_k && active < most; active *= 2)
        TRY(measure_place(c, requests, 1, active, 0));
    active = requests * top_k < most ? requests * top_k : most;
    return active >= top_k ? measure_place(c, requests, 1, active, 0) : OK;
}

static Status measure_prompt(Calibration *c, uint32_t requests, uint32_t tokens)
{
    uint32_t top_k = c->config->max_top_k;
    uint32_t most = c->config->max_experts - 1;
    uint64_t all = (uint64_t)requests * tokens * top_k;
    if (most < top_k)
        return OK;
    most = all < most ? (uint32_t)all : most;
    uint32_t half = most / 2 < top_k ? top_k : most / 2;
    TRY(measure_place(c, requests, tokens, half, 0));
    TRY(measure_place(c, requests, tokens, most, 0));
    return measure_place(c, requests, tokens, most, 1);
}

/* The encoder's operations are queued, too. */
static Status measure_source(Calibration *c, uint32_t requests, uint32_t tokens)
{
    const StepKind kind = {
        .stack = STACK_ENCODER, .requests = requests, .tokens = tokens, .forced = true};
    uint32_t all = requests * tokens;
    uint32_t top_k = c->config->max_top_k;
    uint32_t most = c->config->max_experts - 1;
    uint32_t active = all * top_k < most ? all * top_k : most;
    StepMeasured measured;
    if (!is_due(c, requests, tokens) || active < top_k || calibration_only_counts(c))
        return OK;
    double load = calibration_force(c, STACK_ENCODER, all, active, 0);
    const double at[COST_AXES] = {active, (double)all * top_k / active, load};
    TRY(measure(c, &kind, &measured));
    return note_costs(c, &kind, &measured, at);
}

static Status measure_sources(Calibration *c)
{
    static const uint32_t PLACES[][2] = {{1, 1},   {1, 8},  {1, 16},  {1, 32},  {1, 64},
                                         {1, 128}, {4, 64}, {16, 16}, {16, 32}, {16, 64}};
    size_t n = c->options->quick ? 2 : COUNT(PLACES);
    for (size_t i = 0; i < n && model_is_encoder_decoder(c->config); i++)
        TRY(measure_source(c, PLACES[i][0], PLACES[i][1]));
    return OK;
}

/* Where a profile has the operations, what is left of steps of this model is new. */
static Status measure_rests(Calibration *c)
{
    static const uint32_t PLACES[][2] = {{1, 1},  {2, 1},  {4, 1},   {8, 1},   {16, 1},  {32, 1},
                                         {64, 1}, {1, 32}, {1, 128}, {1, 512}, {16, 64}, {16, 256}};
    uint32_t top_k = c->config->max_top_k;
    uint32_t most = c->config->max_experts - 1;
    for (size_t i = 0; i < COUNT(PLACES); i++) {
        uint32_t rows = PLACES[i][0] * PLACES[i][1] * top_k;
        TRY(measure_place(c, PLACES[i][0], PLACES[i][1], rows < most ? rows : most, 0));
    }
    return OK;
}

static Status measure_hits(Calibration *c)
{
    static const uint32_t REQUESTS[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 0};
    static const uint32_t QUICK_REQUESTS[] = {1, 4, 0};
    static const uint32_t PROMPTS[][2] = {{1, 32},  {1, 128}, {1, 512}, {1, 2048},
                                          {4, 256}, {16, 64}, {16, 256}};
    size_t prompts = c->options->quick ? 2 : COUNT(PROMPTS);
    for (const uint32_t *r = c->options->quick ? QUICK_REQUESTS : REQUESTS; *r > 0; r++)
        TRY(measure_decode(c, *r));
    TRY(measure_few(c));
    for (size_t i = 0; i < prompts; i++)
        TRY(measure_prompt(c, PROMPTS[i][0], PROMPTS[i][1]));
    return OK;
}

static Status measure_round(Calibration *c, bool known)
{
    TRY(calibrate_loads(c));
    TRY(calibrate_cold(c));
    if (known)
        return measure_rests(c);
    TRY(calibrate_varied(c));
    TRY(calibrate_evicted(c));
    TRY(measure_hits(c));
    return measure_sources(c);
}

Status calibrate_queue(Calibration *c)
{
    uint32_t rounds = c->options->quick ? 1 : QUEUE_ROUNDS;
    bool known = c->knows_queue && !c->options->quick;
    if (c->config->n_moe_layers == 0 || c->config->max_experts < 2)
        return OK;
    if (!known)
        TRY(calibrate_held(c));
    if (!c->counting)
        TRY(calibration_settle(c));
    for (c->queue_round = 0; c->queue_round < rounds; c->queue_round++)
        TRY(measure_round(c, known));
    if (known)
        return OK;
    TRY(calibrate_ahead(c));
    if (!calibration_has_next_layer(c->config))
        return OK;
    TRY(calibrate_beside(c));
    return calibrate_decide(c);
}
