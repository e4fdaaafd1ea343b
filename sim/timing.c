#include "sim/timing.h"

#include <string.h>

#include "base/memory.h"
#include "policies/capacity.h"
#include "sim/timing_parts.h"
#include "traces/tally.h"

bool timing_is_played(const Timing *timing, const StepOp *op)
{
    bool combined = op->op == OP_COMBINE && timing->costs.fixed != NULL; /* with the experts */
    return op->op != OP_EXPERTS && !combined && (op->op != OP_HEAD || timing->options.logits);
}

/* Adds up all operations of the step but its experts. */
static void add_step(Timing *timing)
{
    Stack stack = timing->step.stack;
    for (uint32_t i = 0; i < timing->costs.n_prices; i++) {
        uint64_t ns = timing->costs.prices[i].gpu_ns + timing->stamp_ns;
        timing->added_ns[stack][i] += ns;
        timing->gpu_ns += ns * timing->count[stack][i];
    }
}

/* What calls of the step take longer after loads than those of few tokens do. */
static uint64_t after_ns(Timing *timing)
{
    if (timing->refs.after_tokens.table == COSTS_NONE || timing->settled)
        return 0;
    return timing_tokens_ns(timing, &timing->refs.after_tokens, timing->step.tokens);
}

/* What passes from the end of a call to small loads that await it. */
static uint64_t sync_together_ns(Timing *timing)
{
    uint64_t tokens = timing->step.tokens;
    if (timing->refs.sync_together.table == COSTS_NONE || timing->settled)
        return timing->sync_ns;
    tokens = tokens < timing->most_synced ? tokens : timing->most_synced;
    return timing_tokens_ns(timing, &timing->refs.sync_together, tokens);
}

/* What an operation of the step takes longer while prefetches are copied. */
static uint64_t beside_ns(Timing *timing)
{
    if (!timing->prefetches || timing->options.stamped || !timing->waits ||
        timing->refs.beside.table == COSTS_NONE)
        return 0;
    return timing_tokens_ns(timing, &timing->refs.beside, timing->step.tokens);
}

/* What the host needs to queue a call that follows another one, of a turn without its load. */
static uint64_t again_ns(Timing *timing)
{
    if (timing->refs.issue_turn.table == COSTS_NONE || timing->settled || timing->one_thread)
        return 0;
    uint64_t turn_ns = timing_tokens_ns(timing, &timing->refs.issue_turn, timing->step.tokens);
    uint64_t begin_ns = timing_issue_loads_ns(timing, 1) + timing->issue_await_ns;
    return turn_ns > begin_ns ? turn_ns - begin_ns : 1;
}

Status timing_begin(Timing *timing, const StepFeatures *step, uint64_t earliest_ns)
{
    if (timing->ranks != NULL)
        return timing_ranks_begin(timing, step, earliest_ns);
    timing->step = *step;
    timing->number++;
    timing->at = 0;
    uint64_t start_ns = later(timing->host_ns, earliest_ns);
    timing->elapsed_ns = timing->number == 1            ? UINT64_MAX
                         : start_ns > timing->queued_ns ? start_ns - timing->queued_ns
                                                        : 0;
    timing->start_ns = timing->host_ns = start_ns;
    uint64_t bytes = timing->out.bytes_loaded + timing->host_read - timing->host_read_before;
    timing->cold_bytes = timing->n_events > 0 ? bytes / timing->n_events : 0;
    timing->host_read_before = timing->host_read;
    timing->n_events = 0;
    timing->cold_ns = 0;
    timing->after_ns = after_ns(timing);
    timing->again_ns = again_ns(timing);
    timing->sync_together_ns = sync_together_ns(timing);
    timing->gpu_ns = timing->start_ns;
    timing->stamp_at_ns = timing->start_ns;
    timing->prefetched_ns = 0;
    timing->timed_loads = 0;
    timing->out = (StepTime){.start_ns = timing->start_ns};
    if (timing->link != NULL)
        TRY(link_begin_step(timing));
    if (!timing->settled && timing->holds_all && timing->n_resident == timing->n_experts)
        timing->settled = true;
    timing->waits = !timing->settled;
    timing->mode = STEP_QUEUED;
    timing_price_stamps(timing);
    if (timing->waits && !timing->one_thread)
        timing->gpu_ns = timing->stamp_at_ns =
            timing->start_ns + timing->lag_ns + timing->queue_stamp_ns;
    if (!timing->waits)
        TRY(timing_step_mode(timing, &timing->step, &timing->mode));
    op_costs_price(&timing->costs, &timing->step, timing->waits && !timing->one_thread,
                   timing->options.forced);
    timing->adds = !timing->waits && !timing->options.records && !timing->is_rank &&
                   timing->distance == 0; /* predictions are no operations of the profile's list */
    if (timing->adds)
        add_step(timing);
    timing->beside_ns = beside_ns(timing);
    timing_hold(timing);
    return OK;
}

