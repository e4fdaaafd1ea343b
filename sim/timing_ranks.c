/* Steps under expert parallelism: every rank takes its share of the step's requests, and computes
 * the experts that the plan's placement gives it, of the tokens of all.
 *
 * What a rank does before the experts all do at the same time: the one with most requests is the
 * slowest. Then every assignment goes to the rank of its expert, through one port of each rank
 * (the table "all-to-all"), each rank computes, results go back, and when the slowest rank has its
 * own the event is over. Assignments of a rank come from all ranks alike, so that one of RANKS
 * parts is there already. What hosts do to learn how much comes from whom is not in it. */
#include "sim/timing_parts.h"

#include "base/memory.h"
#include "policies/placement.h"

static Status check_plan(const Plan *plan)
{
    const char *reason = NULL;
    if (plan->buffer.on)
        reason = "with all experts in place (buffer off)";
    else if (plan->gating.mode != GATING_DYNAMIC)
        reason = "with dynamic gating";
    else if (plan->batching.mode == BATCHING_CONTINUOUS)
        reason = "of steps that are given, not of continuous batching";
    if (reason == NULL)
        return OK;
    return fail(ERR_UNSUPPORTED, "placement.ranks: %u, times of more than one rank are %s",
                plan->placement.ranks, reason);
}

Plan timing_plan_of_one_rank(const Plan *plan)
{
    Plan one = *plan;
    one.placement.ranks = 1;
    return one;
}

/* Of the activations of one assignment. */
static uint64_t row_bytes_of(const Timing *timing, const TraceLayer *layer)
{
    bool halves = strcmp(timing->costs.model->compute, "f32") != 0;
    return (uint64_t)layer->d_model * (halves ? 2 : 4);
}

/* An imported trace may not say how much a token's activations are. */
static Status check_widths(const TimingOptions *options)
{
    for (uint32_t i = 0; i < options->n_layers; i++)
        if (options->layers[i].d_model == 0)
            return fail(ERR_INPUT,
                        "layer %u: the trace does not say its d_model, by which times of %u ranks "
                        "are told",
                        options->layers[i].layer, options->plan->placement.ranks);
    return OK;
}

static Status find_exchange(Timing *timing)
{
    char shape[160];
    hardware_ranks_shape(timing->ranks.count, timing->ranks.count, shape);
    TRY(op_costs_find(&timing->costs, "all-to-all", shape, &timing->ranks.exchange));
    if (timing->ranks.exchange.table == COSTS_NONE)
        return fail(ERR_INPUT,
                    "hardware profile: it has no table \"all-to-all\" of %s, which times of this "
                    "plan need: mpirun -n %u moebius calibrate --add",
                    shape, timing->ranks.count);
    return OK;
}

Status timing_ranks_open(Timing *timing)
{
    const TimingOptions *options = &timing->options;
    RankTime *ranks = &timing->ranks;
    ranks->count = options->plan->placement.ranks;
    if (ranks->count == 1)
        return OK;
    TRY(check_plan(options->plan));
    TRY(check_widths(options));
    TRY(find_exchange(timing));
    TRY(mem_new(&ranks->work, ranks->count, sizeof *ranks->work, "simulated ranks"));
    return placement_map(options->plan, options->layers, options->n_layers, &ranks->map);
}

void timing_ranks_close(Timing *timing)
{
    plan_table_release(timing->ranks.map);
    mem_free(timing->ranks.work);
}

static uint32_t part_of(uint64_t whole, uint64_t part, uint64_t all)
{
    return (uint32_t)((whole * part + all - 1) / all);
}

/* As many requests as the fullest rank has, each with the mean of all. */
static SpanGroup share_of(const SpanGroup *group, uint32_t ranks)
{
    SpanGroup share = {0};
    if (group->requests == 0)
        return share;
    share.requests = part_of(group->requests, 1, ranks);
    share.tokens = part_of(group->tokens, share.requests, group->requests);
    share.context = group->context * share.requests / group->requests;
    share.source = group->source * share.requests / group->requests;
    return share;
}

