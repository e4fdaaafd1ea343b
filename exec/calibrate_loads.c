/* Loads: what the host needs to begin one, to make the queue wait for it and to learn its time, and
 * how long it takes where steps load experts. */
#include "exec/calibrate_parts.h"
#include "policies/link.h"

enum { LOAD_STEPS = 5, MANY_TOKENS = 16, MOST_EVENTS = 64 };

static const char *const BYTES_AXIS[] = {"bytes"};

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
        ns += ns_between(waited->decide.start_ns + waited->decide.duration_ns,
                         host->ops[i].start_ns + host->ops[i].duration_ns);
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
    double plain_outside_ns[LOAD_STEPS]; /* outside_ns without stamps */
    double plain_next_ns[LOAD_STEPS];    /* to_next_router() without stamps, ... */
    double held_next_ns[LOAD_STEPS];     /* ... held_to_next_router() with them, ... */
    double stamps;                       /* ... of which so many are waited for */
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

bool calibration_experts_shape(const Calibration *c, char shape[160])
{
    shape[0] = '\0';
    for (uint32_t i = c->config->n_encoder_layers; i < c->config->n_layers; i++)
        if (c->config->layers[i].moe) {
            calibrate_shape(c->config, i, OP_EXPERTS, c->compute, shape);
            return true;
        }
    return false;
}

/* What passes before an event's first load starts, from the host's beginning it on, and after its
 * last and after queueing. Means over the events of a stamped step. */
static void times_around(const StepOutput *output, double *lag_ns, double *after_ns)
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
            *lag_ns += ns_between(host->loads[waited->first_load].start_ns, loads.start_ns);
        }
        *after_ns += ns_between(from_ns, op->start_ns + op->duration_ns);
    }
    *lag_ns /= event > 0 ? (double)event : 1;
    *after_ns /= event > 0 ? (double)event : 1;
}

/* From the end of an event's loads, which the host is ahead of, to its learning of the next
 * router: the median over the events of a step; 0: there are none. */
static double to_next_router(const StepOutput *output)
{
    const HostEvent *events = output->host.events;
    double ns[MOST_EVENTS];
    uint32_t n = 0;
    for (size_t i = 0; i + 1 < output->host.n_events && n < MOST_EVENTS; i++) {
        const HostSpan *wait = &events[i + 1].wait;
        HostSpan loads;
        if (find_loads(output, events[i].layer, &loads))
            ns[n++] =
                ns_between(loads.start_ns + loads.duration_ns, wait->start_ns + wait->duration_ns);
    }
    return median_f64(ns, n);
}

/* The same of a held step, by what its operations take from the end of the loads on: it is told
 * of the router before the stamp behind it, which its time has, and from whose end on it wakes up.
 */
static double held_to_next_router(const StepOutput *output)
{
    const HostEvent *events = output->host.events;
    double ns[MOST_EVENTS];
    double sum_ns = 0;
    bool loads_before = false;
    size_t event = 0;
    uint32_t n = 0;
    for (size_t i = 0; i < output->n_timing && n < MOST_EVENTS; i++) {
        const TimingRecord *op = &output->timing[i];
        uint64_t end_ns = op->start_ns + op->duration_ns;
        HostSpan loads;
        sum_ns += (double)op->duration_ns;
        if (op->op == OP_EXPERTS) {
            loads_before = find_loads(output, op->layer, &loads);
            sum_ns = loads_before ? ns_between(loads.start_ns + loads.duration_ns, end_ns) : 0;
        } else if (op->op == OP_ROUTE) {
            const HostSpan *wait = &events[event++].wait;
            if (loads_before)
                ns[n++] = sum_ns + ns_between(end_ns, wait->start_ns + wait->duration_ns);
        }
    }
    return median_f64(ns, n);
}

/* Stamps that are in such a time and not in one without: one behind each operation, but the
 * router's. */
static double count_stamps(const StepOutput *output)
{
    size_t first = SIZE_MAX;
    size_t last = 0;
    for (size_t i = 0; i < output->n_timing; i++)
        if (output->timing[i].op == OP_EXPERTS) {
            first = first == SIZE_MAX ? i : first;
            last = i;
        }
    return last > first ? (double)(last - first) / (double)(output->host.n_events - 1) - 1 : 0;
}