/* After an operation the host looks after prefetches, and queues the stamp. */
static void end_queueing(Timing *timing)
{
    if (link_is_awaited(timing))
        timing->host_ns += timing->issue_poll_ns;
    if (timing->options.stamped && !timing->holds)
        timing->gpu_ns =
            later(timing->gpu_ns, timing->host_ns + timing->lag_ns + timing->queue_stamp_ns);
    timing->host_ns += timing->issue_stamp_ns;
}

/* Kernels begin a lag after the host has begun to queue them, where the stream is free: the first
 * of an operation, and the last, which is queued at the end; and so does the stamp after it, whose
 * time is part of NS. */
static void queue_op(Timing *timing, OpPrice *price, uint64_t issue_ns, uint64_t ns)
{
    uint64_t first_ns = timing->host_ns + timing->lag_ns;
    int64_t kernels_ns = (int64_t)ns - (int64_t)timing->queue_stamp_ns;
    int64_t last_ns =
        op_price_last_ns(price, kernels_ns - (int64_t)issue_ns) + (int64_t)timing->queue_stamp_ns;
    timing->host_ns += issue_ns;
    if (timing->holds) {
        timing->gpu_ns += ns;
    } else {
        timing->gpu_ns = later(timing->gpu_ns, first_ns) + ns;
        timing->gpu_ns = later(timing->gpu_ns, moved(timing->host_ns + timing->lag_ns, last_ns));
    }
    end_queueing(timing);
}

/* Runs NS on the compute stream, queued by the host where no graph does it, in COLD_NS more than
 * else. */
static void run_op(Timing *timing, OpPrice *price, uint64_t cold_ns, uint64_t ns)
{
    ns = timing_with_stamp(timing, price, ns);
    if (timing->one_thread) {
        timing->host_ns += ns;
        timing->gpu_ns = timing->host_ns;
        return;
    }
    if (timing->waits)
        queue_op(timing, price, price->issue_ns + cold_ns, ns);
    else
        timing->gpu_ns += ns;
}

/* After the router of a layer that of one further on, where the plan decides by it. */
static Status predict(Timing *timing, const StepOp *route)
{
    const StepOp op = {.layer = route->layer, .op = OP_PREDICT, .price = route->price};
    OpPrice price = {.held = {.table = COSTS_NONE}, .kernels = 1};
    for (uint32_t i = 0; i < timing->options.n_layers; i++) {
        const LayerTime *layer = &timing->layers[i];
        if (layer->layer != route->layer || !layer->predicts)
            continue;
        const OpPrice *asked = &timing->costs.prices[layer->asked];
        price = (OpPrice){.gpu_ns = asked->predict_ns,
                          .held = {.table = COSTS_NONE},
                          .issue_ns = asked->issue_predict_ns,
                          .kernels = op_costs_kernels(&timing->costs, asked->issue_predict_ns)};
    }
    run_op(timing, &price, 0, price.gpu_ns);
    return timing_stamp(timing, &op);
}

