/* Experts that the host's cores compute: steps of a plan that loads none, with a stamp behind each
 * operation. Weights come from memory where others were read in between, and else from the
 * processor's caches: both are measured, and how much is read in between until they are gone. What
 * an event takes besides is how tokens come to the host and results back. */

#include "exec/calibrate_host.h"
#include "policies/link.h"

enum {
    HOST_ROUNDS = 7, /* over all places: memory and clocks differ from second to second */
    SLOW_ROUNDS = 3, /* ... where it computes everything */
    HOST_REPEATS = 12,
    HOST_FEW_REPEATS = 4,
    HOST_LEAST_REPEATS = 2,
    REUSE_REPEATS = 15,
    MOST_VALUES = REUSE_REPEATS,
    HOST_ROWS = 256 /* times experts per token: what one call has at the most */
};

/* Of events in one round, from which few repeats are enough, and the least: long ones differ less.
 */
static const double HOST_SHORT_NS = 4e6;
static const double HOST_LONG_NS = 1.5e7;

/* Of weights that an event reads at the most, but for few experts: what is more takes its share. */
static const double HOST_EVENT_BYTES = 1e9;

/* Where memory takes less more than the caches, all of a layer's experts are in one or the other.
 */
static const double CACHE_SHOWS = 1.15;

static const char *const HOST_AXES[] = {"rows", "active"};
static const char *const BYTES_AXIS[] = {"bytes"};
static const char *const TOKENS_AXIS[] = {"tokens"};
static const char *const ROWS_AXIS[] = {"rows"};

/* What its events took: the experts, from the end of the router to the host's going on, from its
 * having computed to the end of the event, and to its having queued that. */
typedef struct {
    uint32_t n;
    double host_ns[MOST_VALUES];
    double offer_ns[MOST_VALUES];
    double fetch_ns[MOST_VALUES];
    double issue_ns[MOST_VALUES];
} HostValues;

uint32_t calibration_count_host(const StepOutput *output, uint32_t layer,
                                const ResidencyRecord **first)
{
    uint32_t n = 0;
    for (size_t i = 0; i < output->n_residency; i++) {
        const ResidencyRecord *record = &output->residency[i];
        if (record->kind != RESIDENCY_HOST || record->layer != layer)
            continue;
        *first = n++ == 0 ? record : *first;
    }
    return n;
}

/* The device's clock is told to the host's with the time that waking up takes, so that the parts of
 * an event may seem shorter or longer than they are, but not the event. */
static void take_event(double stamp_ns, const StepOutput *output, size_t op, size_t event,
                       const ResidencyRecord *host, HostValues *values)
{
    const TimingRecord *experts = &output->timing[op];
    const HostSpan *wait = &output->host.events[event].wait;
    const HostSpan *queued = &output->host.ops[op];
    uint64_t woken_ns = wait->start_ns + wait->duration_ns;
    uint64_t computed_ns = host->start_ns + host->duration_ns;
    double offer_ns = at_least_0(ns_between(experts->start_ns, woken_ns));
    double whole_ns = (double)experts->duration_ns - stamp_ns;
    values->host_ns[values->n] = (double)host->duration_ns;
    values->offer_ns[values->n] = offer_ns;
    values->fetch_ns[values->n] = whole_ns - offer_ns - ns_between(woken_ns, computed_ns);
    values->issue_ns[values->n] = ns_between(computed_ns, queued->start_ns + queued->duration_ns);
    values->n++;
}

/* Events of which the host computed all experts: none was resident. */
static void take_step(const Calibration *c, const HostSteps *steps, const StepOutput *output,
                      HostValues *values)
{
    const double tokens = (double)steps->kind.requests * steps->kind.tokens;
    size_t event = 0;
    for (size_t i = 0; i < output->n_timing; i++) {
        const ResidencyRecord *host = NULL;
        if (output->timing[i].op != OP_EXPERTS)
            continue;
        if (calibration_count_host(output, output->timing[i].layer, &host) == steps->active &&
            values->n < MOST_VALUES)
            take_event(calibration_stamp_ns(c, tokens), output, i, event, host, values);
        event++;
    }
}

