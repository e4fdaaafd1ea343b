/* Loads: what the host needs to begin one, to make the queue wait for it and to learn its time, and
 * how long it takes where steps load experts. */
#include "exec/calibrate_parts.h"
#include "policies/link.h"

enum { LOAD_STEPS = 9, MANY_TOKENS = 16 };

/* The host is ahead of the device where this takes so much longer. */
static const double HOST_AHEAD = 1.05;

static const char *const BYTES_AXIS[] = {"bytes"};

/* Forces TOKENS on ACTIVE experts, half of all at the most: of even numbers, or the SECOND half. */
static void turn_over(Calibration *c, uint32_t tokens, uint32_t active, bool second)
{
    uint32_t n_layers;
    const TraceLayer *layers = executor_layers(c->executor, &n_layers);
    uint16_t *experts = c->forced;
    for (uint32_t i = 0; i < n_layers; i++) {
        if (layers[i].stack != STACK_DECODER)
            continue;
        for (uint32_t k = 0; k < tokens * layers[i].top_k; k++)
            *experts++ = (uint16_t)(2 * (k % active) + second);
    }
}

/* The host's time in a step beyond queueing it and waiting for it. */
static double outside(const StepOutput *output)
{
    return (double)output->duration_ns -
           (double)(output->host.queue.duration_ns + output->host.wait.duration_ns);
}

/* Adds up what queueing the experts of a step takes beyond beginning loads. */
static double queueing(const StepOutput *output)
{
    const HostTimes *host = &output->host;
    size_t event = 0;
    double ns = 0;
    for (size_t i = 0; i < output->n_timing; i++) {
        if (output->timing[i].op != OP_EXPERTS)
            continue;
        const HostEvent *waited = &host->events[event++];
        ns += (double)(host->ops[i].start_ns + host->ops[i].duration_ns) -
              (double)(waited->decide.start_ns + waited->decide.duration_ns);
        for (uint32_t l = 0; l < waited->n_loads; l++)
            ns -= (double)host->loads[waited->first_load + l].duration_ns;
    }
    return ns;
}

typedef struct {
    double issue_ns[LOAD_STEPS]; /* mean of a load's call */
    double copy_ns[LOAD_STEPS];  /* mean of a load, from the end of the one before */
    double gap_ns[LOAD_STEPS];   /* mean, from there to its start, where the host was ahead */
    double gaps;                 /* in the last step */
    double queueing_ns[LOAD_STEPS];
    double outside_ns[LOAD_STEPS];
    double lag_ns[LOAD_STEPS]; /* mean of an event: from beginning its first load to its start */
    double
        after_ns[LOAD_STEPS]; /* ... from its last load, or from the end of queueing, to its end */
    double plain_ns[LOAD_STEPS];   /* queueing and waiting without stamps, ... */
    double stamped_ns[LOAD_STEPS]; /* ... and with them, of operations and one more */
    double stamps;
    double loads;
    double events; /* that have them */
} LoadTimes;

/* A load's time: loads follow each other, and one that is begun before another has ended begins
 * with its end. */
static double copying(const StepOutput *output)
{
    uint64_t end_ns = 0;
    double ns = 0;
    for (size_t i = 0; i < output->n_residency; i++) {
        const ResidencyRecord *record = &output->residency[i];
        if (record->bytes == 0)
            continue;
        uint64_t from_ns = record->start_ns > end_ns ? record->start_ns : end_ns;
        end_ns = record->start_ns + record->duration_ns;
        ns += end_ns > from_ns ? (double)(end_ns - from_ns) : 0;
    }
    return ns / (double)output->host.n_loads;
}

/* Adds up what passes between a load and the next one that was begun while it ran; how many those
 * are. */
static double gaps(const StepOutput *output, double *ns)
{
    const HostTimes *host = &output->host;
    const ResidencyRecord *before = NULL;
    double n = 0;
    size_t load = 0;
    *ns = 0;
    for (size_t i = 0; i < output->n_residency && load < host->n_loads; i++) {
        const ResidencyRecord *record = &output->residency[i];
        if (record->bytes == 0)
            continue;
        const HostSpan *call = &host->loads[load++];
        uint64_t end_ns = before != NULL ? before->start_ns + before->duration_ns : 0;
        before = record;
        if (call->start_ns + call->duration_ns >= end_ns || record->start_ns < end_ns)
            continue;
        *ns += (double)(record->start_ns - end_ns);
        n++;
    }
    return n;
}

