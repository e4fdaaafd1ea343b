/* Events of small experts of which some hit and some are loaded: beginning the loads together,
 * making the queue wait for them, and how long these take while the host is still beginning them,
 * by how many they are; and where experts are drawn at random, deciding, and going through the
 * decisions until the loads begin. */
#include "exec/calibrate_parts.h"
#include "policies/link.h"

enum { MIXED_STEPS = 7, MIXED_WARM_UP = 2, DRAWN_STEPS = 8, MOST_DRAWN = 512, LEAST_DRAWN = 5 };

/* Of a load that is as fast as it comes, which is asked to be slow. */
static const double LEAST_ASKED_NS = 2;

static const char *const LOADS_AXIS[] = {"loads"};
static const char *const BYTES_AXIS[] = {"bytes"};

/* Means over the events of steps. */
typedef struct {
    double begin_ns[MIXED_STEPS];
    double queue_ns[MIXED_STEPS]; /* the experts, but for beginning loads */
    double load_ns[MIXED_STEPS];
} MixedTimes;

/* The experts of every event are ACTIVE neighbours, BY places further on than those before. */
static void move_on(Calibration *c, uint32_t tokens, uint32_t active, uint32_t by)
{
    ForcedLayer at = forced_layers(c, STACK_DECODER, tokens);
    c->first_expert = (c->first_expert + by) % c->config->max_experts;
    while (forced_next(&at))
        for (size_t id = 0; id < at.n_ids; id++)
            at.experts[id] = (uint16_t)((c->first_expert + id % active) % at.layer->experts);
}

static void keep_host(Calibration *c, const HostTimes *host, uint32_t at, MixedTimes *times)
{
    double n = host->n_events > 0 ? (double)host->n_events : 1;
    times->begin_ns[at] = times->queue_ns[at] = 0;
    calibration_keep_host_times(host, c->issue_ns, c->decide_ns);
    for (uint32_t i = 0; i < c->n_ops; i++)
        if (c->op[i] == OP_EXPERTS)
            times->queue_ns[at] += c->issue_ns[i] / n;
    for (size_t i = 0; i < host->n_loads; i++)
        times->begin_ns[at] += (double)host->loads[i].duration_ns / n;
}

/* The loads of an event have one time. */
static void keep_loads(const StepOutput *output, uint32_t at, MixedTimes *times)
{
    const ResidencyRecord *before = NULL;
    double n = 0;
    times->load_ns[at] = 0;
    for (size_t i = 0; i < output->n_residency; i++) {
        const ResidencyRecord *record = &output->residency[i];
        if (record->bytes == 0)
            continue;
        if (before == NULL || before->layer != record->layer) {
            times->load_ns[at] += (double)record->duration_ns;
            n++;
        }
        before = record;
    }
    times->load_ns[at] /= n > 0 ? n : 1;
}

/* Steps of TOKENS requests whose events have ACTIVE experts, of which LOADS are loaded. */
static Status time_steps(Calibration *c, uint32_t tokens, uint32_t active, uint32_t loads,
                         MixedTimes *times)
{
    const StepKind kind = {.requests = tokens, .tokens = 1, .forced = true};
    StepOutput output;
    double ns;
    TRY(calibration_step(c, &kind, true, &output, &ns));
    calibration_list(c, STACK_DECODER, &output);
    calibration_seek_quiet(c);
    for (int i = -MIXED_WARM_UP; i < MIXED_STEPS; i += calibration_counts(c)) {
        uint32_t at = i > 0 ? (uint32_t)i : 0;
        move_on(c, tokens, active, loads);
        TRY(calibration_step(c, &kind, false, &output, &ns));
        keep_host(c, &output.host, at, times);
        keep_loads(&output, at, times);
    }
    return OK;
}

/* What MIXED takes longer than HITS. */
static double longer(double *mixed, double *hits)
{
    return at_least_0(median_f64(mixed, MIXED_STEPS) - median_f64(hits, MIXED_STEPS));
}

static Status note(Calibration *c, uint32_t loads, MixedTimes *times)
{
    const double slot_bytes = (double)executor_expert_slot_bytes(c->executor, 0);
    const double at = loads;
    const double bytes = loads * slot_bytes;
    char shape[160];
    calibration_experts_shape(c, shape);
    double spread = variation_f64(times->begin_ns, MIXED_STEPS);
    TRY(calibration_note(c, "issue/loads", shape, UNIT_NS, LOADS_AXIS, 1, &at,
                         median_f64(times->begin_ns, MIXED_STEPS), spread));
    spread = variation_f64(times->load_ns, MIXED_STEPS);
    return calibration_note(c, "load/together", "", UNIT_NS, BYTES_AXIS, 1, &bytes,
                            median_f64(times->load_ns, MIXED_STEPS), spread);
}

/* One call for all; of several the later ones take longer besides. */
static Status note_await(Calibration *c, MixedTimes *hits, MixedTimes *times)
{
    const double bytes = (double)executor_expert_slot_bytes(c->executor, 0);
    return calibration_note(c, "issue/await", "", UNIT_NS, BYTES_AXIS, 1, &bytes,
                            longer(times->queue_ns, hits->queue_ns), 0);
}