/* A stamped step becomes number AT of TIMES. */
static Status time_step(Calibration *c, const StepKind *kind, uint32_t at, LoadTimes *times)
{
    StepOutput output;
    double ns;
    TRY(calibration_step(c, kind, true, &output, &ns));
    times->loads = (double)output.host.n_loads;
    times->events = (double)output.host.n_events;
    times->stamps = count_stamps(&output);
    times->issue_ns[at] = 0;
    for (size_t l = 0; l < output.host.n_loads; l++)
        times->issue_ns[at] += (double)output.host.loads[l].duration_ns / times->loads;
    times->copy_ns[at] = times->loads > 0 ? copying(&output) : 0;
    times->gaps = gaps(&output, &times->gap_ns[at]);
    times->gap_ns[at] /= times->gaps > 0 ? times->gaps : 1;
    times->queueing_ns[at] = queueing(&output);
    times->outside_ns[at] = outside(&output);
    times_around(&output, &times->lag_ns[at], &times->after_ns[at]);
    return OK;
}

/* Steps of TOKENS requests whose ACTIVE experts are all loaded: without stamps, with them, and
 * held, each followed by one that hits them, so that the host is as fast in all. There is room for
 * so many. */
static Status time_steps(Calibration *c, uint32_t tokens, uint32_t active, LoadTimes *misses,
                         LoadTimes *hits)
{
    uint32_t requests = tokens < c->max_requests ? tokens : c->max_requests;
    const StepKind kind = {.requests = requests, .tokens = tokens / requests, .forced = true};
    StepKind held = kind;
    bool second = false;
    StepOutput output;
    double ns;
    held.held = true;
    calibration_seek_quiet(c);
    for (int i = -2; i < LOAD_STEPS; i += calibration_counts(c), second = !second) {
        uint32_t at = i > 0 ? (uint32_t)i : 0;
        calibration_turn_over(c, tokens, active, second);
        TRY(calibration_step(c, &kind, false, &output, &ns));
        misses->plain_next_ns[at] = to_next_router(&output);
        misses->plain_outside_ns[at] = outside(&output);
        TRY(calibration_step(c, &kind, false, &output, &ns));
        hits->plain_outside_ns[at] = outside(&output);
        calibration_turn_over(c, tokens, active, !second);
        TRY(time_step(c, &kind, at, misses));
        TRY(time_step(c, &kind, at, hits));
        calibration_turn_over(c, tokens, active, second);
        TRY(calibration_step(c, &held, true, &output, &ns));
        misses->held_next_ns[at] = held_to_next_router(&output);
        TRY(calibration_step(c, &kind, false, &output, &ns));
    }
    return OK;
}

/* What MISSES take more than HITS, for each of N. */
static double for_each(double *misses, double *hits, double n)
{
    double more = median_f64(misses, LOAD_STEPS) - median_f64(hits, LOAD_STEPS);
    return more > 0 ? more / n : 0;
}

static double after_loads(LoadTimes *hits, LoadTimes *misses)
{
    return median_f64(misses->after_ns, LOAD_STEPS) - median_f64(hits->after_ns, LOAD_STEPS);
}

/* Loads of which each is copied by itself, on a device as long as any copy takes. */
static Status note_copies(Calibration *c, LoadTimes *misses, double bytes)
{
    if (calibration_runs_at_once(c))
        return calibration_note(c, "copy/h2d", "", UNIT_NS, BYTES_AXIS, 1, &bytes,
                                median_f64(misses->copy_ns, LOAD_STEPS),
                                variation_f64(misses->copy_ns, LOAD_STEPS));
    if (misses->gaps > 0)
        TRY(calibration_note(c, "copy/gap", "", UNIT_NS, NULL, 0, NULL,
                             median_f64(misses->gap_ns, LOAD_STEPS),
                             variation_f64(misses->gap_ns, LOAD_STEPS)));
    return calibration_note(c, "issue/load", "", UNIT_NS, BYTES_AXIS, 1, &bytes,
                            median_f64(misses->issue_ns, LOAD_STEPS),
                            variation_f64(misses->issue_ns, LOAD_STEPS));
}