/* The first start and the last end of the loads of LAYER; false: it has none. */
static bool find_loads(const StepOutput *output, uint32_t layer, HostSpan *span)
{
    uint64_t end_ns = 0;
    *span = (HostSpan){.start_ns = UINT64_MAX};
    for (size_t i = 0; i < output->n_residency; i++) {
        const ResidencyRecord *record = &output->residency[i];
        if (record->bytes == 0 || record->layer != layer)
            continue;
        uint64_t this_end_ns = record->start_ns + record->duration_ns;
        span->start_ns = record->start_ns < span->start_ns ? record->start_ns : span->start_ns;
        end_ns = this_end_ns > end_ns ? this_end_ns : end_ns;
    }
    span->duration_ns = end_ns - span->start_ns;
    return end_ns > 0;
}

/* What passes before an event's first load starts, from the host's beginning it on, and after its
 * last and after queueing. Means over the events of the step. */
static void around(const StepOutput *output, double *lag_ns, double *after_ns)
{
    const HostTimes *host = &output->host;
    size_t event = 0;
    *lag_ns = *after_ns = 0;
    for (size_t i = 0; i < output->n_timing; i++) {
        const TimingRecord *op = &output->timing[i];
        HostSpan loads;
        if (op->op != OP_EXPERTS)
            continue;
        const HostEvent *waited = &host->events[event++];
        uint64_t from_ns = host->ops[i].start_ns + host->ops[i].duration_ns;
        if (find_loads(output, op->layer, &loads)) {
            uint64_t end_ns = loads.start_ns + loads.duration_ns;
            from_ns = end_ns > from_ns ? end_ns : from_ns;
            *lag_ns += (double)loads.start_ns - (double)host->loads[waited->first_load].start_ns;
        }
        *after_ns += (double)(op->start_ns + op->duration_ns) - (double)from_ns;
    }
    *lag_ns /= event > 0 ? (double)event : 1;
    *after_ns /= event > 0 ? (double)event : 1;
}

static double queue_and_wait(const StepOutput *output)
{
    return (double)(output->host.queue.duration_ns + output->host.wait.duration_ns);
}

/* A stamped step becomes number AT of TIMES. */
static Status time_step(Calibration *c, const StepKind *kind, uint32_t at, LoadTimes *times)
{
    StepOutput output;
    double ns;
    TRY(calibration_step(c, kind, true, &output, &ns));
    times->loads = (double)output.host.n_loads;
    times->events = (double)output.host.n_events;
    times->stamps = (double)output.n_timing + 1;
    times->stamped_ns[at] = queue_and_wait(&output);
    times->issue_ns[at] = 0;
    for (size_t l = 0; l < output.host.n_loads; l++)
        times->issue_ns[at] += (double)output.host.loads[l].duration_ns / times->loads;
    times->copy_ns[at] = times->loads > 0 ? copying(&output) : 0;
    times->gaps = gaps(&output, &times->gap_ns[at]);
    times->gap_ns[at] /= times->gaps > 0 ? times->gaps : 1;
    times->queueing_ns[at] = queueing(&output);
    times->outside_ns[at] = outside(&output);
    around(&output, &times->lag_ns[at], &times->after_ns[at]);
    return OK;
}

/* Steps of TOKENS requests whose ACTIVE experts are all loaded, without stamps and with them, each
 * followed by one that hits them, so that the host is as fast in all. There is room for so many. */
static Status time_steps(Calibration *c, uint32_t tokens, uint32_t active, LoadTimes *misses,
                         LoadTimes *hits)
{
    const StepKind kind = {.requests = tokens, .tokens = 1, .forced = true};
    StepOutput output;
    double ns;
    for (int i = -2; i < LOAD_STEPS; i++) {
        uint32_t at = i > 0 ? (uint32_t)i : 0;
        turn_over(c, tokens, active, false);
        TRY(calibration_step(c, &kind, false, &output, &ns));
        misses->plain_ns[at] = queue_and_wait(&output);
        turn_over(c, tokens, active, true);
        TRY(time_step(c, &kind, at, misses));
        TRY(time_step(c, &kind, at, hits));
    }
    return OK;
}

/* What MISSES take more than HITS, for each of N. */
static double for_each(double *misses, double *hits, double n)
{
    double more = calibration_median(misses, LOAD_STEPS) - calibration_median(hits, LOAD_STEPS);
    return more > 0 ? more / n : 0;
}

static double after_loads(LoadTimes *hits, LoadTimes *misses)
{
    return calibration_median(misses->after_ns, LOAD_STEPS) -
           calibration_median(hits->after_ns, LOAD_STEPS);
}