/* As many sets as there are without an expert in two: what a set reads is gone when its turn comes,
 * unless the caches hold all of the layer. */
static uint32_t all_sets(const Calibration *c, uint32_t active)
{
    uint32_t sets = c->config->max_experts / active;
    return sets > 0 ? sets : 1;
}

Status calibration_host_step(Calibration *c, const HostSteps *steps, StepOutput *output)
{
    uint32_t tokens = steps->kind.requests * steps->kind.tokens;
    uint32_t top_k = c->config->max_top_k;
    uint32_t active = steps->active;
    double whole_ns;
    c->host_turn = c->host_turn * UINT32_C(1664525) + UINT32_C(1013904223);
    c->first_expert = (steps->in_order ? c->first_expert + 1 : c->host_turn >> 16) % steps->sets;
    calibration_force(c, STACK_DECODER, tokens, active < top_k ? top_k : active, 0);
    if (active < top_k)
        calibration_drop(c, tokens, active);
    return calibration_step(c, &steps->kind, true, output, &whole_ns);
}

/* The events of steps, REPEATS of them or few more, after WARM_UP other steps. */
static Status time_steps(Calibration *c, const HostSteps *steps, uint32_t warm_up, uint32_t repeats,
                         HostValues *values)
{
    StepOutput output;
    double sum_ns = 0;
    values->n = 0;
    for (uint32_t i = 0; i < warm_up; i++)
        TRY(calibration_host_step(c, steps, &output));
    for (uint32_t i = 0; i < repeats && values->n < repeats; i++) {
        uint32_t before = values->n;
        TRY(calibration_host_step(c, steps, &output));
        take_step(c, steps, &output, values);
        for (uint32_t at = before; at < values->n; at++)
            sum_ns += values->host_ns[at];
        if ((sum_ns > HOST_SHORT_NS && values->n >= HOST_FEW_REPEATS) ||
            (sum_ns > HOST_LONG_NS && values->n >= HOST_LEAST_REPEATS))
            break;
    }
    return OK;
}

static Status note_host(Calibration *c, const char *name, const double at[2], HostValues *values)
{
    char shape[160];
    if (values->n == 0 || !calibration_experts_shape(c, shape))
        return OK;
    double spread = variation_f64(values->host_ns, values->n);
    double median = median_f64(values->host_ns, values->n);
    return calibration_note(c, name, shape, UNIT_NS, HOST_AXES, 2, at, median, spread);
}

/* What waking up was measured to take, of experts of SHAPE. */
static double wake_ns_of(const Calibration *c, const char *shape)
{
    const CostTable *table = calibration_table(c, "wake", shape);
    return table != NULL ? table->value[0] : 0;
}

/* Tokens that come to the host, from which all of an event's experts are seldom the host's: lines
 * that several of its cores have read before take longer to be written. */
static Status note_offer(Calibration *c, double tokens, HostValues *values)
{
    char shape[160];
    if (values->n == 0 || calibration_runs_at_once(c) || !calibration_experts_shape(c, shape))
        return OK;
    double ns = median_f64(values->offer_ns, values->n) - wake_ns_of(c, shape);
    return calibration_note(c, "host/offer", shape, UNIT_NS, TOKENS_AXIS, 1, &tokens,
                            at_least_0(ns), 0);
}

/* What an event takes when its experts are computed: the device's part and the host's. */
static Status note_fetch(Calibration *c, double rows, HostValues *values)
{
    char shape[160];
    if (values->n == 0 || calibration_runs_at_once(c) || !calibration_experts_shape(c, shape))
        return OK;
    double fetch_ns = median_f64(values->fetch_ns, values->n);
    double issue_ns = median_f64(values->issue_ns, values->n);
    TRY(calibration_note(c, "host/fetch", shape, UNIT_NS, ROWS_AXIS, 1, &rows, at_least_0(fetch_ns),
                         0));
    return calibration_note(c, "issue/fetch", shape, UNIT_NS, NULL, 0, NULL, at_least_0(issue_ns),
                            0);
}

bool calibration_small_experts(const Calibration *c)
{
    return executor_expert_slot_bytes(c->executor, 0) <= LOADED_TOGETHER_BYTES;
}