/* ... and where those of an event are begun together: how long they take was measured for
 * themselves. */
static Status note_together(Calibration *c, LoadTimes *misses)
{
    return calibration_note(c, "issue/together", "", UNIT_NS, NULL, 0, NULL,
                            median_f64(misses->issue_ns, LOAD_STEPS) * misses->loads /
                                misses->events,
                            variation_f64(misses->issue_ns, LOAD_STEPS));
}

/* A call of ACTIVE experts that waits for loads. */
static Status note_after(Calibration *c, uint32_t active, LoadTimes *hits, LoadTimes *misses)
{
    static const char *const AXIS[] = {"active"};
    const double at = active;
    char shape[160];
    calibration_experts_shape(c, shape);
    return calibration_note(c, "after/load", shape, UNIT_NS, AXIS, 1, &at,
                            after_loads(hits, misses), variation_f64(misses->after_ns, LOAD_STEPS));
}

/* What a stamp adds where the device bounds, as it does after loads. */
static Status note_stamp(Calibration *c, double tokens, LoadTimes *misses)
{
    static const char *const AXIS[] = {"tokens"};
    char shape[160];
    if (misses->stamps <= 0)
        return OK;
    double ns = (median_f64(misses->held_next_ns, LOAD_STEPS) -
                 median_f64(misses->plain_next_ns, LOAD_STEPS)) /
                misses->stamps;
    calibration_keep_stamp(c, tokens, at_least_0(ns));
    calibration_experts_shape(c, shape);
    return calibration_note(c, "stamp/queued", shape, UNIT_NS, AXIS, 1, &tokens, at_least_0(ns),
                            variation_f64(misses->plain_next_ns, LOAD_STEPS));
}

/* The first time that a step learns ties the device's clock to the host's. Where operations are
 * stamped that comes anyway. */
static Status note_end(Calibration *c, LoadTimes *hits, LoadTimes *misses)
{
    char shape[160];
    double plain_ns = for_each(misses->plain_outside_ns, hits->plain_outside_ns, 1);
    double stamped_ns = for_each(misses->outside_ns, hits->outside_ns, 1);
    calibration_experts_shape(c, shape);
    return calibration_note(c, "end/loads", shape, UNIT_NS, NULL, 0, NULL,
                            at_least_0(plain_ns - stamped_ns),
                            variation_f64(misses->plain_outside_ns, LOAD_STEPS));
}

static Status note_loads(Calibration *c, LoadTimes *hits, LoadTimes *misses)
{
    double bytes = (double)executor_expert_slot_bytes(c->executor, 0);
    bool together = bytes <= LOADED_TOGETHER_BYTES && !calibration_runs_at_once(c);
    TRY(together ? note_together(c, misses) : note_copies(c, misses, bytes));
    TRY(calibration_note(
        c, "end/load", "", UNIT_NS, BYTES_AXIS, 1, &bytes,
        for_each(misses->outside_ns, hits->outside_ns, together ? misses->events : misses->loads),
        0));
    if (calibration_runs_at_once(c))
        return OK;
    TRY(note_end(c, hits, misses));
    c->lag_ns = at_least_0(median_f64(misses->lag_ns, LOAD_STEPS));
    TRY(calibration_note(c, "lag", "", UNIT_NS, BYTES_AXIS, 1, &bytes, c->lag_ns,
                         variation_f64(misses->lag_ns, LOAD_STEPS)));
    TRY(note_after(c, c->config->max_top_k, hits, misses));
    TRY(note_stamp(c, 1, misses));
    return together
               ? OK
               : calibration_note(c, "issue/await", "", UNIT_NS, BYTES_AXIS, 1, &bytes,
                                  for_each(misses->queueing_ns, hits->queueing_ns, misses->events),
                                  0);
}

/* Loads of many experts, whose call the device is longer at than the host at queueing it: TOKENS, a
 * multiple of the requests where they are more. */
static Status measure_many(Calibration *c, uint32_t tokens, uint32_t active, LoadTimes *misses,
                           LoadTimes *hits)
{
    Plan plan = c->plan;
    plan.buffer.slots = active;
    TRY(executor_set_plan(c->executor, &plan));
    return time_steps(c, tokens, active, misses, hits);
}