static double at_least_0(double ns)
{
    return ns > 0 ? ns : 0;
}

/* Loads of which each is copied by itself, on a device as long as any copy takes. */
static Status note_copies(Calibration *c, LoadTimes *misses, double bytes)
{
    if (calibration_runs_at_once(c))
        return calibration_note(c, "copy/h2d", "", UNIT_NS, BYTES_AXIS, 1, &bytes,
                                calibration_median(misses->copy_ns, LOAD_STEPS),
                                calibration_spread(misses->copy_ns, LOAD_STEPS));
    if (misses->gaps > 0)
        TRY(calibration_note(c, "copy/gap", "", UNIT_NS, NULL, 0, NULL,
                             calibration_median(misses->gap_ns, LOAD_STEPS),
                             calibration_spread(misses->gap_ns, LOAD_STEPS)));
    return calibration_note(c, "issue/load", "", UNIT_NS, BYTES_AXIS, 1, &bytes,
                            calibration_median(misses->issue_ns, LOAD_STEPS),
                            calibration_spread(misses->issue_ns, LOAD_STEPS));
}

/* ... and where those of an event are begun together: how long they take was measured for
 * themselves. */
static Status note_together(Calibration *c, LoadTimes *misses)
{
    return calibration_note(c, "issue/together", "", UNIT_NS, NULL, 0, NULL,
                            calibration_median(misses->issue_ns, LOAD_STEPS) * misses->loads /
                                misses->events,
                            calibration_spread(misses->issue_ns, LOAD_STEPS));
}

/* The shape key of the experts of the decoder. */
static void experts_shape(const Calibration *c, char shape[160])
{
    for (uint32_t i = c->config->n_encoder_layers; i < c->config->n_layers; i++)
        if (c->config->layers[i].moe)
            calibrate_shape(c->config, i, OP_EXPERTS, c->compute, shape);
}

/* A call of ACTIVE experts that waits for loads. */
static Status note_after(Calibration *c, uint32_t active, LoadTimes *hits, LoadTimes *misses)
{
    static const char *const AXIS[] = {"active"};
    const double at = active;
    char shape[160] = "";
    experts_shape(c, shape);
    return calibration_note(c, "after/load", shape, UNIT_NS, AXIS, 1, &at,
                            after_loads(hits, misses),
                            calibration_spread(misses->after_ns, LOAD_STEPS));
}

/* What a stamp adds to a step that the device bounds, as it does where it waits for loads. */
static Status note_stamp(Calibration *c, LoadTimes *misses)
{
    char shape[160] = "";
    double ns = (calibration_median(misses->stamped_ns, LOAD_STEPS) -
                 calibration_median(misses->plain_ns, LOAD_STEPS)) /
                misses->stamps;
    c->queue_stamp_ns = at_least_0(ns);
    experts_shape(c, shape);
    return calibration_note(c, "stamp/queued", shape, UNIT_NS, NULL, 0, NULL, c->queue_stamp_ns,
                            calibration_spread(misses->plain_ns, LOAD_STEPS));
}

static Status note_loads(Calibration *c, LoadTimes *hits, LoadTimes *misses)
{
    double bytes = (double)executor_expert_slot_bytes(c->executor, 0);
    bool together = bytes <= LOADED_TOGETHER_BYTES && !calibration_runs_at_once(c);
    TRY(together ? note_together(c, misses) : note_copies(c, misses, bytes));
    TRY(calibration_note(c, "end/load", "", UNIT_NS, BYTES_AXIS, 1, &bytes,
                         for_each(misses->outside_ns, hits->outside_ns, misses->loads), 0));
    if (calibration_runs_at_once(c))
        return OK;
    c->lag_ns = at_least_0(calibration_median(misses->lag_ns, LOAD_STEPS));
    TRY(calibration_note(c, "lag", "", UNIT_NS, BYTES_AXIS, 1, &bytes, c->lag_ns,
                         calibration_spread(misses->lag_ns, LOAD_STEPS)));
    TRY(note_after(c, c->config->max_top_k, hits, misses));
    TRY(note_stamp(c, misses));
    return calibration_note(c, "issue/await", "", UNIT_NS, BYTES_AXIS, 1, &bytes,
                            for_each(misses->queueing_ns, hits->queueing_ns, misses->events), 0);
}

/* ---- loads and calls in turns ---- */

/* Where there is room for one expert, each load waits for the call of the expert before it: means
 * over the turns of a step. */