/* Of an expert in every layer. */
static double expert_bytes(const Calibration *c)
{
    uint32_t n_layers;
    double bytes = 0;
    const TraceLayer *layers = executor_layers(c->executor, &n_layers);
    for (uint32_t i = 0; i < n_layers; i++)
        if (layers[i].stack == STACK_DECODER)
            bytes += (double)executor_expert_slot_bytes(c->executor, i);
    return bytes;
}

bool calibration_host_steps(const Calibration *c, uint32_t tokens, uint32_t active,
                            HostSteps *steps)
{
    uint32_t requests = tokens < c->max_requests ? tokens : c->max_requests;
    if (requests == 0 || tokens > c->max_tokens)
        return false;
    while (tokens % requests != 0)
        requests--;
    *steps =
        (HostSteps){.kind = {.requests = requests, .tokens = tokens / requests, .forced = true},
                    .active = active,
                    .sets = all_sets(c, active)};
    return tokens / requests <= c->max_length;
}

/* ACTIVE experts of ROWS rows each: from memory, or WARM, where the caches hold so many. */
static Status measure_place(Calibration *c, uint32_t rows, uint32_t active, bool warm)
{
    uint32_t top_k = c->config->max_top_k;
    uint32_t all = rows * active;
    uint32_t tokens = active < top_k ? rows : all / top_k;
    const double at[2] = {rows, active};
    HostSteps steps;
    HostValues values;
    if (all > HOST_ROWS * top_k || (active > top_k && all % top_k != 0) ||
        !calibration_host_steps(c, tokens, active, &steps) || calibration_only_counts(c))
        return OK;
    if (active > c->config->max_top_k &&
        active * (double)executor_expert_slot_bytes(c->executor, 0) > HOST_EVENT_BYTES)
        return OK;
    if (!warm) {
        TRY(time_steps(c, &steps, 0, HOST_REPEATS, &values));
        TRY(note_host(c, "host/experts", at, &values));
        if (active == 1)
            TRY(note_offer(c, tokens, &values));
        return note_fetch(c, all, &values);
    }
    if (active * expert_bytes(c) > c->cache_bytes / 2 ||
        (calibration_small_experts(c) && !c->options->quick))
        return OK;
    steps.sets = 1;
    TRY(time_steps(c, &steps, 1, HOST_REPEATS, &values));
    return note_host(c, "host/warm", at, &values);
}

/* Steps of more tokens than experts are measured with. */
static Status measure_offer(Calibration *c, uint32_t tokens)
{
    HostSteps steps;
    HostValues values;
    if (!calibration_host_steps(c, tokens, 1, &steps) || calibration_only_counts(c))
        return OK;
    TRY(time_steps(c, &steps, 0, HOST_LEAST_REPEATS, &values));
    return note_offer(c, tokens, &values);
}

/* One expert of a layer with one row, of SETS that take turns: its median. */
static Status time_turns(Calibration *c, uint32_t sets, double *ns)
{
    HostSteps steps;
    HostValues values = {0};
    if (calibration_host_steps(c, 1, 1, &steps)) {
        steps.sets = sets;
        steps.in_order = true;
        TRY(time_steps(c, &steps, sets, REUSE_REPEATS, &values));
    }
    *ns = median_f64(values.host_ns, values.n);
    return OK;
}

/* What so many bytes read in between make of what memory costs more than the caches, as a share of
 * it. The caches hold what is warm by half. */
static Status note_reuse(Calibration *c, const uint32_t *sets, const double *ns, uint32_t n)
{
    double share = 0;
    c->cache_bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        double bytes = sets[i] * expert_bytes(c);
        double here = (ns[i] - ns[0]) / (ns[n - 1] - ns[0]);
        share = here > share ? here : share;
        share = share > 1 ? 1 : share;
        c->cache_bytes = share < 0.5 ? bytes : c->cache_bytes;
        TRY(calibration_note(c, "host/reuse", "", UNIT_FACTOR, BYTES_AXIS, 1, &bytes, share, 0));
    }
    return OK;
}