/* The open model has room for steps of TOKENS, in as many requests as there are at the most. */
static bool has_room(const Calibration *c, uint32_t tokens)
{
    uint32_t requests = tokens < c->max_requests ? tokens : c->max_requests;
    return tokens <= c->max_tokens && tokens % requests == 0 && tokens / requests <= c->max_length;
}

/* More tokens are computed by more kernels, all of which come after the loads. */
static Status measure_tokens(Calibration *c)
{
    static const uint32_t TOKENS[] = {4 * MANY_TOKENS, 64 * MANY_TOKENS};
    static const char *const AXIS[] = {"tokens"};
    double at = MANY_TOKENS;
    uint32_t active = c->config->max_experts / 2;
    LoadTimes hits = {.loads = 0};
    LoadTimes misses = {.loads = 0};
    char shape[160];
    if (active > MANY_TOKENS * c->config->max_top_k)
        active = MANY_TOKENS * c->config->max_top_k;
    if (MANY_TOKENS > c->max_requests || active <= c->config->max_top_k ||
        !calibration_experts_shape(c, shape))
        return OK;
    TRY(measure_many(c, MANY_TOKENS, active, &misses, &hits));
    TRY(note_after(c, active, &hits, &misses));
    TRY(note_stamp(c, at, &misses));
    double few_ns = after_loads(&hits, &misses);
    TRY(calibration_note(c, "after/tokens", shape, UNIT_NS, AXIS, 1, &at, 0, 0));
    for (size_t i = 0; i < COUNT(TOKENS) && !c->options->quick; i++) {
        at = TOKENS[i];
        if (!has_room(c, TOKENS[i]))
            continue;
        TRY(measure_many(c, TOKENS[i], active, &misses, &hits));
        TRY(note_stamp(c, at, &misses));
        TRY(calibration_note(c, "after/tokens", shape, UNIT_NS, AXIS, 1, &at,
                             at_least_0(after_loads(&hits, &misses) - few_ns), 0));
    }
    return OK;
}

/* From the end of loads to that of the call which waits for them, of steps of TOKENS. */
static double awaited(Calibration *c, uint32_t tokens, LoadTimes *misses)
{
    return median_f64(misses->after_ns, LOAD_STEPS) - calibration_stamp_ns(c, tokens);
}

/* Where there is room for half of an event's experts. */
static Status measure_halves(Calibration *c, double few_awaited_ns)
{
    static const uint32_t TOKENS[] = {MANY_TOKENS, 4 * MANY_TOKENS, 64 * MANY_TOKENS};
    uint32_t top_k = c->config->max_top_k;
    uint32_t active = c->config->max_experts / 2;
    LoadTimes hits = {.loads = 0};
    LoadTimes misses = {.loads = 0};
    if (has_room(c, 2) && 2 * top_k <= active)
        TRY(calibrate_halves(c, 2, 2 * top_k, few_awaited_ns));
    for (size_t i = 0; i < (c->options->quick ? 1 : COUNT(TOKENS)); i++) {
        if (!has_room(c, TOKENS[i]) || active / 2 < top_k || active > TOKENS[i] * top_k)
            continue;
        TRY(measure_many(c, TOKENS[i], active / 2, &misses, &hits));
        TRY(calibrate_halves(c, TOKENS[i], active, awaited(c, TOKENS[i], &misses)));
    }
    return OK;
}

/* What else counts of loads, by their size. */
static Status measure_more(Calibration *c, LoadTimes *misses)
{
    if (calibration_runs_at_once(c))
        return OK;
    if (executor_expert_slot_bytes(c->executor, 0) > LOADED_TOGETHER_BYTES)
        return calibrate_large_turns(c);
    double few_awaited_ns = awaited(c, 1, misses);
    TRY(measure_tokens(c));
    TRY(calibrate_mixed(c));
    if (c->config->max_top_k < 3)
        return OK;
    TRY(measure_halves(c, few_awaited_ns));
    return calibrate_turns(c);
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
        TRY(measure_more(c, &misses));
    }
    return executor_set_plan(c->executor, &c->plan);
}