typedef struct {
    double host_ns[LOAD_STEPS]; /* from beginning one load to beginning the next */
    double turn_ns[LOAD_STEPS]; /* from its start to the next one's */
    double copy_ns[LOAD_STEPS];
} Turns;

/* Turns but the first of an event, for which more is queued. */
static void add_turns(const StepOutput *output, Turns *turns, uint32_t at)
{
    const HostSpan *calls = output->host.loads;
    const ResidencyRecord *before = NULL;
    size_t load = 0;
    double n = 0;
    turns->host_ns[at] = turns->turn_ns[at] = turns->copy_ns[at] = 0;
    for (size_t i = 0; i < output->n_residency && load < output->host.n_loads; i++) {
        const ResidencyRecord *record = &output->residency[i];
        if (record->bytes == 0)
            continue;
        if (before != NULL && before->layer == record->layer) {
            turns->host_ns[at] += (double)(calls[load].start_ns - calls[load - 1].start_ns);
            turns->turn_ns[at] += (double)record->start_ns - (double)before->start_ns;
            turns->copy_ns[at] += (double)record->duration_ns;
            n++;
        }
        before = record;
        load++;
    }
    turns->host_ns[at] /= n > 0 ? n : 1;
    turns->turn_ns[at] /= n > 0 ? n : 1;
    turns->copy_ns[at] /= n > 0 ? n : 1;
}

static Status time_turns(Calibration *c, const StepKind *kind, Turns *turns)
{
    StepOutput output;
    double ns;
    calibration_force(c, STACK_DECODER, kind->tokens, c->config->max_top_k, 0);
    for (int i = -2; i < LOAD_STEPS; i++) {
        TRY(calibration_step(c, kind, true, &output, &ns));
        add_turns(&output, turns, i > 0 ? (uint32_t)i : 0);
    }
    return OK;
}

/* *NS from the end of queueing a call of one expert, which is there, to its end. */
static Status time_call(Calibration *c, const StepKind *kind, double *ns)
{
    double after_ns[LOAD_STEPS];
    StepOutput output;
    double ignored;
    calibration_force(c, STACK_DECODER, kind->tokens, c->config->max_top_k, 0);
    calibration_drop(c, kind->tokens, 1);
    for (int i = -2; i < LOAD_STEPS; i++) {
        TRY(calibration_step(c, kind, true, &output, &ignored));
        around(&output, &ignored, &after_ns[i > 0 ? i : 0]);
    }
    *ns = calibration_median(after_ns, LOAD_STEPS) - c->queue_stamp_ns;
    return OK;
}

/* What is left of a turn on the device but its load and its call, AFTER_NS included that passes
 * between the two: handing over to the next load. Nothing is known where the host is slower. */
static Status note_handing_over(Calibration *c, Turns *turns, double host_ns, double call_ns)
{
    double turn_ns = calibration_median(turns->turn_ns, LOAD_STEPS);
    double spread = calibration_spread(turns->turn_ns, LOAD_STEPS);
    if (turn_ns < HOST_AHEAD * host_ns)
        return OK;
    return calibration_note(
        c, "sync/together", "", UNIT_NS, NULL, 0, NULL,
        at_least_0(turn_ns - calibration_median(turns->copy_ns, LOAD_STEPS) - call_ns), spread);
}

/* A turn is beginning a load, which takes the host BEGIN_NS, making the queue wait for it, and a
 * call, which begins AFTER_NS after the load. */
static Status measure_turns(Calibration *c, uint32_t tokens, double begin_ns, double after_ns)
{
    static const char *const AXIS[] = {"tokens"};
    const StepKind kind = {.requests = 1, .tokens = tokens, .forced = true};
    const double at = tokens;
    char shape[160] = "";
    double call_ns;
    Turns turns;
    if (tokens > c->max_tokens || tokens > c->max_length)
        return OK;
    TRY(time_turns(c, &kind, &turns));
    TRY(time_call(c, &kind, &call_ns));
    experts_shape(c, shape);
    double host_ns = calibration_median(turns.host_ns, LOAD_STEPS);
    TRY(note_handing_over(c, &turns, host_ns, call_ns + after_ns));
    return calibration_note(c, "issue/again", shape, UNIT_NS, AXIS, 1, &at,
                            at_least_0(host_ns - begin_ns),
                            calibration_spread(turns.host_ns, LOAD_STEPS));
}

/* The mean over events of how much longer their first load takes than their last; 0 where these are
 * the same. */