/* Of LEAST loads up to all. */
static Status measure_tokens(Calibration *c, uint32_t tokens, uint32_t active, uint32_t least)
{
    Plan plan = c->plan;
    MixedTimes times;
    MixedTimes hits;
    plan.buffer.slots = active;
    TRY(executor_set_plan(c->executor, &plan));
    TRY(time_steps(c, tokens, active, 0, &hits));
    TRY(time_steps(c, tokens, active, 0, &hits));
    for (uint32_t loads = least; loads <= active; loads *= 2) {
        TRY(time_steps(c, tokens, active, loads, &times));
        TRY(note(c, loads, &times));
        if (link_joins_hits(loads, executor_expert_slot_bytes(c->executor, 0), 0))
            TRY(note_await(c, &hits, &times));
    }
    return OK;
}

/* One load over a link that is to be slow, but no slower than it is: what that takes the host and
 * the load more than the same without. */
static Status measure_throttle(Calibration *c)
{
    uint32_t active = c->config->max_top_k;
    Plan plan = c->plan;
    MixedTimes plain;
    MixedTimes slow;
    char shape[160];
    plan.buffer.slots = active;
    TRY(executor_set_plan(c->executor, &plan));
    TRY(time_steps(c, 1, active, 1, &plain));
    plan.link.h2d_gb_per_s = (double)executor_expert_slot_bytes(c->executor, 0) / LEAST_ASKED_NS;
    TRY(executor_set_plan(c->executor, &plan));
    TRY(time_steps(c, 1, active, 1, &slow));
    calibration_experts_shape(c, shape);
    double spread = variation_f64(slow.load_ns, MIXED_STEPS);
    TRY(calibration_note(c, "throttle/least", shape, UNIT_NS, NULL, 0, NULL,
                         longer(slow.load_ns, plain.load_ns), spread));
    spread = variation_f64(slow.begin_ns, MIXED_STEPS);
    return calibration_note(c, "issue/throttle", shape, UNIT_NS, NULL, 0, NULL,
                            longer(slow.begin_ns, plain.begin_ns), spread);
}

/* ---- experts that are drawn ---- */

typedef struct {
    uint32_t n;    /* events that load */
    double active; /* sum over them */
    double decide_ns[MOST_DRAWN];
    double carry_ns[MOST_DRAWN]; /* from the decisions to the first load */
} Drawn;

static void keep_drawn(const HostTimes *host, Drawn *drawn)
{
    for (size_t i = 0; i < host->n_events; i++) {
        const HostEvent *event = &host->events[i];
        if (event->n_loads == 0 || drawn->n == MOST_DRAWN)
            continue;
        drawn->active += event->active;
        drawn->decide_ns[drawn->n] = (double)event->decide.duration_ns;
        drawn->carry_ns[drawn->n++] = ns_between(event->decide.start_ns + event->decide.duration_ns,
                                                 host->loads[event->first_load].start_ns);
    }
}

static Status note_drawn(Calibration *c, Drawn *drawn)
{
    static const char *const ACTIVE_AXIS[] = {"active"};
    char shape[160];
    if (drawn->n < LEAST_DRAWN)
        return OK;
    const double at = (double)(uint32_t)(drawn->active / drawn->n + 0.5);
    calibration_experts_shape(c, shape);
    double spread = variation_f64(drawn->decide_ns, drawn->n);
    TRY(calibration_note(c, "decide/load", shape, UNIT_NS, ACTIVE_AXIS, 1, &at,
                         median_f64(drawn->decide_ns, drawn->n), spread));
    spread = variation_f64(drawn->carry_ns, drawn->n);
    return calibration_note(c, "carry", shape, UNIT_NS, ACTIVE_AXIS, 1, &at,
                            median_f64(drawn->carry_ns, drawn->n), spread);
}

/* A token of each of REQUESTS, with room for three quarters of the experts. */
static Status measure_drawn(Calibration *c, uint32_t requests)
{
    const StepKind kind = {.requests = requests, .tokens = 1, .forced = true};
    uint64_t random = requests;
    Plan plan = c->plan;
    Drawn drawn = {0};
    StepOutput output;
    double ns;
    if (requests > c->max_requests)
        return OK;
    plan.buffer.slots = c->config->max_experts * 3 / 4;
    TRY(executor_set_plan(c->executor, &plan));
    calibration_seek_quiet(c);
    for (int i = -DRAWN_STEPS; i < DRAWN_STEPS;) {
        calibration_draw(c, requests, &random);
        TRY(calibration_step(c, &kind, false, &output, &ns));
        if (calibration_counts(c) && i++ >= 0)
            keep_drawn(&output.host, &drawn);
    }
    return note_drawn(c, &drawn);
}

Status calibrate_mixed(Calibration *c)
{
    uint32_t top_k = c->config->max_top_k;
    uint32_t half = c->config->max_experts / 2;
    uint32_t tokens = (half + top_k - 1) / top_k;
    TRY(measure_tokens(c, 1, top_k, 1));
    TRY(measure_throttle(c));
    TRY(measure_drawn(c, 1));
    TRY(measure_drawn(c, 4));
    TRY(measure_drawn(c, 8));
    if (tokens < 2 || tokens > c->max_requests || c->options->quick)
        return OK;
    return measure_tokens(c, tokens, half, 2 * top_k);
}