Status timing_play(Timing *timing, const StepOp *op)
{
    OpPrice *price = &timing->costs.prices[op->price];
    if (timing->idle || !timing_is_played(timing, op))
        return OK;
    uint64_t cold_ns = timing->waits ? timing_cold_ns(timing, op->price) : 0;
    run_op(timing, price, cold_ns, price->gpu_ns);
    TRY(timing_stamp(timing, op));
    return op->op == OP_ROUTE && timing->distance > 0 ? predict(timing, op) : OK;
}

/* Plays all operations before the experts of LAYER, and says which they are; NULL: to the end. */
static Status play_until(Timing *timing, const uint32_t *layer, const StepOp **experts)
{
    const StepOp *ops = timing->costs.ops[timing->step.stack];
    uint32_t n = timing->costs.n_ops[timing->step.stack];
    for (; timing->at < n; timing->at++) {
        const StepOp *op = &ops[timing->at];
        *experts = op;
        if (layer != NULL && op->op == OP_EXPERTS && op->layer == *layer)
            return OK;
        TRY(timing_play(timing, op));
    }
    if (layer != NULL)
        return fail(ERR_INPUT,
                    "hardware profile: model %s: layer %u: its experts are not in the order of the "
                    "trace",
                    timing->costs.model->name, *layer);
    return OK;
}

_Static_assert((int)TALLY_LARGE <= (int)COST_LOAD_ROWS,
               "of rows that are summed up each expert's are few");

static ExpertWork work_of_sums(uint32_t active, const PackedSums *sums)
{
    return (ExpertWork){
        .active = active, .rows = sums->assignments, .load = active, .squares = sums->squares};
}

static ExpertWork work_of(const TimingEvent *event)
{
    if (event->sums != NULL)
        return work_of_sums(event->n, event->sums);
    return event->rows == NULL ? expert_work_single(event->n)
                               : expert_work_of(event->rows, event->n);
}

/* The experts of an event of a step that does not wait. */
static uint64_t experts_ns(Timing *timing, const TimingEvent *event, uint32_t price)
{
    const ExpertWork work = work_of(event);
    if (timing->costs.fixed != NULL)
        return timing->costs.prices[price].gpu_ns;
    return op_costs_experts(&timing->costs, price, &work, false);
}

/* The experts of an event of a step that is added up. */
static void add_event(Timing *timing, const TimingEvent *event)
{
    const LayerTime *layer = &timing->layers[event->layer_index];
    uint64_t ns = experts_ns(timing, event, layer->price) + timing->stamp_ns;
    timing->gpu_ns += ns;
    timing->op_ns[OP_EXPERTS] += ns;
    timing->layer_ns[layer->layer] += ns;
}

/* Prices of events that are not those of the step before. */
static void price_plain(Timing *timing, uint32_t first, uint32_t n_events, uint32_t each)
{
    PlainEvents *plain = &timing->plain;
    timing_spread_plain(timing, timing->layer_ns);
    *plain = (PlainEvents){.first = first, .n_events = n_events, .each = each};
    for (uint32_t i = first; i < first + n_events; i++) {
        LayerTime *layer = &timing->layers[i];
        const TimingEvent event = {.layer_index = i, .n = each};
        layer->plain_ns = experts_ns(timing, &event, layer->price) + timing->stamp_ns;
        plain->ns += layer->plain_ns;
    }
}

bool timing_plain_events(Timing *timing, uint32_t first, uint32_t n_events, uint32_t each)
{
    PlainEvents *plain = &timing->plain;
    if (!timing->adds || timing->costs.fixed != NULL)
        return false;
    if (plain->number + 1 != timing->number || plain->first != first ||
        plain->n_events != n_events || plain->each != each)
        price_plain(timing, first, n_events, each);
    plain->number = timing->number;
    plain->times++;
    timing->gpu_ns += plain->ns;
    timing->op_ns[OP_EXPERTS] += plain->ns;
    return true;
}