/* What the profile says of how much the caches hold by half; false: nothing. */
static bool know_reuse(Calibration *c)
{
    const CostTable *table = calibration_table(c, "host/reuse", "");
    for (uint32_t at = 0; table != NULL && at < table->n_points; at++)
        c->cache_bytes = table->value[at] < 0.5 ? table->at[at] : c->cache_bytes;
    return table != NULL;
}

/* Where the caches hold all experts they are warm, and nothing is noted. */
static Status measure_reuse(Calibration *c)
{
    static const uint32_t SETS[] = {1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128};
    double ns[COUNT(SETS)];
    uint32_t n = 0;
    if (calibration_only_counts(c))
        return OK;
    c->cache_bytes = c->config->max_experts * expert_bytes(c) * 2;
    if (c->options->quick || calibration_small_experts(c) || know_reuse(c))
        return OK;
    for (; n < COUNT(SETS) && SETS[n] < c->config->max_experts; n++)
        TRY(time_turns(c, SETS[n], &ns[n]));
    return n > 1 && ns[0] > 0 && ns[n - 1] > ns[0] * CACHE_SHOWS ? note_reuse(c, SETS, ns, n) : OK;
}

/* Tiles have 16 rows, and two of them go together: places lie on both sides of a step. */
static Status measure_places(Calibration *c, bool warm)
{
    static const uint32_t ROWS[] = {1,  2,  4,  8,  12, 16,  17,  24, 32,
                                    33, 48, 64, 65, 96, 128, 256, 0};
    static const uint32_t QUICK_ROWS[] = {1, 4, 0};
    static const uint32_t ACTIVE[] = {1, 2, 3, 4, 6, 8, 16, 32, 0};
    static const uint32_t QUICK_ACTIVE[] = {1, 4, 0};
    for (const uint32_t *rows = c->options->quick ? QUICK_ROWS : ROWS; *rows > 0; rows++)
        for (const uint32_t *active = c->options->quick ? QUICK_ACTIVE : ACTIVE;
             *active > 0 && (*active == 1 || *active < c->config->max_experts); active++)
            TRY(measure_place(c, *rows, *active, warm));
    for (uint32_t tokens = 2 * HOST_ROWS; !warm && !c->options->quick && tokens <= c->max_tokens;
         tokens *= 2)
        TRY(measure_offer(c, tokens));
    return OK;
}

/* How fast memory and cores are, which others use as well, while places are measured. */
static Status note_probe(Calibration *c)
{
    char shape[160];
    uint64_t ns;
    if (calibration_only_counts(c) || !calibration_experts_shape(c, shape))
        return OK;
    TRY(executor_time_host(c->executor, &ns));
    return ns == 0
               ? OK
               : calibration_note(c, "host/probe", shape, UNIT_NS, NULL, 0, NULL, (double)ns, 0);
}

/* Small experts lie in the caches, and their loads are short. */
static Status note_beside(Calibration *c)
{
    char shape[160];
    double host;
    double load;
    if (calibration_runs_at_once(c) || calibration_only_counts(c) || calibration_small_experts(c) ||
        !calibration_experts_shape(c, shape))
        return OK;
    TRY(executor_time_beside(c->executor, &host, &load));
    TRY(calibration_note(c, "host/beside", shape, UNIT_FACTOR, NULL, 0, NULL, host, 0));
    return calibration_note(c, "copy/beside", shape, UNIT_FACTOR, NULL, 0, NULL, load, 0);
}

/* What comes from memory first: caches keep more of what is read in turns for long where nothing in
 * between is read again and again. */
Status calibrate_host(Calibration *c)
{
    uint32_t all = calibration_runs_at_once(c) ? SLOW_ROUNDS : HOST_ROUNDS;
    uint32_t rounds = c->options->quick ? 1 : all;
    if (c->config->n_moe_layers == 0)
        return OK;
    TRY(measure_reuse(c));
    for (uint32_t i = 0; i < 2 * rounds; i++) {
        if (i < rounds)
            TRY(note_probe(c));
        TRY(measure_places(c, i >= rounds));
        if (i < rounds)
            TRY(note_probe(c));
    }
    TRY(calibrate_host_rested(c));
    TRY(calibrate_host_aged(c));
    return note_beside(c);
}