StepFeatures timing_ranks_share(const Timing *timing, const StepFeatures *step)
{
    uint32_t ranks = timing->ranks.count;
    StepFeatures share = *step;
    if (ranks == 1)
        return share;
    share.tokens = share.requests = 0;
    for (int i = 0; i < SPAN_GROUPS; i++) {
        share.groups[i] = share_of(&step->groups[i], ranks);
        share.tokens += share.groups[i].tokens;
        share.requests += share.groups[i].requests;
    }
    share.positions = (step->positions + ranks - 1) / ranks;
    return share;
}

/* Gives each rank what it computes of the event; the tokens of an expert that several hold are
 * spread evenly over them. Returns the assignments of all. */
static uint64_t spread_work(Timing *timing, const TimingEvent *event)
{
    RankTime *ranks = &timing->ranks;
    uint32_t at = plan_table_find(ranks->map, timing->options.layers[event->layer_index].layer);
    uint64_t sum = 0;
    memset(ranks->work, 0, ranks->count * sizeof *ranks->work);
    for (uint32_t i = 0; i < event->n; i++) {
        const PlanRow on = plan_table_row(ranks->map, at, event->experts[i]);
        uint32_t rows = event->rows != NULL ? event->rows[i] : 1;
        sum += rows;
        for (uint32_t copy = 0; copy < on.n; copy++) {
            uint32_t own = rows / on.n + (copy < rows % on.n);
            if (own > 0)
                expert_work_add(&ranks->work[on.values[copy]], own);
        }
    }
    return sum;
}

/* One way, of assignments of which the fullest rank has MOST of SUM. */
static uint64_t exchange_ns(Timing *timing, uint64_t most, uint64_t sum, uint64_t row_bytes)
{
    CostPoint point = {0};
    double ranks = timing->ranks.count;
    point.at[AXIS_SKEW] = (double)most * ranks / (double)sum;
    point.at[AXIS_BYTES] = (double)(most * row_bytes) * (ranks - 1) / ranks;
    return op_costs_ns(&timing->costs, &timing->ranks.exchange, &point, &timing->costs.other);
}

uint64_t timing_ranks_experts(Timing *timing, const TimingEvent *event, uint32_t price)
{
    RankTime *ranks = &timing->ranks;
    uint64_t sum = spread_work(timing, event);
    uint64_t most = 0;
    uint64_t slowest_ns = 0;
    for (uint32_t i = 0; i < ranks->count; i++) {
        const ExpertWork *work = &ranks->work[i];
        if (work->active == 0)
            continue;
        most = later(most, work->rows);
        slowest_ns = later(slowest_ns, op_costs_experts(&timing->costs, price, work, false));
    }
    if (sum == 0)
        return 0;
    uint64_t way_ns = exchange_ns(
        timing, most, sum, row_bytes_of(timing, &timing->options.layers[event->layer_index]));
    ranks->exchange_ns += 2 * way_ns;
    return way_ns + slowest_ns + way_ns;
}

uint64_t timing_ranks_slot_bytes(const Timing *timing)
{
    const TimingOptions *options = &timing->options;
    uint64_t most = 0;
    for (uint32_t rank = 0; rank < timing->ranks.count; rank++) {
        uint64_t bytes = 0;
        for (uint32_t i = 0; i < options->n_layers; i++) {
            uint32_t at = plan_table_find(timing->ranks.map, options->layers[i].layer);
            for (uint32_t e = 0; e < options->layers[i].experts; e++) {
                const PlanRow on = plan_table_row(timing->ranks.map, at, e);
                for (uint32_t copy = 0; copy < on.n; copy++)
                    bytes += on.values[copy] == rank ? timing->layers[i].slot_bytes : 0;
            }
        }
        most = later(most, bytes);
    }
    return most;
}

TraceFeatures timing_ranks_room(const Timing *timing, const TraceFeatures *features)
{
    TraceFeatures room = *features;
    uint32_t ranks = timing->ranks.count;
    room.max_requests = part_of(room.max_requests, 1, ranks);
    room.max_tokens = part_of(room.max_tokens, 1, ranks);
    return room;
}