bool timing_summed_events(Timing *timing, uint32_t first, uint32_t n_events,
                          const uint16_t *n_active, const uint8_t *sums)
{
    uint64_t all_ns = 0;
    if (!timing->adds || timing->costs.fixed != NULL)
        return false;
    for (uint32_t i = 0; i < n_events; i++) {
        PackedSums of;
        const LayerTime *layer = &timing->layers[first + i];
        memcpy(&of, sums + i * sizeof of, sizeof of);
        const ExpertWork work = work_of_sums(n_active[i], &of);
        uint64_t ns =
            op_costs_experts(&timing->costs, layer->price, &work, false) + timing->stamp_ns;
        timing->layer_ns[layer->layer] += ns;
        all_ns += ns;
    }
    timing->gpu_ns += all_ns;
    timing->op_ns[OP_EXPERTS] += all_ns;
    return true;
}

Status timing_reach(Timing *timing, uint32_t layer_index, const StepOp **experts)
{
    bool played = false;
    if (timing->waits || timing->is_rank)
        TRY(runs_play(timing, &timing->layers[layer_index], &played));
    if (played)
        *experts = &timing->costs.ops[timing->step.stack][timing->at];
    else
        TRY(play_until(timing, &timing->options.layers[layer_index].layer, experts));
    timing->at++;
    timing_release(timing);
    return OK;
}

/* The host has queued the experts of a step that waits, and the stamp behind them. With one thread
 * they end with what it loads ahead for other layers. */
static void end_experts(Timing *timing)
{
    if (timing->one_thread)
        timing->gpu_ns = later(timing->gpu_ns, timing->host_ns);
    timing->gpu_ns += timing->queue_stamp_ns + timing_stamp_beside_ns(timing, 0);
    timing->n_events++;
    if (!timing->one_thread)
        end_queueing(timing);
}

Status timing_compute(Timing *timing, const TimingEvent *event, const BufferAction *actions,
                      uint32_t n_actions, const StepOp *experts)
{
    if (timing->waits) {
        bool is_plain;
        TRY(timing_experts_plain(timing, event, actions, n_actions, experts->price, &is_plain));
        if (!is_plain)
            TRY(timing_experts(timing, event, actions, n_actions, experts->price));
        end_experts(timing);
        return OK;
    }
    run_op(timing, &timing->costs.prices[experts->price], 0,
           experts_ns(timing, event, experts->price));
    return OK;
}

Status timing_event(Timing *timing, const TimingEvent *event, const BufferAction *actions,
                    uint32_t n_actions)
{
    const StepOp *experts = NULL;
    if (timing->adds) {
        add_event(timing, event);
        return OK;
    }
    if (timing->ranks != NULL)
        return timing_ranks_event(timing, event);
    TRY(timing_reach(timing, event->layer_index, &experts));
    TRY(timing_compute(timing, event, actions, n_actions, experts));
    TRY(timing_stamp(timing, experts));
    timing_hold(timing);
    return OK;
}

bool timing_takes_hits(const Timing *timing, uint32_t most)
{
    return !timing->bypasses && timing_is_plain(timing, most);
}

Status timing_event_hits(Timing *timing, const TimingEvent *event, const uint8_t *hit,
                         uint32_t n_misses)
{
    const StepOp *experts = NULL;
    if (timing->adds) {
        add_event(timing, event);
        return OK;
    }
    TRY(timing_reach(timing, event->layer_index, &experts));
    TRY(timing_experts_hits(timing, event, hit, n_misses, experts->price));
    end_experts(timing);
    return timing_stamp(timing, experts);
}

uint32_t timing_most_rows(const Timing *timing)
{
    uint32_t capacity = gating_capacity(timing->options.plan, timing->step.tokens);
    return capacity > 0 ? capacity : UINT32_MAX;
}