static double first_beyond_last(const StepOutput *output)
{
    const ResidencyRecord *first = NULL;
    const ResidencyRecord *last = NULL;
    double ns = 0;
    double n = 0;
    for (size_t i = 0; i <= output->n_residency; i++) {
        const ResidencyRecord *record = i < output->n_residency ? &output->residency[i] : NULL;
        if (record != NULL && record->bytes == 0)
            continue;
        if (first != NULL && (record == NULL || record->layer != first->layer)) {
            ns += (double)first->duration_ns - (double)last->duration_ns;
            n += first->start_ns != last->start_ns;
            first = NULL;
        }
        first = first == NULL ? record : first;
        last = record;
    }
    return n > 0 ? ns / n : 0;
}

/* Two tokens have twice as many experts as there is room for: one half is loaded where nothing is
 * under way, the other when the first has been computed, and both are as many. */
static Status measure_start(Calibration *c)
{
    const StepKind kind = {.requests = 2, .tokens = 1, .forced = true};
    uint32_t active = 2 * c->config->max_top_k;
    double more_ns[LOAD_STEPS] = {0};
    Plan plan = c->plan;
    StepOutput output;
    double ns;
    if (2 * active > c->config->max_experts || c->max_requests < 2)
        return OK;
    plan.buffer.slots = c->config->max_top_k;
    TRY(executor_set_plan(c->executor, &plan));
    for (int i = -2; i < LOAD_STEPS; i++) {
        turn_over(c, 2, active, i % 2 != 0);
        TRY(calibration_step(c, &kind, true, &output, &ns));
        more_ns[i > 0 ? i : 0] = first_beyond_last(&output);
    }
    return calibration_note(c, "start/together", "", UNIT_NS, NULL, 0, NULL,
                            at_least_0(calibration_median(more_ns, LOAD_STEPS)),
                            calibration_spread(more_ns, LOAD_STEPS));
}

/* Loads of many experts, whose call the device is longer at than the host at queueing it. */
static Status measure_many(Calibration *c)
{
    LoadTimes hits = {.loads = 0};
    LoadTimes misses = {.loads = 0};
    uint32_t tokens = MANY_TOKENS;
    uint32_t active = c->config->max_experts / 2;
    Plan plan = c->plan;
    if (active > tokens * c->config->max_top_k)
        active = tokens * c->config->max_top_k;
    if (tokens > c->max_requests || tokens > c->max_tokens || active <= c->config->max_top_k)
        return OK;
    plan.buffer.slots = active;
    TRY(executor_set_plan(c->executor, &plan));
    TRY(time_steps(c, tokens, active, &misses, &hits));
    return note_after(c, active, &hits, &misses);
}

/* Of small loads, beside which a turn's other costs count. */
static Status measure_small_loads(Calibration *c, LoadTimes *hits, LoadTimes *misses)
{
    double begin_ns =
        calibration_median(misses->issue_ns, LOAD_STEPS) * misses->loads / misses->events +
        for_each(misses->queueing_ns, hits->queueing_ns, misses->events);
    double after_ns = after_loads(hits, misses);
    Plan plan = c->plan;
    if (calibration_runs_at_once(c) || c->config->max_top_k < 3 ||
        executor_expert_slot_bytes(c->executor, 0) > LOADED_TOGETHER_BYTES)
        return OK;
    TRY(measure_start(c));
    TRY(measure_many(c));
    plan.buffer.slots = 1;
    TRY(executor_set_plan(c->executor, &plan));
    TRY(measure_turns(c, 1, begin_ns, after_ns));
    TRY(measure_turns(c, 16, begin_ns, after_ns));
    return c->options->quick ? OK : measure_turns(c, 256, begin_ns, after_ns);
}

/* With room for a token's experts only, two tokens that share none take turns. */
Status calibrate_loads(Calibration *c)
{
    LoadTimes hits = {.loads = 0};
    LoadTimes misses = {.loads = 0};
    Plan plan = c->plan;
    if (2 * c->config->max_top_k > c->config->max_experts || calibration_only_counts(c))
        return OK;
    plan.buffer.slots = c->config->max_top_k;
    TRY(executor_set_plan(c->executor, &plan));
    TRY(time_steps(c, 1, c->config->max_top_k, &misses, &hits));
    if (misses.loads > 0) {
        TRY(note_loads(c, &hits, &misses));
        TRY(measure_small_loads(c, &hits, &misses));
    }
    return executor_set_plan(c->executor, &c->plan);
}