/* What a step that waits takes longer since the host did other things, or waited, when it had
 * queued the one before. */
static uint64_t cold_ns(Timing *timing)
{
    if (timing->mode != STEP_QUEUED || timing->refs.cold.table == COSTS_NONE)
        return 0;
    CostPoint point = {0};
    point.at[AXIS_ELAPSED] =
        (double)(timing->elapsed_ns < timing->cold_most_ns ? timing->elapsed_ns
                                                           : timing->cold_most_ns);
    return op_costs_ns(&timing->costs, &timing->refs.cold, &point, &timing->costs.other);
}

/* What a step takes besides its operations; may be negative. It is queued as much later as it lost
 * since the one before was. */
static int64_t rest_of(Timing *timing)
{
    CostPoint point = {0};
    const CostRef *rests = timing->refs.rest[timing->step.stack];
    const CostRef *ref = &rests[timing->mode];
    const SpanGroup *one = &timing->step.groups[SPANS_ONE];
    const SpanGroup *several = &timing->step.groups[SPANS_SEVERAL];
    double requests = timing->step.requests;
    if (timing->options.bare)
        return 0;
    point.at[AXIS_REQUESTS] = requests;
    point.at[AXIS_TOKENS] = timing->step.tokens / requests;
    point.at[AXIS_CONTEXT] = (double)(one->context + several->context) / requests;
    if (ref->table == COSTS_NONE)
        ref = &rests[STEP_REPEATED];
    uint64_t lost_ns = cold_ns(timing);
    timing->queued_ns += lost_ns;
    return op_costs_signed_ns(&timing->costs, ref, &point, &timing->costs.other) + (int64_t)lost_ns;
}

void timing_count_step(Timing *timing)
{
    PhaseTime *phase = &timing->phases[timing->step.phase];
    const StepTime *step = &timing->out;
    phase->steps++;
    phase->tokens += timing->step.tokens;
    phase->ns += step->duration_ns;
    phase->exposed_load_ns += step->exposed_load_ns;
    phase->load_ns += step->load_ns;
    phase->loads += step->loads;
    phase->bytes_loaded += step->bytes_loaded;
    phase->prefetches_cancelled += step->prefetches_cancelled;
    phase->late_loads += step->late_loads;
}

Status timing_end(Timing *timing, StepTime *step)
{
    const StepOp *last;
    if (timing->ranks != NULL)
        return timing_ranks_end(timing, step);
    if (!timing->adds)
        TRY(play_until(timing, NULL, &last));
    timing_release(timing);
    TRY(timing_begin_put_off(timing));
    timing->queued_ns = timing->host_ns;
    if (timing->one_thread)
        timing->host_ns = timing->gpu_ns = later(timing->gpu_ns, timing->host_ns);
    if (timing->link != NULL)
        TRY(link_end_step(timing));
    uint64_t end_ns = later(timing->gpu_ns, timing->prefetched_ns);
    if (!timing->one_thread)
        end_ns = later(end_ns, timing->host_ns);
    if (timing->waits)
        end_ns += timing->wake_ns + timing->end_load_ns * timing->timed_loads +
                  (timing->out.loads > 0 ? timing->end_loads_ns : 0);
    int64_t rest_ns = rest_of(timing);
    int64_t duration_ns = (int64_t)(end_ns - timing->start_ns) + rest_ns;
    timing->out.duration_ns = duration_ns > 0 ? (uint64_t)duration_ns : 0;
    timing->host_ns = timing->start_ns + timing->out.duration_ns;
    timing->rest_ns += timing->host_ns > timing->gpu_ns ? timing->host_ns - timing->gpu_ns : 0;
    timing->out.ops = timing->ops;
    timing->out.residency = timing->residency;
    timing_count_memory(timing);
    timing_count_step(timing);
    *step = timing->out;
    return OK;
}
